"""The recordings to separate, and a folder for the output of each, so that none overwrites another's or becomes input itself."""

import dataclasses
import itertools
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.errors import AudioError
from data_pipeline.files import real_path
from data_pipeline.recording_files import FoundRecordings, find_recordings

ACCOMPANIMENT = "accompaniment"
"""Name of the file of the accompaniment, without suffix; the file beside it has the name of the target."""


@dataclasses.dataclass
class Inputs:
    """The recordings of files and folders.

    Attributes:
        folders: output folder by recording, in the order of the inputs, those of a folder sorted; each recording once.
        failed: error messages of inputs that have no recordings, and of folders that cannot be searched, by path.
        lines: a line for every input folder: how many recordings were found, and what was left out.
    """

    folders: dict[Path, Path] = dataclasses.field(default_factory=dict)
    failed: dict[Path, str] = dataclasses.field(default_factory=dict)
    lines: list[str] = dataclasses.field(default_factory=list)


def find_inputs(inputs: Sequence[str | os.PathLike[str]], out_dir: str | os.PathLike[str]) -> Inputs:
    """Find the recordings and choose an output folder for each.

    A file `song.mp3` goes to `out_dir/song`.  The files of a folder keep their paths inside it, below the folder's name if there
    are several inputs.  Recordings that would still share a folder keep their suffix (`out_dir/song.mp3`), and those that would
    share one even then are numbered (`out_dir/song.mp3-2`), in the order of the inputs.

    Args:
        inputs: files and folders.  A recording that is given twice, by a link for example, counts once.  A folder inside an input
            folder that holds two recordings, of which one is an accompaniment, is the output of an earlier run, and left out.
        out_dir: the folder of all output.  Inside an input folder it is not searched.

    Raises:
        AudioError: output would lie among the recordings of an input folder, so that the next run would separate it again.
    """
    found, out_dir = Inputs(), Path(out_dir)
    names = _names(inputs, out_dir, found)
    short = {path: _short(name) for path, name in names.items()}
    counts = Counter(map(_folded, short.values()))
    taken: set[str] = set()
    for path, name in short.items():
        wanted = name if counts[_folded(name)] == 1 else names[path]
        numbered = (wanted.with_name(f"{wanted.name}-{number}") for number in itertools.count(2))
        chosen = next(each for each in itertools.chain([wanted], numbered) if _folded(each) not in taken)
        taken.add(_folded(chosen))
        found.folders[path] = out_dir / chosen
    _check_apart([item for item in map(Path, inputs) if item.is_dir()], list(found.folders.values()), out_dir)
    return found


def _names(inputs: Sequence[str | os.PathLike[str]], out_dir: Path, found: Inputs) -> dict[Path, Path]:
    """Recordings of the inputs, each once, with their paths relative to the input folder, or to the folder of all inputs."""
    names: dict[Path, Path] = {}
    seen: set[str] = set()
    for item in map(Path, inputs):
        named = {item: Path(item.name)}
        if item.is_dir():
            prefix = Path() if len(inputs) == 1 else Path(real_path(item).name)
            searched = find_recordings(item, without=out_dir)
            _leave_out_output(searched)
            found.lines.append(searched.summary())
            found.failed.update(searched.unreadable)
            if not searched.paths and not searched.unreadable:
                found.failed[item] = searched.no_recordings()
            named = {path: prefix / path.relative_to(item) for path in searched.paths}
        for path, name in named.items():
            if (real := os.path.realpath(path)) not in seen:
                seen.add(real)
                names[path] = name
    return names


def _leave_out_output(searched: FoundRecordings) -> None:
    """Leave out the folders, but not the searched one itself, that hold the output of an earlier run of any model."""
    names: dict[Path, set[str]] = {}
    for path in searched.paths:
        names.setdefault(path.parent, set()).add(path.stem)
    outputs = {folder for folder, found in names.items() if len(found) == 2 and ACCOMPANIMENT in found} - {searched.folder}
    for folder in sorted(outputs):
        searched.leave_out("folder of separated files", folder)
    searched.paths = [path for path in searched.paths if path.parent not in outputs]


def _short(name: Path) -> Path:
    """A recording's name without its suffix, and without `.stem`; the whole name where nothing remains that names a folder."""
    stem = name.stem.removesuffix(".stem")
    return name if stem in ("", ".", "..") else name.with_name(stem)


def _folded(name: Path) -> str:
    """Equal for names that are one on file systems that ignore case, or take composed and decomposed letters for the same."""
    return unicodedata.normalize("NFC", str(name)).casefold()


def _check_apart(inputs: Sequence[Path], outputs: Sequence[Path], out_dir: Path) -> None:
    """Raise AudioError if an output folder lies in an input folder, which the next search would find there."""
    real_out = real_path(out_dir)
    for item in inputs:
        real = real_path(item)
        if real in real_out.parents:  # Not searched.
            continue
        inside = next((output for output in outputs if real in (real_path(output), *real_path(output).parents)), None)
        if inside is not None:
            raise AudioError(
                f"{inside}: this output would lie among the recordings of {item}, and the next run would separate it again. "
                f"Choose another output folder than {out_dir}, such as {out_dir / 'separated'}."
            )
