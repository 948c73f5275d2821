"""Train PULSE's supervised network and loss on the data of configs/baseline.py, with the true vocals.

    jaxpu prepare supervised --musdb18 PATH_TO_MUSDB18
    jaxpu train supervised

The prepared data are the same as the baseline's: `jaxpu train supervised --prepared data/baseline` uses those.

Hardware: one GPU. Not timed on MUSDB18 yet.
Expected score: not measured yet.
"""

from data_pipeline.config import DataConfig, PatchSpec
from jaxpu.config import Config, PatchCNNConfig, SupervisedConfig, TrainConfig

config = Config(
    data=DataConfig(
        patch=PatchSpec(
            sample_rate=44_100, clip_samples=50_000, n_fft=1024, win_length=1024, hop_length=256, window="hamming", level="clip"
        ),
        target=("vocals",),
        activity_on="target",
    ),
    model=PatchCNNConfig(channels=8, blocks=2, output_kernel_size=3, normalization="batch", features="scaled"),
    objective=SupervisedConfig(loss="signal_approximation"),
    train=TrainConfig(num_steps=100_000, batch_size=16, learning_rate=2e-4, eval_every=1000, disjoint_tracks=False),
)
