"""Train PULSE on MUSDB18's vocals at 44.1 kHz: its network, its loss and its published hyperparameters.

    jaxpu prepare baseline --musdb18 PATH_TO_MUSDB18
    jaxpu train baseline

Hardware: one GPU. Not timed on MUSDB18 yet.
Expected score: blank output, as on the songs of the quickstart notebook (docs/results.md). Not measured on MUSDB18 yet.
"""

from data_pipeline.config import DataConfig, PatchSpec
from jaxpu.config import Config, PatchCNNConfig, PUConfig, TrainConfig

config = Config(
    data=DataConfig(
        patch=PatchSpec(
            sample_rate=44_100, clip_samples=50_000, n_fft=1024, win_length=1024, hop_length=256, window="hamming", level="clip"
        ),
        target=("vocals",),
        # Activity is detected on the vocals. That needs stems, and the prepared data say so.
        activity_on="target",
    ),
    model=PatchCNNConfig(channels=8, blocks=2, kernel_size=(3, 3), dropout_rate=0.2, features="scaled"),
    objective=PUConfig(
        estimator="non_negative", surrogate="sigmoid", class_prior=0.6, beta=0.0, gamma=0.096, weight_exponent=1.0, mask="hard"
    ),
    # PULSE's batches hold 16 clips, about half of them unlabeled.
    train=TrainConfig(num_steps=100_000, batch_size=8, learning_rate=3.7e-5, eval_every=1000, select_by="held_out_loss"),
)
