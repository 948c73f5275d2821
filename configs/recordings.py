"""Train on your own recordings with the target and marked passages without it, other recordings without it, or both. No stems.

    jaxpu prepare recordings --with songs/ --marks labels/
    jaxpu train recordings
    jaxpu separate runs/recordings song.mp3 -o separated

The objective and the network are those of configs/demo.py. Recordings share no reference level, so each is scaled to the same
level, and a marked passage like its song. That makes other recordings without the target louder than the accompaniment inside
the mixtures, so their gain is estimated from the data.

Hardware: a GPU, or CPU cores: 800 steps took 15 minutes on one core (docs/results.md).
Expected score: +7.2 dB SI-SDR improvement on the demo's songs, as two folders of FLAC and MP3 files (docs/results.md).
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
