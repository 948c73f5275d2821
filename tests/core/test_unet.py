"""The U-Net: its bands, its layers against NumPy, and what each output depends on."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate2d

from data_pipeline.config import DataConfig, PatchSpec
from jaxpu.config import Config, ConfigError, TrainConfig, UNetConfig
from jaxpu.config.networks import ConvolutionForm, first_bins
from jaxpu.core.network import make_network

pytestmark = pytest.mark.usefixtures("strict_dtypes")

PATCH = PatchSpec(sample_rate=8000, clip_samples=512, n_fft=64, win_length=64, hop_length=32)
STEREO = dataclasses.replace(PATCH, stereo=True)
SMALL = UNetConfig(channels=(2, 3), convolutions=1, dilations=(1, 2), bottleneck=4, bands_per_octave=6)


def build(config: UNetConfig, patch: PatchSpec = PATCH, num_outputs: int = 1, *, mixed: bool = False) -> tuple[Any, Any]:
    """The network and random variables."""
    run = Config(data=DataConfig(patch=patch), model=config, train=TrainConfig(mixed_precision=mixed))
    model, rng = make_network(run, num_outputs), np.random.default_rng(0)

    def draw(path: Any, leaf: Any) -> jax.Array:
        in_norm = "norm" in jax.tree_util.keystr(path)
        # Scales, shifts and statistics other than 1 and 0, so that their place shows.
        return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape) if in_norm else rng.uniform(-0.5, 0.5, leaf.shape), jnp.float32)

    stft = jnp.zeros((1, patch.num_channels, 5, patch.bins), jnp.complex64)
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), stft)
    return model, jax.tree_util.tree_map_with_path(draw, shapes)


def random_stft(*shape: int, seed: int = 0) -> jax.Array:
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.standard_normal(shape) + 1j * rng.standard_normal(shape), jnp.complex64)


@pytest.mark.parametrize(
    ("bands_per_octave", "expected"),
    [
        (1, (0, 1, 2, 4, 8, 16, 32)),  # From 3 on by powers of the square root of 2: 4.2, 6, 8.5, 12, 17, 24.
        (2, (0, 1, 2, 3, 4, 6, 8, 12, 17, 24)),
    ],
)
def test_octaves_are_divided_and_no_band_is_narrower_than_a_bin(bands_per_octave: float, expected: tuple[int, ...]) -> None:
    assert first_bins(UNetConfig(bands_per_octave=bands_per_octave), PATCH) == expected


def test_with_enough_bands_every_bin_is_one() -> None:
    assert first_bins(UNetConfig(bands_per_octave=1000), PATCH) == tuple(range(33))
    # 36 bands an octave are narrower than 10.8 Hz up to 0.6 kHz.
    bins = first_bins(UNetConfig(), PatchSpec(n_fft=4096, win_length=4096))
    assert len(bins) == 243
    assert bins[:60] == (*range(59), 60)
    np.testing.assert_allclose(bins[60:], 60 * 2 ** (np.arange(1, 184) / 36), atol=1)


@pytest.mark.parametrize("config", [UNetConfig(), SMALL, UNetConfig(channels=(4, 5), dilations=(1, 2, 4), bottleneck=0)])
@pytest.mark.parametrize("patch", [PATCH, STEREO])
def test_parameters_are_those_that_the_config_counts(config: UNetConfig, patch: PatchSpec) -> None:
    _, variables = build(config, patch)
    kernels = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]) if path[-1].key == "kernel"]
    assert sum(math.prod(kernel.shape) for kernel in kernels) == config.sizes(patch)[0]


def normalized(x: np.ndarray, params: Any, stats: Any, name: str, axis: int = -1) -> np.ndarray:
    """Batch normalization with stored statistics, then ReLU."""
    norm, stat = params[f"{name}_norm"], stats[f"{name}_norm"]
    shape = [1] * x.ndim
    shape[axis] = -1
    scale, bias, mean, variance = (
        np.asarray(each, np.float64).reshape(shape) for each in (norm["scale"], norm["bias"], stat["mean"], stat["var"])
    )
    return np.maximum((x - mean) / np.sqrt(variance + 1e-5) * scale + bias, 0)


def reference(first: tuple[int, ...], variables: Any, stft: np.ndarray) -> np.ndarray:
    """The network of `SMALL`, layer by layer: complex128 (channels, frames, bins) to float64 (frames, bins, outputs)."""
    params, stats = variables["params"], variables["batch_stats"]

    def kernel(name: str) -> np.ndarray:
        return np.asarray(params[name]["kernel"], np.float64)

    def convolution(x: np.ndarray, name: str, dilation: int = 1) -> np.ndarray:
        weights = np.zeros((2 * dilation + 1, 2 * dilation + 1, *kernel(name).shape[2:]))
        weights[::dilation, ::dilation] = kernel(name)
        outputs = [
            sum(correlate2d(x[..., i], weights[..., i, o], mode="same") for i in range(x.shape[-1]))
            for o in range(weights.shape[-1])
        ]
        return normalized(np.stack(outputs, axis=-1), params, stats, name)

    def block(x: np.ndarray, name: str, dilations: tuple[int, ...] = (1,)) -> np.ndarray:
        for number, dilation in enumerate(dilations):
            x = convolution(x, f"{name}_{number}", dilation)
        y = x.transpose(0, 2, 1)
        y = normalized(y @ kernel(f"{name}_bottleneck"), params, stats, f"{name}_bottleneck", axis=1)
        y = normalized(y @ kernel(f"{name}_bands"), params, stats, f"{name}_bands", axis=1)
        return x + y.transpose(0, 2, 1)

    def log_magnitude(power: np.ndarray) -> np.ndarray:
        bands = [power[:, begin:end].sum(1) for begin, end in zip(first, (*first[1:], power.shape[1]), strict=True)]
        return np.log(np.sqrt(np.stack(bands, axis=1)) + 0.01) / 3

    whole = log_magnitude((np.abs(stft) ** 2).mean(0))
    seen = whole[..., None]
    if len(stft) == 2:
        seen = np.stack([whole, log_magnitude(np.abs(stft.mean(0)) ** 2) - whole], axis=-1)
    seen = np.pad(seen, ((0, 0), (0, len(first) % 2), (0, 0)))

    high = block(convolution(seen, "first"), "down_0")
    pairs = np.concatenate([high[:, ::2], high[:, 1::2]], axis=-1)
    low = block(normalized(pairs @ kernel("join_0"), params, stats, "join_0"), "lowest", (1, 2))
    split = normalized(low @ kernel("split_0"), params, stats, "split_0")
    x = np.empty_like(high)
    x[:, ::2], x[:, 1::2] = np.split(split, 2, axis=-1)
    x = block(x + high, "up_0")
    x = np.concatenate([x, seen], axis=-1) @ kernel("output") + np.asarray(params["output"]["bias"], np.float64)
    band_of_bin = np.searchsorted(first, np.arange(stft.shape[-1]), side="right") - 1
    return np.asarray(x[:, band_of_bin])


@pytest.mark.parametrize("patch", [PATCH, STEREO])
def test_forward_pass_equals_numpy(patch: PatchSpec) -> None:
    model, variables = build(SMALL, patch, num_outputs=2)
    stft = random_stft(2, patch.num_channels, 6, 33)
    logits = jax.jit(functools.partial(model.apply, train=False))(variables, stft)
    assert (logits.shape, logits.dtype) == ((2, 6, 33, 2), jnp.float32)
    for example in range(2):
        expected = reference(first_bins(SMALL, patch), variables, np.asarray(stft[example], np.complex128))
        np.testing.assert_allclose(logits[example], expected, rtol=1e-4, atol=1e-4)


def test_training_normalizes_by_the_batch_and_returns_its_statistics() -> None:
    model, variables = build(SMALL)
    stft = random_stft(3, 1, 6, 33)
    logits, updated = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))(variables, stft)
    separated = jax.jit(functools.partial(model.apply, train=False))({**variables, **updated}, stft)
    np.testing.assert_allclose(logits, separated, atol=1e-4)
    assert float(jnp.abs(logits - jax.jit(functools.partial(model.apply, train=False))(variables, stft)).max()) > 0.01


def test_one_mask_for_all_channels_whatever_their_order_and_number() -> None:
    model, variables = build(SMALL, STEREO)
    apply = jax.jit(functools.partial(model.apply, train=False))
    stft = random_stft(2, 2, 6, 33)
    np.testing.assert_allclose(apply(variables, stft), apply(variables, stft[:, ::-1]), atol=1e-5)
    # A mono recording is one whose channels are equal.
    mono = stft[:, :1]
    for number in (2, 3):
        np.testing.assert_allclose(apply(variables, mono), apply(variables, jnp.repeat(mono, number, axis=1)), atol=1e-5)


def test_what_is_out_of_phase_is_told_from_what_is_in_phase_in_stereo_alone() -> None:
    stft = random_stft(1, 1, 6, 33)
    in_phase, out_of_phase = jnp.concatenate([stft, stft], axis=1), jnp.concatenate([stft, -stft], axis=1)
    for patch, differs in ((PATCH, False), (STEREO, True)):
        model, variables = build(SMALL, patch)
        apply = jax.jit(functools.partial(model.apply, train=False))
        difference = jnp.abs(apply(variables, in_phase) - apply(variables, out_of_phase)).max()
        assert bool(difference > 0.01) == differs


@pytest.mark.parametrize("config", [SMALL, UNetConfig(channels=(2, 2, 2), convolutions=2, bands_per_octave=6)])
def test_receptive_field_is_as_measured(config: UNetConfig) -> None:
    reach = config.context_frames
    assert reach is not None
    frames, changed = 2 * reach + 9, reach + 4
    model, variables = build(config)
    # Positive parameters, so that no path is cut by a ReLU.
    variables = variables | {"params": jax.tree.map(lambda leaf: jnp.abs(leaf) + 0.01, variables["params"])}
    before = jnp.ones((1, 1, frames, 33), jnp.complex64)
    after = before.at[:, :, changed, 4].set(1e6)
    apply = jax.jit(functools.partial(model.apply, train=False))
    difference = np.asarray(apply(variables, before) != apply(variables, after))[0, ..., 0]
    touched = np.flatnonzero(np.any(difference, axis=1))
    assert (touched[0], touched[-1]) == (changed - reach, changed + reach)
    # A bottleneck joins all frequencies.
    assert difference[changed].all()


def test_without_a_bottleneck_the_receptive_field_in_frequency_is_bounded() -> None:
    config = UNetConfig(channels=(2, 3), convolutions=2, dilations=(1, 2, 4), bottleneck=0, bands_per_octave=1000)
    model, variables = build(config)
    variables = variables | {"params": jax.tree.map(lambda leaf: jnp.abs(leaf) + 0.01, variables["params"])}
    reach = config.context_frames
    assert reach == 1 + 2 + (1 + 2 + 4) + 2
    before = jnp.ones((1, 1, 2 * reach + 1, 33), jnp.complex64)
    after = before.at[:, :, reach, 28].set(1e6)
    apply = jax.jit(functools.partial(model.apply, train=False))
    difference = np.asarray(apply(variables, before) != apply(variables, after))[0, ..., 0]
    assert difference[[0, -1]].any(axis=1).all()
    # Three convolutions reach bin 25, of the pair 12; the dilated ones reach the pair 5, which begins at bin 10; two more, bin 8.
    assert np.flatnonzero(difference.any(axis=0))[0] == 8


@pytest.mark.parametrize(("form", "dilated"), [("phases", False), ("xla", True)])
def test_dilated_convolutions_have_the_form_that_is_asked_for(form: ConvolutionForm, dilated: bool) -> None:
    config = Config(data=DataConfig(patch=PATCH), model=SMALL)
    network = make_network(config, 1, convolution=form)
    _, variables = build(SMALL)
    program = jax.jit(functools.partial(network.apply, train=False)).lower(variables, random_stft(1, 1, 6, 33)).as_text()
    assert ("rhs_dilate = [2, 2]" in program) == dilated


def test_bfloat16_keeps_parameters_and_logits_in_float32() -> None:
    with jax.numpy_dtype_promotion("standard"):  # Flax adds bfloat16 to float32 inside of its normalization.
        exact, variables = build(SMALL)
        mixed, _ = build(SMALL, mixed=True)
        results = [
            jax.jit(functools.partial(model.apply, mutable=["batch_stats"], train=True))(variables, random_stft(2, 1, 6, 33))
            for model in (exact, mixed)
        ]
    assert {leaf.dtype for leaf in jax.tree.leaves(results)} == {jnp.dtype(jnp.float32)}
    assert 0 < np.abs(np.asarray(results[0][0]) - np.asarray(results[1][0])).max() < 0.1


@pytest.mark.parametrize("stft", [jnp.zeros((1, 2, 6, 33), jnp.complex64), jnp.full((1, 2, 6, 33), 1e9, jnp.complex64)])
def test_silence_and_enormous_levels_have_finite_logits_and_gradients(stft: jax.Array) -> None:
    model, variables = build(SMALL, STEREO)

    def loss(params: Any) -> jax.Array:
        return jnp.sum(model.apply({**variables, "params": params}, stft, train=True, mutable=["batch_stats"])[0])

    value, gradients = jax.jit(jax.value_and_grad(loss))(variables["params"])
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves((value, gradients)))


def test_a_network_that_no_machine_holds_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"UNetConfig has [0-9,]+ parameters; they must be at most"):
        Config(data=DataConfig(patch=PATCH), model=UNetConfig(channels=(2**15, 2**15)))
