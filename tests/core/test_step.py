"""The training step in parts: the same gradients as of the whole batch, in less memory."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pytest

import jaxpu.core.step
from data_pipeline.config import DataConfig, PatchSpec
from jaxpu.config import (
    BootstrapConfig,
    Config,
    ConfigError,
    MixITConfig,
    PatchCNNConfig,
    PUConfig,
    RemixConfig,
    SupervisedConfig,
    TrainConfig,
    UNetConfig,
)
from jaxpu.core.network import make_network
from jaxpu.core.step import decode, in_parts, init_state, make_evaluate_step, make_train_step, separation_variables

DATA = DataConfig(patch=PatchSpec(sample_rate=8000, clip_samples=512, n_fft=64, win_length=64, hop_length=32, stereo=True))
CNN = PatchCNNConfig(channels=4, blocks=0, features="log", dropout_rate=0.2)
TRAIN = TrainConfig(batch_size=4, learning_rate=1e-3, ema_decay=0.9)


def random_batch(num: int, patch: PatchSpec, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    clips = {role: rng.standard_normal((num, *patch.patch_shape)) for role in ("unlabeled", "positive", "target")}
    # One half of the batch is much louder, so that the parts' own means would differ from those of the whole.
    clips["unlabeled"][: num // 2] *= 5
    return {name: values.astype(np.float32) for name, values in clips.items()} | {"index": np.arange(num, dtype=np.int32)}


@pytest.mark.parametrize(
    "objective",
    [
        PUConfig(class_prior=0.9),
        SupervisedConfig(loss="ratio_mask", remix_songs=True),
        MixITConfig(),
        RemixConfig(),
        BootstrapConfig(remix_steps=0, max_false_positive_ratio=100.0),
    ],
    ids=lambda objective: type(objective).__name__,
)
def test_gradients_of_a_batch_in_parts_are_those_of_the_whole(objective: Any) -> None:
    whole = Config(data=DATA, model=CNN, objective=objective, train=TRAIN)
    batch, found = random_batch(4, DATA.patch), []
    for clips_at_once in (0, 3):  # 3 does not divide the 8 channels of the mixtures: 2 at once.
        config = dataclasses.replace(whole, train=dataclasses.replace(TRAIN, clips_at_once=clips_at_once))
        state, statistics = jax.jit(make_train_step(config))(init_state(config), batch, jax.random.key(0))
        # After one step, the first moment of Adam is a tenth of the gradient.
        moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
        evaluation = jax.jit(make_evaluate_step(config))(state, batch, jax.random.key(1))
        found.append((moments, statistics, evaluation))
    assert any(float(abs(leaf).max()) > 1e-4 for leaf in found[0][0])
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-7), *found)


def test_clips_in_which_the_target_is_silent_do_not_count_in_its_scores() -> None:
    config = Config(data=DATA, model=CNN, objective=SupervisedConfig(), train=TRAIN)
    batch, state = random_batch(4, DATA.patch), init_state(config)
    batch["target"][0] = 0
    sounding = {name: values[1:] for name, values in batch.items()}
    with jax.disable_jit():  # A compiler may turn NaN * 0 into 0.
        found, expected = (make_evaluate_step(config)(state, each, jax.random.key(1)) for each in (batch, sounding))
    np.testing.assert_allclose(found["si_sdr_improvement"], expected["si_sdr_improvement"], rtol=1e-3)


def test_parts_that_would_be_much_smaller_than_asked_are_refused() -> None:
    config = Config(data=DATA, model=CNN, train=dataclasses.replace(TRAIN, batch_size=31, clips_at_once=16))
    with pytest.raises(ConfigError, match=r"clips_at_once is 16; .* divides the 124 clips of a device is 4\. Choose a divisor"):
        jax.eval_shape(make_train_step(config), init_state(config), random_batch(31, DATA.patch), jax.random.key(0))


def test_the_channels_of_a_clip_are_examples_or_one_example() -> None:
    batch = random_batch(3, DATA.patch) | {"marked": np.array([True, False, True])}
    parts = batch["unlabeled"]
    spectra = parts[..., 0] + 1j * parts[..., 1]
    apart, together = decode(batch), decode(batch, all_channels=True)
    np.testing.assert_array_equal(apart.unlabeled, spectra.reshape(6, 1, *spectra.shape[2:]))
    np.testing.assert_array_equal(together.unlabeled, spectra)
    np.testing.assert_array_equal(apart.marked, [True, True, False, False, True, True])
    np.testing.assert_array_equal(together.marked, [True, False, True])
    assert (apart.example_index.tolist(), together.example_index.tolist()) == ([0, 1, 2, 3, 4, 5], [0, 1, 2])


def test_parts_are_the_largest_that_divide_the_batch() -> None:
    sizes: list[int] = []

    def network(stft: jax.Array, index: jax.Array) -> jax.Array:
        sizes.append(len(stft))
        return stft.real[:, 0, ..., None] * index[:, None, None, None]

    stft = np.random.default_rng(0).standard_normal((12, 1, 3, 2)).astype(np.complex64)
    index = np.arange(12, dtype=np.int32)
    for size, expected in ((0, 12), (1, 1), (4, 4), (5, 4), (7, 6), (100, 12)):
        sizes.clear()
        logits = in_parts(network, size)(jax.numpy.asarray(stft), jax.numpy.asarray(index))
        assert set(sizes) == {expected}
        np.testing.assert_allclose(logits[..., 0], stft[:, 0].real * index[:, None, None], rtol=1e-6)


def test_batch_statistics_are_of_as_many_clips_as_pass_at_once() -> None:
    model = UNetConfig(channels=(2, 2), bands_per_octave=6)
    batch, found = random_batch(4, DATA.patch), []
    for clips_at_once in (0, 2):
        train = dataclasses.replace(TRAIN, clips_at_once=clips_at_once)
        config = Config(data=DATA, model=model, objective=RemixConfig(), train=train)
        state, _ = jax.jit(make_train_step(config))(init_state(config), batch, jax.random.key(0))
        found.append(state.batch_stats)
    network, variables = make_network(config, 1), separation_variables(config, state)
    stft = decode(batch, all_channels=True).unlabeled
    halves = [network.apply(variables, part, train=True, mutable=["batch_stats"])[1]["batch_stats"] for part in np.split(stft, 2)]
    expected = jax.tree.map(lambda *leaves: sum(leaves) / 2, *halves)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), found[1], expected)
    differences = jax.tree.map(lambda one, other: float(abs(one - other).max()), *found)
    assert max(jax.tree.leaves(differences)) > 1e-3


@pytest.mark.parametrize("model", [CNN, UNetConfig(channels=(4, 4), bands_per_octave=6)], ids=["patch_cnn", "unet"])
def test_a_batch_in_parts_needs_less_memory(model: Any) -> None:
    patch = dataclasses.replace(DATA.patch, clip_samples=8192)
    needed = []
    for clips_at_once in (0, 2):
        train = dataclasses.replace(TRAIN, batch_size=16, clips_at_once=clips_at_once)
        config = Config(data=dataclasses.replace(DATA, patch=patch), model=model, objective=RemixConfig(), train=train)
        step = jax.jit(make_train_step(config))
        compiled = step.lower(init_state(config), random_batch(16, patch), jax.random.key(0)).compile()
        needed.append(compiled.memory_analysis().temp_size_in_bytes)
    assert needed[1] < 0.5 * needed[0]


def test_shapes_can_be_asked_for_before_the_state() -> None:
    config = Config(data=DATA, model=CNN, train=dataclasses.replace(TRAIN, seed=5))
    jaxpu.core.step._initializer.cache_clear()  # Else an earlier test has called it.
    shapes = jax.eval_shape(lambda: init_state(config))
    state = init_state(config)
    assert jax.tree.map(np.shape, state.params) == jax.tree.map(lambda leaf: leaf.shape, shapes.params)
