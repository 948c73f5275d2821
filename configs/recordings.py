"""Train on your own recordings, with passages marked as target-free, and maybe other recordings without the target. No stems.

    jaxpu prepare recordings --with songs/ --marks labels/
    jaxpu train recordings
    jaxpu separate runs/recordings song.mp3 -o separated

The network is a small U-Net, which makes one mask for both channels of 44.1 kHz stereo; recordings in mono are fine, too.
Recordings share no reference level, so each is scaled to the same level, and a marked passage like its song. That makes other
recordings without the target louder than the accompaniment inside the mixtures, so their gain is estimated from the data. With
few songs it helps that the network has dilations in place of a bottleneck, and that frequencies are shifted by up to a semitone
(docs/trials/memory-of-the-u-net.md). Where nothing is marked, take configs/two_folders.py.

Hardware: a GPU, or CPU cores: 1200 steps took 9 minutes on one core, the other one busy (docs/results.md). For songs that it
is not trained on, four times as many are better: `--train.num-steps 4800 --objective.remix-steps 1600`
(docs/trials/rate-and-window.md).
Expected score: +13.8 dB SI-SDR improvement with six minutes of marks in 40 rendered songs (docs/results.md).
"""

from data_pipeline.config import DataConfig, PatchSpec
from jaxpu.config import BootstrapConfig, Config, TrainConfig, UNetConfig

config = Config(
    data=DataConfig(
        patch=PatchSpec(
            sample_rate=44_100,
            stereo=True,
            clip_samples=65_536,
            n_fft=4096,
            win_length=4096,
            hop_length=2048,
            window="hann",
            level="recording",
        ),
        activity_on="mixture",
    ),
    model=UNetConfig(channels=(16, 32), dilations=(1, 2, 4, 8), bottleneck=0),
    objective=BootstrapConfig(labels="ratio", remix_steps=400, positive_gain_db="estimate", shift_semitones=1.0),
    train=TrainConfig(
        num_steps=1200,
        batch_size=8,
        learning_rate=4e-3,
        schedule="cosine",
        gradient_clip=1.0,
        ema_decay=0.99,
        eval_every=100,
        select_by="last",
    ),
)
