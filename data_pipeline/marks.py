"""Marks: the passages of recordings in which the target does not play, as people or karaoke files give them."""

import dataclasses
import difflib
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from data_pipeline.errors import DataError, printable
from data_pipeline.mark_formats import Format, Mark, MarkedRecording, decode_text, format_of, read_marks

SUFFIXES = (".txt", ".csv", ".tsv")
"""Suffixes of files with marks, in lower case."""

MAX_BYTES = 16 << 20
"""Largest file that is read as marks: some hundred thousand of them."""


@dataclasses.dataclass
class Marks:
    """The marks of a folder of recordings.

    Attributes:
        passages: by recording, in order of their beginnings; recordings without marks are absent.
        formats: number of recordings with marks, by format.
        left_out: files without marks.
    """

    passages: dict[Path, tuple[Mark, ...]] = dataclasses.field(default_factory=dict)
    formats: Counter[Format] = dataclasses.field(default_factory=Counter)
    left_out: list[Path] = dataclasses.field(default_factory=list)

    def summary(self, path: Path, num_recordings: int) -> str:
        """One line: the formats, the number of passages and of recordings, and what was left out."""
        formats = ", ".join(f"{kind} for {count} of {num_recordings} recordings" for kind, count in self.formats.items())
        text = f"{path}: {formats}, {sum(map(len, self.passages.values()))} passages"
        if self.left_out:
            more = ", ..." if len(self.left_out) > 1 else ""
            text += f"; left out, files without marks: {len(self.left_out)} ({self.left_out[0].name}{more})"
        return text


def find_marks(path: Path, folder: Path, recordings: Sequence[Path]) -> Marks:
    """Read the marks of recordings.

    Args:
        path: a file, or a folder with the shape of `folder`, which may be `folder` itself.  A label track has the name of its
            recording, with or without the suffix (SONG.txt, SONG.mp3.txt); an UltraStar song lies in the folder of its recording
            and names it; a CSV table names recordings by their paths inside `folder`, with or without the suffix.
        folder: folder of the recordings.
        recordings: all recordings of the folder.

    Raises:
        DataError: there are no marks, or some are wrong; every file and line is named.  A folder cannot be read.
    """
    if not path.exists():
        raise DataError(f"{path}: does not exist. Give a folder of label tracks, or a CSV table.")
    marks, errors = Marks(), []
    names = _Names(folder, recordings)
    marked_by: dict[Path, Path] = {}
    for file in _files(path):
        if path.is_dir() and not file.name.lower().endswith(SUFFIXES):
            if path != folder:
                marks.left_out.append(file)
            continue
        try:
            for recording, passages in _marks_of(file, path, names, marks).items():
                if recording in marked_by:
                    raise DataError(f"{file} and {marked_by[recording]} both mark {recording}. Remove one of them.")
                marked_by[recording] = file
                marks.passages[recording] = tuple(sorted(passages, key=lambda mark: mark.begin_s))
        except DataError as error:
            errors.append(str(error))
    if errors:
        raise DataError("Files of marks that cannot be used:\n" + "\n".join(f"  {error}" for error in errors))
    if not marks.passages:
        raise DataError(
            f"{path}: holds no marks. For each song, give a label track of Audacity, SONG.txt, that labels the passages without "
            "the target."
        )
    return marks


def _files(path: Path) -> list[Path]:
    """Files of a folder, sorted; hidden files and folders, and what is no file, are left out."""
    if path.is_file():
        return [path]

    def unreadable(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror}). Allow it, or choose another folder of marks.")

    found, seen = list[Path](), set[str]()
    for parent, folders, files in os.walk(path, followlinks=True, onerror=unreadable):
        if (real := os.path.realpath(parent)) in seen:  # A link to a folder above has no end.
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in files if not name.startswith(".")]
    return sorted(file for file in found if file.is_file() or not file.exists())  # A broken link is an error later.


class _Names:
    """Recordings by the names that files of marks give them: paths inside the folder, with or without the suffix."""

    def __init__(self, folder: Path, recordings: Sequence[Path]) -> None:
        self._folder = folder
        self._by_path: dict[PurePosixPath, Path] = {}
        self._by_name: dict[str, list[Path]] = {}
        self._by_folder: dict[PurePosixPath, list[Path]] = {}
        for path in recordings:
            inside = PurePosixPath(path.relative_to(folder).as_posix())
            self._by_path[inside] = path
            self._by_folder.setdefault(inside.parent, []).append(path)
            for name in {inside, inside.with_suffix("")}:
                self._by_name.setdefault(_key(name), []).append(path)

    def find(self, name: PurePosixPath, where: str) -> Path:
        """The recording of a name.  Raises DataError if there is none, or more than one."""
        if name in self._by_path:
            return self._by_path[name]
        found = self._by_name.get(_key(name), [])
        if len(found) == 1:
            return found[0]
        if found:
            listed = ", ".join(each.name for each in found)
            raise DataError(f"{where}: marks {name}, which may be {listed}. Give the name with its suffix.")
        wanted = _key(name)
        elsewhere = [known for known in self._by_name if PurePosixPath(known).name == PurePosixPath(wanted).name]
        close = elsewhere or difflib.get_close_matches(wanted, self._by_name, 1)
        hint = f" Did you mean {self._by_name[close[0]][0].relative_to(self._folder)}?" if close else ""
        raise DataError(f"{where}: there is no recording {printable(str(name))}.{hint} Name the marks like their recording.")

    def of_song(self, song: PurePosixPath, named: str | None, where: str) -> Path:
        """The recording of an UltraStar song: the one that it names, the one of its own name, or the only one in its folder."""
        beside = self._by_folder.get(song.parent, [])
        for name in (song.parent / named if named else song, song):
            if _key(name) in self._by_name:
                return self.find(name, where)
        if len(beside) == 1:
            return beside[0]
        return self.find(song.parent / named if named else song, where)


def label_tracks(recordings: Sequence[Path], folder: Path) -> dict[Path, PurePosixPath]:
    """By recording, the path of its label track: its own inside `folder`, with .txt for the suffix.

    Where another recording could have that label track, too, the suffix stays, before the .txt.
    """
    inside = {recording: PurePosixPath(recording.relative_to(folder).as_posix()) for recording in recordings}
    count = Counter(key for path in inside.values() for key in {_key(path), _key(path.with_suffix(""))})
    return {
        recording: path.with_suffix(".txt") if count[_key(path.with_suffix(""))] == 1 else path.with_name(f"{path.name}.txt")
        for recording, path in inside.items()
    }


def _key(name: PurePosixPath) -> str:
    """Equal for names that look equal: composed and decomposed letters, capital and small ones."""
    return unicodedata.normalize("NFC", str(name)).casefold()


def _marks_of(file: Path, path: Path, names: _Names, marks: Marks) -> dict[Path, list[Mark]]:
    """Marks of a file, by recording; recordings without one are absent.  Raises DataError if it has marks that are wrong."""
    text = "" if file.stat().st_size > MAX_BYTES else decode_text(file.read_bytes())
    kind = format_of(text)
    inside = PurePosixPath(file.name if file == path else file.relative_to(path).as_posix())
    if kind is None:
        if file == path:
            read_marks(text, str(file))  # Raises the error that says what it must be.
        marks.left_out.append(file)
        return {}
    found: dict[Path, list[Mark]] = {}
    for marked in read_marks(text, str(file)):
        if marked.marks:
            found.setdefault(_recording(kind, marked, inside, names, file), []).extend(marked.marks)
    marks.formats[kind] += len(found)
    return found


def _recording(kind: Format, marked: MarkedRecording, inside: PurePosixPath, names: _Names, file: Path) -> Path:
    if kind == "CSV":
        assert marked.recording is not None
        return names.find(PurePosixPath(marked.recording.replace("\\", "/")), f"{file}, line {marked.line}")
    if kind == "UltraStar notes":
        return names.of_song(inside.with_suffix(""), marked.recording, str(file))
    return names.find(inside.with_suffix(""), str(file))
