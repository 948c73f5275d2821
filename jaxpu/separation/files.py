"""From recordings to target and accompaniment: any length, rate and number of channels, in flat memory.

A recording is read, resampled to the model's rate, separated in overlapping chunks (`jaxpu.separation.overlap_add`), resampled
back and written, block by block.
"""

import contextlib
import dataclasses
import functools
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile

from data_pipeline import audio
from data_pipeline.errors import AudioError
from data_pipeline.progress import progress_bar
from jaxpu.core.network import TrainedModel
from jaxpu.separation.overlap_add import Blocks, target_blocks

CHUNK_S = 5.0
"""Seconds of a chunk, unless told otherwise.  The network's activations are what fills the memory: those of PULSE's network take
80 MB a second of stereo at 44.1 kHz."""

_PCM_STEPS = {"PCM_16": 2.0**-15, "PCM_24": 2.0**-23}
_LOSSLESS_SUFFIXES = (".wav", ".flac")
_BAR_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} s of audio [{elapsed}<{remaining}{postfix}]"


@dataclasses.dataclass(frozen=True)
class SeparationReport:
    """What became of the inputs of `separate`.

    Attributes:
        written: by input, the paths of target and accompaniment.
        failed: by input, the error's message, which names the file and the remedy; empty when all went well.
    """

    written: dict[Path, list[Path]]
    failed: dict[Path, str]


def separate_waveform(
    model: TrainedModel,
    waveform: np.ndarray,
    sample_rate: int,
    *,
    chunk_s: float = CHUNK_S,
) -> np.ndarray:
    """The target in a waveform, as `separate_file` writes it to a float file.

    Args:
        model: what `jaxpu.load_model` returns.
        waveform: float32 (channels, samples), any number of both.  A model trained on stereo separates every channel by itself;
            one trained on mono finds the mask of their mean and applies it to all.
        sample_rate: of the waveform, in Hz.
        chunk_s: seconds of a chunk.

    Returns:
        The target, float32 (channels, samples); the accompaniment is `waveform` minus it.

    Raises:
        ValueError: on another shape, or samples that are NaN or infinite.
    """
    if waveform.ndim != 2 or len(waveform) == 0:
        raise ValueError(f"waveform has shape {waveform.shape}; it must be (channels, samples) with at least one channel.")
    if not np.isfinite(waveform).all():
        raise ValueError("waveform has samples that are NaN or infinite; remove them first.")
    waveform = waveform.astype(np.float32, copy=False)

    def read() -> Blocks:
        for begin in range(0, waveform.shape[1], audio.BLOCK_SAMPLES):
            yield waveform[:, begin : begin + audio.BLOCK_SAMPLES]

    targets = [_summable(mixture, target) for mixture, target in _separated(model, read, sample_rate, chunk_s)]
    return np.concatenate(targets, axis=1) if targets else np.zeros_like(waveform)


def separate_file(
    model: TrainedModel,
    path: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    suffix: str | None = None,
    subtype: str | None = None,
    chunk_s: float = CHUNK_S,
    on_samples: Callable[[int], None] | None = None,
) -> list[Path]:
    """Writes the target and the accompaniment of a recording, with its rate, channels and length.

    They sum to the recording.  In integer formats the target is rounded to a step of the format and the accompaniment is what
    remains: the sum is exact for recordings on the same grid, else within a step.  Where one of them would leave full scale, the
    target is limited so that both fit and the sum stays.  (A float recording beyond full scale is itself clipped there.)
    In float files the target is rounded, sample by sample, so that the float32 sum of the two files equals the recording bit for
    bit wherever float32 numbers allow it: for every recording of up to 24 bits with target and accompaniment below 2 (6 dB above
    full scale).  A sample of a float recording that is finer than the spacing of float32 at the larger of target and
    accompaniment cannot be their sum; it is off by at most half of that spacing (3e-8 for parts below 1, -150 dB).
    Lossy formats change both files, so that nothing holds exactly.

    Args:
        model: what `jaxpu.load_model` returns.
        path: an audio file.
        out_dir: folder for `<target>.<suffix>`, such as `vocals.wav`, and `accompaniment.<suffix>`; made where it is missing.
            Files that are there are replaced, once the new ones are complete.
        suffix: `.wav`, `.flac`, `.ogg` or `.mp3`.  By default the recording's own where it is .wav or .flac; else .wav, since
            coding a lossy recording once more loses quality and the exact sum.
        subtype: `FLOAT`, `PCM_24` or `PCM_16`.  By default the recording's own where it is one of them and the format can hold
            it; else FLOAT in .wav and PCM_24 in .flac.
        chunk_s: seconds of a chunk; smaller ones need less memory.
        on_samples: called with the number of samples after every block.

    Returns:
        The two paths, the target's first.

    Raises:
        AudioError: the recording cannot be read, or the format cannot hold its rate or channels, or the disk is full.
    """
    path, out_dir = Path(path), Path(out_dir)
    suffix, subtype = _output_format(path, suffix, subtype)
    info = audio.probe(path)
    stems = ["-".join(model.config.data.target), "accompaniment"]
    outputs = [out_dir / f"{stem}{suffix}" for stem in stems]
    for output in outputs:
        if output.exists() and output.samefile(path):
            raise AudioError(f"{path}: would be overwritten by its own separation. Choose another output folder than {out_dir}.")
    out_dir.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.ExitStack() as stack:
            open_writer = functools.partial(
                audio.Writer,
                sample_rate=info.sample_rate,
                num_channels=info.num_channels,
                subtype=subtype,
                num_samples=info.num_samples,
            )
            writers = [stack.enter_context(open_writer(output)) for output in outputs]
            step = _PCM_STEPS.get(writers[0].subtype)
            read = functools.partial(audio.read_blocks, path)
            for mixture, target in _separated(model, read, info.sample_rate, chunk_s):
                if step is None:
                    target = _summable(mixture, target)
                else:
                    mixture, target = _quantised(mixture, target, step)
                writers[0].write(target)
                writers[1].write(mixture - target)
                if on_samples is not None:
                    on_samples(mixture.shape[1])
    except BaseException:
        with contextlib.suppress(OSError):
            out_dir.rmdir()  # Only where nothing is in it.
        raise
    return outputs


def separate(
    model: TrainedModel,
    inputs: Sequence[str | os.PathLike[str]],
    out_dir: str | os.PathLike[str],
    *,
    suffix: str | None = None,
    subtype: str | None = None,
    chunk_s: float = CHUNK_S,
    progress: bool = True,
) -> SeparationReport:
    """Separates files, and all audio files in folders and their subfolders; a bad one does not stop the others.

    Every recording gets a folder of its own in `out_dir`, see `output_folders`.

    Args:
        model: what `jaxpu.load_model` returns.
        inputs: files and folders.
        out_dir: made where it is missing; what it holds already is no input, even inside an input folder.
        suffix: see `separate_file`.
        subtype: see `separate_file`.
        chunk_s: seconds of a chunk.
        progress: show a bar.

    Raises:
        AudioError: no such output format; what is wrong with single files is in the report.
    """
    if suffix is not None:
        _check_suffix(suffix)
    report = SeparationReport({}, {})
    folders = output_folders(inputs, out_dir, report.failed)
    durations = {path: _duration_s(path) for path in folders}
    total = sum(durations.values())
    with progress_bar(total, "separate", show=progress, unit_scale=True, bar_format=_BAR_FORMAT) as bar:
        done = 0.0
        for path, folder in folders.items():
            bar.set_postfix_str(path.name, refresh=False)
            try:
                rate = audio.probe(path).sample_rate
                report.written[path] = separate_file(
                    model,
                    path,
                    folder,
                    suffix=suffix,
                    subtype=subtype,
                    chunk_s=chunk_s,
                    on_samples=lambda count, rate=rate: bar.update(count / rate),  # type: ignore[misc]
                )
            except AudioError as error:
                report.failed[path] = str(error)
            except OSError as error:
                report.failed[path] = f"{path}: cannot be separated: {error}."
            done += durations[path]
            bar.update(done - bar.n)  # A failed file counts as done.
    return report


def _duration_s(path: Path) -> float:
    """What the header says; 0 where it does not, or the file is bad, which its separation will report."""
    try:
        info = audio.probe(path)
    except (AudioError, OSError):
        return 0.0
    return (info.num_samples or 0) / info.sample_rate


def output_folders(
    inputs: Sequence[str | os.PathLike[str]], out_dir: str | os.PathLike[str], failed: dict[Path, str]
) -> dict[Path, Path]:
    """Where every recording goes: a folder of its own, so that none overwrites another's.

    A file `song.mp3` goes to `out_dir/song`.  The files of a folder keep their paths inside it, below the folder's name where
    there are several inputs.  Recordings that would still share a folder keep their suffix (`out_dir/song.mp3`), and those that
    would even then are numbered (`out_dir/song.mp3-2`), in the order of the inputs.

    Args:
        inputs: files and folders.
        out_dir: the folder of all output.
        failed: gets a message for every folder without recordings.

    Returns:
        Output folders by recording, in the order of the inputs, folders sorted; each recording once.
    """
    out_dir = Path(out_dir)
    names: dict[Path, Path] = {}
    seen: set[Path] = set()
    for item in map(Path, inputs):
        if item.is_dir():
            prefix = Path() if len(inputs) == 1 else Path(item.resolve().name)
            found = {path: prefix / path.relative_to(item) for path in _recordings(item, out_dir)}
            if not found:
                known = ", ".join(sorted(audio.AUDIO_SUFFIXES))
                failed[item] = f"{item}: holds no recordings. Files with these suffixes count: {known}."
        else:
            found = {item: Path(item.name)}
        for path, name in found.items():
            if path.resolve() not in seen:
                seen.add(path.resolve())
                names[path] = name
    stems = {path: name.with_name(name.stem.removesuffix(".stem")) for path, name in names.items()}
    counts = Counter(map(_folded, stems.values()))
    folders: dict[Path, Path] = {}
    taken: set[str] = set()
    for path, stem in stems.items():
        wanted = stem if counts[_folded(stem)] == 1 else names[path]
        numbered = (wanted.with_name(f"{wanted.name}-{number}") for number in itertools.count(2))
        chosen = next(name for name in itertools.chain([wanted], numbered) if _folded(name) not in taken)
        taken.add(_folded(chosen))
        folders[path] = out_dir / chosen
    return folders


def _folded(name: Path) -> str:
    """Equal for names that are one on file systems that ignore case."""
    return str(name).casefold()


def _recordings(folder: Path, out_dir: Path) -> list[Path]:
    out_dir = out_dir.resolve()
    inside = folder.resolve() in out_dir.parents
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in audio.AUDIO_SUFFIXES
        and not path.name.startswith(".")
        and path.is_file()
        and not (inside and out_dir in path.resolve().parents)
    )


def _check_suffix(suffix: str) -> str:
    normal = f".{suffix.lower().removeprefix('.')}"
    if normal not in audio.WRITE_SUFFIXES:
        raise AudioError(f"The output format is {suffix!r}; it must be one of {', '.join(audio.WRITE_SUFFIXES)}.")
    return normal


def _output_format(path: Path, suffix: str | None, subtype: str | None) -> tuple[str, str | None]:
    """Suffix and subtype to write; a subtype of None is `Writer`'s default."""
    if suffix is None:
        own = path.suffix.lower()
        suffix = own if own in _LOSSLESS_SUFFIXES else ".wav"
    suffix = _check_suffix(suffix)
    if subtype is None and suffix in _LOSSLESS_SUFFIXES:
        try:
            own = soundfile.info(path).subtype
        except (soundfile.SoundFileError, OSError):
            return suffix, None  # It is for ffmpeg, or for `probe` to say what is wrong.
        if own in _PCM_STEPS or (own == "FLOAT" and suffix == ".wav"):
            subtype = own
    return suffix, subtype


def _summable(mixture: np.ndarray, target: np.ndarray) -> np.ndarray:
    """`target` rounded so that, in float32, target + (mixture - target) == mixture wherever that is possible.

    A difference of float32 numbers is exact when both are multiples of a step of which neither they nor it exceed 2^24.  So
    every sample is rounded to the spacing of float32 at the largest of the three.

    Args:
        mixture: float32.
        target: float32, of the same shape.
    """
    exact = target.astype(np.float64)
    largest = np.maximum(np.maximum(np.abs(mixture), np.abs(target)), np.abs(mixture - exact))
    step = np.spacing(largest.astype(np.float32)).astype(np.float64)
    return (np.rint(exact / step) * step).astype(np.float32)


def _quantised(mixture: np.ndarray, target: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Mixture and target for an integer format: the target on its grid, and neither it nor the difference beyond full scale.

    Args:
        mixture: float32.
        target: float32, of the same shape.
        step: of the format; it holds -1 to 1 - step.

    Returns:
        Both, float64.
    """
    low, high = -1.0, 1.0 - step
    clipped = np.clip(mixture.astype(np.float64), low, high)
    # On the grid, too, so that rounding cannot push the accompaniment beyond full scale.
    least = np.maximum(low, np.ceil((clipped - high) / step) * step)
    most = np.minimum(high, np.floor((clipped - low) / step) * step)
    return clipped, np.clip(np.rint(target / step) * step, least, most)


def _separated(
    model: TrainedModel, read: Callable[[], Blocks], sample_rate: int, chunk_s: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of a signal, each with its target, float32 (channels, samples).

    Args:
        model: what separates.
        read: begins to read the signal, at its own rate.
        sample_rate: of the signal, in Hz.
        chunk_s: seconds of a chunk.
    """
    if not chunk_s > 0:
        raise ValueError(f"chunk_s is {chunk_s}; it must be positive.")
    patch = model.config.data.patch
    mean, deviation = 0.0, 1.0
    if patch.level != "reference":
        # The network was trained on levelled signals.  `clip`, too, levels the recording here: levels of single chunks would
        # make steps between them.
        heard = audio.resample_blocks(read(), sample_rate, patch.sample_rate)
        mean, deviation = audio.mean_and_deviation(heard if patch.stereo else (block.mean(0, keepdims=True) for block in heard))
    mixtures, blocks = itertools.tee(read())  # Keeps what was read and is not yet separated: a chunk and a bit.
    blocks = audio.resample_blocks(blocks, sample_rate, patch.sample_rate)
    blocks = (((block.astype(np.float64) - mean) / deviation).astype(np.float32) for block in blocks)
    blocks = (block * np.float32(deviation) for block in target_blocks(model, blocks, chunk_s))
    blocks = audio.resample_blocks(blocks, patch.sample_rate, sample_rate)
    target: np.ndarray | None = None
    for mixture in mixtures:
        while target is None or target.shape[1] < mixture.shape[1]:
            # Resampling there and back may lose a sample at the end.
            block = next(blocks, np.zeros_like(mixture))
            target = block if target is None else np.concatenate([target, block], axis=1)
        yield mixture, target[:, : mixture.shape[1]]
        target = target[:, mixture.shape[1] :]
