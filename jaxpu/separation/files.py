"""Separate recordings of any length, sample rate and number of channels, in constant memory.

A recording is read, resampled to the model's rate, separated in overlapping chunks (`jaxpu.separation.overlap_add`), resampled
back and written, block by block.
"""

import contextlib
import dataclasses
import functools
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence, Set
from pathlib import Path

import numpy as np

from data_pipeline import activity, audio
from data_pipeline.audio import AudioInfo
from data_pipeline.errors import AudioError, failure, printable
from data_pipeline.progress import progress_bar, say_once
from jaxpu.config import Config
from jaxpu.core import band_above
from jaxpu.core.network import TrainedModel
from jaxpu.separation.exact_sum import quantized, summable
from jaxpu.separation.inputs import ACCOMPANIMENT, find_inputs
from jaxpu.separation.options import PCM_STEPS, SeparationOptions
from jaxpu.separation.overlap_add import Blocks, check_shifts, target_blocks

MAX_CHANNELS = 64
"""A waveform with more channels than these, and than samples, is taken for a transposed one."""

_BAR_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} s of audio [{elapsed}<{remaining}{postfix}]"


@dataclasses.dataclass(frozen=True)
class SeparationReport:
    """The outcome of `separate`.

    Attributes:
        written: by recording, the paths of target and accompaniment.
        failed: by input, the error's message, which names the file and the remedy; empty when all went well.
    """

    written: dict[Path, list[Path]]
    failed: dict[Path, str]


def separate_waveform(
    model: TrainedModel,
    waveform: np.ndarray,
    sample_rate: int,
    *,
    chunk_s: float | None = None,
    shifts: int = 1,
) -> np.ndarray:
    """Separate the target from a waveform, with the same result that `separate_file` writes to a float file.

    Args:
        model: from `jaxpu.load_model`.
        waveform: floats (channels, samples), of NumPy or JAX, any number of both.  A model trained on mono
            computes one mask, from the downmix; trained on stereo, a U-Net computes one from all channels, and other networks one
            for each channel.
        sample_rate: of the waveform, in Hz.
        chunk_s: seconds of a chunk; see `SeparationOptions`.
        shifts: grids of STFT frames; see there, too.

    Returns:
        The target, float32 (channels, samples); the accompaniment is `waveform` minus it.  What lies above the band of the model
        is described in `jaxpu.core.band_above`.

    Raises:
        ValueError: on another shape, also (samples, channels); integers; samples that are NaN or infinite; a rate that no file
            may have (`audio.SAMPLE_RATES`); shifts that do not divide the model's hop.
        AudioError: the model makes samples that are NaN or infinite.
    """
    waveform = _checked(waveform)
    lowest, highest = audio.SAMPLE_RATES
    if not lowest <= sample_rate <= highest:
        raise ValueError(f"sample_rate is {sample_rate}; it must be from {lowest} to {highest} Hz.")

    def read() -> Blocks:
        for begin in range(0, waveform.shape[1], audio.BLOCK_SAMPLES):
            yield waveform[:, begin : begin + audio.BLOCK_SAMPLES]

    blocks = separated_blocks(model, read, sample_rate, "waveform", SeparationOptions(chunk_s=chunk_s, shifts=shifts))
    targets = [summable(mixture, target) for mixture, target in blocks]
    return np.concatenate(targets, axis=1) if targets else np.zeros_like(waveform)


def _checked(waveform: np.ndarray) -> np.ndarray:
    """The waveform as float32; raises ValueError if it is not floats (channels, samples)."""
    waveform = np.asarray(waveform)
    shape = waveform.shape
    if waveform.ndim != 2 or len(waveform) == 0:
        raise ValueError(f"waveform has shape {shape}; it must be (channels, samples) with at least one channel.")
    if len(waveform) > max(shape[1], MAX_CHANNELS):
        raise ValueError(
            f"waveform has shape {shape}, which looks like (samples, channels); it must be (channels, samples). Pass waveform.T."
        )
    if np.issubdtype(waveform.dtype, np.integer):
        full_scale = 1 << (np.iinfo(waveform.dtype).bits - 1)
        subtract = f"Subtract {full_scale}, its zero, and divide" if np.iinfo(waveform.dtype).min == 0 else "Divide"
        raise ValueError(
            f"waveform has dtype {waveform.dtype}; it must be floats with full scale 1. {subtract} it by {full_scale}, or by the "
            "full scale that it has."
        )
    if not np.issubdtype(waveform.dtype, np.floating):
        raise ValueError(f"waveform has dtype {waveform.dtype}; it must be real floats with full scale 1.")
    with np.errstate(over="ignore"):
        waveform = waveform.astype(np.float32, copy=False)
    if not np.isfinite(waveform).all():
        raise ValueError("waveform has samples that are NaN or infinite; remove them first.")
    return waveform


def separate_file(
    model: TrainedModel,
    path: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    options: SeparationOptions = SeparationOptions(),
    *,
    on_samples: Callable[[int], None] = lambda num_samples: None,
) -> list[Path]:
    """Write the target and the accompaniment of a recording, at its rate, channels and length.

    They sum to the recording.  In integer formats the target is rounded to a step of the format and the accompaniment is the
    difference: the sum is exact for recordings on the same grid, else within a step.  Where one of them would exceed full scale,
    the target is limited so that both fit and the sum is kept.  A float recording beyond full scale is itself clipped there,
    with a line on standard error.
    In float files the target is rounded, sample by sample, so that the float32 sum of the two files equals the recording bit for
    bit wherever float32 numbers allow it: for every recording of up to 24 bits with target and accompaniment below 2 (6 dB above
    full scale).  A sample of a float recording that is finer than the spacing of float32 at the larger of target and
    accompaniment cannot be their sum; it is off by at most half of that spacing (3e-8 for parts below 1, -150 dB).
    Lossy formats change both files, so that their sum is only approximate.

    Args:
        model: from `jaxpu.load_model`.
        path: an audio file.
        out_dir: folder for `<target>.<suffix>`, such as `vocals.wav`, and `accompaniment.<suffix>`; made if it does not exist.
            Existing files of these names are replaced once the new ones are complete; the accompaniment of another
            target is not.
        options: format of the files and length of the chunks.
        on_samples: called with the number of samples after every block.

    Returns:
        The two paths, the target's first.

    Raises:
        AudioError: the recording cannot be read, or the format cannot hold its rate or channels, or the disk is full, or the
            model makes samples that are NaN or infinite, or the accompaniment of another target would be replaced.
    """
    path, out_dir = Path(path), Path(out_dir)
    suffix, subtype = options.format_for(path)
    info = audio.probe(path)
    outputs = [out_dir / f"{stem}{suffix}" for stem in stem_names(model.config)]
    _check_overwrites_none(outputs, path, {os.path.realpath(path)})
    _check_other_target(*outputs)
    if suffix == ".wav" and info.num_samples is None and info.guess is None:
        # A .wav beyond 4 GiB has another header, which comes first.
        info = dataclasses.replace(info, guess=sum(block.shape[1] for block in audio.read_blocks(path)))
    out_dir.mkdir(parents=True, exist_ok=True)
    separated = separated_blocks(model, functools.partial(audio.read_blocks, path), info.sample_rate, str(path), options)
    try:
        _write(separated, outputs, info, subtype, on_samples)
    except BaseException:
        with contextlib.suppress(OSError):
            out_dir.rmdir()  # Succeeds only for an empty folder.
        raise
    return outputs


def _check_overwrites_none(outputs: Sequence[Path], path: Path, recordings: Set[str]) -> None:
    """Raise AudioError if an output of `path` would replace one of the recordings, given by their real paths, or a folder."""
    for output in outputs:
        if output.is_dir():
            raise AudioError(f"{output}: is a folder, where a file would be written. Choose another output folder or --format.")
        if (real := os.path.realpath(output)) in recordings:
            which = "its own separation" if real == os.path.realpath(path) else f"the separation of {path}"
            raise AudioError(f"{output}: would be overwritten by {which}. Choose another output folder than {output.parent}.")


def _check_other_target(target: Path, accompaniment: Path) -> None:
    """Raise AudioError if the folder holds an accompaniment that adds up to the recording with another target."""
    there = list(target.parent.iterdir()) if target.parent.is_dir() else []
    others = sorted(path.name for path in there if path.suffix == target.suffix and path not in (target, accompaniment))
    others = [name for name in others if not name.startswith(".")]
    if accompaniment in there and others and target not in there:
        raise AudioError(
            f"{accompaniment}: belongs to {others[0]} beside it, and the accompaniment of {target.stem} would replace it. Choose "
            "another output folder for each target."
        )


def stem_names(config: Config) -> tuple[str, str]:
    """Names of the files of the target and of the accompaniment, without suffix."""
    return "-".join(config.data.target), ACCOMPANIMENT


def _write(
    separated: Iterator[tuple[np.ndarray, np.ndarray]],
    outputs: Sequence[Path],
    info: AudioInfo,
    subtype: str | None,
    on_samples: Callable[[int], None],
) -> None:
    """Write blocks of mixture and target, float32 (channels, samples), to a file of the target and one of the accompaniment."""
    with contextlib.ExitStack() as stack:
        target_writer, accompaniment_writer = (
            stack.enter_context(
                audio.Writer(
                    output, info.sample_rate, info.num_channels, subtype=subtype, num_samples=info.num_samples or info.guess
                )
            )
            for output in outputs
        )
        step = PCM_STEPS.get(target_writer.subtype)
        overshoot = audio.Overshoot()
        for mixture, target in separated:
            if step is None:
                target = summable(mixture, target)
            else:
                overshoot.add(mixture)
                mixture, target = quantized(mixture, target, step)
            target_writer.write(target)
            accompaniment_writer.write(mixture - target)
            on_samples(mixture.shape[1])
    if overshoot.count:
        say_once(
            f"{outputs[0].parent}: {overshoot.count} samples of the recording exceed full scale (peak {overshoot.peak_db:+.1f} "
            f"dB) and were clipped: {target_writer.subtype} cannot hold them. `--format wav --subtype FLOAT` does."
        )


def separate(
    model: TrainedModel,
    inputs: Sequence[str | os.PathLike[str]],
    out_dir: str | os.PathLike[str],
    options: SeparationOptions = SeparationOptions(),
    *,
    progress: bool = True,
) -> SeparationReport:
    """Separate files, and all recordings in folders and their subfolders; one that fails does not stop the others.

    Every recording gets a folder of its own in `out_dir`, see `jaxpu.separation.inputs.find_inputs`.

    Args:
        model: from `jaxpu.load_model`.
        inputs: files and folders.
        out_dir: made if it does not exist; its contents are never input, even if it lies inside an input folder.
        options: format of the files and length of the chunks.
        progress: print what is left out of folders, and show a bar, on standard error.

    Raises:
        AudioError: output would lie among the recordings of an input folder.
        ValueError: frames cannot be shifted by equal shares of the model's hop.
    """
    check_shifts(model, options.shifts)
    found = find_inputs(inputs, out_dir)
    report = SeparationReport({}, found.failed)
    if progress and found.lines:
        print(*map(printable, found.lines), sep="\n", file=sys.stderr)
    model_rate = model.config.data.patch.sample_rate
    durations = {path: _duration_s(path) for path in found.folders}
    total = sum(durations.values())
    with progress_bar(total, "separate", show=progress, unit_scale=True, bar_format=_BAR_FORMAT) as bar:
        done = 0.0
        recordings = {os.path.realpath(path) for path in found.folders}
        for path, folder in found.folders.items():
            bar.set_postfix_str(path.name, refresh=False)
            try:
                rate, (suffix, _) = audio.probe(path).sample_rate, options.format_for(path)
                _check_overwrites_none([folder / f"{stem}{suffix}" for stem in stem_names(model.config)], path, recordings)
                if progress and rate > model_rate:
                    say_once(band_above.in_words(model_rate))
                report.written[path] = separate_file(
                    model,
                    path,
                    folder,
                    options,
                    on_samples=lambda count, rate=rate: bar.update(count / rate),  # type: ignore[misc]
                )
            except Exception as error:  # Whatever is wrong with one recording, the others are separated.
                report.failed[path] = failure(path, error)
            done += durations[path]
            bar.update(done - bar.n)  # A failed file counts as done.
    return report


def _duration_s(path: Path) -> float:
    """Duration by the header, or its guess; 0 if it does not say, or the file is unreadable, which its separation will report."""
    try:
        info = audio.probe(path)
    except Exception:
        return 0.0
    return (info.num_samples or info.guess or 0) / info.sample_rate


def separated_blocks(
    model: TrainedModel,
    read: Callable[[], Blocks],
    sample_rate: int,
    name: str,
    options: SeparationOptions = SeparationOptions(),
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Separate a signal block by block.

    Args:
        model: the trained model.
        read: begins to read the signal, at its own rate.
        sample_rate: of the signal, in Hz.
        name: of the signal, in messages.
        options: its `chunk_s` and `shifts`.

    Yields:
        A block of the signal and its target, float32 (channels, samples) each.

    Raises:
        AudioError: the target has samples that are NaN or infinite.
    """
    check_shifts(model, options.shifts)
    config, rate = model.config, model.config.data.patch.sample_rate
    mean, deviation = _level(model, audio.resample_blocks(read(), sample_rate, rate))
    mixtures, blocks = itertools.tee(read())  # Keeps the samples between the two: a chunk and a bit.
    low_mixtures, blocks = itertools.tee(audio.resample_blocks(blocks, sample_rate, rate))
    blocks = (((block.astype(np.float64) - mean) / deviation).astype(np.float32) for block in blocks)
    blocks = (block * np.float32(deviation) for block in target_blocks(model, blocks, options.chunk_s, options.shifts))
    above = None
    if sample_rate > rate:
        above = band_above.BandAbove(rate, one_mask=config.model.sees_all_channels or not config.data.patch.stereo)
        low = _Samples(blocks)
        blocks = above.differences((block, low.take(block)) for block in low_mixtures)
    del low_mixtures  # Else it would keep the whole recording.
    targets = _Samples(audio.resample_blocks(_reflected_at_end(blocks), rate, sample_rate))
    position = 0
    for mixture in mixtures:
        target = targets.take(mixture)
        if above is not None:
            target = target + above.at(position, mixture.shape[1], sample_rate) * mixture
        finite = np.isfinite(target).all(axis=0)
        if not finite.all():
            raise AudioError(
                f"{name}: the model makes samples that are NaN or infinite, the first at "
                f"{(position + int(np.argmin(finite))) / sample_rate:.3f} s. Lower the recording's level if it is far above full "
                "scale; else the model is not usable: train it again with a lower learning rate."
            )
        yield mixture, target
        position += mixture.shape[1]


def _reflected_at_end(blocks: Blocks) -> Blocks:
    """A signal and, after it, the reflection of its end, so that resampling finds no edge there."""
    tail: np.ndarray | None = None
    for block in blocks:
        tail = block if tail is None else np.concatenate([tail, block], axis=1)[:, -band_above.REFLECTED_SAMPLES - 1 :]
        yield block
    if tail is not None and tail.shape[1]:
        yield np.pad(tail, ((0, 0), (0, band_above.REFLECTED_SAMPLES)), mode="reflect")[:, tail.shape[1] :]


class _Samples:
    """A signal that comes in blocks of any length, to be taken in other lengths."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self._rest: np.ndarray | None = None

    def take(self, like: np.ndarray) -> np.ndarray:
        """The next samples, (channels, samples) of the shape of `like`.  Resampling there and back may lose one at the end: 0."""
        num_samples = like.shape[1]
        rest = like[:, :0] if self._rest is None else self._rest
        while rest.shape[1] < num_samples:
            rest = np.concatenate([rest, next(self._blocks, np.zeros_like(like))], axis=1)
        self._rest = rest[:, num_samples:]
        return rest[:, :num_samples]


def _level(model: TrainedModel, signal: Blocks) -> tuple[float, float]:
    """The offset and the scale of a signal, float32 (channels, n) at the model's rate, that bring it to the level of the model.

    A signal that is louder by some factor gets a larger scale by this factor, and so the same mask.
    """
    patch = model.config.data.patch
    downmix = signal if patch.stereo else (block.mean(0, keepdims=True) for block in signal)
    if patch.level != "reference":
        # The network was trained on signals of zero mean and unit deviation.  For `clip`, too, the whole recording is scaled at
        # once: scaling each chunk would make steps between them.
        return audio.mean_and_deviation(downmix)
    trained = model.training_rms
    if trained is None:
        return 0.0, 1.0
    level = activity.gated_level(activity.chunk_energies(downmix, patch.sample_rate))
    return 0.0, level / trained if level > 0 else 1.0
