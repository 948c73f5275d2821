"""The numbers stay: the same seed gives the same losses, step by step, as when tests/data/losses.json was written.

A change that is meant to affect results writes the file anew and says so in CHANGELOG.md.  Dropout is off: its draws may change.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from data_pipeline.config import DataConfig, PatchSpec
from jaxpu.config import (
    BootstrapConfig,
    BrierPUConfig,
    Config,
    MixITConfig,
    NoisyTargetConfig,
    PatchCNNConfig,
    PNUConfig,
    PUConfig,
    RemixConfig,
    SupervisedConfig,
    TrainConfig,
)
from jaxpu.core.step import init_state, make_evaluate_step, make_train_step

EXPECTED = json.loads((Path(__file__).parents[1] / "data" / "losses.json").read_text())

PATCH = PatchSpec(sample_rate=8000, clip_samples=1024, n_fft=128, win_length=128, hop_length=64, window="hann", level="reference")
TRAIN = TrainConfig(num_steps=12, batch_size=8, learning_rate=4e-3, schedule="cosine", gradient_clip=1.0, ema_decay=0.99)
NETWORKS: dict[str, Any] = {
    "cnn": PatchCNNConfig(
        channels=4, blocks=1, growth=1, dilations=((1, 1), (2, 2), (1, 1), (1, 1)), normalization="batch", features="log"
    ),
    "plain cnn": PatchCNNConfig(channels=4, blocks=0, dropout_rate=0.0),
}
OBJECTIVES: dict[str, Any] = {
    "pu": PUConfig(),
    "pu balanced": PUConfig(estimator="balanced", mask="soft"),
    "brier_pu": BrierPUConfig(),
    "supervised": SupervisedConfig(),
    "supervised ratio": SupervisedConfig(loss="ratio_mask", remix_songs=True, shift_semitones=2.0),
    "mixit": MixITConfig(),
    "noisy_target": NoisyTargetConfig(),
    "remix": RemixConfig(gain_db=6.0, shift_semitones=1.0, positive_gain_db=-2.0, label_frequency=0.4),
    "remix ratio": RemixConfig(labels="ratio"),
    "bootstrap": BootstrapConfig(labels="ratio", remix_steps=4, max_false_positive_ratio=10.0, empty_share=0.9),
    "pnu": PNUConfig(labels="ratio"),
}
CASES = {name: tuple(name.split(", ")) for name in EXPECTED}


def patches(rng: np.random.Generator, scale: float) -> np.ndarray:
    return (scale * rng.standard_normal((8, 1, PATCH.frames, PATCH.bins, 2))).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_same_seed_gives_the_same_losses(name: str) -> None:
    objective, network = CASES[name]
    config = Config(data=DataConfig(patch=PATCH), model=NETWORKS[network], objective=OBJECTIVES[objective], train=TRAIN)
    state, key, rng = init_state(config), jax.random.key(3), np.random.default_rng(7)
    step, evaluate = jax.jit(make_train_step(config)), jax.jit(make_evaluate_step(config))
    losses = []
    for _ in range(TRAIN.num_steps):
        target, positive, hidden = patches(rng, 1.5), patches(rng, 0.8), patches(rng, 1.0)
        target[:4, :, :, 20:] = 0
        target[6:] *= 0.1
        batch = {"unlabeled": target + hidden, "positive": positive, "target": target, "index": np.arange(8, dtype=np.int32)}
        state, statistics = step(state, batch, key)
        losses.append(float(statistics["loss"]))
    np.testing.assert_allclose(losses, EXPECTED[name]["loss"], rtol=1e-4)
    results = {measure: float(value) for measure, value in evaluate(state, batch, key).items()}
    expected = dict(EXPECTED[name]["evaluation"])
    assert results.pop("audible_clips") == 8
    # With a binary mask, rounding flips single bins.
    assert results.pop("estimated_error") == pytest.approx(expected.pop("estimated_error"), abs=2e-3)
    assert results == pytest.approx(expected, rel=1e-3, abs=1e-4)
