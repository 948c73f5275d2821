"""The band-split RNN: its bands, its published size, what it computes, and that it learns."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.config import DataConfig, PatchSpec
from jaxpu.config import BandSplitRNNConfig, Config, ConfigError, SupervisedConfig, TrainConfig
from jaxpu.config.networks import PUBLISHED_BANDS, band_groups
from jaxpu.config_files import load_config
from jaxpu.core.network import make_network
from jaxpu.core.step import init_state, make_train_step

PUBLISHED = PatchSpec(sample_rate=44_100, n_fft=2048, win_length=2048, hop_length=512, clip_samples=132_300)
SMALL_PATCH = PatchSpec(sample_rate=8000, n_fft=64, win_length=64, hop_length=32, clip_samples=320)
# Bins of 125 Hz: bands of 1, 1, 3, 3, 3 and the 22 that are left of 33.
SMALL = BandSplitRNNConfig(bands=((200.0, 2), (375.0, 3)), channels=4, repeats=2, hidden=3, mask_hidden=5)


def network(model: BandSplitRNNConfig, patch: PatchSpec, num_outputs: int = 1, *, mixed_precision: bool = False) -> Any:
    train = TrainConfig(mixed_precision=mixed_precision)
    return make_network(Config(data=DataConfig(patch=patch), model=model, train=train), num_outputs)


def variables_of(config: BandSplitRNNConfig, patch: PatchSpec, num_outputs: int = 1) -> tuple[Any, Any]:
    """The network and random variables, drawn by NumPy since compiling the initializers takes seconds."""
    model = network(config, patch, num_outputs)
    stft = jnp.zeros((1, 1, 3, patch.bins), jnp.complex64)
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), stft)
    rng = np.random.default_rng(0)

    def draw(path: Any, leaf: Any) -> jax.Array:
        if "norm" in jax.tree_util.keystr(path):
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype)
        return jnp.asarray(rng.uniform(-1, 1, leaf.shape) * leaf.shape[-2] ** -0.5, leaf.dtype)

    return model, jax.tree_util.tree_map_with_path(draw, shapes)


def random_stft(batch: int, frames: int, bins: int, seed: int = 0) -> jax.Array:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((batch, 1, frames, bins)) + 1j * rng.standard_normal((batch, 1, frames, bins))
    return jnp.asarray(values, jnp.complex64)


# --- bands ---


@pytest.mark.parametrize(
    ("target", "groups"),
    [
        # A bin is 21.53 Hz: 50 Hz are 2.3 bins, 100 Hz 4.6, 250 Hz 11.6, 500 Hz 23.2, 1000 Hz 46.4, 2000 Hz 92.9.
        ("vocals", ((4, 10), (11, 12), (23, 8), (46, 8), (92, 2), (117, 1))),
        ("other", ((4, 10), (11, 12), (23, 8), (46, 8), (92, 2), (117, 1))),
        ("bass", ((2, 10), (4, 5), (23, 6), (46, 4), (92, 4), (295, 1))),
        ("drums", ((2, 20), (4, 10), (11, 8), (23, 8), (46, 8), (305, 1))),
    ],
)
def test_published_bands_in_bins(target: Any, groups: Any) -> None:
    assert band_groups(BandSplitRNNConfig(bands=target), PUBLISHED) == groups


@pytest.mark.parametrize("target", PUBLISHED_BANDS)
@pytest.mark.parametrize(("sample_rate", "n_fft"), [(44_100, 2048), (48_000, 4096), (16_000, 1024), (11_025, 1024)])
def test_bands_cover_every_bin_once_and_end_below_half_the_rate(target: Any, sample_rate: int, n_fft: int) -> None:
    patch = dataclasses.replace(PUBLISHED, sample_rate=sample_rate, n_fft=n_fft, win_length=n_fft)
    groups = band_groups(BandSplitRNNConfig(bands=target), patch)
    assert sum(width * count for width, count in groups) == patch.bins
    hz_of_bin = sample_rate / n_fft
    for (width, count), (width_hz, most) in zip(groups[:-1], PUBLISHED_BANDS[target], strict=False):
        assert count <= most
        assert width_hz - hz_of_bin < width * hz_of_bin <= width_hz


def test_bands_of_ones_own() -> None:
    def groups(*bands: tuple[float, int]) -> Any:
        return band_groups(BandSplitRNNConfig(bands=bands), SMALL_PATCH)

    assert groups((200, 2), (375, 3)) == ((1, 2), (3, 3), (22, 1))
    # Exactly a bin; no bins are left; one band for all; bands beyond half the sample rate.
    assert groups((125, 33)) == ((1, 33),)
    assert groups((1375, 3)) == ((11, 3),)
    assert groups((4200, 1)) == ((33, 1),)
    assert groups((5000, 1)) == ((33, 1),)
    assert groups((1000, 100), (1, 5)) == ((8, 4), (1, 1))


def test_a_band_without_a_bin_is_refused_with_the_remedy() -> None:
    config = Config(data=DataConfig(patch=PUBLISHED), model=BandSplitRNNConfig(bands="bass"))
    patch = dataclasses.replace(PUBLISHED, n_fft=512, win_length=512, hop_length=128)
    with pytest.raises(ConfigError) as caught:
        dataclasses.replace(config, data=DataConfig(patch=patch))
    assert str(caught.value) == (
        "BandSplitRNNConfig.bands has bands of 50 Hz, which are 0.58 bins wide with data.patch.n_fft = 512 at 44100 Hz; "
        "they must be at least 1 bin wide. Raise n_fft to 882 or more, or give wider bands."
    )
    patch = dataclasses.replace(patch, n_fft=882)
    assert band_groups(config.model, patch)[0] == (1, 10)


# --- the published size ---


def num_parameters(
    widths: list[int],
    channels: int,
    repeats: int,
    hidden: int,
    mask_hidden: int,
    *,
    outputs: int,
    biases: int,
    hidden_layers: int,
) -> int:
    """By the paper's description, band by band.

    Args:
        widths: of the bands in bins.
        channels: N.
        repeats: of a BLSTM over time and one over bands.
        hidden: units of a BLSTM in one direction.
        mask_hidden: units of a hidden layer of the masks.
        outputs: real numbers per bin.
        biases: of a gate.
        hidden_layers: of the masks.
    """
    split = sum(2 * 2 * width + (2 * width + 1) * channels for width in widths)
    lstm = 4 * hidden * (channels + hidden + biases)
    blstm = 2 * channels + 2 * lstm + (2 * hidden + 1) * channels
    mask = sum(
        2 * channels
        + (channels + 1) * mask_hidden
        + (hidden_layers - 1) * (mask_hidden + 1) * mask_hidden
        + (mask_hidden + 1) * 2 * outputs * width
        for width in widths
    )
    return split + repeats * 2 * blstm + mask


def widths_of(target: Any) -> list[int]:
    return [width for width, count in band_groups(BandSplitRNNConfig(bands=target), PUBLISHED) for _ in range(count)]


def test_the_formula_is_right_for_a_public_implementation() -> None:
    """github.com/magronp/bsrnn (docs/analysis.md, "Stereo modeling"): 8.0 million for vocals with N = 64 and 8 repeats.

    Its masks are complex, its LSTMs are torch's, and there is a second hidden layer in its masks (models/bs.py).
    """
    total = num_parameters(widths_of("vocals"), 64, 8, 128, 256, outputs=2, biases=2, hidden_layers=2)
    assert round(total / 1e6, 1) == 8.0


@pytest.mark.parametrize("target", PUBLISHED_BANDS)
@pytest.mark.parametrize("num_outputs", [1, 3])
def test_number_of_parameters_by_formula(target: Any, num_outputs: int) -> None:
    model = network(BandSplitRNNConfig(bands=target), PUBLISHED, num_outputs)
    stft = jnp.zeros((2, 1, 3, 1025), jnp.complex64)
    logits, variables = jax.eval_shape(functools.partial(model.init_with_output, train=False), jax.random.key(0), stft)
    assert (logits.shape, logits.dtype) == ((2, 3, 1025, num_outputs), jnp.float32)
    expected = num_parameters(widths_of(target), 128, 12, 256, 512, outputs=num_outputs, biases=1, hidden_layers=1)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == expected
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


@pytest.mark.slow
def test_every_parameter_of_the_published_size_gets_a_gradient_and_silence_does_no_harm() -> None:
    config = load_config("band_split_rnn")
    assert config.data.patch.bins == 1025
    assert config.model == BandSplitRNNConfig(bands="vocals", channels=128, repeats=12, hidden=256, mask_hidden=512)
    model, variables = variables_of(config.model, config.data.patch)
    stft = random_stft(2, 3, 1025).at[1].set(0)

    def loss(params: Any) -> jax.Array:
        return jnp.mean(jnp.square(model.apply({"params": params}, stft, train=True) - 1))

    for path, gradient in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(variables["params"])):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(gradient).all(), name
        # In every repeat and every band.
        assert np.abs(gradient).reshape(gradient.shape[0], -1).max(axis=1).min() > 0, name


# --- what it computes ---


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def normalized(x: np.ndarray, params: Any) -> np.ndarray:
    """(steps, numbers) over both."""
    return (x - x.mean()) / np.sqrt(x.var() + 1e-7) * params["scale"] + params["bias"]


def lstm(x: np.ndarray, input_kernel: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """(steps, inputs) to (steps, hidden), forward."""
    cell = output = np.zeros(len(kernel))
    outputs = []
    for inputs in x:
        write, keep, new, read = np.split(inputs @ input_kernel + output @ kernel + bias[0], 4)
        cell = sigmoid(keep) * cell + sigmoid(write) * np.tanh(new)
        output = sigmoid(read) * np.tanh(cell)
        outputs.append(output)
    return np.stack(outputs)


def reference(config: BandSplitRNNConfig, groups: Any, params: Any, stft: np.ndarray, num_outputs: int) -> np.ndarray:
    """(frames, bins) of one example to (frames, bins, num_outputs), band by band and step by step."""
    split, first = [], 0
    for group, (width, count) in enumerate(groups):
        norm, linear = params[f"split_norm_{group}"], params[f"split_{group}"]
        for band in range(count):
            own = stft[:, first : first + width]
            parts = np.stack([own.real, own.imag], axis=-1).reshape(len(own), -1)
            parts = normalized(parts, {name: value[band] for name, value in norm.items()})
            split.append(parts @ linear["kernel"][band] + linear["bias"][band])
            first += width
    x = np.stack(split)  # (bands, frames, channels)
    for repeat in range(config.repeats):
        own = jax.tree.map(lambda leaf, repeat=repeat: leaf[repeat], params["repeats"])
        for name, axis in (("time", 1), ("band", 0)):
            sequences = []
            for sequence in np.moveaxis(x, 1 - axis, 0):
                steps = normalized(sequence, own[f"{name}_norm"])
                forward, backward = (jax.tree.map(lambda leaf, d=d: leaf[d], own[f"{name}_blstm"]) for d in (0, 1))
                both = np.concatenate([lstm(steps, **forward), lstm(steps[::-1], **backward)[::-1]], axis=-1)
                sequences.append(both @ own[f"{name}_linear"]["kernel"] + own[f"{name}_linear"]["bias"])
            x = x + np.moveaxis(np.stack(sequences), 0, 1 - axis)
    logits, band = [], 0
    for group, (width, count) in enumerate(groups):
        for number in range(count):
            steps = normalized(x[band], {name: value[band] for name, value in params["mask_norm"].items()})
            steps = np.tanh(steps @ params["mask_hidden"]["kernel"][band] + params["mask_hidden"]["bias"][band])
            steps = steps @ params[f"mask_{group}"]["kernel"][number] + params[f"mask_{group}"]["bias"][number]
            value, gate = np.split(steps, 2, axis=-1)
            logits.append((value * sigmoid(gate)).reshape(-1, width, num_outputs))
            band += 1
    return np.concatenate(logits, axis=1)


@pytest.mark.slow
def test_forward_pass_equals_numpy_example_by_example(strict_dtypes: None) -> None:
    """Of several runs at once.  Also: the first and last frames and bands matter everywhere, other examples nowhere."""
    groups = band_groups(SMALL, SMALL_PATCH)
    model, variables = variables_of(SMALL, SMALL_PATCH, num_outputs=2)
    runs = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf]), variables)
    # Examples and bins of all levels.
    level = np.random.default_rng(1).uniform(0.01, 100, (2, 1, 1, 33))
    stft = random_stft(2, 5, 33) * jnp.asarray(level, jnp.complex64)
    logits = jax.jit(jax.vmap(functools.partial(model.apply, train=True), (0, None)))(runs, stft)
    assert logits.dtype == jnp.float32
    for run, sign in enumerate((1, -1)):
        params = jax.tree.map(lambda leaf, sign=sign: sign * np.asarray(leaf, np.float64), variables["params"])
        for example in range(2):
            exact = np.asarray(stft[example, 0], np.complex128)
            expected = reference(SMALL, groups, params, exact, 2)
            np.testing.assert_allclose(logits[run, example], expected, rtol=1e-4, atol=1e-5)
            assert np.std(expected) > 0.05
            for changed, elsewhere in ((0, -1), (-1, 0)):
                other = exact.copy()
                other[changed, changed] *= -3
                assert np.abs(reference(SMALL, groups, params, other, 2) - expected)[elsewhere, elsewhere].min() > 1e-9
    assert SMALL.context_frames is None


@pytest.mark.slow
def test_bfloat16_keeps_parameters_and_logits_in_float32() -> None:
    exact, variables = variables_of(SMALL, SMALL_PATCH)
    mixed = network(SMALL, SMALL_PATCH, mixed_precision=True)
    results = [jax.jit(functools.partial(model.apply, train=True))(variables, random_stft(2, 6, 33)) for model in (exact, mixed)]
    assert {leaf.dtype for leaf in results} == {jnp.dtype(jnp.float32)}
    difference = np.abs(np.asarray(results[0]) - np.asarray(results[1]))
    assert 0 < difference.max() < 0.05


@pytest.mark.slow
def test_it_learns_a_batch_by_heart() -> None:
    """From its own initial parameters, by the supervised objective."""
    patch = dataclasses.replace(SMALL_PATCH, dtype="float32")
    model = BandSplitRNNConfig(bands=((1375.0, 3),), channels=8, repeats=1, hidden=8, mask_hidden=16)
    train = TrainConfig(batch_size=4, learning_rate=0.02, gradient_clip=5.0)
    config = Config(data=DataConfig(patch=patch), model=model, objective=SupervisedConfig(loss="ratio_mask"), train=train)
    rng = np.random.default_rng(0)
    accompaniment, sound = rng.standard_normal((2, 4, *patch.patch_shape)).astype(np.float32)
    # The target plays in some bands and frames, three times louder.
    plays = rng.random((4, 1, patch.frames, 3)).repeat(11, axis=-1)[..., None] < 0.5
    target = 3 * plays.astype(np.float32) * sound
    batch = {"unlabeled": target + accompaniment, "positive": accompaniment, "target": target}
    batch["index"] = np.arange(4, dtype=np.int32)
    state = init_state(config)
    bound = 8**-0.5
    for kernel in (state.params["mask_hidden"]["kernel"], state.params["repeats"]["time_blstm"]["kernel"]):
        assert 0.9 * bound < np.abs(kernel).max() <= bound
        assert len(np.unique(kernel)) == kernel.size
    step = jax.jit(make_train_step(config))
    losses = []
    for _ in range(60):
        state, statistics = step(state, batch, jax.random.key(0))
        losses.append(float(statistics["loss"]))
    assert losses[-1] < 0.8 * losses[0], losses
