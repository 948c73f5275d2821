"""Train PULSE on MUSDB18's vocals with longer clips, a longer window, larger kernels and a higher class prior.

    jaxpu prepare tuned --musdb18 PATH_TO_MUSDB18
    jaxpu train tuned

Hardware: one GPU. Not timed on MUSDB18 yet.
Expected score: blank output, as with configs/baseline.py. Not measured on MUSDB18 yet.
"""

from data_pipeline.config import DataConfig, PatchSpec
from jaxpu.config import Config, PatchCNNConfig, PUConfig, TrainConfig

config = Config(
    data=DataConfig(
        # Three seconds instead of one, and a window of 46 ms instead of 23 ms.
        patch=PatchSpec(
            sample_rate=44_100, clip_samples=132_300, n_fft=2048, win_length=2048, hop_length=512, window="hamming", level="clip"
        ),
        target=("vocals",),
        activity_on="target",
    ),
    model=PatchCNNConfig(channels=8, blocks=2, kernel_size=(7, 7), dropout_rate=0.2, features="scaled"),
    objective=PUConfig(class_prior=0.7, gamma=0.096),
    train=TrainConfig(num_steps=100_000, batch_size=8, learning_rate=3.7e-5, eval_every=1000),
)
