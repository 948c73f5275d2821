"""Separate MUSDB18's vocals without their stems: `bootstrap` with a large U-Net, stereo at 44.1 kHz.

    jaxpu prepare musdb18 --musdb18hq PATH_TO_MUSDB18_HQ
    jaxpu train musdb18
    jaxpu evaluate runs/musdb18 PATH_TO_MUSDB18_HQ

Half of the songs give the mixtures, the other half the accompaniment.  For another target, choose other folders:

    jaxpu prepare musdb18 --musdb18hq PATH_TO_MUSDB18_HQ --data.target drums -o data/musdb18_drums
    jaxpu train musdb18 --data.target drums --prepared data/musdb18_drums --run runs/musdb18_drums

Hardware: one, two, four or eight GPUs, presumably of 16 GB or more; all that are found are used.  A step has 32 + 32 clips of 3 s
over all devices, of which at most 16 pass through the network of a device at once.  Memory: 0.5 GB a clip, some 8 GB for
16, in float32, by XLA's analysis for CPUs; on GPUs not measured yet.  Time: not measured yet.
Expected score: not measured yet.
"""

from data_pipeline.config import DataConfig, PatchSpec
from jaxpu.config import BootstrapConfig, Config, TrainConfig, UNetConfig

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
    objective=BootstrapConfig(labels="ratio", remix_steps=10_000),
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
    ),
)
