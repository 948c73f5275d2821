"""The search for recordings in folders: one rule for all commands, and one line that says what was left out."""

import dataclasses
import itertools
import json
import os
import shutil
import stat
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.errors import AudioError


def _suffixes(names: str) -> frozenset[str]:
    return frozenset(f".{name}" for name in names.split())


AUDIO_SUFFIXES: frozenset[str] = _suffixes(
    "wav wave bwf rf64 w64 flac ogg oga opus spx mp3 mp2 mp1 mpa mpga aif aiff aifc afc au snd caf m4a m4b m4r m4p aac adts adt "
    "ac3 eac3 ec3 ac4 dts dtshd mlp thd truehd wma wv ape tta tak mpc mp+ mpp shn amr awb 3ga gsm qcp ra rm dsf dff iff 8svx svx "
    "voc mka weba oma aa3 at3 aptx sbc adx sph nist sf ircam vqf xwma"
)
"""Suffixes of recordings, in lower case."""

VIDEO_SUFFIXES: frozenset[str] = _suffixes(
    "mp4 m4v mov qt mkv webm avi 3gp 3g2 mpg mpeg m2ts vob flv f4v wmv asf ogv ogm mxf rmvb"
)
"""Suffixes of videos, in lower case: recordings unless ffprobe finds no sound in them."""

# ffprobe is asked of all other suffixes but these: playlists, which it would follow, and what often lies beside recordings.
_OTHER_SUFFIXES = _suffixes(
    "m3u m3u8 pls xspf wpl asx ram mpd cue txt md nfo log rtf pdf doc docx odt csv tsv json jsonl xml html htm yaml yml toml ini "
    "db lrc srt vtt ass sfv md5 sha1 sha256 ffp jpg jpeg png gif webp bmp tif tiff svg psd heic zip gz tgz tar rar 7z xz bz2 py "
    "pyc ipynb sh js css als asd sfk pkf reapeaks rpp sesx mid midi kar npy npz h5 pt exe dll torrent url lnk part crdownload "
    "tmp bak"
)

_ASKED_AT_MOST = 100
"""Files of a folder that ffprobe is asked about: some 0.1 s each."""
_ANSWER_WITHIN_S = 5.0
# ffprobe's confidence, 0 to 100.  Chance likeness to MP3 or AAC scores at most 25; 50 is that of a suffix which fits.
_SURE_SCORE = 50

_LABELS_SHOWN = 8


@dataclasses.dataclass
class FoundRecordings:
    """The recordings of a folder, and what was left out.

    Attributes:
        folder: the folder that was searched.
        paths: its recordings, sorted, each once.
        left_out: number of files and folders that were left out, by a label such as ".txt" or "hidden folder".
        examples: the first name for each of these labels but suffixes.
        unreadable: error messages of folders that cannot be searched, by path.
    """

    folder: Path
    paths: list[Path] = dataclasses.field(default_factory=list)
    left_out: Counter[str] = dataclasses.field(default_factory=Counter)
    examples: dict[str, str] = dataclasses.field(default_factory=dict)
    unreadable: dict[Path, str] = dataclasses.field(default_factory=dict)

    def leave_out(self, label: str, path: Path | None = None) -> None:
        """Count what is left out, under a label; the first path serves as its example."""
        self.left_out[label] += 1
        if path is not None:
            self.examples.setdefault(label, str(path.relative_to(self.folder)))

    def summary(self) -> str:
        """One line: the folder, the number of its recordings, and what was left out."""
        text = f"{self.folder}: {_counted(len(self.paths), 'recording')}"
        # Folders and links first: among many suffixes they would be lost.
        common = sorted(self.left_out.most_common(), key=lambda item: item[0].startswith("."))
        shown = []
        for label, count in common[:_LABELS_SHOWN]:
            example = f" ({self.examples[label]}{', ...' if count > 1 else ''})" if label in self.examples else ""
            shown.append(f"{count} {label}" if label[0] == "." else f"{_counted(count, label)}{example}")
        if common[_LABELS_SHOWN:]:
            shown.append(f"{sum(count for _, count in common[_LABELS_SHOWN:])} more files and folders")
        return f"{text}; left out {', '.join(shown)}" if shown else text

    def require(self) -> list[Path]:
        """The recordings.  Raises AudioError if there are none, or if a folder cannot be searched."""
        if self.unreadable:
            raise AudioError("\n".join(self.unreadable.values()))
        if not self.paths:
            raise AudioError(self.no_recordings())
        return self.paths

    def no_recordings(self) -> str:
        """The error message for a folder without recordings."""
        if not self.left_out:
            return f"{self.folder}: is an empty folder. Put recordings into it."
        line = self.summary().replace(": 0 recordings", ": has no recordings", 1)
        return (
            f"{line}. Recordings are recognized by their suffix, such as .wav, .flac, .mp3 or .m4a, others by ffprobe, if it is "
            "installed."
        )


def find_recordings(folder: Path, *, without: Path | None = None) -> FoundRecordings:
    """Find all recordings in a folder and its subfolders.

    Linked files and folders are followed, each real file and folder once, under its own name where it has one in the folder.
    Left out are hidden folders, links to a folder above, what is no regular file, macOS's resource forks (`._*`), incomplete
    files of jaxpu, and files without audio: videos in which ffprobe finds no sound, and files of other suffixes than those of
    audio and video in which it does not find any.  It is asked about at most 100 files.

    Args:
        folder: the folder; it may itself be hidden.
        without: a folder that is not searched if it lies inside, or a link leads there.

    Raises:
        AudioError: `folder` does not exist or is none.
    """
    if not folder.is_dir():
        raise AudioError(f"{folder}: is not a folder." if folder.exists() else f"{folder}: does not exist.")
    found = FoundRecordings(folder)
    # Not `resolve`, which fails at a link to itself.
    root, unsearched = Path(os.path.realpath(folder)), None if without is None else Path(os.path.realpath(without))
    if unsearched in (root, *root.parents):
        unsearched = None
    questions = itertools.count()
    for path in _files(found, root, unsearched):
        if _is_recording(path, found, questions):
            found.paths.append(path)
    found.paths.sort()
    return found


def check_apart(first: FoundRecordings, second: FoundRecordings) -> None:
    """Raise AudioError if a file is found in both folders, by way of links."""
    real = {os.path.realpath(path): path for path in first.paths}
    for path in second.paths:
        if twin := real.get(os.path.realpath(path)):
            raise AudioError(
                f"{twin} and {path} are the same file, by a link, but no recording is both with the target and without it. "
                "Remove the link in one of the two folders."
            )


def _files(found: FoundRecordings, root: Path, without: Path | None) -> Iterator[Path]:
    """Files of the folder, each real file once: links come last, so that a file keeps its own name where it has one."""
    seen: set[Path] = set()
    folders = [(found.folder, root)]
    linked_folders: list[tuple[Path, Path]] = []
    linked_files: list[tuple[Path, Path]] = []
    while folders or linked_folders:
        linked_folders.sort(reverse=True)
        folder, real = folders.pop() if folders else linked_folders.pop()
        label = "" if folder == found.folder else _folder_label(folder.name, real, root, without, seen)
        if label:
            found.leave_out(label, folder)
            continue
        seen.add(real)
        try:
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            found.unreadable[folder] = f"{folder}: cannot be read ({error.strerror}). Check its permissions, or leave it out."
            continue
        for entry in listed:
            path, is_link = Path(entry), entry.is_symlink()
            target = Path(os.path.realpath(path)) if is_link else real / entry.name  # Path.resolve() raises on a link to itself.
            if _kind(path) == stat.S_IFDIR:
                (linked_folders if is_link else folders).append((path, target))
            elif is_link:
                linked_files.append((path, target))
            else:
                seen.add(target)
                yield path
    for path, target in sorted(linked_files):
        if target in seen and _kind(path):
            found.leave_out("link to a file found already", path)
        else:
            seen.add(target)
            yield path


def _kind(path: Path) -> int:
    """The kind of file at the end of a path, as `stat.S_IFMT` numbers it; 0 if there is none, or access is denied."""
    try:
        return stat.S_IFMT(path.stat().st_mode)
    except OSError:
        return 0


def _folder_label(name: str, real: Path, root: Path, without: Path | None, seen: set[Path]) -> str:
    """Why a folder is left out; empty if it is not."""
    if without is not None and (real == without or without in real.parents):
        return "output folder"
    if name.startswith("."):
        return "hidden folder"
    if real in root.parents:
        return "link to a folder above"
    return "link to a folder found already" if real in seen else ""


def _is_recording(path: Path, found: FoundRecordings, questions: Iterator[int]) -> bool:
    """Whether a file is a recording; if not, it is counted among those left out."""
    suffix, kind = path.suffix.lower(), _kind(path)
    if path.name.startswith("._"):
        found.leave_out("._* file of macOS")
    elif path.name.startswith(".partial-"):
        found.leave_out("incomplete file", path)
    elif kind != stat.S_IFREG and (
        kind or suffix not in AUDIO_SUFFIXES
    ):  # A link to a song that is gone is an error of the song.
        found.leave_out("special file" if kind else "broken link", path)
    elif suffix in AUDIO_SUFFIXES:
        return True
    elif suffix in _OTHER_SUFFIXES:
        found.leave_out(suffix)
    elif next(questions) >= _ASKED_AT_MOST:
        if suffix in VIDEO_SUFFIXES:
            return True
        found.leave_out("file of unknown kind", path)
    else:
        sound = _has_sound(path)
        if sound or (suffix in VIDEO_SUFFIXES and sound is None):
            return True
        found.leave_out(f"{suffix} without sound" if suffix in VIDEO_SUFFIXES else suffix or "file without suffix")
    return False


def _has_sound(path: Path) -> bool | None:
    """Whether ffprobe finds an audio stream; None if it is not installed, or does not know the file."""
    if shutil.which("ffprobe") is None:
        return None
    entries = "stream=codec_type:format=probe_score"
    command = ["ffprobe", "-v", "quiet", "-protocol_whitelist", "file", "-show_entries", entries, "-of", "json", f"file:{path}"]
    try:
        answer = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=_ANSWER_WITHIN_S, check=True)
        report = json.loads(answer.stdout)
    except (subprocess.SubprocessError, OSError, ValueError):
        return None
    if report["format"]["probe_score"] < _SURE_SCORE:
        return None
    return any(stream.get("codec_type") == "audio" for stream in report["streams"])


def _counted(number: int, what: str) -> str:
    head, space, tail = what.partition(" ")
    if number == 1:
        return f"{number} {what}"
    # "2 hidden folders", "2 links to a folder above", "2 files without suffix".
    plural = f"{head}s{space}{tail}" if head in ("file", "folder", "link", "recording") else f"{what}s"
    return f"{number} {plural}"
