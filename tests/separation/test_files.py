"""Separation of waveforms and audio files with small networks that were not trained."""

import dataclasses
import functools
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from data_pipeline.activity import chunk_energies, gated_level
from data_pipeline.audio import probe, read_blocks
from data_pipeline.config import DataConfig, PatchSpec
from data_pipeline.errors import AudioError
from data_pipeline.files import replacing
from jaxpu.config import BandSplitRNNConfig, Config, PatchCNNConfig, PUConfig, SupervisedConfig, UNetConfig
from jaxpu.config.networks import ModelConfig
from jaxpu.core.network import TrainedModel, make_mask_fn, variable_shapes
from jaxpu.core.stft import istft, stft
from jaxpu.separation.files import separate, separate_file, separate_waveform
from jaxpu.separation.inputs import find_inputs
from jaxpu.separation.options import SeparationOptions
from jaxpu.separation.overlap_add import target_blocks

RATE = 16_000


def make_trained_model(*, objective: Any = None, network: ModelConfig | None = None, **patch: Any) -> TrainedModel:
    """A network with random parameters, so large that masks vary from bin to bin."""
    settings = {"sample_rate": RATE, "n_fft": 256, "win_length": 256, "hop_length": 64, "level": "reference", **patch}
    config = Config(
        data=DataConfig(patch=PatchSpec(**settings)),
        model=network or PatchCNNConfig(channels=3, growth=1, blocks=1, features="log"),
        objective=objective or SupervisedConfig(),
    )
    rng = np.random.default_rng(1)

    def parameter(path: Any, shape: jax.ShapeDtypeStruct) -> jax.Array:
        fan_in = np.prod(shape.shape[:-1])
        values = rng.normal(0, 3 * fan_in**-0.5 if len(shape.shape) > 1 else 0.1, shape.shape)
        return jnp.asarray(np.abs(values) + 0.5 if path[-1].key in ("scale", "var") else values, shape.dtype)

    return TrainedModel(config, jax.tree_util.tree_map_with_path(parameter, variable_shapes(config)), {})


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return make_trained_model()


def noise(num_channels: int, num_samples: int, *, seed: int = 0, scale: float = 0.3) -> np.ndarray:
    """Noise whose loudness comes and goes, so that the mask changes with time."""
    rng = np.random.default_rng(seed)
    swell = np.sin(np.arange(num_samples) / 3000) ** 2
    return (scale * swell * rng.uniform(-1, 1, (num_channels, num_samples))).astype(np.float32)


def write(path: Path, waveform: np.ndarray, sample_rate: int = RATE, subtype: str = "FLOAT") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform.T, sample_rate, subtype=subtype)
    return path


def read(path: Path, dtype: str = "float32") -> np.ndarray:
    return soundfile.read(path, dtype=dtype, always_2d=True)[0].T


@functools.lru_cache
def whole_fn(config: Config) -> Any:
    patch, mask_fn = config.data.patch, make_mask_fn(config)

    def separate_whole(variables: Any, waveform: jax.Array) -> tuple[jax.Array, jax.Array]:
        spectrum = stft(waveform, patch)
        seen = spectrum if patch.stereo else spectrum.mean(0, keepdims=True)
        # Recordings of one channel each, unless the network sees all channels.
        mask = mask_fn(variables, seen[None] if config.model.sees_all_channels else seen[:, None])
        return istft(mask.astype(jnp.complex64) * spectrum, patch, waveform.shape[1]), mask

    return jax.jit(separate_whole)


def whole(model: TrainedModel, waveform: np.ndarray) -> np.ndarray:
    """The target by one STFT, mask and inverse STFT of the whole signal, extended to a whole number of hops."""
    patch = model.config.data.patch
    num_samples = waveform.shape[1]
    length = -(-max(num_samples, patch.n_fft) // patch.hop_length) * patch.hop_length
    extended = np.pad(waveform, ((0, 0), (0, length - num_samples)), mode="reflect")
    target, mask = whole_fn(model.config)(model.variables, extended)
    assert np.std(mask) > 0.05  # Otherwise neither the mask nor its context would matter.
    return np.asarray(target)[:, :num_samples]


@pytest.mark.parametrize(
    ("objective", "patch"),
    [
        (SupervisedConfig(), {}),
        (SupervisedConfig(), {"stereo": True}),
        (PUConfig(mask="hard"), {"hop_length": 100}),
        (SupervisedConfig(), {"hop_length": 128, "n_fft": 512, "win_length": 300}),
    ],
)
def test_chunks_give_what_the_whole_signal_gives(objective: Any, patch: dict[str, int]) -> None:
    model = make_trained_model(objective=objective, **patch)
    waveform = noise(2, 3 * RATE + 77)
    expected = whole(model, waveform)
    for chunk_s in (0.2, 0.9, 60):
        np.testing.assert_allclose(separate_waveform(model, waveform, RATE, chunk_s=chunk_s), expected, atol=1e-5)


@pytest.mark.parametrize(
    "network",
    [
        PatchCNNConfig(channels=2, blocks=1, dilations=((1, 1), (2, 1), (4, 1), (8, 1)), output_kernel_size=3, features="log"),
        UNetConfig(channels=(2, 2), convolutions=1, dilations=(1, 2, 4), bottleneck=0, bands_per_octave=6),
    ],
    ids=["patch_cnn", "unet"],
)
def test_a_dilated_network_gets_the_context_it_needs(network: ModelConfig) -> None:
    model = make_trained_model(network=network)
    waveform = noise(1, RATE)
    np.testing.assert_allclose(separate_waveform(model, waveform, RATE, chunk_s=0.4), whole(model, waveform), atol=1e-5)


@pytest.mark.parametrize("stereo", [False, True])
def test_a_network_that_sees_all_channels_makes_one_mask_for_them(stereo: bool) -> None:
    model = make_trained_model(network=UNetConfig(channels=(2, 2), convolutions=1, bands_per_octave=6), stereo=stereo)
    waveform = noise(2, RATE)
    target = separate_waveform(model, waveform, RATE, chunk_s=0.4)
    np.testing.assert_allclose(target, whole(model, waveform), atol=1e-5)
    spectra = [stft(jnp.asarray(signal), model.config.data.patch)[:, 2:-2] for signal in (target, waveform)]
    ratios = np.abs(np.asarray(spectra[0])) / np.abs(np.asarray(spectra[1]))
    assert np.median(np.abs(ratios[0] - ratios[1])) < 0.1
    # One channel, or more than two, are as good.
    for channels in (waveform[:1], np.concatenate([waveform, waveform[:1]])):
        np.testing.assert_allclose(separate_waveform(model, channels, RATE, chunk_s=0.4), whole(model, channels), atol=1e-5)


@pytest.mark.slow
def test_a_network_without_bound_gets_a_second_of_context_and_a_second_of_fade() -> None:
    network = BandSplitRNNConfig(bands=((1000.0, 8),), channels=4, repeats=1, hidden=4, mask_hidden=8)
    rate, hop, frames_per_s = 4096, 128, 32
    model = make_trained_model(network=network, hop_length=hop, sample_rate=rate)
    waveform = noise(1, 9 * rate)
    # The outer second of every chunk, and the frame whose window ends there, is context alone, except at the true ends.
    context, length = frames_per_s + 1, 5 * frames_per_s
    spectrum = stft(waveform, model.config.data.patch)
    total = spectrum.shape[1]
    begins = [*range(0, total - length, length - 3 * context), total - length]
    assert len(begins) == 4
    mask_fn = jax.jit(make_mask_fn(model.config))
    expected = np.zeros((1, (total - 1) * hop), np.float32)
    fade = np.sin(np.pi / 2 * (np.arange(context * hop) + 0.5) / (context * hop)) ** 2
    for number, begin in enumerate(begins):
        part = spectrum[:, begin : begin + length]
        mask = mask_fn(model.variables, part[:, None])
        assert np.std(mask) > 0.05
        target = np.asarray(istft(mask.astype(jnp.complex64) * part, model.config.data.patch, (length - 1) * hop))
        into = slice(0, 0)
        if number:
            first = (begins[number - 1] + length - 2 * context) * hop
            into = slice(first, first + len(fade))
            faded = target[:, first - begin * hop :][:, : len(fade)]
            expected[:, into] = (1 - fade) * expected[:, into] + fade * faded
        expected[:, into.stop :] = 0
        expected[:, into.stop : begin * hop + target.shape[1]] = target[:, into.stop - begin * hop :]
    np.testing.assert_allclose(separate_waveform(model, waveform, rate, chunk_s=5), expected, atol=1e-5)
    # A recording that fits into one chunk is separated as a whole.
    short = waveform[:, : 4 * rate]
    np.testing.assert_allclose(separate_waveform(model, short, rate, chunk_s=5), whole(model, short), atol=1e-5)


@pytest.mark.parametrize("num_samples", [1, 2, 128, 129, 256, 2000])
def test_short_recordings(model: TrainedModel, num_samples: int) -> None:
    waveform = noise(2, num_samples + 3000)[:, 3000:]
    target = separate_waveform(model, waveform, RATE)
    assert target.shape == waveform.shape
    assert target.dtype == np.float32
    np.testing.assert_allclose(target, whole(model, waveform), atol=1e-5)


def test_nothing_in_nothing_out(model: TrainedModel) -> None:
    assert separate_waveform(model, np.zeros((2, 0), np.float32), RATE).shape == (2, 0)


@pytest.mark.parametrize("level", ["clip", "recording", "reference"])
def test_silence_stays_silent(level: str) -> None:
    model = make_trained_model(level=level)
    for sample_rate, num_samples in ((RATE, 1), (RATE, 10_000), (22_050, 10_000 * 22_050 // RATE)):
        silence = np.zeros((2, num_samples), np.float32)
        np.testing.assert_array_equal(separate_waveform(model, silence, sample_rate), silence)


def test_a_silent_channel_stays_silent_and_does_not_matter() -> None:
    model = make_trained_model(stereo=True)
    waveform = noise(2, RATE)
    waveform[1] = 0
    target = separate_waveform(model, waveform, RATE)
    np.testing.assert_array_equal(target[1], 0)
    np.testing.assert_allclose(target[0], separate_waveform(model, waveform[:1], RATE)[0], atol=1e-6)


def test_a_model_of_stereo_separates_every_channel_on_its_own() -> None:
    model = make_trained_model(stereo=True)
    waveform = noise(5, 20_000)
    target = separate_waveform(model, waveform, RATE)
    for channel in range(5):
        np.testing.assert_allclose(target[channel], separate_waveform(model, waveform[[channel]], RATE)[0], atol=1e-6)


def test_a_model_of_mono_has_one_mask_for_all_channels(model: TrainedModel) -> None:
    waveform = noise(5, 20_000)
    target = separate_waveform(model, waveform, RATE)
    np.testing.assert_allclose(target, whole(model, waveform), atol=1e-5)
    # So it separates the downmix as it would separate a mono recording, whatever is out of phase between the channels.
    mono = separate_waveform(model, waveform.mean(0, keepdims=True), RATE)[0]
    np.testing.assert_allclose(target.mean(0), mono, atol=1e-5)
    side = noise(1, 20_000, seed=1)[0]
    np.testing.assert_allclose(
        separate_waveform(model, mono + np.stack([side, -side]), RATE).mean(0),
        separate_waveform(model, mono[None], RATE)[0],
        atol=1e-5,
    )


@pytest.mark.parametrize("level", ["clip", "recording"])
def test_levels_scale_the_whole_recording(level: str) -> None:
    model = make_trained_model(level=level, stereo=True)
    waveform = noise(2, 140_000) + np.float32(0.1)  # Longer than a block, with an offset.
    waveform[1] *= np.float32(0.01)
    mean, deviation = waveform.mean(dtype=np.float64), waveform.std(dtype=np.float64, ddof=1)
    expected = deviation * whole(model, ((waveform - mean) / deviation).astype(np.float32))
    np.testing.assert_allclose(separate_waveform(model, waveform, RATE), expected, atol=1e-5)
    # So loudness does not matter, and a constant signal has no target.
    quiet = separate_waveform(model, waveform * np.float32(2**-10), RATE) * 2**10
    np.testing.assert_allclose(quiet, expected, atol=1e-5)
    np.testing.assert_array_equal(separate_waveform(model, np.full((2, 140_000), np.float32(0.3)), RATE), 0)


@pytest.mark.parametrize("stereo", [False, True])
@pytest.mark.parametrize("level", ["clip", "recording", "reference"])
def test_the_level_of_a_recording_does_not_matter(level: str, stereo: bool) -> None:
    info = {"data": {"counts": {"train_mixture": {"level_db": -20.0}}}}
    model = dataclasses.replace(make_trained_model(level=level, stereo=stereo), info=info)
    waveform = noise(2, 30_000)
    target = separate_waveform(model, waveform, RATE)
    for gain in (0.01, 0.25, 16.0):
        scaled = separate_waveform(model, np.float32(gain) * waveform, RATE)
        np.testing.assert_allclose(scaled / gain, target, atol=1e-4 * np.abs(target).max())


def test_a_reference_level_is_that_of_the_training_set() -> None:
    """A recording at the level of the training mixtures is not scaled; pauses do not change that."""
    model = make_trained_model()
    waveform = noise(1, 96_000)
    loudness = gated_level(chunk_energies([waveform], RATE))
    for paused in (waveform, np.pad(waveform, ((0, 0), (0, 96_000)))):
        info = {"data": {"counts": {"train_mixture": {"level_db": 20 * np.log10(loudness)}}}}
        levelled = separate_waveform(dataclasses.replace(model, info=info), paused, RATE)
        np.testing.assert_allclose(levelled, separate_waveform(model, paused, RATE), atol=1e-5)


@pytest.mark.parametrize("level", ["clip", "recording"])
def test_a_model_of_mono_levels_the_downmix(level: str) -> None:
    model = make_trained_model(level=level)
    waveform = noise(2, 40_000)
    side = noise(1, 40_000, seed=1)[0]
    target = separate_waveform(model, waveform + np.stack([side, -side]), RATE)
    np.testing.assert_allclose(target.mean(0), separate_waveform(model, waveform.mean(0, keepdims=True), RATE)[0], atol=1e-5)


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (np.zeros(100, np.float32), r"shape \(100,\); it must be \(channels, samples\)"),
        (np.zeros((4000, 2), np.float32), r"shape \(4000, 2\).*Pass waveform\.T"),
        (np.full((1, 100), np.nan, np.float32), "NaN or infinite"),
        (np.full((1, 100), 1e300), "NaN or infinite"),
        (np.zeros((2, 4000), np.int16), r"int16; it must be floats .* Divide it by 32768"),
        (np.zeros((2, 4000), np.uint8), r"uint8; it must be floats .* Subtract 128, its zero, and divide it by 128"),
        (np.zeros((2, 4000), bool), r"dtype bool; it must be real floats"),
        (np.zeros((2, 4000), np.complex64), r"dtype complex64; it must be real floats"),
    ],
)
def test_bad_waveforms_are_refused(model: TrainedModel, waveform: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        separate_waveform(model, waveform, RATE)


def test_any_floats_are_taken(model: TrainedModel) -> None:
    waveform = noise(1, 4000).astype(np.float16)
    expected = separate_waveform(model, waveform.astype(np.float32), RATE)
    for same in (waveform, waveform.astype(np.float64), jnp.asarray(waveform), np.asfortranarray(waveform), waveform.tolist()):
        np.testing.assert_array_equal(separate_waveform(model, same, RATE), expected)


def test_output_that_is_not_finite_is_named_with_the_place(model: TrainedModel, tmp_path: Path) -> None:
    waveform = noise(1, 3 * RATE)
    waveform[:, RATE : 2 * RATE] *= np.float32(1e37)  # Its STFT overflows.
    path = write(tmp_path / "song.wav", waveform)
    with pytest.raises(AudioError, match=r"^waveform: .*NaN or infinite, the first at (0\.9|1\.0)\d\d s"):
        separate_waveform(model, waveform, RATE)
    report = separate(model, [path], tmp_path / "out", progress=False)
    assert "song.wav: the model makes samples that are NaN" in report.failed[path]
    assert not list((tmp_path / "out").rglob("*"))


@pytest.mark.parametrize("patch", [{}, {"hop_length": 128, "stereo": True}])
@pytest.mark.parametrize("shifts", [2, 4])
def test_shifts_average_separations_of_shifted_frames(patch: dict[str, int], shifts: int) -> None:
    model = make_trained_model(**patch)
    hop, n_fft = model.config.data.patch.hop_length, 256
    waveform = noise(2, 2 * RATE)
    squares = np.square(np.hamming(n_fft + 1)[:-1]).reshape(-1, hop).sum(0)  # The sum of the squared windows within a hop.
    total, weights = np.zeros_like(waveform), np.zeros(waveform.shape[1])
    for shift in range(0, hop, hop // shifts):
        weight = np.resize(np.roll(squares, shift), len(weights))
        total[:, shift:] += separate_waveform(model, waveform[:, shift:], RATE) * weight[shift:]
        weights += weight
    inner = slice(RATE // 4, -RATE // 4)  # At the ends, shifted frames are fewer.
    expected = (total / weights)[:, inner]
    separated = separate_waveform(model, waveform, RATE, shifts=shifts)
    np.testing.assert_allclose(separated[:, inner], expected, atol=1e-5)
    assert np.abs(separate_waveform(model, waveform, RATE)[:, inner] - expected).max() > 1e-3
    for chunk_s in (0.2, 0.9):
        np.testing.assert_allclose(separate_waveform(model, waveform, RATE, chunk_s=chunk_s, shifts=shifts), separated, atol=1e-5)


@pytest.mark.parametrize("shifts", [0, -1, 3, 128])
def test_shifts_that_do_not_divide_the_hop_are_refused(model: TrainedModel, shifts: int) -> None:
    with pytest.raises(ValueError, match=f"shifts is {shifts}; it must divide the model's hop of 64 samples. Give 1 or 2."):
        separate_waveform(model, noise(1, 1000), RATE, shifts=shifts)


@pytest.mark.parametrize("rate", [0, 1, 99, 1_000_001])
def test_rates_that_no_file_may_have_are_refused(model: TrainedModel, rate: int) -> None:
    with pytest.raises(ValueError, match=f"sample_rate is {rate}; it must be from 100 to 1000000 Hz"):
        separate_waveform(model, noise(1, 1000), rate)


def test_files_are_separated_with_shifts(model: TrainedModel, tmp_path: Path) -> None:
    path = write(tmp_path / "song.wav", noise(2, 20_000))
    target, _ = map(read, separate_file(model, path, tmp_path / "out", SeparationOptions(shifts=2)))
    np.testing.assert_array_equal(target, separate_waveform(model, read(path), RATE, shifts=2))


def test_chunks_of_no_length_are_refused(model: TrainedModel) -> None:
    with pytest.raises(ValueError, match="chunk_s is 0; it must be positive"):
        separate_waveform(model, noise(1, 100), RATE, chunk_s=0)


def test_blocks_of_any_size_give_the_same(model: TrainedModel) -> None:
    waveform = noise(1, 20_000)

    def in_blocks(size: int) -> np.ndarray:
        blocks = (waveform[:, begin : begin + size] for begin in range(0, 20_000, size))
        return np.concatenate(list(target_blocks(model, blocks, 0.3)), axis=1)

    assert in_blocks(20_000).shape == (1, 313 * 64)
    np.testing.assert_allclose(in_blocks(20_000), in_blocks(333), atol=1e-6)
    np.testing.assert_allclose(in_blocks(20_000), in_blocks(5000), atol=1e-6)


# --- files ---


@pytest.mark.parametrize(("subtype", "bits"), [("PCM_16", 16), ("PCM_24", 24)])
@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_integer_files_sum_exactly(model: TrainedModel, tmp_path: Path, subtype: str, bits: int, suffix: str) -> None:
    path = write(tmp_path / f"song{suffix}", noise(2, 20_000), subtype=subtype)
    outputs = separate_file(model, path, tmp_path / "out")
    assert [output.name for output in outputs] == [f"vocals{suffix}", f"accompaniment{suffix}"]
    assert all(soundfile.info(output).subtype == subtype for output in outputs)
    mixture, target, accompaniment = (read(file, "int32") >> (32 - bits) for file in (path, *outputs))
    np.testing.assert_array_equal(target + accompaniment, mixture)
    assert np.ptp(target) > 0.1 * np.ptp(mixture)
    assert np.ptp(accompaniment) > 0.1 * np.ptp(mixture)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_U8"])
def test_float_files_sum_exactly_for_integer_recordings(model: TrainedModel, tmp_path: Path, subtype: str) -> None:
    path = write(tmp_path / "song.wav", noise(2, 20_000, scale=0.9), 22_050, subtype)
    outputs = separate_file(model, path, tmp_path / "out", SeparationOptions("wav", "FLOAT"))
    target, accompaniment = map(read, outputs)
    np.testing.assert_array_equal(target + accompaniment, read(path))
    expected = separate_waveform(model, read(path), 22_050)
    np.testing.assert_array_equal(target, expected)


@pytest.mark.parametrize("scale", [1e-6, 0.3, 1.0, 100.0])
def test_float_recordings_sum_exactly_where_float32_can(model: TrainedModel, tmp_path: Path, scale: float) -> None:
    path = write(tmp_path / "song.wav", noise(2, 20_000, scale=scale))
    target, accompaniment = map(read, separate_file(model, path, tmp_path / "out"))
    mixture = read(path)
    # The sum of two numbers is a multiple of the spacing of float32 at the smaller; both are multiples of the larger's here.
    spacing = np.spacing(np.maximum(np.maximum(np.abs(target), np.abs(accompaniment)), np.abs(mixture)))
    possible = mixture.astype(np.float64) % spacing == 0
    assert possible.mean() > 0.5
    np.testing.assert_array_equal((target + accompaniment)[possible], mixture[possible])
    assert (np.abs(target.astype(np.float64) + accompaniment - mixture) <= spacing / 2).all()


@pytest.mark.parametrize(("suffix", "subtype", "step"), [(".wav", "PCM_16", 2**-15), (".flac", "PCM_24", 2**-23)])
def test_integer_output_of_float_recordings_sums_within_a_step(
    model: TrainedModel, tmp_path: Path, suffix: str, subtype: str, step: float
) -> None:
    path = write(tmp_path / "song.wav", noise(2, 20_000))
    outputs = separate_file(model, path, tmp_path / "out", SeparationOptions(suffix, subtype))
    target, accompaniment = (read(output, "float64") for output in outputs)
    np.testing.assert_allclose(target + accompaniment, read(path), rtol=0, atol=step)


def test_integer_parts_beyond_full_scale_are_limited_and_still_sum(tmp_path: Path) -> None:
    model = make_trained_model(objective=PUConfig(mask="hard"))
    # Every sample at full scale: without some of its bins, it goes beyond.
    mixture = np.random.default_rng(0).choice([32767, -32768], (1, 20_000)).astype(np.int16)
    path = tmp_path / "loud.wav"
    soundfile.write(path, mixture.T, RATE, subtype="PCM_16")
    target = separate_waveform(model, read(path), RATE)
    assert np.abs(target).max() > 1
    assert np.abs(read(path) - target).max() > 1
    target, accompaniment = (read(output, "int16").astype(int) for output in separate_file(model, path, tmp_path / "out"))
    np.testing.assert_array_equal(target + accompaniment, mixture)


@pytest.mark.parametrize(
    ("options", "step"), [(SeparationOptions(subtype="PCM_16"), 2**-15), (SeparationOptions(suffix="flac"), 2**-23)]
)
def test_float_recordings_beyond_full_scale_are_clipped_in_integer_files_and_it_is_said(
    model: TrainedModel, tmp_path: Path, options: SeparationOptions, step: float, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "loud.wav", noise(1, 10_000, scale=3.0))
    target, accompaniment = map(read, separate_file(model, path, tmp_path / "out", options))
    np.testing.assert_allclose(target + accompaniment, np.clip(read(path), -1, 1 - step), rtol=0, atol=step)
    count, peak_db = np.count_nonzero(np.abs(read(path)) > 1), 20 * np.log10(np.abs(read(path)).max())
    said = capfd.readouterr().err
    assert f"{tmp_path / 'out'}: {count} samples" in said
    assert f"peak {peak_db:+.1f} dB" in said
    assert "--format wav --subtype FLOAT" in said
    target, accompaniment = map(read, separate_file(model, path, tmp_path / "float", SeparationOptions()))
    np.testing.assert_allclose(target + accompaniment, read(path), rtol=0, atol=1e-6)
    assert not capfd.readouterr().err


@pytest.mark.parametrize(
    ("sample_rate", "num_channels", "num_samples"), [(44_100, 2, 50_001), (8000, 1, 4001), (48_000, 3, 7), (RATE, 4, 20_000)]
)
def test_output_has_rate_channels_and_length_of_the_input(
    model: TrainedModel, tmp_path: Path, sample_rate: int, num_channels: int, num_samples: int
) -> None:
    path = write(tmp_path / "song.wav", noise(num_channels, num_samples), sample_rate, "PCM_16")
    for output in separate_file(model, path, tmp_path / "out", SeparationOptions(chunk_s=0.5)):
        info = soundfile.info(output)
        assert (info.samplerate, info.channels, info.frames) == (sample_rate, num_channels, num_samples)


@pytest.mark.parametrize(("bias", "above"), [(30.0, 1.0), (0.0, 0.25)])
def test_a_resampled_target_stays_aligned_and_above_the_band_the_mask_counts_squared(bias: float, above: float) -> None:
    # The same mask everywhere: a supervised network whose only parameter that is not zero is the bias of its output.
    model = make_trained_model(level="recording")
    variables = jax.tree.map(jnp.zeros_like, model.variables)
    variables["params"]["output"]["bias"] += bias
    model = TrainedModel(model.config, variables, {})
    time = np.arange(3 * 44_100) / 44_100
    nyquist = model.config.data.patch.sample_rate / 2
    frequencies = (0.4 * nyquist, 0.85 * nyquist, 2.5 * nyquist)
    *low, high = (0.2 * np.sin(2 * np.pi * frequency * time + 1).astype(np.float32)[None] for frequency in frequencies)
    target = separate_waveform(model, sum(low) + high, 44_100, chunk_s=0.5)
    middle = slice(4000, -4000)
    np.testing.assert_allclose(target[:, middle], (np.sqrt(above) * sum(low) + above * high)[:, middle], atol=5e-4)


@pytest.mark.parametrize("num_samples", [88_200, 88_201])
@pytest.mark.parametrize(("bias", "mask"), [(0.0, 0.5), (-1.0986, 0.25)])
def test_a_resampled_target_that_does_not_fade_out_is_right_to_its_end(bias: float, mask: float, num_samples: int) -> None:
    model = make_trained_model(level="recording", sample_rate=16_000)
    variables = jax.tree.map(jnp.zeros_like, model.variables)
    variables["params"]["output"]["bias"] += bias
    tone = 0.5 * np.cos(2 * np.pi * 440 * np.arange(num_samples) / 44_100).astype(np.float32)[None]
    target = separate_waveform(TrainedModel(model.config, variables, {}), tone, 44_100)
    # What an upper limit of 8 kHz leaves of an abrupt end.
    np.testing.assert_allclose(target[:, -100:], mask * tone[:, -100:], atol=0.015)


def test_what_happens_above_the_band_is_said_once(
    model: TrainedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rate = model.config.data.patch.sample_rate
    for name, each in (("low", rate), ("high", 2 * rate), ("higher", 3 * rate)):
        write(tmp_path / f"{name}.wav", noise(1, each), each, "PCM_16")
    separate(model, [tmp_path / "low.wav"], tmp_path / "out")
    assert "every moment has one gain" not in capsys.readouterr().err
    separate(model, [tmp_path / "high.wav", tmp_path / "higher.wav"], tmp_path / "out")
    assert capsys.readouterr().err.count(f"Above {rate / 2000:g} kHz, where the model's masks end, every moment has one") == 1


def test_formats_in_and_out(model: TrainedModel, tmp_path: Path) -> None:
    tones = np.sin(2 * np.pi * np.array([[220.0], [440.0]]) * np.arange(44_100) / 44_100)
    wav = write(tmp_path / "song.wav", 0.3 * tones + noise(2, 44_100, scale=0.01), 44_100, "PCM_16")
    for suffix in (".flac", ".ogg", ".mp3"):
        outputs = separate_file(model, wav, tmp_path / suffix, SeparationOptions(suffix))
        assert [output.suffix for output in outputs] == [suffix, suffix]
        info = soundfile.info(outputs[0])
        assert (info.samplerate, info.channels, info.frames) == (44_100, 2, 44_100)
        lossy = suffix != ".flac"
        np.testing.assert_allclose(sum(map(read, outputs)), read(wav), rtol=0, atol=0.05 if lossy else 0)
        # And back: by default a lossy recording is not coded a second time.
        again = separate_file(model, outputs[1], tmp_path / "again" / suffix)
        assert [output.suffix for output in again] == [".wav", ".wav"] if lossy else [".flac", ".flac"]
        total = sum(map(read, again))
        np.testing.assert_allclose(total, read(outputs[1])[:, : total.shape[1]], rtol=0, atol=2**-24)


def test_a_recording_that_only_ffmpeg_reads(model: TrainedModel, tmp_path: Path) -> None:
    wav = write(tmp_path / "song.wav", noise(2, 44_100), 44_100)
    path = tmp_path / "song.m4a"
    subprocess.run(["ffmpeg", "-v", "error", "-i", wav, path], check=True)
    target, accompaniment = map(read, separate_file(model, path, tmp_path / "out"))
    decoded = np.concatenate(list(read_blocks(path)), axis=1)
    np.testing.assert_allclose(target + accompaniment, decoded, rtol=0, atol=2**-24)


@pytest.mark.parametrize(
    ("suffix", "sample_rate", "num_channels"), [(".mp3", 96_000, 2), (".mp3", 44_100, 6), (".flac", 44_100, 9)]
)
def test_formats_that_cannot_hold_the_recording_say_so(
    model: TrainedModel, tmp_path: Path, suffix: str, sample_rate: int, num_channels: int
) -> None:
    path = write(tmp_path / "song.wav", noise(num_channels, 1000), sample_rate)
    message = rf"cannot hold {num_channels} channels at {sample_rate} Hz .*Write \.wav"
    with pytest.raises(AudioError, match=message):
        separate_file(model, path, tmp_path / "out", SeparationOptions(suffix))
    assert not (tmp_path / "out").exists()


def test_unknown_formats_are_refused() -> None:
    with pytest.raises(AudioError, match=r"'\.m4a'; it must be one of \.wav, \.flac, \.ogg, \.mp3"):
        SeparationOptions(suffix=".m4a")


def test_a_recording_is_not_overwritten_by_its_own_separation(model: TrainedModel, tmp_path: Path) -> None:
    path = write(tmp_path / "vocals" / "vocals.wav", noise(1, 1000))
    before = path.read_bytes()
    report = separate(model, [path], tmp_path, progress=False)
    assert "would be overwritten" in report.failed[path]
    assert path.read_bytes() == before


def test_no_recording_is_overwritten_by_the_separation_of_another(model: TrainedModel, tmp_path: Path) -> None:
    song, other = (write(tmp_path / name, noise(1, 1000, seed=seed)) for seed, name in enumerate(("song.wav", "song/vocals.wav")))
    before = other.read_bytes()
    report = separate(model, [song, other], tmp_path, progress=False)
    assert f"song/vocals.wav: would be overwritten by the separation of {song}" in report.failed[song]
    assert other.read_bytes() == before
    np.testing.assert_allclose(sum(map(read, report.written[other])), read(other), atol=1e-7)


def test_names_without_a_stem_get_folders_inside_the_output(model: TrainedModel, tmp_path: Path) -> None:
    names = ["..wav", "...wav", ".stem.wav", "song.wav"]
    for name in names:
        write(tmp_path / "in" / "new.wav", noise(1, 1000)).rename(tmp_path / "in" / name)
    report = separate(model, [tmp_path / "in" / name for name in names], tmp_path / "deep" / "out", progress=False)
    assert not report.failed
    assert sorted(path.name for path in (tmp_path / "deep" / "out").iterdir()) == ["...wav", "..wav", ".stem.wav", "song"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_an_output_that_links_to_itself_is_named(model: TrainedModel, tmp_path: Path) -> None:
    path = write(tmp_path / "in" / "song.wav", noise(1, 1000))
    (tmp_path / "loop").symlink_to("loop")
    report = separate(model, [tmp_path / "in"], tmp_path / "loop", progress=False)
    assert str(tmp_path / "loop") in report.failed[path]


def test_a_signalling_nan_is_named_without_a_warning(model: TrainedModel, tmp_path: Path) -> None:
    path = write(tmp_path / "song.wav", noise(1, 1000))
    content = bytearray(path.read_bytes())
    content[-8:-4] = b"\x01\x00\x80\x7f"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(AudioError, match=r"song\.wav.*NaN"):
            separate_file(model, path, tmp_path / "out")


def test_a_recording_of_unknown_length_may_pass_the_limit_of_wav(
    model: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "song.wav", noise(2, 2 * RATE))
    command = ["ffmpeg", "-v", "error", "-i", str(tmp_path / "song.wav"), "-f", "matroska", "-c:a", "flac", "pipe:1"]
    path = tmp_path / "piped.mka"
    path.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)  # Without a length.
    assert (probe(path).num_samples, probe(path).guess) == (None, None)
    monkeypatch.setattr("data_pipeline.audio_writer._WAV_MAX_BYTES", 100_000)
    for output in separate_file(model, path, tmp_path / "out"):
        info = soundfile.info(output)
        assert (info.format, info.frames) == ("RF64", 2 * RATE)


def test_two_processes_may_write_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "song.wav"
    code = "import sys, time; from data_pipeline.files import replacing; from pathlib import Path\n"
    code += "with replacing(Path(sys.argv[1])) as temporary:\n"
    code += "    temporary.write_text(sys.argv[2]); print(flush=True); sys.stdin.read()\n"
    start = functools.partial(subprocess.Popen, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    first, second, killed = (start([sys.executable, "-c", code, str(path), word]) for word in ("first", "second", "killed"))
    for process in (first, second, killed):
        assert process.stdout is not None
        process.stdout.readline()
    killed.kill()
    killed.communicate()
    with replacing(path) as temporary:
        temporary.write_text("third")
        assert len(list(tmp_path.glob(".partial-*"))) == 3  # Not that of the killed one.
    for process, word in ((first, "first"), (second, "second")):
        process.communicate()
        assert process.returncode == 0
        assert path.read_text() == word
    assert list(tmp_path.iterdir()) == [path]


def test_an_output_that_is_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError) as caught, replacing(tmp_path) as temporary:
        temporary.write_text("text")
    assert caught.value.filename == str(tmp_path)
    assert not list(tmp_path.parent.glob(".partial-*"))


def test_a_folder_in_place_of_an_output_is_named_and_no_half_of_a_pair_is_written(model: TrainedModel, tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", noise(1, 3000))
    (tmp_path / "out/a/vocals.wav").mkdir(parents=True)
    report = separate(model, [path], tmp_path / "out", progress=False)
    assert "vocals.wav: is a folder, where a file would be written" in report.failed[path]
    assert list((tmp_path / "out/a").iterdir()) == [tmp_path / "out/a/vocals.wav"]


def test_a_sample_format_in_small_letters_is_understood(model: TrainedModel, tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", noise(1, 3000))
    outputs = separate_file(model, path, tmp_path / "out", SeparationOptions(subtype="pcm_24"))
    assert {soundfile.info(output).subtype for output in outputs} == {"PCM_24"}


def test_the_accompaniment_of_another_target_is_not_replaced(model: TrainedModel, tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", noise(1, 3000))
    data = dataclasses.replace(model.config.data, target=("drums",))
    drums = dataclasses.replace(model, config=dataclasses.replace(model.config, data=data))
    first = separate_file(model, path, tmp_path / "out/a")
    before = first[1].read_bytes()
    report = separate(drums, [path], tmp_path / "out", progress=False)
    assert report.failed[path].startswith(f"{first[1]}: belongs to vocals.wav beside it")
    assert sorted(first[0].parent.iterdir()) == sorted(first)
    assert first[1].read_bytes() == before
    assert separate(drums, [path], tmp_path / "drums", progress=False).written, "the remedy works"
    # The same target, also after a kill between its two files, is separated again.
    first[0].unlink()
    assert separate(model, [path], tmp_path / "out", progress=False).written == {path: first}
    assert separate(model, [path], tmp_path / "out", progress=False).written == {path: first}


def test_stems_are_named_after_the_target(tmp_path: Path) -> None:
    model = make_trained_model()
    data = DataConfig(patch=model.config.data.patch, target=("drums", "bass"))
    model = TrainedModel(Config(data=data, model=model.config.model, objective=model.config.objective), model.variables, {})
    outputs = separate_file(model, write(tmp_path / "song.wav", noise(1, 1000)), tmp_path / "out")
    assert [output.name for output in outputs] == ["drums-bass.wav", "accompaniment.wav"]


def test_folders_keep_every_recording(model: TrainedModel, tmp_path: Path) -> None:
    music = tmp_path / "music"
    names = ["a/song.wav", "b/song.wav", "b/song.flac", "b/...Baby.wav", ".hidden/song.wav"]
    waveforms = {name: noise(1, 2000, seed=seed) for seed, name in enumerate(names)}
    for name, waveform in waveforms.items():
        write(music / name, waveform, subtype="PCM_16")
    (music / "notes.txt").write_text("not audio")
    for _ in range(2):  # The second time the contents of the output folder are no input.
        report = separate(model, [music], music / "separated", progress=False)
        assert not report.failed
        folders = {path.relative_to(music).as_posix(): outputs[0].parent for path, outputs in report.written.items()}
        assert {name: folder.relative_to(music / "separated").as_posix() for name, folder in folders.items()} == {
            "a/song.wav": "a/song",
            "b/...Baby.wav": "b/...Baby",
            "b/song.flac": "b/song.flac",
            "b/song.wav": "b/song.wav",
        }
    for path, outputs in report.written.items():
        np.testing.assert_array_equal(sum(map(read, outputs)), read(path))


def test_a_folder_of_nothing_but_earlier_output_has_no_recordings(model: TrainedModel, tmp_path: Path) -> None:
    write(tmp_path / "out" / "song" / "vocals.wav", noise(1, 1000))
    report = separate(model, [tmp_path], tmp_path / "out", progress=False)
    assert not report.written
    assert f"{tmp_path}: has no recordings; left out 1 output folder (out)" in report.failed[tmp_path]


@pytest.mark.parametrize("out", ["songs", ".", "link", "songs/1"])
def test_output_never_lies_among_the_recordings(model: TrainedModel, tmp_path: Path, out: str) -> None:
    inputs = [tmp_path / "songs"]
    write(tmp_path / "songs" / "1.wav", noise(1, 1000))
    (tmp_path / "link").symlink_to("songs")
    if out == ".":  # Then the files of `songs` and `more` go to `songs` and `more`.
        write(tmp_path / "more" / "2.wav", noise(1, 1000))
        inputs.append(tmp_path / "more")
    if out == "songs/1":  # A folder inside is fine: it is not searched.
        for _ in range(2):
            assert len(separate(model, inputs, tmp_path / out, progress=False).written) == 1
        return
    with pytest.raises(AudioError, match=r"among the recordings of .*songs.*Choose another output folder"):
        separate(model, inputs, tmp_path / out, progress=False)
    assert len(list(tmp_path.rglob("*.wav"))) == len(inputs)


def test_output_of_other_runs_is_no_input(model: TrainedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "songs" / "1.wav", noise(1, 1000))
    for name in ("first", "second"):
        report = separate(model, [tmp_path / "songs"], tmp_path / "songs" / name)
        assert list(report.written) == [tmp_path / "songs" / "1.wav"]
    assert "songs: 1 recording; left out 1 folder of separated files (first/1)" in capsys.readouterr().err
    # So is that of a model for another target.
    (tmp_path / "songs" / "first" / "1" / "vocals.wav").rename(tmp_path / "songs" / "first" / "1" / "drums.wav")
    report = separate(model, [tmp_path / "songs"], tmp_path / "songs" / "third")
    assert list(report.written) == [tmp_path / "songs" / "1.wav"]
    assert "left out 2 folders of separated files" in capsys.readouterr().err
    # Asked for by name, it is.
    assert len(separate(model, [tmp_path / "songs" / "first" / "1"], tmp_path / "out", progress=False).written) == 2


def test_a_recording_given_twice_is_separated_once(model: TrainedModel, tmp_path: Path) -> None:
    path = write(tmp_path / "songs" / "1.wav", noise(1, 1000))
    (tmp_path / "link.wav").symlink_to(path)
    (tmp_path / "linked").symlink_to("songs")
    inputs = [tmp_path / "link.wav", path, tmp_path / "songs", tmp_path / "linked"]
    assert list(separate(model, inputs, tmp_path / "out", progress=False).written) == [tmp_path / "link.wav"]


def test_several_inputs_never_share_a_folder(tmp_path: Path) -> None:
    for name in ("x/song.wav", "y/song.wav", "y/Song.WAV", "song.stem.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    inputs = [tmp_path / "x", tmp_path / "y", tmp_path / "x" / "song.wav", tmp_path / "song.stem.mp4"]
    found = find_inputs(inputs, "out")
    assert {path.relative_to(tmp_path).as_posix(): folder.as_posix() for path, folder in found.folders.items()} == {
        "x/song.wav": "out/x/song",
        "y/Song.WAV": "out/y/Song.WAV",
        "y/song.wav": "out/y/song.wav-2",
        "song.stem.mp4": "out/song",
    }
    assert not found.failed


def test_names_that_are_one_on_macos_never_share_a_folder(tmp_path: Path) -> None:
    paths = [tmp_path / "x" / "caf\u00e9.wav", tmp_path / "y" / "cafe\u0301.wav"]  # The same name, composed and decomposed.
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(b"")
    folders = [folder.name for folder in find_inputs(paths, "out").folders.values()]
    assert folders == ["caf\u00e9.wav", "cafe\u0301.wav-2"]


def test_bad_recordings_do_not_stop_the_good_ones(
    model: TrainedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = [write(tmp_path / "in" / f"{name}.wav", noise(1, 3000)) for name in ("a", "z")]
    truncated = write(tmp_path / "in" / "truncated.wav", noise(1, 3000))
    truncated.write_bytes(truncated.read_bytes()[:5000])
    nan = write(tmp_path / "in" / "nan.wav", np.full((1, 3000), np.nan, np.float32))
    empty = tmp_path / "empty"
    empty.mkdir()
    missing = tmp_path / "missing.wav"
    report = separate(model, [tmp_path / "in", missing, empty], tmp_path / "out")
    assert set(report.written) == set(good)
    assert set(report.failed) == {truncated, nan, missing, empty}
    for path, words in ((truncated, "truncated"), (nan, "NaN"), (missing, "does not exist"), (empty, "empty folder")):
        assert str(path) in report.failed[path]
        assert words in report.failed[path]
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")) == [
        "in/a/accompaniment.wav",
        "in/a/vocals.wav",
        "in/z/accompaniment.wav",
        "in/z/vocals.wav",
    ]
    assert "100%" in capsys.readouterr().err


def test_a_bug_that_a_recording_meets_is_its_message(model: TrainedModel, tmp_path: Path) -> None:
    paths = [write(tmp_path / "in" / f"{name}.wav", noise(1, 3000)) for name in ("a", "b")]
    report = separate(dataclasses.replace(model, variables={}), paths, tmp_path / "out", progress=False)
    assert set(report.failed) == set(paths)
    for path, text in report.failed.items():
        assert text.startswith(f"{path}: ScopeCollectionNotFound: ")
        assert re.search(r" \(jaxpu\.[a-z_.]+, line \d+\)\. This is a bug in jaxpu: please report it with this line\.$", text)


def test_wrong_options_are_errors_of_the_caller(model: TrainedModel, tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", noise(1, 3000))
    for chunk_s in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"chunk_s is .*; it must be positive and finite"):
            SeparationOptions(chunk_s=chunk_s)
    with pytest.raises(ValueError, match="shifts is 0; it must divide the model's hop"):
        separate(model, [path], tmp_path / "out", SeparationOptions(shifts=0), progress=False)


MEASURE_MEMORY = """
import resource, sys
from pathlib import Path
from jaxpu.config import BandSplitRNNConfig, PatchCNNConfig
from jaxpu.separation.files import separate_file
sys.path.insert(0, sys.argv[1])
from test_files import make_trained_model
network = eval(sys.argv[2])
model = make_trained_model(network=network, sample_rate=8000, n_fft=512, win_length=512, hop_length=256, level="recording")
for path in sys.argv[3:]:
    separate_file(model, path, Path(path).with_suffix(""))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "network",
    [
        PatchCNNConfig(channels=1, growth=1, blocks=0),
        BandSplitRNNConfig(bands=((1000.0, 4),), channels=2, repeats=1, hidden=2, mask_hidden=2),
    ],
    ids=lambda network: type(network).__name__,
)
def test_memory_does_not_grow_with_the_length(network: ModelConfig, tmp_path: Path) -> None:
    """The peak after a six-minute recording is the peak after a one-minute one."""
    second = noise(2, 11_025).T
    paths = []
    for minutes in (1, 6):
        paths.append(tmp_path / f"{minutes}.wav")
        with soundfile.SoundFile(paths[-1], "w", 11_025, 2, "PCM_16") as file:
            for _ in range(60 * minutes):
                file.write(second)
    command = [sys.executable, "-c", MEASURE_MEMORY, str(Path(__file__).parent), repr(network), *map(str, paths)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    short, long = (int(line) / 1024 for line in result.stdout.split())  # MB on Linux.
    # Five minutes of input, target and accompaniment take 26 MB each.
    assert long - short < 20, result.stdout
