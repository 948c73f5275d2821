"""Songs with any stems, one folder each: [train|test]/SONG/NAME.wav, or any other format of audio."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from data_pipeline.errors import AudioError
from data_pipeline.recording_files import AUDIO_SUFFIXES, VIDEO_SUFFIXES
from data_pipeline.recordings import Part, Recording, Split, Track

MIXTURE = "mixture"
"""Name of the file of a mixture; where a song has none, its mixture is the sum of its stems."""

SPLIT_FOLDERS: tuple[Split, ...] = ("train", "test")


def song_folders(root: Path) -> list[Path]:
    """Folders of the songs, sorted by split folder and name; without split folders, the folders in `root`."""
    splits = [root / split for split in SPLIT_FOLDERS if (root / split).is_dir()] or [root]
    return [path for split in splits for path in sorted(split.glob("*")) if path.is_dir() and not path.name.startswith(".")]


def split_of(path: Path, root: Path) -> Split:
    """The split of a song in `root`, by the folder of its file or folder; "train" without split folders."""
    return "test" if path.parent == root / "test" else "train"


def stem_files(song: Path) -> dict[str, Path]:
    """Audio files of a song, by the name without the suffix, sorted.  Raises AudioError if two have the same name."""
    found: dict[str, Path] = {}
    for path in sorted(song.iterdir()):
        if path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith("."):
            if path.stem in found:
                raise AudioError(
                    f"{song}: has {found[path.stem].name} and {path.name}. Remove one: both are the stem {path.stem}."
                )
            found[path.stem] = path
    return found


def find_songs(root: Path, target: tuple[str, ...], say: Callable[[str], None]) -> list[Track]:
    """List the songs of a folder.  A stem that a song lacks is silent in it; a song with a mixture alone is left out.

    Args:
        root: folder of the songs, or of split folders.
        target: one or more names of stems, not all.
        say: gets a line with the names that were found, the number of songs that have each, and what is left out.

    Raises:
        AudioError: there are no songs, the target is not among the stems, or a song has two files of one name.
    """
    songs = song_folders(root)
    files = {song: stem_files(song) for song in songs}
    # Nobody knows what plays in a mixture alone: it would count as free of the target.
    unsplit = [song for song, found in files.items() if [*found] == [MIXTURE]]
    files = {song: found for song, found in files.items() if found and song not in unsplit}
    counts = Counter(name for found in files.values() for name in found if name != MIXTURE)
    if not counts:
        raise AudioError(
            f"{root}: holds no stems. They are expected as train/SONG/NAME.wav, test/SONG/NAME.wav or SONG/NAME.wav."
        )
    lacking = [name for name in target if name not in counts]
    if lacking or not target or len(set(target)) == len(counts):
        names = ", ".join(f"{name} ({count} songs)" for name, count in counts.most_common())
        raise AudioError(
            f"{root}: has no target {' and '.join(lacking or target)}. Name some of its stems, but not all: {names}."
        )
    stems = ", ".join(f"{name} ({count})" for name, count in counts.most_common())
    left_out = {"with a mixture alone": unsplit, **_left_out(root, songs)}
    told = (f" Left out, {why}: {', '.join(path.name for path in paths)}." for why, paths in left_out.items() if paths)
    say(f"{root}: {len(files)} songs with the stems {stems}.{''.join(told)}")
    return [_track(song, root, found, target) for song, found in files.items()]


def _left_out(root: Path, songs: list[Path]) -> dict[str, list[Path]]:
    """Folders and files that look like songs and stems but do not count, by the reason."""
    outside = [] if songs and songs[0].parent == root else [path for path in root.iterdir() if path.name not in SPLIT_FOLDERS]
    return {
        "outside train and test": sorted(path for path in outside if path.is_dir() and stem_files(path)),
        "without stems of their own": [song for song in songs if not stem_files(song)],
        "not audio": [path for song in songs for path in sorted(song.iterdir()) if path.suffix.lower() in VIDEO_SUFFIXES],
    }


def _track(song: Path, root: Path, files: dict[str, Path], target: tuple[str, ...]) -> Track:
    parts = {name: Part(path) for name, path in files.items()}
    stems = tuple(part for name, part in parts.items() if name != MIXTURE)
    mixture = (parts[MIXTURE],) if MIXTURE in parts else stems
    others = tuple(part for name, part in parts.items() if name not in (MIXTURE, *target))
    own = tuple(parts[name] for name in target if name in parts)

    def recording(signal: str, plus: tuple[Part, ...], minus: tuple[Part, ...] = ()) -> Recording:
        return Recording(f"{song.name} ({signal})", root, plus, minus)

    return Track(
        name=song.name,
        split=split_of(song, root),
        mixture=recording(MIXTURE, mixture),
        accompaniment=recording("accompaniment", others) if others else recording("accompaniment", mixture, own),
        target=recording(" and ".join(target), mixture, others if own else mixture),
        stems={
            name: recording(name, (parts[name],)) if name in parts else recording(name, mixture, mixture)
            for name in sorted({*files, *target} - {MIXTURE})
        },
    )
