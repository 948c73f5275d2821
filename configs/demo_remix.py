"""Train `remix` on the demo's data, with the demo's network and number of steps.

    jaxpu demo
    jaxpu train demo_remix --prepared demo/data

Hardware: 2 CPU cores, 5 minutes.
Expected score: +5.8 dB SI-SDR improvement on the demo's test songs (docs/results.md).
"""

from data_pipeline.config import DataConfig, PatchSpec
from jaxpu.config import Config, PatchCNNConfig, RemixConfig, TrainConfig

config = Config(
    data=DataConfig(
        patch=PatchSpec(
            sample_rate=16_000, clip_samples=24_000, n_fft=1024, win_length=1024, hop_length=512, window="hann", level="reference"
        ),
        activity_on="off",
    ),
    model=PatchCNNConfig(
        channels=16,
        growth=1,
        blocks=3,
        dilations=((1, 1), (1, 1), (2, 2), (2, 2), (4, 4), (4, 4), (8, 8), (1, 1)),
        normalization="batch",
        features="log",
    ),
    objective=RemixConfig(gain_db=6.0),
    train=TrainConfig(
        num_steps=400, batch_size=8, learning_rate=4e-3, schedule="cosine", gradient_clip=1.0, ema_decay=0.99, eval_every=100
    ),
)
