"""Train `bootstrap` on a small synthetic corpus without stems: the config of `make demo`.

    jaxpu demo

The first half of the steps is plain `remix`. The last checkpoint separates, because the held-out loss prefers earlier ones
(docs/methods.md).

Hardware: 2 CPU cores.
Expected score: +7.1 dB SI-SDR improvement on the test songs (docs/results.md).
"""

from data_pipeline.config import DataConfig, PatchSpec
from jaxpu.config import BootstrapConfig, Config, PatchCNNConfig, TrainConfig

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
    objective=BootstrapConfig(labels="ratio", remix_steps=200),
    train=TrainConfig(
        num_steps=400,
        batch_size=8,
        learning_rate=4e-3,
        schedule="cosine",
        gradient_clip=1.0,
        ema_decay=0.99,
        eval_every=100,
        select_by="last",
    ),
)
