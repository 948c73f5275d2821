"""Train the band-split RNN with stems, at its published size, on MUSDB18's vocals (Luo & Yu 2023, arXiv 2209.15174).

    jaxpu prepare band_split_rnn --musdb18hq PATH_TO_MUSDB18_HQ
    jaxpu train band_split_rnn

Another target needs its own bands, too: `--data.target drums --model.bands drums`.

As published: the network; clips of 3 seconds; each channel as an example of its own; source activity detection; targets and
accompaniments from different songs, with gains of up to 10 dB; Adam at 1e-3; gradients clipped to norm 5; training ends after 10
evaluations without improvement. Not as published: masks are real-valued and trained by cross-entropy with the ideal ratio mask,
where the paper has complex masks and L1 losses; the learning rate falls to 0 along a cosine, not by 2 % every other epoch; no
source is silenced at random.

Hardware: one GPU. Not timed yet.
Expected score: the paper reports 10.0 dB SDR, a replication 9.1 (arXiv 2603.09187). Not measured with jaxpu yet.
"""

from data_pipeline.config import DataConfig, PatchSpec
from jaxpu.config import BandSplitRNNConfig, Config, SupervisedConfig, TrainConfig

config = Config(
    data=DataConfig(
        patch=PatchSpec(
            sample_rate=44_100,
            stereo=True,
            clip_samples=132_300,
            n_fft=2048,
            win_length=2048,
            hop_length=512,
            window="hann",
            level="reference",
        ),
        target=("vocals",),
        activity_on="target",
    ),
    model=BandSplitRNNConfig(bands="vocals", channels=128, repeats=12, hidden=256, mask_hidden=512),
    objective=SupervisedConfig(loss="ratio_mask", remix_songs=True, gain_db=10.0),
    # The paper used 8 GPUs, with 2 channels on each.
    train=TrainConfig(
        num_steps=100_000,
        batch_size=8,
        learning_rate=1e-3,
        schedule="cosine",
        gradient_clip=5.0,
        eval_every=1000,
        patience=10,
        disjoint_tracks=False,
    ),
)
