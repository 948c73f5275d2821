"""Separate MUSDB18's vocals with their stems: the network and the data of configs/musdb18.py, supervised.

    jaxpu prepare musdb18_supervised --musdb18hq PATH_TO_MUSDB18_HQ
    jaxpu train musdb18_supervised
    jaxpu evaluate runs/musdb18_supervised PATH_TO_MUSDB18_HQ

The reference for configs/musdb18.py.  The prepared data are the same: `jaxpu train musdb18_supervised --prepared
data/musdb18` uses those.  Targets and accompaniments are drawn from all songs independently, with gains of up to 10 dB.

Hardware: as configs/musdb18.py.  Time: not measured yet.
Expected score: not measured yet.
"""

from data_pipeline.config import DataConfig, PatchSpec
from jaxpu.config import Config, SupervisedConfig, TrainConfig, UNetConfig

config = Config(
    data=DataConfig(
        patch=PatchSpec(
            sample_rate=44_100,
            stereo=True,
            clip_samples=132_096,
            n_fft=4096,
            win_length=4096,
            hop_length=1024,
            window="hann",
            level="reference",
        ),
        target=("vocals",),
        activity_on="mixture",
    ),
    model=UNetConfig(channels=(48, 96, 144, 192), convolutions=3, bottleneck=0),
    objective=SupervisedConfig(loss="ratio_mask", remix_songs=True, gain_db=10.0),
    train=TrainConfig(
        num_steps=30_000,
        batch_size=32,
        learning_rate=1e-3,
        schedule="cosine",
        warmup_steps=500,
        gradient_clip=1.0,
        ema_decay=0.999,
        clips_at_once=16,
        mixed_precision=True,
        eval_every=1000,
        select_by="last",
        disjoint_tracks=False,
    ),
)
