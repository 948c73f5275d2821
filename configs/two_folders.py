"""Train on two folders of recordings, one with the target and one without it; nothing is marked. No stems.

    jaxpu prepare two_folders --with songs/ --without instrumentals/
    jaxpu train two_folders
    jaxpu separate runs/two_folders song.mp3 -o separated

The objective and the network are those of configs/demo.py, in mono at 16 kHz. With other recordings in place of marks, this
small network separates better than the U-Net of configs/recordings.py. Levels are treated as there.

Hardware: a GPU, or CPU cores: 800 steps took 12 minutes on two busy ones (docs/results.md).
Expected score: +10.4 dB SI-SDR improvement with the accompaniments of 20 other rendered songs (docs/results.md).
"""

from data_pipeline.config import DataConfig, PatchSpec
from jaxpu.config import BootstrapConfig, Config, PatchCNNConfig, TrainConfig

config = Config(
    data=DataConfig(
        patch=PatchSpec(
            sample_rate=16_000, clip_samples=24_000, n_fft=1024, win_length=1024, hop_length=512, window="hann", level="recording"
        ),
        activity_on="mixture",
    ),
    model=PatchCNNConfig(
        channels=16,
        growth=1,
        blocks=3,
        dilations=((1, 1), (1, 1), (2, 2), (2, 2), (4, 4), (4, 4), (8, 8), (1, 1)),
        normalization="batch",
        features="log",
    ),
    objective=BootstrapConfig(labels="ratio", remix_steps=250, positive_gain_db="estimate"),
    train=TrainConfig(
        num_steps=800,
        batch_size=8,
        learning_rate=4e-3,
        schedule="cosine",
        gradient_clip=1.0,
        ema_decay=0.99,
        eval_every=100,
        select_by="last",
    ),
)
