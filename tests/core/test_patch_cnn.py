"""The patch CNN: PULSE's sizes, its order of layers, and what each output depends on."""

import functools
import itertools
import typing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate2d

from data_pipeline.config import DataConfig, PatchSpec
from jaxpu.config import BandSplitRNNConfig, Config, PatchCNNConfig, TrainConfig, UNetConfig
from jaxpu.config.networks import ConvolutionForm, ModelConfig
from jaxpu.core.features import FEATURES
from jaxpu.core.models.convolution import by_onednn, by_phases, gradient_by_example
from jaxpu.core.models.patch_cnn import channel_dropout
from jaxpu.core.network import make_network

pytestmark = pytest.mark.usefixtures("strict_dtypes")

PATCH = PatchSpec(sample_rate=44_100, n_fft=2048)
PULSE_PU = PatchCNNConfig()
PULSE_SUPERVISED = PatchCNNConfig(normalization="batch", output_kernel_size=3)
TINY = PatchCNNConfig(channels=2, blocks=1, kernel_size=(3, 5), features="log", dropout_rate=0.5)

# Parameters by model and config, with one output and the band-split RNN's window.  A model without a row fails the test below.
# By hand for PULSE's PU network, each layer (inputs * kernel area + 1) * outputs:
# 10*8 + 73*8 + 73*16 + 145*16 + 145*32 + 289*32 + 33*1 = 18073.
NUM_PARAMETERS: dict[type, list[tuple[Any, int]]] = {
    PatchCNNConfig: [
        (PULSE_PU, 18_073),
        # A 3x3 output layer (289 for 33), and a scale and a shift for each of 112 channels.
        (PULSE_SUPERVISED, 18_073 - 33 + 289 + 2 * 112),
        # The last block, 145*32 + 289*32, becomes 17*32 + 33*32.
        (PatchCNNConfig(pointwise_blocks=1), 5_785),
        (PatchCNNConfig(pointwise_blocks=2), 2_713),
        (PatchCNNConfig(blocks=0), 80 + 584 + 9),
        (TINY, (16 + 31) * 2 + (31 + 61) * 4 + 5),
    ],
    # The formula is in tests/test_band_split_rnn.py.
    BandSplitRNNConfig: [(BandSplitRNNConfig(), 24_547_462)],
    # tests/core/test_unet.py counts the parameters in another way.
    UNetConfig: [(UNetConfig(), 54_866), (UNetConfig(channels=(16,), convolutions=8, bottleneck=0), 18_882)],
}


def network(model: Any, num_outputs: int = 1, *, mixed_precision: bool = False, **options: Any) -> Any:
    train = TrainConfig(mixed_precision=mixed_precision)
    return make_network(Config(data=DataConfig(patch=PATCH), model=model, train=train), num_outputs, **options)


def abstract_variables(config: Any, num_outputs: int = 1) -> Any:
    """Shapes and dtypes of the network's variables."""
    stft = jnp.zeros((1, 1, 5, PATCH.bins), jnp.complex64)
    return jax.eval_shape(functools.partial(network(config, num_outputs).init, train=False), jax.random.key(0), stft)


def count(config: Any, num_outputs: int = 1) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(abstract_variables(config, num_outputs)["params"]))


def build(config: Any, num_outputs: int = 1, **options: Any) -> tuple[Any, Any]:
    """The network and random variables, drawn by NumPy since compiling the initializers takes seconds."""
    rng = np.random.default_rng(0)

    def draw(path: Any, leaf: Any) -> jax.Array:
        in_norm = "norm" in jax.tree_util.keystr(path)
        # Scales, shifts and statistics other than 1 and 0, so that their place shows.
        values = rng.uniform(0.5, 1.5, leaf.shape) if in_norm else rng.uniform(-0.5, 0.5, leaf.shape)
        return jnp.asarray(values, jnp.float32)

    model = network(config, num_outputs, **options)
    return model, jax.tree_util.tree_map_with_path(draw, abstract_variables(config, num_outputs))


def random_stft(batch: int, frames: int, bins: int, seed: int = 0) -> jax.Array:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((batch, 1, frames, bins)) + 1j * rng.standard_normal((batch, 1, frames, bins))
    return jnp.asarray(values, jnp.complex64)


def reference_convolution(x: np.ndarray, layer: Any, dilation: tuple[int, int] = (1, 1)) -> np.ndarray:
    """(frames, bins, inputs) to (frames, bins, outputs): cross-correlation, zeros outside, in float64."""
    kernel = np.asarray(layer["kernel"], np.float64)
    height, width = ((size - 1) * step + 1 for size, step in zip(kernel.shape[:2], dilation, strict=True))
    spread = np.zeros((height, width, *kernel.shape[2:]))
    spread[:: dilation[0], :: dilation[1]] = kernel
    outputs = [
        sum(correlate2d(x[..., i], spread[..., i, o], mode="same") for i in range(x.shape[-1])) for o in range(kernel.shape[-1])
    ]
    return np.stack(outputs, axis=-1) + np.asarray(layer["bias"], np.float64)


def test_every_model_has_pinned_parameter_counts() -> None:
    assert set(NUM_PARAMETERS) == set(typing.get_args(ModelConfig))


@pytest.mark.parametrize(("config", "expected"), [row for rows in NUM_PARAMETERS.values() for row in rows])
def test_number_of_parameters(config: Any, expected: int) -> None:
    assert count(config) == expected


@pytest.mark.parametrize("pointwise_blocks", [0, 1, 3])
@pytest.mark.parametrize("normalization", ["none", "batch"])
def test_number_of_parameters_by_formula(pointwise_blocks: int, normalization: Any) -> None:
    """PULSE's description, layer by layer: a stem of two, then per block one layer that doubles and one that does not."""
    channels, blocks, outputs = 4, 3, 2
    layers = [(1, channels, 9), (channels, channels, 9)]
    for block in range(blocks):
        area = 9 if block < blocks - pointwise_blocks else 1
        wide = channels * 2 ** (block + 1)
        layers += [(wide // 2, wide, area), (wide, wide, area)]
    batch_norm = sum(2 * width for _, width, _ in layers) if normalization == "batch" else 0
    layers.append((layers[-1][1], outputs, 1))
    expected = sum(inputs * width * area + width for inputs, width, area in layers) + batch_norm
    config = PatchCNNConfig(channels=channels, blocks=blocks, pointwise_blocks=pointwise_blocks, normalization=normalization)
    assert count(config, num_outputs=outputs) == expected


@pytest.mark.parametrize("convolution", typing.get_args(ConvolutionForm))
def test_forward_pass_equals_numpy(convolution: Any) -> None:
    """Features, then convolution and ReLU again and again, then the output layer: no pooling, zeros outside."""
    config = PatchCNNConfig(
        channels=2,
        blocks=2,
        pointwise_blocks=1,
        kernel_size=(3, 5),
        dilations=((1, 1), (2, 1), (1, 3), (4, 2)),
        output_kernel_size=3,
        features="power",
    )
    model, variables = build(config, num_outputs=2, convolution=convolution)
    stft = random_stft(2, 11, 14)
    actual = jax.jit(functools.partial(model.apply, train=False))(variables, stft)
    assert actual.dtype == jnp.float32
    assert actual.shape == (2, 11, 14, 2)
    for example in range(2):
        x = (np.abs(np.asarray(stft[example, 0], np.complex128)) ** (1 / 15))[..., None]
        for layer, dilation in enumerate([(1, 1), (2, 1), (1, 3), (4, 2), (1, 1), (1, 1)]):
            x = np.maximum(reference_convolution(x, variables["params"][f"conv_{layer}"], dilation), 0)
        np.testing.assert_allclose(actual[example], reference_convolution(x, variables["params"]["output"]), atol=2e-6)


@pytest.mark.parametrize("form", [by_phases, gradient_by_example, by_onednn])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1), (3, 5), (8, 8)])
def test_forms_of_convolution_equal_those_of_jax(dilation: tuple[int, int], form: Any) -> None:
    """Values and gradients, with sizes that are no multiples of the dilation, and less than it."""
    rng = np.random.default_rng(0)
    inputs, kernel, weights = (
        jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((2, 7, 21, 3), (3, 5, 3, 4), (2, 7, 21, 4))
    )

    def weighted(convolve: Any) -> Any:
        def function(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
            numbers = ("NHWC", "HWIO", "NHWC")
            return jnp.sum(weights * convolve(inputs, kernel, (1, 1), "SAME", rhs_dilation=dilation, dimension_numbers=numbers))

        return jax.jit(jax.value_and_grad(function, (0, 1)))(inputs, kernel)

    expected, actual = weighted(jax.lax.conv_general_dilated), weighted(form)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), actual, expected)


@pytest.mark.parametrize(
    ("strides", "padding", "shape"), [((2, 1), "SAME", (3, 3)), ((1, 1), "VALID", (3, 3)), ((1, 1), "SAME", (3, 4))]
)
@pytest.mark.parametrize("form", [by_phases, gradient_by_example, by_onednn])
def test_forms_of_convolution_refuse_what_they_cannot_do(form: Any, strides: Any, padding: str, shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="and odd kernels"):
        form(jnp.zeros((1, 8, 8, 2)), jnp.zeros((*shape, 2, 2)), strides, padding, rhs_dilation=(2, 2))


@pytest.mark.parametrize("train", [True, False])
def test_batch_normalisation_comes_after_relu_and_gives_the_statistics_of_the_batch(train: bool) -> None:
    config = PatchCNNConfig(channels=3, blocks=0, normalization="batch", output_kernel_size=3)
    model, variables = build(config)
    params, stats = jax.tree.map(np.asarray, (variables["params"], variables["batch_stats"]))
    stft = 20 * random_stft(2, 6, 5)
    logits, updated = jax.jit(functools.partial(model.apply, mutable=["batch_stats"], train=train))(variables, stft)
    x = (np.abs(np.asarray(stft[:, 0], np.complex128)) / 15)[..., None]
    for layer in range(2):
        x = np.stack([np.maximum(reference_convolution(example, params[f"conv_{layer}"]), 0) for example in x])
        norm, before, after = params[f"norm_{layer}"], stats[f"norm_{layer}"], updated["batch_stats"][f"norm_{layer}"]
        mean, variance = (x.mean((0, 1, 2)), x.var((0, 1, 2))) if train else (before["mean"], before["var"])
        # In use (train=False) they stay as they are.
        np.testing.assert_allclose(after["mean"], mean, rtol=1e-5)
        np.testing.assert_allclose(after["var"], variance, rtol=1e-4)
        x = (x - mean) / np.sqrt(variance + 1e-5) * norm["scale"] + norm["bias"]
    expected = np.stack([reference_convolution(example, params["output"]) for example in x])
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_dropout_comes_after_every_relu_and_not_after_the_output() -> None:
    model, variables = build(TINY)
    stft = random_stft(4, 6, 7)
    apply = jax.jit(functools.partial(model.apply, train=True, capture_intermediates=True))
    logits, seen = apply(variables, stft, jax.random.split(jax.random.key(3), 4))
    outputs = {name: np.asarray(value["__call__"][0]) for name, value in seen["intermediates"].items() if name != "__call__"}
    assert set(outputs) == {f"conv_{layer}" for layer in range(4)} | {"output"}
    for layer in range(4):
        kernel = variables["params"][f"conv_{layer + 1}" if layer < 3 else "output"]
        following = outputs[f"conv_{layer + 1}" if layer < 3 else "output"]
        rectified = np.maximum(outputs[f"conv_{layer}"], 0)
        # Whole channels of an example are kept and doubled (rate 1/2), or lost: one of the combinations explains what follows.
        for example in range(4):
            combinations = itertools.product([0, 2], repeat=rectified.shape[-1])
            candidates = [reference_convolution(rectified[example] * np.array(scales), kernel) for scales in combinations]
            errors = [np.abs(candidate - following[example]).max() for candidate in candidates]
            assert min(errors) < 1e-5
    np.testing.assert_array_equal(logits, outputs["output"])


def test_channel_dropout_drops_whole_channels_and_scales_the_others() -> None:
    x = jnp.asarray(np.random.default_rng(0).uniform(1, 2, (64, 3, 2, 50)).astype(np.float32))
    keys = jax.random.split(jax.random.key(0), 64)
    ratio = np.asarray(channel_dropout(x, keys, 0.2) / x)
    np.testing.assert_array_equal(np.ptp(ratio, axis=(1, 2)) < 1e-6, True)
    kept = ratio[:, 0, 0] > 0
    np.testing.assert_allclose(ratio[:, 0, 0][kept], 1.25, rtol=1e-6)
    assert abs(kept.mean() - 0.8) < 0.04  # 3200 draws: five standard deviations are 0.035
    assert len({tuple(row) for row in kept}) == 64

    # What an example loses depends on its key, not on its place in the batch.
    shuffled = np.random.default_rng(1).permutation(64)
    np.testing.assert_array_equal(channel_dropout(x[shuffled], keys[shuffled], 0.2), (ratio * np.asarray(x))[shuffled])
    other = channel_dropout(x, jax.random.split(jax.random.key(1), 64), 0.2)
    assert np.any((np.asarray(other)[:, 0, 0] > 0) != kept)


def test_layers_and_steps_drop_other_channels_and_separating_drops_none() -> None:
    model, variables = build(TINY)
    stft = random_stft(4, 6, 7)
    outputs = [model.apply(variables, stft, jax.random.split(jax.random.key(seed), 4), train=True) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert np.any(outputs[0] != outputs[2])
    np.testing.assert_array_equal(model.apply(variables, stft, train=False), model.apply(variables, stft, None, train=False))


def test_initial_parameters_are_torchs() -> None:
    """Uniform within plus or minus one over the root of the fan-in, weights and biases alike."""
    model = network(PatchCNNConfig(channels=40, blocks=0, output_kernel_size=3), 3)
    variables = jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), jnp.zeros((1, 5, 7), jnp.complex64))
    fan_in = {"conv_0": 9, "conv_1": 9 * 40, "output": 9 * 40}
    assert set(variables["params"]) == set(fan_in)
    for name, inputs in fan_in.items():
        bound = inputs**-0.5
        kernel, bias = variables["params"][name]["kernel"], variables["params"][name]["bias"]
        assert float(jnp.abs(kernel).max()) <= bound
        assert float(jnp.abs(bias).max()) <= bound
        assert float(jnp.abs(kernel).max()) > 0.9 * bound
        np.testing.assert_allclose(kernel.std(), bound / 3**0.5, rtol=0.1)
        assert float(jnp.abs(bias).max()) > 0.3 * bound


@pytest.mark.parametrize(
    "config",
    [
        PatchCNNConfig(channels=2),
        PatchCNNConfig(channels=2, output_kernel_size=3, blocks=1, normalization="batch"),
        PatchCNNConfig(channels=2, pointwise_blocks=1, kernel_size=(5, 3)),
        PatchCNNConfig(channels=2, blocks=1, dilations=((1, 1), (2, 1), (4, 2), (8, 4))),
    ],
    ids=["pulse", "supervised", "pointwise", "dilated"],
)
def test_receptive_field_is_as_measured(config: PatchCNNConfig) -> None:
    reach = config.context_frames
    assert reach is not None
    frames, changed = 2 * reach + 9, reach + 4
    model, variables = build(config)
    # Positive parameters, so that no path is cut by a ReLU.
    variables = variables | {"params": jax.tree.map(lambda leaf: jnp.abs(leaf) + 0.01, variables["params"])}
    before = jnp.ones((1, 1, frames, 5), jnp.complex64)
    after = before.at[:, :, changed].set(100.0)
    apply = jax.jit(functools.partial(model.apply, train=False))
    difference = apply(variables, before) != apply(variables, after)
    touched = np.flatnonzero(np.any(np.asarray(difference)[0, ..., 0], axis=1))
    assert (touched[0], touched[-1]) == (changed - reach, changed + reach)


def test_bfloat16_keeps_parameters_and_logits_in_float32() -> None:
    config = PatchCNNConfig(channels=2, blocks=0, normalization="batch", features="log")
    exact, variables = build(config)
    mixed = network(config, mixed_precision=True)
    results = []
    with jax.numpy_dtype_promotion("standard"):  # Flax adds bfloat16 to float32 inside of its normalization.
        for model in (exact, mixed):
            apply = jax.jit(functools.partial(model.apply, mutable=["batch_stats"], train=True))
            results.append(apply(variables, random_stft(2, 6, 5)))
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, results))} == {jnp.dtype(jnp.float32)}
    difference = np.abs(np.asarray(results[0][0]) - np.asarray(results[1][0]))
    assert 0 < difference.max() < 0.05


def test_features_by_hand() -> None:
    magnitude = np.array([5.0, 15.0, 0.0], np.float32)
    # PULSE's code divides by 15; its paper takes the fifteenth root.
    np.testing.assert_allclose(FEATURES["scaled"](magnitude), magnitude / 15, rtol=1e-6)
    np.testing.assert_allclose(FEATURES["power"](magnitude)[:2], magnitude[:2] ** (1 / 15), rtol=1e-6)
    np.testing.assert_allclose(FEATURES["log"](magnitude), np.log(magnitude + 0.01) / 3, rtol=1e-6)


@pytest.mark.parametrize("name", FEATURES)
def test_silent_bins_have_finite_values_and_gradients(name: str) -> None:
    magnitudes = jnp.asarray([[0, 1e-20, 1e-4, 1e4]], jnp.float32)
    assert FEATURES[name](magnitudes).dtype == jnp.float32
    assert bool(jnp.all(jnp.isfinite(FEATURES[name](magnitudes))))
    gradient = jax.grad(lambda x: jnp.sum(FEATURES[name](x)))(magnitudes)
    assert bool(jnp.all(jnp.isfinite(gradient)))


def test_phase_does_not_matter() -> None:
    model, variables = build(TINY)
    stft = random_stft(2, 6, 5)
    turned = jnp.asarray(np.asarray(stft) * np.exp(1j * np.linspace(0, 6, 5)), jnp.complex64)
    logits = [model.apply(variables, each, train=False) for each in (stft, turned)]
    np.testing.assert_allclose(*logits, atol=1e-5)


@pytest.mark.parametrize("name", FEATURES)
def test_louder_is_more(name: str) -> None:
    assert bool(jnp.all(jnp.diff(FEATURES[name](jnp.asarray([0.01, 0.1, 1, 10], jnp.float32))) > 0))
