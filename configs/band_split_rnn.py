"""The band-split RNN with its published sizes and data: MUSDB18 vocals with stems (Luo & Yu 2023, arXiv 2209.15174).

    jaxpu prepare band_split_rnn --musdb18hq PATH_TO_MUSDB18_HQ
    jaxpu train configs/band_split_rnn.py

For another target give its bands, too: `--data.target drums --model.bands drums`.

As published: the network; clips of 3 seconds; the two channels as examples; source activity detection; targets and accompaniments
of different songs, with gains of 10 dB; Adam with 1e-3; gradients of norm 5 at most; an end after 10 evaluations without a
better one.  Not as published: masks are real and learnt by cross-entropy with the ideal ratio mask, where the paper has complex
ones and L1 losses; the learning rate falls to 0 along a cosine, not by 2 % every other epoch; no source is silenced on purpose.

Hardware: one GPU; nobody has measured the time yet.
Score to expect: the paper reports 10.0 dB SDR, a replication 9.1 (arXiv 2603.09187).  Nobody has measured this one yet.
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
    # The paper's 8 GPUs had 2 channels each.
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
