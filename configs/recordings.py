"""Your own recordings: two folders, one with the target and one without it, and no stems.

    jaxpu prepare recordings --with songs/ --without instrumentals/
    jaxpu train recordings
    jaxpu separate runs/recordings song.mp3 -o separated

The objective and the network of configs/demo.py.  Two folders share no reference level, so every recording is scaled to the same
level; the recordings without the target are then louder than the accompaniment inside the others by what the target adds, and
`positive_gain_db` takes that back.  Training stops when the objective on held-out recordings no longer improves.

Hardware: a GPU, or a CPU and patience: 400 steps take about 5 minutes on 2 cores.
Score to expect: on the demo's songs as two folders of FLAC and MP3, +3.7 dB SI-SDR after 400 steps (docs/results.md); nobody has
measured the 4000 steps yet.
"""

from data_pipeline.spec import DataConfig, PatchSpec
from jaxpu.config import Config, PatchCNNConfig, RemixConfig, TrainConfig

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
    objective=RemixConfig(gain_db=6.0, positive_gain_db=-2.0),
    train=TrainConfig(
        num_steps=4000,
        batch_size=8,
        learning_rate=2e-3,
        schedule="cosine",
        gradient_clip=1.0,
        ema_decay=0.99,
        eval_every=200,
        patience=5,
    ),
)
