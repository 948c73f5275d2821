"""Train PULSE on MUSDB18's vocals under the conditions of its speech experiments.

As in those experiments: 16 kHz mono, clips of 50,000 samples with zero mean and unit deviation, and mixtures mixed anew from
stems, with a target-to-accompaniment ratio drawn from -5 to 10 dB.

    jaxpu prepare aligned --musdb18 PATH_TO_MUSDB18
    jaxpu train aligned

Hardware: one GPU. Not timed on MUSDB18 yet.
Expected score: blank output, as with configs/baseline.py. Not measured on MUSDB18 yet.
"""

from data_pipeline.config import DataConfig, PatchSpec
from jaxpu.config import Config, PatchCNNConfig, PUConfig, TrainConfig

config = Config(
    data=DataConfig(
        patch=PatchSpec(
            sample_rate=16_000, clip_samples=50_000, n_fft=1024, win_length=1024, hop_length=256, window="hamming", level="clip"
        ),
        target=("vocals",),
        activity_on="target",
        target_to_accompaniment_db=(-5.0, 10.0),
    ),
    model=PatchCNNConfig(channels=8, blocks=2, dropout_rate=0.2, features="scaled"),
    objective=PUConfig(class_prior=0.6, gamma=0.096),
    train=TrainConfig(num_steps=100_000, batch_size=8, learning_rate=3.7e-5, eval_every=1000),
)
