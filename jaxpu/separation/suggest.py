"""Suggest marks: the passages of recordings in which a trained model finds no target, for a person to check.

The same energies tell which marks of a person may be wrong.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from data_pipeline import audio
from data_pipeline.errors import AudioError, failure, printable
from data_pipeline.files import check_writable, refused, write_text
from data_pipeline.mark_formats import Mark
from data_pipeline.marks import label_tracks
from data_pipeline.marks_check import Doubt, MarksCheck
from data_pipeline.progress import progress_bar
from data_pipeline.recordings import Track
from jaxpu.core.network import TrainedModel
from jaxpu.separation.files import separated_blocks

MIN_S = 3.0
"""Shortest passage that is suggested."""

MARGIN_S = 0.4
"""Margin on both sides of a passage, towards the target."""

KEPT_SHARE = 0.35
"""A passage is suggested where the masks keep less than this fraction of the share of energy that they keep on average, as
`bootstrap` finds empty mixtures (`BootstrapConfig.empty_share`); the energy is that of the estimate here."""

DOUBTED_SHARE = 0.5
"""A mark is doubted where the masks keep more than this fraction of the share of energy that they keep on average: a person
should listen to it."""

LEFT_OUT_SHARE = 0.8
"""Above this fraction a mark is left out unheard.  It is higher: right marks that resemble the target are worth keeping, see
docs/results.md."""

SILENT = 1e-6
"""Energy of a passage, relative to its recording, below which it is silent: 60 dB below."""

FRAME_S = 0.1
_SMOOTH_FRAMES = 10


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """A passage without the target, as far as a model can tell.

    Attributes:
        begin_s: in seconds.
        end_s: in seconds.
        kept_db: energy that the masks keep, relative to that of the passage, in dB; the lower, the surer.
    """

    begin_s: float
    end_s: float
    kept_db: float


@dataclasses.dataclass(frozen=True)
class Suggestions:
    """The outcome of `suggest`.

    Attributes:
        written: suggestions by label track, the surest first.
        failed: by recording, the error's message.
        doubts: marks that may be wrong, the most doubtful first.
    """

    written: dict[Path, list[Suggestion]]
    failed: dict[Path, str]
    doubts: list[Doubt]


@dataclasses.dataclass(frozen=True)
class Energies:
    """Energies of the mixture and of the separated target in consecutive frames of `FRAME_S`, float64 (frames,)."""

    mixture: np.ndarray
    target: np.ndarray


def suggest(
    model: TrainedModel,
    recordings: Sequence[Path],
    folder: Path,
    out_dir: Path,
    *,
    marks: Mapping[Path, Sequence[Mark]] | None = None,
    progress: bool = True,
) -> Suggestions:
    """Write a label track for every recording in which a model finds passages without the target, and check marks.

    Args:
        model: from `jaxpu.load_model`.
        recordings: audio files.
        folder: folder of the recordings; see `data_pipeline.marks.label_tracks`.
        out_dir: folder of the label tracks, made if it does not exist.
        marks: by recording, the marks to check.
        progress: show a bar on standard error.

    Raises:
        AudioError: a label track exists already: a person may have edited it.  Or marks lie beyond the ends of their recordings.
        WriteError: nothing can be written to `out_dir`.
    """
    tracks = {path: out_dir / track for path, track in label_tracks(recordings, folder).items()}
    for track in tracks.values():
        if os.path.exists(track):  # noqa: PTH110 - False where a name is too long, for which `Path.exists` raises an error.
            raise AudioError(f"{track}: exists, perhaps with your corrections. Choose another folder with -o, or remove it.")
    _check_ends(marks or {})
    check_writable(out_dir, "Choose another folder (-o).")  # Now, for listening may take hours.
    energies, failed = _listen(model, recordings, progress)
    written = {}
    for path, found in passages(energies).items():
        lines = (f"{each.begin_s:.6f}\t{each.end_s:.6f}\t{each.kept_db:.0f} dB\n" for each in found)
        try:
            write_text(tracks[path], "".join(lines))
        except OSError as error:  # Such as a name that is too long with .txt.
            failed[path] = f"{tracks[path]}: {refused(tracks[path].parent, error.strerror or str(error))}"
        else:
            written[tracks[path]] = found
    return Suggestions(written, failed, doubtful(energies, marks or {}))


def _check_ends(marks: Mapping[Path, Sequence[Mark]]) -> None:
    """Raise AudioError if marks lie beyond the ends of their recordings; all are named."""
    wrong = []
    for path, passages in marks.items():
        try:
            info = audio.probe(path)
        except AudioError:
            continue  # Listening will report it.
        marked = Track(path.name, "train", None, None, passages=tuple(passages))
        try:
            if info.num_samples is not None:
                marked.check_passages(info.num_samples / info.sample_rate)
        except AudioError as error:
            wrong.append(str(error))
    if wrong:
        raise AudioError("\n".join(wrong))


def marks_check(name: str, load: Callable[[], TrainedModel], *, progress: bool = True) -> MarksCheck:
    """The check of marks by a model, as `data_pipeline.prepare.prepare` takes it.

    Args:
        name: of the model.
        load: loads the model, once the check begins.
        progress: show a bar on standard error, and name recordings that fail.
    """

    def find(marks: Mapping[Path, Sequence[Mark]]) -> list[Doubt]:
        energies, failed = _listen(load(), list(marks), progress)
        if progress:
            for message in failed.values():
                print(f"{printable(message)} Its marks are not checked.")
        return doubtful(energies, marks, LEFT_OUT_SHARE)

    return MarksCheck(name, find)


def _listen(model: TrainedModel, recordings: Sequence[Path], progress: bool) -> tuple[dict[Path, Energies], dict[Path, str]]:
    """Measure recordings; return the energies, and the errors of those that fail."""
    energies: dict[Path, Energies] = {}
    failed: dict[Path, str] = {}
    with progress_bar(len(recordings), "listen", "recording", show=progress) as bar:
        for path in recordings:
            try:
                energies[path] = measure(model, path)
            except Exception as error:  # Whatever is wrong with one recording, the others are measured.
                failed[path] = failure(path, error)
            bar.update()
    return energies, failed


def measure(model: TrainedModel, path: Path) -> Energies:
    """Separate a recording and measure the energies of mixture and target.  Raises AudioError if it cannot be read."""
    sample_rate = audio.probe(path).sample_rate
    position = 0
    sums = np.zeros((2, 0))
    for pair in separated_blocks(model, functools.partial(audio.read_blocks, path), sample_rate, str(path)):
        seconds = np.arange(position, position + pair[0].shape[1]) / sample_rate
        frames = (seconds / FRAME_S).astype(int)  # Not of whole samples: labels would drift.
        sums = np.pad(sums, ((0, 0), (0, int(frames[-1]) + 1 - sums.shape[1])))
        for row, signal in zip(sums, pair, strict=True):
            row[frames[0] :] += np.bincount(frames - frames[0], np.square(signal, dtype=np.float64).sum(0))
        position += pair[0].shape[1]
    return Energies(*sums)


def passages(energies: Mapping[Path, Energies], kept_share: float = KEPT_SHARE) -> dict[Path, list[Suggestion]]:
    """Find the passages without the target in some recordings, the surest first; recordings without one are absent.

    Args:
        energies: of each recording.
        kept_share: the fraction of energy that the masks keep in a second, relative to the one that they keep in all recordings,
            below which the target is taken to rest.
    """
    kept = _kept_on_average(energies)
    found = {path: sorted(_passages(each, kept_share * kept), key=lambda one: one.kept_db) for path, each in energies.items()}
    return {path: suggestions for path, suggestions in found.items() if suggestions}


def doubtful(
    energies: Mapping[Path, Energies], marks: Mapping[Path, Sequence[Mark]], kept_share: float = DOUBTED_SHARE
) -> list[Doubt]:
    """Find the marks in which the target seems to play, the most doubtful first.

    Args:
        energies: of each recording.
        marks: by recording; those of other recordings are not checked.
        kept_share: a mark is doubted above this share, see `Doubt.kept`.
    """
    kept, found = _kept_on_average(energies), []
    for path, marked in marks.items():
        for mark in marked if path in energies else ():
            end = None if mark.end_s is None else round(mark.end_s / FRAME_S)
            frames = slice(round(mark.begin_s / FRAME_S), end)
            mixture, target = energies[path].mixture[frames], energies[path].target[frames]
            # In silence, as after the end of a song, there is no target.
            sounds = mixture.sum() > SILENT * len(mixture) * energies[path].mixture.mean()
            share = target.sum() / mixture.sum() if sounds else 0.0
            found.append(Doubt(path, mark, float(share / max(kept, 1e-20))))
    return sorted((doubt for doubt in found if doubt.kept > kept_share), key=lambda doubt: -doubt.kept)


def _kept_on_average(energies: Mapping[Path, Energies]) -> float:
    """Fraction of the energy of all recordings that the masks keep."""
    target, mixture = (sum(getattr(each, name).sum() for each in energies.values()) for name in ("target", "mixture"))
    return float(target / max(mixture, 1e-20))


def _passages(energies: Energies, limit: float) -> Iterator[Suggestion]:
    """Passages of a recording in which the masks keep less than a fraction of the energy."""
    window = np.ones(_SMOOTH_FRAMES)
    mixture, target = (np.convolve(each, window, "same") for each in (energies.mixture, energies.target))
    # A digital silence has no target either, but is no example of anything.
    free = (target < limit * mixture) & (mixture > 0)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], free, [False]]).astype(int)))
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        begin_s = first * FRAME_S + (MARGIN_S if first else 0.0)
        end_s = last * FRAME_S - (MARGIN_S if last < len(free) else 0.0)
        if end_s - begin_s >= MIN_S:
            share = energies.target[first:last].sum() / energies.mixture[first:last].sum()
            yield Suggestion(begin_s, end_s, float(10 * np.log10(max(share, 1e-12))))
