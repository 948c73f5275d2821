"""Train PULSE on its own task: separate speech from noise, given noisy speech and noise, without clean speech.

    python benchmarks/make_speech.py speech
    jaxpu prepare speech --with speech/noisy --without speech/noise
    jaxpu train speech
    jaxpu evaluate runs/speech speech/corpus

Network, loss and hyperparameters are the published ones. The target is called `vocals`, so that a corpus in MUSDB18's layout can
score it.

PULSE's setting for TIMIT is `--train.batch-size 384 --train.clips-at-once 16 --train.learning-rate 8.9e-4 --train.num-steps 2200
--objective.class-prior 0.7 --model.blocks 4 --model.pointwise-blocks 1`; on a CPU core a step would take a quarter of an hour.

Hardware: a GPU for the published 100,000 steps.
Expected score: blank output from step 200 on, through the 1041 steps that were run (docs/results.md).
"""

from data_pipeline.config import DataConfig, PatchSpec
from jaxpu.config import Config, PatchCNNConfig, PUConfig, TrainConfig

config = Config(
    data=DataConfig(
        patch=PatchSpec(
            sample_rate=16_000, clip_samples=50_000, n_fft=1024, win_length=1024, hop_length=256, window="hamming", level="clip"
        ),
        target=("vocals",),
        activity_on="mixture",
    ),
    model=PatchCNNConfig(channels=8, blocks=2, dropout_rate=0.2, features="scaled"),
    objective=PUConfig(class_prior=0.6, gamma=0.096),
    train=TrainConfig(num_steps=100_000, batch_size=8, learning_rate=3.7e-5, eval_every=1000),
)
