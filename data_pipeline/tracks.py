"""Sources of recordings: MUSDB18, MUSDB18-HQ, or folders of any audio, all as lists of `Track`."""

import dataclasses
import importlib.util
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import yaml

from data_pipeline import audio
from data_pipeline.config import STEMS
from data_pipeline.errors import AudioError
from data_pipeline.files import real_path
from data_pipeline.mark_formats import Mark
from data_pipeline.marks import find_marks
from data_pipeline.recording_files import FoundRecordings, check_apart, find_recordings
from data_pipeline.recordings import Part, Recording, Split, Track
from data_pipeline.stem_folders import MIXTURE, find_songs, song_folders, split_of, stem_files


@dataclasses.dataclass(frozen=True)
class Musdb18:
    """MUSDB18 as distributed: root/{train,test}/NAME.stem.mp4.  Needs ffmpeg."""

    root: Path
    has_stems: ClassVar[bool] = True


@dataclasses.dataclass(frozen=True)
class Musdb18HQ:
    """MUSDB18-HQ, or any set with its layout: root/{train,test}/NAME/{mixture,drums,bass,other,vocals}.wav."""

    root: Path
    has_stems: ClassVar[bool] = True


@dataclasses.dataclass(frozen=True)
class Stems:
    """Songs with stems of any names: root/[train|test]/SONG/NAME.wav, or another format; see `data_pipeline.stem_folders`."""

    root: Path
    has_stems: ClassVar[bool] = True


@dataclasses.dataclass(frozen=True)
class Folders:
    """Recordings in folders, which are searched recursively.  No stems.

    Attributes:
        with_target: folder of recordings with the target.
        without_target: folder of recordings without it; None where all target-free material is marked.
        marks: file or folder with the marked passages of the recordings with the target, see `data_pipeline.marks`; None if there
            are none.
        left_out: marks that are not used.
    """

    with_target: Path
    without_target: Path | None = None
    marks: Path | None = None
    left_out: frozenset[Mark] = frozenset()
    has_stems: ClassVar[bool] = False


StemSource = Musdb18 | Musdb18HQ | Stems
Source = StemSource | Folders


def detect_source(path: str | os.PathLike[str]) -> StemSource:
    """Detect MUSDB18, MUSDB18-HQ, or songs with other stems by the contents of the folders.

    Raises:
        AudioError: it is none of them, or both of the first two.
    """
    root = Path(path)
    if not root.is_dir():
        raise AudioError(f"{root}: is not a folder." if root.exists() else f"{root}: does not exist.")
    packed = _packed_stems(root)
    songs = {folder: files for folder in song_folders(root) if (files := stem_files(folder))}
    if packed and songs:
        raise AudioError(
            f"{root}: holds both {packed[0].relative_to(root)} (MUSDB18) and {next(iter(songs)).relative_to(root)} "
            "(MUSDB18-HQ). Move one of the two sets to another folder."
        )
    if packed:
        return Musdb18(root)
    if songs:
        names = {path.name for files in songs.values() for path in files.values()}
        strict = names == {f"{name}.wav" for name in (MIXTURE, *STEMS)}
        return Musdb18HQ(root) if strict else Stems(root)
    raise AudioError(
        f"{root}: holds no tracks. MUSDB18 is expected as train/NAME{audio.STEM_SUFFIX} and test/NAME{audio.STEM_SUFFIX}, "
        "MUSDB18-HQ as train/NAME/mixture.wav with vocals.wav, drums.wav, bass.wav and other.wav beside it, other stems as "
        "train/NAME/STEM.wav. Recordings without stems have options of their own."
    )


def find_tracks(
    source: Source,
    target: tuple[str, ...],
    *,
    validation_share: float,
    seed: int,
    say: Callable[[str], None] = lambda line: None,
) -> list[Track]:
    """List the tracks of a source, sorted by split folder and name, without opening their files.  See `Track.check`.

    If some training tracks are on musdb's list of validation tracks, those are the validation split.  Otherwise the fraction
    `validation_share` of the training tracks, drawn by `seed`, is held out: at least two of four or more, so that unlabeled and
    positive clips can come from different tracks, and one of two or three.  Of folders, this fraction of the recordings without
    the target, of those with marks, and of the others with the target, at least one of two or more.  Where none is left,
    `data_pipeline.held_out` holds out a stretch.

    Args:
        source: source of the recordings.
        target: stems that make up the target; ignored without stems.
        validation_share: between 0 and 1.
        seed: seed of the validation tracks.
        say: gets a line for each folder: how many recordings, marks or stems were found, and what was left out.

    Raises:
        AudioError: a folder is missing, cannot be read or has no audio, or the target does not exist.
        DataError: marks are wrong; see `data_pipeline.marks`.
    """
    if isinstance(source, Folders):
        return _folder_tracks(source, validation_share, seed, say)
    tracks = find_songs(source.root, target, say) if isinstance(source, Stems) else _musdb_tracks(source, target)
    training = [track.name for track in tracks if track.split == "train"]
    listed = set(_musdb_description()["validation_tracks"]) & set(training)
    held_out = listed if 0 < len(listed) < len(training) else _draw(training, validation_share, seed, at_least=2)
    return [
        dataclasses.replace(track, split="validation") if track.split == "train" and track.name in held_out else track
        for track in tracks
    ]


def _musdb_tracks(source: Musdb18 | Musdb18HQ, target: tuple[str, ...]) -> list[Track]:
    unknown = [name for name in target if name not in STEMS]
    if unknown or not 0 < len(target) < len(STEMS):
        raise AudioError(
            f"The target {target!r} does not exist in {source.root}: name one, two or three of the stems {', '.join(STEMS)}."
        )
    description = _musdb_description()
    tracks = []
    for path in _packed_stems(source.root) if isinstance(source, Musdb18) else song_folders(source.root):
        if isinstance(source, Musdb18):
            name = path.name.removesuffix(audio.STEM_SUFFIX)
            parts = {stem: Part(path, description["stem_ids"][stem]) for stem in ("mixture", *STEMS)}
        else:
            name = path.name
            parts = {stem: Part(path / f"{stem}.wav") for stem in ("mixture", *STEMS)}
        tracks.append(_stem_track(name, split_of(path, source.root), source.root, parts, target))
    if not tracks:
        raise AudioError(f"{source.root}: holds no tracks in train or test.")
    return tracks


def download_musdb7s(root: str | os.PathLike[str]) -> None:
    """Download musdb's set of 7-second excerpts (about 140 MB), unless it exists already.  Needs ffmpeg.

    Args:
        root: destination; its folders `train` and `test` receive the .stem.mp4 files.

    Raises:
        AudioError: the download fails, or the file received is not the archive.  No incomplete `train` or `test` is left.
    """
    root = Path(root)
    if (root / "train").is_dir() and (root / "test").is_dir():
        return
    audio.require_ffmpeg()
    import musdb

    # musdb unpacks in place, and takes any `train` folder for the whole set: it gets a folder of its own.
    staging = root / ".download"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    database = musdb.DB(root=str(staging), subsets=[])
    database.url = database.setup["sample-url"]
    try:
        database.download()
        for split in ("train", "test"):
            if not list((staging / split).glob(f"*{audio.STEM_SUFFIX}")):
                raise AudioError(f"the archive has no {split}/*{audio.STEM_SUFFIX}")
        for split in ("train", "test"):
            if not (root / split).exists():
                (staging / split).rename(root / split)
    # For a broken connection, a missing page, a full disk and a damaged archive the remedy is the same.
    except Exception as error:
        raise AudioError(
            f"{database.url}: cannot be downloaded to {root} ({error or type(error).__name__}). "
            "Check the connection and the free space and try again, or download this archive yourself and unpack it so that "
            f"{root / 'train'} and {root / 'test'} exist."
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _musdb_description() -> dict[str, Any]:
    """Read musdb's description of the set: numbers of the streams, validation tracks.

    It is read from its file: musdb cannot be imported without ffmpeg, which MUSDB18-HQ does not need otherwise.
    """
    spec = importlib.util.find_spec("musdb")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("The package musdb is not installed: pip install musdb")
    with (Path(spec.origin).parent / "configs" / "mus.yaml").open(encoding="utf-8") as file:
        return yaml.safe_load(file)


def _packed_stems(root: Path) -> list[Path]:
    return [
        path
        for split in ("train", "test")
        for path in sorted((root / split).glob(f"*{audio.STEM_SUFFIX}"))
        if not path.name.startswith(".")
    ]


def _stem_track(name: str, split: Split, root: Path, parts: Mapping[str, Part], target: tuple[str, ...]) -> Track:
    others = tuple(parts[stem] for stem in STEMS if stem not in target)
    return Track(
        name=name,
        split=split,
        mixture=Recording(f"{name} (mixture)", root, (parts["mixture"],)),
        accompaniment=Recording(f"{name} (accompaniment)", root, others),
        target=Recording(f"{name} ({' and '.join(target)})", root, (parts["mixture"],), others),
        stems={stem: Recording(f"{name} ({stem})", root, (parts[stem],)) for stem in STEMS},
    )


def _folder_tracks(source: Folders, validation_share: float, seed: int, say: Callable[[str], None]) -> list[Track]:
    folder = real_path(source.with_target)
    songs = find_recordings(folder)
    names = _relative(songs, say)
    marks = {} if source.marks is None else _marks(source.marks, folder, songs.paths, say)
    marks = {path: tuple(mark for mark in passages if mark not in source.left_out) for path, passages in marks.items()}
    free = _recordings_without(source, songs, say)
    marked = [name for name in names if marks.get(names[name])]
    held_out = _draw(marked, validation_share, seed) | _draw(
        [name for name in names if name not in marked], validation_share, seed
    )
    tracks = []
    for name, path in names.items():
        recording = Recording(f"with_target/{name}", folder, (Part(path),))
        split: Split = "validation" if name in held_out else "train"
        passages = marks.get(path, ())
        tracks.append(Track(recording.name, split, recording, recording if passages else None, passages=passages))
    held_out = _draw(list(free), validation_share, seed + 1)
    for name, path in free.items():
        assert source.without_target is not None
        recording = Recording(f"without_target/{name}", real_path(source.without_target), (Part(path),))
        tracks.append(Track(recording.name, "validation" if name in held_out else "train", None, recording))
    return tracks


def _recordings_without(source: Folders, songs: FoundRecordings, say: Callable[[str], None]) -> dict[str, Path]:
    """Recordings without the target, by name, sorted.  Raises AudioError if some are among the songs, too."""
    if source.without_target is None:
        return {}
    with_target, without_target = real_path(source.with_target), real_path(source.without_target)
    if with_target == without_target or with_target in without_target.parents or without_target in with_target.parents:
        raise AudioError(
            f"{source.with_target} and {source.without_target} are the same folder, or one lies inside the other. "
            "Put recordings with the target and recordings without it into separate folders."
        )
    found = find_recordings(without_target)
    check_apart(songs, found)
    return _relative(found, say)


def _relative(found: FoundRecordings, say: Callable[[str], None]) -> dict[str, Path]:
    """Recordings of a folder by their paths inside it, sorted."""
    names = {path.relative_to(found.folder).as_posix(): path for path in found.require()}
    say(found.summary())
    return dict(sorted(names.items()))


def _marks(path: Path, folder: Path, songs: list[Path], say: Callable[[str], None]) -> dict[Path, tuple[Mark, ...]]:
    """Marked passages by recording."""
    marks = find_marks(real_path(path), folder, songs)
    say(marks.summary(path, len(songs)))
    return marks.passages


def _draw(names: list[str], share: float, seed: int, at_least: int = 1) -> set[str]:
    """Draw a fraction of the names, never all; at least `at_least`, if that is no more than half of them."""
    if len(names) < 2:
        return set()
    count = min(max(min(at_least, len(names) // 2), round(share * len(names))), len(names) - 1)
    return {names[index] for index in np.random.default_rng(seed).permutation(len(names))[:count]}
