"""Train `remix` on noisy speech and noise: an objective that works, on the data of configs/speech.py.

    python benchmarks/make_speech.py speech
    jaxpu prepare speech_remix --with speech/noisy --without speech/noise
    jaxpu train speech_remix
    jaxpu evaluate runs/speech_remix speech/corpus

Recordings keep their level, so the noise recordings must be as loud as the noise inside the noisy speech.

Hardware: one CPU core, three and a half minutes.
Expected score: +8.9 dB SI-SDR improvement on the 20 test files (docs/results.md).
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
    objective=RemixConfig(labels="ratio"),
    train=TrainConfig(
        num_steps=400, batch_size=8, learning_rate=4e-3, schedule="cosine", gradient_clip=1.0, ema_decay=0.99, eval_every=100
    ),
)
