"""Objectives: which way round they are, what they read, and what remixing does."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
)
from jaxpu.core import losses
from jaxpu.core.network import make_mask_fn, make_network
from jaxpu.core.objectives import OBJECTIVES, Batch, Loss, Objective, make_objective
from jaxpu.core.objectives.base import PseudoTarget, phase_sensitive_mask
from jaxpu.core.objectives.teacher import false_positive_ratio, teacher_masks, with_empty_mixtures
from jaxpu.core.stft import magnitude

pytestmark = pytest.mark.usefixtures("strict_dtypes")

# Every objective and choice in it.  One without a row fails the test below.
CONFIGS: list[Any] = [
    PUConfig(),
    PUConfig(mask="soft"),
    PUConfig(estimator="unbiased"),
    PUConfig(estimator="absolute"),
    PUConfig(estimator="balanced"),
    PUConfig(surrogate="logistic", class_prior=0.9),
    BrierPUConfig(class_prior=0.9),
    SupervisedConfig(),
    SupervisedConfig(loss="ratio_mask"),
    SupervisedConfig(loss="phase_sensitive"),
    SupervisedConfig(remix_songs=True),
    MixITConfig(),
    MixITConfig(minimum_over="batch"),
    NoisyTargetConfig(),
    RemixConfig(),
    RemixConfig(labels="ratio"),
    RemixConfig(labels="phase_sensitive"),
    BootstrapConfig(),
    PNUConfig(),
]
# In these positive logits keep the target, in the others they mean that it is inactive.
POSITIVE_KEEPS = (SupervisedConfig, MixITConfig, NoisyTargetConfig)
every_objective = pytest.mark.parametrize("config", CONFIGS, ids=str)
KEY = jax.random.key(0)


def hyperparameters(objective: Objective, **changed: float) -> dict[str, jax.Array]:
    assert set(changed) <= set(objective.hyperparameters)
    return {name: jnp.float32(value) for name, value in (objective.hyperparameters | changed).items()}


def complex_noise(*shape: int, seed: int) -> np.ndarray:
    """Circular complex Gaussian, unit power."""
    parts = np.random.default_rng(seed).standard_normal((*shape, 2))
    return ((parts[..., 0] + 1j * parts[..., 1]) / math.sqrt(2)).astype(np.complex64)


def make_batch(num: int = 64, frames: int = 8, *, target_gain: float = 10.0, channels: int = 1) -> Batch:
    """Four bins of independent noise, in all channels.  In mixtures the target plays in the first two, the accompaniment in all.

    Accompaniment and positives have the same distribution, so they are exchangeable.
    """
    target = target_gain * complex_noise(num, channels, frames, 4, seed=0)
    target[..., 2:] = 0
    unlabeled = target + complex_noise(num, channels, frames, 4, seed=1)
    positive = complex_noise(num, channels, frames, 4, seed=2)
    index = jnp.arange(num, dtype=jnp.int32)
    return Batch(jnp.asarray(unlabeled), jnp.asarray(positive), jnp.asarray(target), index)


def logits_shape(stft: jax.Array, num_outputs: int = 1) -> tuple[int, ...]:
    """Of a network's logits for its input: (n, frames, bins, num_outputs)."""
    return (len(stft), *stft.shape[2:], num_outputs)


def constant_network(logits: jax.Array, num_outputs: int = 1) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """A network that knows nothing but the bin: logits (bins,) for all frames of all examples, in every output."""
    return lambda stft, index: jnp.broadcast_to(logits[None, None, :, None], logits_shape(stft, num_outputs))


def learn(config: Any, batch: Batch, *, steps: int = 300, learning_rate: float = 1.0, **changed: float) -> jax.Array:
    """Descends from zero logits on the objective of `constant_network`, with the gradient's scale taken out."""
    objective = make_objective(config)
    values = hyperparameters(objective, **changed)

    def loss(logits: jax.Array, key: jax.Array) -> jax.Array:
        return objective.loss(constant_network(logits), batch, key, values, None).loss

    @jax.jit
    def run() -> jax.Array:
        def step(logits: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
            gradient = jax.grad(loss)(logits, jax.random.fold_in(KEY, number))
            return logits - learning_rate * gradient / (1e-6 + jnp.linalg.norm(gradient)) / jnp.sqrt(
                1 + number.astype(float)
            ), None

        return jax.lax.scan(step, jnp.zeros(4), jnp.arange(steps))[0]

    return run()


def test_every_objective_has_a_row() -> None:
    assert {type(config) for config in CONFIGS} == set(OBJECTIVES)


# With one output for all, MixIT cannot learn; its polarity has a test of its own.
@pytest.mark.parametrize("config", [config for config in CONFIGS if not isinstance(config, MixITConfig)], ids=str)
@pytest.mark.slow
def test_learning_ends_with_a_mask_that_keeps_the_target(config: Any) -> None:
    """Polarity from end to end: loss and mask agree on what a logit means."""
    objective = make_objective(config)
    batch = make_batch()
    if getattr(config, "estimator", None) == "balanced":
        # Where U is like P both answers cost E_P[w] / 2, so that P has to be the louder one to decide.
        batch = batch._replace(positive=1.5 * batch.positive)
    logits = learn(config, batch)
    mask = objective.mask(logits[None, None, :, None])[0, 0]
    assert mask.dtype == jnp.float32
    assert bool(jnp.all(mask[:2] > 0.75)), mask
    # The noisy target is half of the accompaniment.
    assert bool(jnp.all(mask[2:] < (0.75 if isinstance(config, NoisyTargetConfig) else 0.25))), mask


@every_objective
def test_masks_lie_between_0_and_1_and_are_monotonic(config: Any) -> None:
    objective = make_objective(config)
    logits = jnp.asarray([-1e30, -50, -3, -0.1, 0.1, 3, 50, 1e30])
    mask = np.asarray(objective.mask(logits[None, None, :, None])[0, 0])
    kept = mask if isinstance(config, POSITIVE_KEEPS) else mask[::-1]
    assert np.all(np.diff(kept) >= 0)
    assert (kept[0], kept[-1]) == (0, 1)
    if getattr(config, "mask", None) == "hard":
        np.testing.assert_array_equal(mask, [1, 1, 1, 1, 0, 0, 0, 0])


@every_objective
def test_what_needs_no_target_never_reads_it(config: Any) -> None:
    objective = make_objective(config)
    batch, network = make_batch(4), constant_network(jnp.linspace(-1.0, 1.0, 4), objective.num_outputs)
    assert batch.target is not None

    def run(target: jax.Array | None) -> Loss:
        return objective.loss(network, batch._replace(target=target), KEY, hyperparameters(objective), None)

    poisoned = run(jnp.full_like(batch.target, jnp.nan))
    assert objective.needs_target == isinstance(config, SupervisedConfig | PNUConfig)
    if objective.needs_target:
        assert bool(jnp.isnan(poisoned.loss))
    else:
        for other in (run(batch.target), run(None)):
            jax.tree.map(np.testing.assert_array_equal, poisoned, other)


@every_objective
def test_statistics_of_the_mask_are_always_logged(config: Any) -> None:
    objective = make_objective(config)
    for sign in (-1.0, 1.0):
        # Keep the last bin alone, or all but that one.
        network = constant_network(sign * jnp.asarray([30.0, 30.0, 30.0, -30.0]), objective.num_outputs)
        metrics = objective.loss(network, make_batch(), KEY, hyperparameters(objective), None).metrics
        keeps_one = (sign > 0) != isinstance(config, POSITIVE_KEEPS)
        np.testing.assert_allclose(metrics["inactive_share"], 0.75 if keeps_one else 0.25)
        assert 0 < float(metrics["kept_energy"]) < 1
        assert (float(metrics["kept_energy"]) < 0.1) == keeps_one  # the target, 20 dB louder, is in the first two


def test_kept_energy_by_hand() -> None:
    """Energy 4 of the 4 + 12 is masked by 1/2, so that a quarter of it is kept; the rest is removed."""
    objective = make_objective(SupervisedConfig())
    stft = jnp.asarray([[[[2.0, math.sqrt(12)]]]], jnp.complex64)
    batch = Batch(stft, stft, stft, jnp.zeros(1, jnp.int32))

    def network(stft: jax.Array, index: jax.Array) -> jax.Array:
        return jnp.asarray([0.0, -100.0])[None, None, :, None]

    metrics = objective.loss(network, batch, KEY, {}, None).metrics
    np.testing.assert_allclose(metrics["kept_energy"], 1 / 16, rtol=1e-6)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_pu_is_pu_loss_of_magnitude_weights(exponent: float) -> None:
    batch, logits = make_batch(4), jnp.linspace(-1.0, 1.0, 4)
    objective = make_objective(PUConfig(weight_exponent=exponent, class_prior=0.3, gamma=0.2, beta=0.01))
    result = objective.loss(constant_network(logits), batch, KEY, hyperparameters(objective), None)
    sizes, unlabeled_sizes = magnitude(batch.positive), magnitude(batch.unlabeled)
    stacked = jnp.broadcast_to(logits[None, None], sizes.shape)
    expected = losses.pu_loss(
        stacked,
        stacked,
        class_prior=0.3,
        gamma=0.2,
        beta=0.01,
        positive_weights=sizes**exponent,
        unlabeled_weights=unlabeled_sizes**exponent,
    )
    np.testing.assert_allclose((result.loss, result.risk), (expected.loss, expected.risk), rtol=1e-5)
    np.testing.assert_allclose(result.metrics["negative_risk"], expected.negative_risk, rtol=1e-5)


def test_brier_pu_is_brier_pu_loss_of_magnitude_weights() -> None:
    batch, logits = make_batch(4), jnp.linspace(-1.0, 1.0, 4)
    objective = make_objective(BrierPUConfig(class_prior=0.3))
    result = objective.loss(constant_network(logits), batch, KEY, hyperparameters(objective), None)
    weights = {"positive_weights": magnitude(batch.positive), "unlabeled_weights": magnitude(batch.unlabeled)}
    stacked = jnp.broadcast_to(logits[None, None], weights["positive_weights"].shape)
    np.testing.assert_allclose(result.loss, losses.brier_pu_loss(stacked, stacked, class_prior=0.3, **weights), rtol=1e-5)


@pytest.mark.parametrize("config", [PUConfig(), BrierPUConfig()], ids=str)
def test_pu_gives_the_network_every_clip_once_with_an_index_of_its_own(config: Any) -> None:
    seen: list[tuple[jax.Array, jax.Array]] = []

    def network(stft: jax.Array, index: jax.Array) -> jax.Array:
        seen.append((stft, index))
        return jnp.zeros(logits_shape(stft))

    batch = make_batch(4)._replace(example_index=jnp.asarray([4, 5, 6, 7], jnp.int32))
    objective = make_objective(config)
    objective.loss(network, batch, KEY, hyperparameters(objective), None)
    ((stft, index),) = seen
    np.testing.assert_array_equal(stft, np.concatenate([batch.unlabeled, batch.positive]))
    # Unlabeled clips have even numbers and positive ones odd, so that the shares of other devices never meet these.
    assert index.tolist() == [8, 10, 12, 14, 9, 11, 13, 15]


@pytest.mark.parametrize("loss_name", ["ratio_mask", "phase_sensitive"])
def test_the_minimum_of_supervised_learning_is_the_ideal_mask(loss_name: Any) -> None:
    mixture, target = np.array([[[[4.0, 2.0 + 1j]]]], np.complex64), np.array([[[[3.0, 0.5 + 1j]]]], np.complex64)
    ratio = np.abs(target) / (np.abs(target) + np.abs(mixture - target))
    if loss_name == "phase_sensitive":
        ratio = (target * mixture.conj()).real / np.abs(mixture) ** 2
    objective = make_objective(SupervisedConfig(loss=loss_name))
    batch = Batch(jnp.asarray(mixture), jnp.asarray(mixture), jnp.asarray(target), jnp.zeros(1, jnp.int32))

    def loss(logits: jax.Array) -> jax.Array:
        return objective.loss(constant_network(logits), batch, KEY, {}, None).loss

    logits = jnp.asarray(np.log(ratio / (1 - ratio))[0, 0, 0], jnp.float32)
    np.testing.assert_allclose(jax.grad(loss)(logits), np.zeros(2), atol=1e-6)
    assert float(loss(logits + 0.5)) > float(loss(logits))


def test_supervised_learns_from_the_songs_as_they_are_unless_remixed() -> None:
    batch = make_batch(4)
    assert batch.target is not None
    stft, result = remixed_inputs(make_objective(SupervisedConfig()), batch._replace(positive=batch.positive * jnp.nan))
    np.testing.assert_array_equal(stft, batch.unlabeled)
    sizes = magnitude(batch.unlabeled), magnitude(batch.target)
    np.testing.assert_allclose(result.loss, losses.signal_approximation_loss(jnp.zeros(sizes[0].shape), *sizes), rtol=1e-6)


def test_mixtures_of_two_sets_are_fitted_to_the_magnitudes_of_their_parts() -> None:
    batch = make_batch(4)
    assert batch.target is not None
    zeros = jnp.zeros(logits_shape(batch.unlabeled, 3))
    for config, part in (
        (SupervisedConfig(remix_songs=True), batch.target),
        (NoisyTargetConfig(), batch.unlabeled),
        (MixITConfig(), batch.unlabeled),
    ):
        objective = make_objective(config)
        changed = {} if isinstance(config, MixITConfig) else {"gain_db": 0.0}
        stft, result = remixed_inputs(objective, batch, **changed)
        np.testing.assert_allclose(stft, part + batch.positive, rtol=1e-6)
        if isinstance(config, MixITConfig):
            sizes = magnitude(stft), magnitude(part), magnitude(batch.positive)
            expected = losses.mixit_loss(zeros, *sizes)
        else:
            expected = losses.signal_approximation_loss(zeros[..., 0], magnitude(stft), magnitude(part))
        np.testing.assert_allclose(result.loss, expected, rtol=1e-5)
    # The ideal ratio mask of a remix has the positive as its accompaniment.
    objective = make_objective(SupervisedConfig(loss="ratio_mask", remix_songs=True))
    ratio = magnitude(batch.target) / (magnitude(batch.target) + magnitude(batch.positive))
    logits = jnp.log(ratio / (1 - ratio)).clip(-20, 20)

    def loss(shift: jax.Array) -> jax.Array:
        return objective.loss(
            lambda stft, index: (logits + shift)[..., None], batch, KEY, hyperparameters(objective, gain_db=0.0), None
        ).loss

    np.testing.assert_allclose(jax.grad(loss)(jnp.zeros(())), 0, atol=1e-6)


def test_mixit_leaves_the_target_to_the_first_output() -> None:
    """All in phase, so that magnitudes add.  The network cannot know which accompaniment is that of u, and mixes them up."""
    target, accompaniment, positive = np.random.default_rng(7).exponential(size=(3, 8, 5, 4))
    mixture = target + accompaniment + positive
    swapped = np.arange(8)[:, None, None] % 2 == 1
    second, third = np.where(swapped, positive, accompaniment), np.where(swapped, accompaniment, positive)
    unlabeled, alone = (jnp.asarray(part[:, None], jnp.complex64) for part in (target + accompaniment, positive))
    batch = Batch(unlabeled, alone, None, jnp.arange(8, dtype=jnp.int32))
    objective = make_objective(MixITConfig())

    def loss(*outputs: np.ndarray) -> float:
        ratio = np.stack(outputs, -1) / mixture[..., None]
        logits = jnp.asarray(np.log(ratio / (1 - ratio)), jnp.float32)
        if outputs[0] is target:
            np.testing.assert_allclose(objective.mask(logits), target / mixture, rtol=1e-4)
        return float(objective.loss(lambda stft, index: logits, batch, KEY, {}, None).loss)

    assert loss(target, second, third) < 1e-9
    assert loss(second, target, third) > 0.1
    assert loss(third, second, target) > 0.1


def remixed_inputs(objective: Objective, batch: Batch, key: jax.Array = KEY, **changed: float) -> tuple[jax.Array, Loss]:
    """The input of the network of an objective, and the result for logits of zero."""
    seen: list[jax.Array] = []

    def network(stft: jax.Array, index: jax.Array) -> jax.Array:
        seen.append(stft)
        return jnp.zeros(logits_shape(stft, objective.num_outputs))

    values = hyperparameters(objective, **changed)
    result = objective.loss(network, objective.level(batch, values), key, values, None)
    return seen[0], result


def separate_bins(num: int) -> Batch:
    """The unlabeled signal in the first bin, the positive in the second: their gains can be read off the remix."""
    one = jnp.tile(jnp.asarray([[[[1.0, 0.0]]]], jnp.complex64), (num, 1, 1, 1))
    return Batch(one, one[..., ::-1], one, jnp.arange(num, dtype=jnp.int32))


def levels_db(stft: jax.Array) -> np.ndarray:
    """Levels of the bins of the only frame of `separate_bins`: (n, 2)."""
    return 20 * np.log10(np.asarray(magnitude(stft)[:, 0]))


with_gains = pytest.mark.parametrize(
    "config", [RemixConfig(), NoisyTargetConfig(), SupervisedConfig(remix_songs=True)], ids=lambda config: type(config).__name__
)


@with_gains
def test_gains_are_independent_and_uniform_in_db(config: Any) -> None:
    objective, num = make_objective(dataclasses.replace(config, gain_db=6.0)), 2000
    stft, _ = remixed_inputs(objective, separate_bins(num))
    gains_db = levels_db(stft)
    assert np.abs(gains_db).max() <= 6 + 1e-4
    np.testing.assert_allclose(np.quantile(gains_db, [0, 0.25, 0.5, 0.75, 1], axis=0).T, [[-6, -3, 0, 3, 6]] * 2, atol=0.5)
    assert abs(np.corrcoef(gains_db.T)[0, 1]) < 0.1
    if isinstance(config, RemixConfig):
        # The same shift for all positives, none for the others.
        shifted, _ = remixed_inputs(objective, separate_bins(num), positive_gain_db=-2.5)
        np.testing.assert_allclose(levels_db(shifted), gains_db + np.array([0, -2.5]), atol=1e-4)
        # Marked passages have the level of their songs already.
        marked = separate_bins(num)._replace(marked=jnp.arange(num) % 2 == 0)
        shifted, _ = remixed_inputs(objective, marked, positive_gain_db=-2.5)
        difference = levels_db(shifted) - gains_db
        np.testing.assert_allclose(difference, np.where(np.arange(num) % 2, -2.5, 0.0)[:, None] * [0, 1], atol=1e-4)
    without, _ = remixed_inputs(objective, separate_bins(num), gain_db=0.0)
    np.testing.assert_allclose(np.abs(np.asarray(without)), 1, rtol=1e-6)


@with_gains
def test_gains_belong_to_the_example_and_the_key(config: Any) -> None:
    objective, batch = make_objective(dataclasses.replace(config, gain_db=6.0)), separate_bins(8)
    stft, _ = remixed_inputs(objective, batch)
    order = jnp.asarray([3, 1, 0, 2, 7, 6, 5, 4])
    shuffled, _ = remixed_inputs(objective, batch._replace(example_index=batch.example_index[order]))
    np.testing.assert_array_equal(shuffled, stft[order])
    other, _ = remixed_inputs(objective, batch, jax.random.key(1))
    assert not np.any(np.isclose(np.abs(other[:, 0]), np.abs(stft[:, 0])))


@pytest.mark.parametrize(
    "config", [RemixConfig(), SupervisedConfig(remix_songs=True, gain_db=0.0)], ids=lambda c: type(c).__name__
)
def test_shifts_scale_frequencies_independently_and_uniformly_in_semitones(config: Any) -> None:
    objective, num, bins = make_objective(dataclasses.replace(config, shift_semitones=2.0)), 1000, 1200
    one = jnp.zeros((num, 1, 1, bins), jnp.complex64).at[..., 1000].set(1)
    # The unlabeled signal is real, the positive imaginary, so that they can be told apart in the remix.
    batch = Batch(one, 1j * one, one, jnp.arange(num, dtype=jnp.int32))
    stft, _ = remixed_inputs(objective, batch)
    parts = np.stack([np.real(stft[:, 0, 0]), np.imag(stft[:, 0, 0])], axis=1)  # (num, 2, bins)
    # A bin may be the source of two, but no other's.
    assert set(np.unique(parts)) == {0, 1}
    assert set(parts.sum(-1).ravel()) <= {0, 1, 2}
    found = parts.any(-1).all(-1)
    assert found.mean() > 0.85  # a higher pitch leaves out some sources
    semitones = 12 * np.log2(parts[found].argmax(-1) / 1000)
    assert np.abs(semitones).max() <= 2 + 0.02
    np.testing.assert_allclose(np.quantile(semitones, [0, 0.25, 0.5, 0.75, 1], axis=0).T, [[-2, -1, 0, 1, 2]] * 2, atol=0.3)
    assert abs(np.corrcoef(semitones.T)[0, 1]) < 0.1
    order = jnp.asarray(np.random.default_rng(0).permutation(num))
    shuffled, _ = remixed_inputs(objective, batch._replace(example_index=batch.example_index[order]))
    np.testing.assert_array_equal(shuffled, stft[order])
    without, _ = remixed_inputs(objective, batch, shift_semitones=0.0)
    np.testing.assert_array_equal(without, (1 + 1j) * one)


def test_what_lies_above_the_highest_bin_is_taken_to_be_like_it() -> None:
    objective = make_objective(RemixConfig(shift_semitones=12.0))
    ramp = jnp.tile(jnp.arange(9, dtype=jnp.float32).astype(jnp.complex64), (50, 1, 1, 1))
    stft, _ = remixed_inputs(objective, Batch(ramp, 0 * ramp, None, jnp.arange(50, dtype=jnp.int32)))
    shifted = np.real(stft[:, 0, 0])
    assert np.all(np.diff(shifted, axis=-1) >= 0)
    assert shifted.max() == 8
    lower = shifted[:, 4] > 4  # what was higher up has come down
    assert 10 < lower.sum() < 40
    assert np.all(shifted[lower, -1] == 8)


def test_remix_adds_complex_stfts_and_labels_where_the_positive_is_larger() -> None:
    objective, batch = make_objective(RemixConfig(gain_db=0.0)), make_batch(16)
    stft, _ = remixed_inputs(objective, batch)
    np.testing.assert_allclose(stft, batch.unlabeled + batch.positive, rtol=1e-6)
    dominates = magnitude(batch.positive) > magnitude(batch.unlabeled)
    share = float(losses.weighted_mean(dominates.astype(jnp.float32), magnitude(stft), None))

    def loss(sign: float) -> float:
        logits = sign * jnp.where(dominates, 20.0, -20.0)[..., None]
        return float(objective.loss(lambda stft, index: logits, batch, KEY, hyperparameters(objective), None).loss)

    # Where accompaniment is certain, it is the positive's half of the time.
    np.testing.assert_allclose(loss(1.0), share * math.log(2), rtol=1e-5)
    np.testing.assert_allclose(loss(-1.0), share * 20 + (1 - share) * math.log(2), rtol=1e-5)


def test_remix_labels_half_of_two_exchangeable_signals() -> None:
    """The label frequency c = 1/2, by symmetry, whatever the gains' range and the weights."""
    batch = make_batch(128, 16, target_gain=0.0)
    for gain_db, exponent in ((0.0, 0.0), (6.0, 1.0), (20.0, 2.0)):
        objective = make_objective(RemixConfig(gain_db=gain_db, weight_exponent=exponent))
        _, result = remixed_inputs(objective, batch)
        assert abs(float(result.metrics["label_share"]) - 0.5) < 0.05
    # Positives 6 dB hot are larger in 4 bins of 5: |p|^2 and |u|^2 are exponential with means 4 and 1.
    _, hot = remixed_inputs(objective, batch, gain_db=0.0, weight_exponent=0.0, positive_gain_db=20 * math.log10(2))
    np.testing.assert_allclose(hot.metrics["label_share"], 0.8, atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("label_frequency", [0.5, 0.8])
def test_remix_learns_the_mask_of_the_mixture_and_not_of_the_sum(label_frequency: float) -> None:
    """With target and accompaniment complex Gaussian, |u|^2 and |p|^2 are exponential.

    Where the target plays, R times the power of the accompaniment, p is the larger with probability 1 / (2 + R), elsewhere
    with 1/2: so with c = 1/2 the mask of a network that knows only the bin is R / (1 + R), Wiener's for u, and 0 elsewhere.
    """
    ratio = 8.0
    batch = make_batch(128, 16, target_gain=math.sqrt(ratio))
    config = RemixConfig(gain_db=0.0, weight_exponent=0.0, label_frequency=label_frequency)
    logits = learn(config, batch)
    expected = np.array([1 / (2 + ratio)] * 2 + [0.5] * 2)
    odds = label_frequency / (1 - label_frequency) * jax.nn.sigmoid(logits)
    np.testing.assert_allclose(odds / (1 + odds), expected, atol=0.03)
    mask = make_objective(config).mask(logits[None, None, :, None])[0, 0]
    if label_frequency == 0.5:
        np.testing.assert_allclose(mask, [ratio / (1 + ratio)] * 2 + [0] * 2, atol=0.06)


@pytest.mark.parametrize("labels", ["binary", "ratio", "phase_sensitive"])
def test_where_the_target_is_silent_labels_are_one_half_on_average(labels: Any) -> None:
    objective, batch = make_objective(RemixConfig(labels=labels, gain_db=0.0, weight_exponent=0.0)), make_batch(512, 16)
    batch = batch._replace(unlabeled=batch.unlabeled.at[..., :2].set(0))
    result = objective.loss(constant_network(jnp.zeros(4)), batch, KEY, hyperparameters(objective), None)
    # Where the unlabeled signal is silent too, in half of the bins, the positive is all there is.
    np.testing.assert_allclose(result.metrics["label_share"], (1 + 0.5) / 2, atol=0.01)


def test_beside_an_estimate_of_the_target_accompaniment_always_has_the_label() -> None:
    """So that the score means the same in the teacher, in `remix` and in the teacher's student."""
    config = BootstrapConfig(taught_gain_db=0.0, mixture_share=0.0, label_frequency=0.4, labels="binary")
    objective, batch = make_objective(config), make_batch(256, 16)
    assert batch.target is not None
    logits = jnp.asarray([1.0, -1.0, 2.0, 0.0])

    def loss_of(pseudo_target: PseudoTarget | None) -> float:
        taught = batch._replace(pseudo_target=pseudo_target)
        return float(objective.loss(constant_network(logits), taught, KEY, hyperparameters(objective), None).loss)

    score = np.asarray(jax.nn.sigmoid(logits))

    def by_hand(other: jax.Array, posterior: np.ndarray) -> float:
        # Weighted by |x|: the label of a bin is 1 where the positive is the larger.
        labels = np.asarray(jnp.abs(batch.positive) > jnp.abs(other))
        weights = np.abs(np.asarray(other + batch.positive))
        posterior = np.broadcast_to(posterior, labels.shape)
        return float(np.sum(-np.log(np.where(labels, posterior, 1 - posterior)) * weights) / weights.sum())

    known = PseudoTarget(batch.target, jnp.float32(1))
    np.testing.assert_allclose(loss_of(known), by_hand(batch.target, score), rtol=1e-4)
    # A teacher that returns the mixture, and no teacher, are the same as `remix`.
    as_remix = loss_of(None)
    np.testing.assert_allclose(as_remix, by_hand(batch.unlabeled, 0.4 * score / (0.6 + 0.4 * score)), rtol=1e-4)
    assert loss_of(PseudoTarget(batch.unlabeled, jnp.float32(0))) == as_remix
    remix = make_objective(RemixConfig(gain_db=0.0, label_frequency=0.4, labels="binary"))
    assert float(remix.loss(constant_network(logits), batch, KEY, hyperparameters(remix), None).loss) == as_remix


def test_gains_of_a_bootstrap_begin_with_its_teacher() -> None:
    objective, batch = make_objective(BootstrapConfig(gain_db=0.0, taught_gain_db=6.0, mixture_share=0.0)), make_batch(500)

    def spread_db(exists: float) -> float:
        inputs: list[jax.Array] = []

        def network(stft: jax.Array, index: jax.Array) -> jax.Array:
            inputs.append(stft)
            return jnp.zeros(logits_shape(stft))

        one = jnp.ones_like(batch.unlabeled)
        silent = batch._replace(unlabeled=one, positive=jnp.zeros_like(one))
        taught = silent._replace(pseudo_target=PseudoTarget(one, jnp.float32(exists)))
        objective.loss(network, taught, KEY, hyperparameters(objective), None)
        return float(np.ptp(20 * np.log10(np.abs(np.asarray(inputs[0])))))

    assert spread_db(0.0) < 1e-3
    assert 11 < spread_db(1.0) <= 12.01


def masks_by_scores(
    scores: jax.Array, positive_scores: jax.Array, stft: jax.Array, positive: jax.Array, share: float
) -> tuple[jax.Array, jax.Array]:
    """The masks of a teacher whose scores are these, (n, frames, bins), where the levels say `share`."""

    def logits(of_scores: jax.Array) -> jax.Array:
        return jnp.broadcast_to(jax.scipy.special.logit(of_scores)[..., None], logits_shape(stft))

    return teacher_masks(logits(scores), logits(positive_scores), stft, positive, jnp.asarray([4.0, 4 * (1 - share)]), None)


@pytest.mark.parametrize(("share", "kept"), [(0.3, 0.3), (0.02, 0.2), (0.9, 0.5)])
def test_what_a_teacher_keeps_has_the_energy_that_the_levels_say(share: float, kept: float) -> None:
    batch = make_batch(64, 16)
    # An unsure teacher: it would keep next to nothing.
    energy = jnp.square(magnitude(batch.unlabeled))
    scores = jax.random.uniform(KEY, energy.shape, minval=0.8, maxval=1.0)
    mask, _ = masks_by_scores(scores, jnp.float32(0.95), batch.unlabeled, batch.positive, share)
    np.testing.assert_allclose((mask * energy).sum() / energy.sum(), kept, rtol=0.02)
    assert float(jnp.max(mask[scores > 0.95])) < 1e-5
    assert (np.diff(np.asarray(mask).ravel()[np.argsort(-scores.ravel())]) >= 0).all()


def test_the_best_mask_is_a_teachers_as_it_is() -> None:
    """With t and a complex Gaussian of R to 1 where the target plays, the best mask is R / (R + 1) there, 0 elsewhere."""
    ratio = 1.5
    batch = make_batch(2000, 16, target_gain=math.sqrt(ratio))
    best = jnp.broadcast_to(jnp.asarray([ratio / (ratio + 1)] * 2 + [0.0] * 2), magnitude(batch.unlabeled).shape)
    unlabeled_energy, positive_energy = (float(jnp.mean(jnp.abs(stft) ** 2)) for stft in (batch.unlabeled, batch.positive))
    share = 1 - positive_energy / unlabeled_energy
    # A network that is half as sure, of accompaniment too, teaches the same.
    for sure in (1.0, 0.5):
        masks, _ = masks_by_scores(sure * (1 - best), jnp.float32(sure), batch.unlabeled, batch.positive, share)
        np.testing.assert_allclose(masks, best, rtol=0.03, atol=1e-5)


def test_a_teacher_takes_for_accompaniment_what_scores_like_the_positives_of_that_octave() -> None:
    stft = jnp.ones((2, 1, 3, 64), jnp.complex64)
    # Bins 0 to 3, 4 to 7, 8 to 15, 16 to 31 and the rest; positives score lower further up, by two values of mean q.
    octaves = np.repeat(np.arange(5), [4, 4, 8, 16, 32])
    of_positives = jnp.asarray([0.9, 0.8, 0.7, 0.6, 0.5])[octaves][None, None]
    positive = jnp.stack([jnp.full((1, 3, 64), 3 + 0j), jnp.full((1, 3, 64), 1 + 0j)])
    positive_scores = of_positives + jnp.asarray([0.05, -0.15])[:, None, None]  # weighted by |p|, 3 to 1, the mean is q
    as_positives, _ = masks_by_scores(of_positives, positive_scores, stft, positive, 0.25)
    np.testing.assert_allclose(as_positives, 0, atol=1e-4)
    # Half of q in every octave: the same evidence everywhere, so masks are equal and keep a quarter.
    half, of_positive = masks_by_scores(of_positives / 2, positive_scores, stft, positive, 0.25)
    np.testing.assert_allclose(half, 0.25, rtol=0.01)
    # k is then 1/2, for the positives too, of which the first has the evidence -0.05 / q and the second 0.15 / q.
    np.testing.assert_allclose(of_positive[0], 0, atol=1e-4)
    np.testing.assert_allclose(of_positive[1], np.broadcast_to(0.5 * 0.15 / of_positives[0], (3, 64)), rtol=0.01)


@pytest.mark.parametrize("bins", [2, 3, 4])
def test_a_teacher_needs_no_octaves(bins: int) -> None:
    """With DFTs of 2 or 4 samples there is none: all bins share a mean."""
    stft = jnp.ones((2, 1, 3, bins), jnp.complex64)
    masks, of_positives = masks_by_scores(jnp.float32(0.4), jnp.float32(0.8), stft, stft, 0.25)
    np.testing.assert_allclose(masks, 0.25, rtol=0.01)
    np.testing.assert_allclose(of_positives, 0, atol=1e-4)


@pytest.mark.parametrize(("empty_share", "chosen_from"), [(0.0, []), (0.1, [2]), (0.2, [2, 5])])
def test_mixtures_in_which_a_teacher_finds_next_to_nothing_are_positives(empty_share: float, chosen_from: list[int]) -> None:
    # Of mixtures with the energies 1 and 4 in turn the teacher takes 0.06, 0.12 and otherwise 0.9, on average 0.8 of the energy.
    num = 16
    each = np.exp(1j * np.arange(num)) * np.where(np.arange(num) % 2 == 0, 1, 2)
    mixture = jnp.asarray(np.broadcast_to(each[:, None, None, None], (num, 1, 3, 4)), jnp.complex64)
    mask = jnp.full((num, 3, 4), 0.9).at[2].set(0.06).at[5].set(0.12)
    positive = jnp.zeros_like(mixture)
    drawn = [
        with_empty_mixtures(
            mask, mixture, positive, jnp.arange(num), jax.random.fold_in(KEY, step), jnp.float32(empty_share), axis_name=None
        )
        for step in range(40)
    ]
    assert {float(empty) for _, empty in drawn} == {len(chosen_from) / num}
    found = np.stack([positives for positives, _ in drawn])[:, :, 0, 0, 0]
    sources = [np.isclose(found, mixture[number, 0, 0, 0], rtol=1e-6) for number in chosen_from]
    assert (sum(sources, np.isclose(found, 0)) == 1).all()
    # 16 positives, and each empty mixture once more.
    for source in sources:
        np.testing.assert_allclose(source.mean(), 1 / (num + len(chosen_from)), atol=0.03)


def test_the_false_positive_ratio_is_the_energy_kept_of_positives_by_clip_over_that_kept_of_mixtures() -> None:
    # Of all mixtures 1/4 of the energy; of half of the positives 1/5, of the others nothing, though these are louder.
    mixture = jnp.asarray([1.0, 1.0, 2.0, 2.0], jnp.complex64)[:, None, None, None] * jnp.ones((4, 1, 3, 4), jnp.complex64)
    mask = jnp.asarray([1.0, 0.0, 0.0, 0.375])[:, None, None] * jnp.ones((4, 3, 4))
    positive = jnp.asarray([1j, 2j, 30j, 40j], jnp.complex64)[:, None, None, None] * jnp.ones((4, 1, 3, 4), jnp.complex64)
    positive_mask = jnp.zeros((4, 3, 4)).at[:2].set(0.2)
    np.testing.assert_allclose(false_positive_ratio(mask, positive_mask, mixture, positive, None), 0.1 / 0.25, rtol=1e-5)


def test_a_share_of_the_examples_stays_as_in_remix() -> None:
    config = BootstrapConfig(taught_gain_db=6.0, mixture_share=0.25, label_frequency=0.4)
    objective, batch = make_objective(config), make_batch(2000)
    inputs: list[jax.Array] = []

    def network(stft: jax.Array, index: jax.Array) -> jax.Array:
        inputs.append(stft)
        return jnp.zeros(logits_shape(stft))

    taught = batch._replace(pseudo_target=PseudoTarget(100 * batch.unlabeled, jnp.float32(1)))
    objective.loss(network, taught, KEY, hyperparameters(objective), None)
    as_remix = np.isclose(inputs[0], batch.unlabeled + batch.positive, rtol=1e-5).all((1, 2, 3))
    assert 0.22 < as_remix.mean() < 0.28
    # All of them: the loss of `remix`, with its labels.
    everything = objective.loss(network, taught, KEY, hyperparameters(objective, mixture_share=1.0), None)
    remix = make_objective(RemixConfig(label_frequency=0.4, labels="ratio"))
    assert float(everything.loss) == float(remix.loss(network, batch, KEY, hyperparameters(remix), None).loss)


@pytest.mark.parametrize("frequency", [0.5, 0.3])
@pytest.mark.parametrize("extreme", [1.0, 1e4])
def test_the_remix_loss_is_its_formula_and_stays_finite(frequency: float, extreme: float) -> None:
    """Cross-entropy of the labels with r, where r / (1 - r) = s c / (1 - c), in float64."""
    objective, batch = make_objective(RemixConfig(label_frequency=frequency, labels="ratio")), make_batch(4, 3)
    logits = extreme * jnp.asarray([1.0, -1.0, 0.5, -2.0])

    def loss(logits: jax.Array) -> jax.Array:
        return objective.loss(constant_network(logits), batch, KEY, hyperparameters(objective), None).loss

    value, gradient = jax.value_and_grad(loss)(logits)
    positive, other = (np.abs(np.asarray(stft, np.complex128)) for stft in (batch.positive, batch.unlabeled))
    labels, weights = positive / (positive + other), np.abs(np.asarray(batch.positive + batch.unlabeled, np.complex128))
    log_score = -np.logaddexp(0, -np.asarray(logits, np.float64))
    log_odds = np.broadcast_to(log_score + np.log(frequency / (1 - frequency)), labels.shape)
    entropy = labels * np.logaddexp(0, -log_odds) + (1 - labels) * np.logaddexp(0, log_odds)
    np.testing.assert_allclose(value, np.sum(weights * entropy) / weights.sum(), rtol=1e-5)
    assert bool(jnp.all(jnp.isfinite(gradient)))


def test_pnu_is_a_convex_combination_and_compared_by_remix_alone() -> None:
    objective, remix, batch = make_objective(PNUConfig()), make_objective(RemixConfig()), make_batch(16)
    network = constant_network(jnp.linspace(-1.0, 1.0, 4))

    def run(weight: float) -> Loss:
        return objective.loss(network, batch, KEY, hyperparameters(objective, supervised_weight=weight), None)

    unlabeled, both, supervised = run(0.0), run(0.25), run(1.0)
    plain = remix.loss(network, batch, KEY, hyperparameters(remix), None)
    assert float(unlabeled.loss) == float(plain.loss)
    assert {float(result.risk) for result in (unlabeled, both, supervised)} == {float(plain.risk)}
    np.testing.assert_allclose(both.loss, 0.25 * supervised.loss + 0.75 * unlabeled.loss, rtol=1e-6)
    assert batch.target is not None
    # As a student of a teacher that knows the targets.
    student = make_objective(BootstrapConfig(labels="binary", taught_gain_db=0.0, mixture_share=0.0))
    taught = batch._replace(pseudo_target=PseudoTarget(batch.target, jnp.float32(1)))
    known = student.loss(network, taught, jax.random.fold_in(KEY, 1), hyperparameters(student), None)
    np.testing.assert_allclose(supervised.loss, known.loss, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "name", "values"),
    [
        (PUConfig(), "class_prior", [0.1, 0.5, 0.95]),
        (PUConfig(class_prior=0.95), "gamma", [0.0, 0.5, 1.0]),
        (PUConfig(class_prior=0.95), "beta", [0.0, 0.1, 5.0]),
        (PUConfig(), "weight_exponent", [0.0, 0.5, 1.0]),
        (PUConfig(estimator="absolute"), "class_prior", [0.1, 0.5, 0.95]),
        (PUConfig(estimator="balanced"), "class_prior", [0.1, 0.5, 0.95]),
        (PUConfig(estimator="balanced", class_prior=0.95), "gamma", [0.0, 0.5, 1.0]),
        (BrierPUConfig(), "class_prior", [0.1, 0.5, 0.95]),
        (BrierPUConfig(), "weight_exponent", [0.0, 0.5, 1.0]),
        (SupervisedConfig(remix_songs=True), "gain_db", [0.0, 3.0, 9.0]),
        (NoisyTargetConfig(), "gain_db", [0.0, 3.0, 9.0]),
        (RemixConfig(), "gain_db", [0.0, 3.0, 9.0]),
        (RemixConfig(), "shift_semitones", [0.0, 5.0, 12.0]),
        (SupervisedConfig(remix_songs=True), "shift_semitones", [0.0, 5.0, 12.0]),
        (RemixConfig(), "positive_gain_db", [-3.0, 0.0, 3.0]),
        (RemixConfig(), "label_frequency", [0.4, 0.5, 0.7]),
        (PNUConfig(), "supervised_weight", [0.0, 0.5, 1.0]),
        (BootstrapConfig(), "label_frequency", [0.4, 0.5, 0.7]),
    ],
    ids=str,
)
def test_hyperparameters_are_traced(config: Any, name: str, values: list[float]) -> None:
    """One compiled function under vmap gives what as many configs give by themselves; and every value matters."""
    objective = make_objective(config)
    batch = make_batch(4, target_gain=0.5)
    batch = batch._replace(positive=4 * batch.positive)

    @jax.jit
    def run(values: dict[str, jax.Array]) -> Any:
        network = constant_network(jnp.asarray([1.0, -1.0, 0.5, -0.5]))
        return objective.loss(network, objective.level(batch, values), KEY, values, None)

    base = hyperparameters(objective)
    together = jax.vmap(lambda value: run(base | {name: value}))(jnp.asarray(values))
    alone = [run(hyperparameters(objective, **{name: value})) for value in values]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *alone)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), together, stacked)
    for first, second in ((0, 1), (1, 2)):
        assert any(np.any(leaf[first] != leaf[second]) for leaf in jax.tree.leaves(stacked))


@every_objective
def test_every_number_of_an_objective_is_a_hyperparameter(config: Any) -> None:
    numbers = {name for name, value in vars(config).items() if isinstance(value, float)}
    assert set(make_objective(config).hyperparameters) == numbers


# Beside every objective, one whose teacher is there from the first step and finds target-free mixtures.
WITH_TEACHER = BootstrapConfig(remix_steps=0, empty_share=1.0, max_false_positive_ratio=10.0)
every_objective_and_a_teacher = pytest.mark.parametrize("config", [*CONFIGS, WITH_TEACHER], ids=str)


def with_channels(batch: Batch, change: Callable[[jax.Array], jax.Array]) -> Batch:
    """A batch with all of its STFTs changed."""
    assert batch.target is not None
    return batch._replace(unlabeled=change(batch.unlabeled), positive=change(batch.positive), target=change(batch.target))


@functools.lru_cache
def training_step(config: Any) -> Callable[[Batch], dict[str, Any]]:
    """Batch to all that comes out of a step, with gains, shifts and marks, and logits that depend on magnitudes."""
    objective = make_objective(config)
    augmented = {"gain_db": 6.0, "shift_semitones": 12.0, "positive_gain_db": -2.0}
    values = hyperparameters(objective, **{name: augmented[name] for name in set(augmented) & set(objective.hyperparameters)})
    offsets = jnp.linspace(-1.0, 1.0, 4 * objective.num_outputs).reshape(1, 1, 4, -1)

    def network(offsets: jax.Array) -> Callable[[jax.Array, jax.Array], jax.Array]:
        return lambda stft, index: offsets - jnp.log(magnitude(stft))[..., None]

    @jax.jit
    def run(batch: Batch) -> dict[str, Any]:
        leveled = objective.level(batch._replace(marked=batch.example_index % 2 == 0), values)
        state, prepared, metrics = objective.prepare(objective.init_state(), leveled, network(offsets), values, KEY, None)

        def loss(offsets: jax.Array) -> tuple[jax.Array, Loss]:
            result = objective.loss(network(offsets), prepared, KEY, values, None)
            return result.loss, result

        gradient, result = jax.grad(loss, has_aux=True)(offsets)
        return {"gradient": gradient, "result": result, "state": state, "metrics": metrics}

    return run


@every_objective_and_a_teacher
def test_channels_that_are_alike_are_as_good_as_one(config: Any) -> None:
    """Levels are means over channels, and nothing is drawn for each; phases between channels do not matter."""
    step, batch = training_step(config), make_batch(16)
    one = step(batch)
    assert bool(jnp.all(one["gradient"] != 0))
    if config is WITH_TEACHER:
        assert 0 < float(one["metrics"]["empty_mixtures"]) < 1
    for phase in (1, 1j):
        two = step(with_channels(batch, lambda stft, phase=phase: jnp.concatenate([stft, phase * stft], axis=1)))
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), two, one)


@every_objective_and_a_teacher
def test_the_order_of_the_channels_does_not_matter(config: Any) -> None:
    step, batch = training_step(config), make_batch(16, channels=2)
    both, swapped = step(batch), step(with_channels(batch, lambda stft: stft[:, ::-1]))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), swapped, both)
    # Both of them count.
    first = step(with_channels(batch, lambda stft: stft[:, :1]))
    assert not np.isclose(first["result"].loss, both["result"].loss, rtol=1e-4)


def test_mask_fn_is_network_and_mask_without_dropout() -> None:
    config = Config(model=PatchCNNConfig(channels=2, blocks=0, dropout_rate=0.5), objective=RemixConfig(label_frequency=0.7))
    network, stft = make_network(config, 1), make_batch(3).unlabeled
    variables = jax.jit(functools.partial(network.init, train=False))(KEY, stft)
    mask = jax.jit(make_mask_fn(config))(variables, stft)
    logits = network.apply(variables, stft, train=False)[..., 0]
    np.testing.assert_allclose(mask, np.asarray(jax.nn.sigmoid(-logits)), atol=1e-6)
    assert mask.shape == logits_shape(stft)[:-1]


def test_the_phase_sensitive_mask_is_the_best_real_factor_for_all_channels() -> None:
    part, rest = (jnp.asarray(complex_noise(50, 2, 3, 4, seed=seed)) for seed in (0, 1))
    mask = phase_sensitive_mask(part, rest)
    assert mask.shape == (50, 3, 4)
    grid = jnp.linspace(0, 1, 201)

    def error(factor: jax.Array) -> jax.Array:
        return magnitude(factor.astype(jnp.complex64) * (part + rest) - part)

    best = grid[jnp.argmin(jnp.stack([error(factor) for factor in grid]), axis=0)]
    np.testing.assert_allclose(mask, best, atol=0.003)
    # With the rest in the part's place the masks add up to 1, unless both were clipped.
    inside = (mask > 0) & (mask < 1)
    assert 0.5 < jnp.mean(inside.astype(jnp.float32)) < 1
    np.testing.assert_allclose(jnp.where(inside, mask + phase_sensitive_mask(rest, part), 1.0), 1.0, atol=1e-5)


def test_where_nothing_sounds_the_phase_sensitive_mask_is_finite() -> None:
    silence = jnp.zeros((1, 1, 2, 3), jnp.complex64)
    assert jnp.isfinite(phase_sensitive_mask(silence, silence)).all()
