"""Train on hours of your own recordings with a GPU: a large U-Net, stereo at 44.1 kHz, on the material of `recordings`. No stems.

    jaxpu prepare recordings_large --with songs/ --marks labels/
    jaxpu train recordings_large
    jaxpu separate runs/recordings_large song.mp3 -o separated

The network and the clips are those of configs/musdb18.py. Recordings share no reference level, so each is scaled to the same
level, and the gain of other recordings without the target is estimated, as in configs/recordings.py.

Hardware: a GPU, presumably of 16 GB or more. A step has 16 + 16 clips of 3 s, of which at most 16 pass through the network at
once. Memory: 0.5 GB a clip, some 8 GB for 16, in float32, by XLA's analysis for CPUs; on GPUs not measured yet. Disk: 2.6 GB of
prepared data an hour of recordings. Time: not measured yet.
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
            level="recording",
        ),
        activity_on="mixture",
    ),
    model=UNetConfig(channels=(48, 96, 144, 192), convolutions=3, bottleneck=0),
    objective=BootstrapConfig(labels="ratio", remix_steps=7000, positive_gain_db="estimate"),
    train=TrainConfig(
        num_steps=20_000,
        batch_size=16,
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
