"""Where recordings come from: MUSDB18, MUSDB18-HQ, or two folders of any audio, all as a list of `Track`."""

import contextlib
import dataclasses
import importlib.util
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import yaml

from data_pipeline import audio
from data_pipeline.audio import AudioInfo, Blocks
from data_pipeline.config import STEMS
from data_pipeline.errors import AudioError

Split = Literal["train", "validation", "test"]

STEM_SUFFIX = ".stem.mp4"


@dataclasses.dataclass(frozen=True)
class Part:
    """One audio stream of a file: `stream` counts from 0, and is always 0 but for .stem.mp4."""

    path: Path
    stream: int = 0


@dataclasses.dataclass(frozen=True)
class Recording:
    """A signal that is read lazily: the sum of the streams in `plus`, minus the sum of those in `minus`.

    Attributes:
        name: for messages.
        root: the source's folder; `identity` holds paths relative to it.
        plus: streams that are added, at least one.
        minus: streams whose sum is subtracted.
    """

    name: str
    root: Path
    plus: tuple[Part, ...]
    minus: tuple[Part, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """All streams, the added ones first."""
        return self.plus + self.minus

    @property
    def info(self) -> AudioInfo:
        """Rate, channels and length of the files. Raises AudioError where one is bad, or where they disagree."""
        return _agreed_info(self.name, self.parts)

    @property
    def sample_rate(self) -> int:
        """The files' own, in Hz."""
        return self.info.sample_rate

    @property
    def num_channels(self) -> int:
        """The files' own: 1 for mono, 2 for stereo."""
        return self.info.num_channels

    @property
    def num_samples(self) -> int | None:
        """At the files' own rate; None where only decoding would tell. See `AudioInfo`."""
        return self.info.num_samples

    def blocks(self, sample_rate: int, stereo: bool, block_samples: int = audio.BLOCK_SAMPLES) -> Blocks:
        """Reads the signal from start to end, in flat memory.

        All signals of a track come in blocks of the same sizes, aligned to the sample. Sums are taken in float32, sample by
        sample, before channels are averaged and before resampling.

        Args:
            sample_rate: in Hz; the signal is resampled where the files have another one.
            stereo: two channels (mono is doubled), else one (channels are averaged).
            block_samples: samples of a block, per channel.

        Yields:
            float32 (2 or 1, block_samples), the last one shorter.

        Raises:
            AudioError: as `audio.read_blocks`; and where files disagree in length, rate or channels, or have more than two
                channels though `stereo` is asked for.
        """
        info = self.info
        if stereo and info.num_channels > 2:
            raise AudioError(
                f"{self.parts[0].path}: has {info.num_channels} channels; only mono and stereo become stereo. "
                "Prepare mono, or mix it down."
            )
        with contextlib.closing(self._native_blocks(block_samples)) as native:
            mixed = native if stereo else (block.mean(axis=0, keepdims=True) for block in native)
            for block in audio.resample_blocks(mixed, info.sample_rate, sample_rate, block_samples):
                yield np.repeat(block, 2, axis=0) if stereo and len(block) == 1 else block

    def read(self) -> np.ndarray:
        """The whole signal at its own rate: float32 (1 or 2, samples).  Raises AudioError as `blocks` does."""
        return np.concatenate(list(self.blocks(self.sample_rate, self.num_channels == 2)), axis=1)

    def identity(self) -> list[list[Any]]:
        """Path relative to the root, stream, sign, size in bytes and time of last change of every file; JSON-serialisable.

        Raises AudioError where a file does not exist.
        """
        rows: list[list[Any]] = []
        for index, part in enumerate(self.parts):
            try:
                status = part.path.stat()
            except OSError as error:
                raise _missing(part.path) from error
            sign = 1 if index < len(self.plus) else -1
            rows.append([part.path.relative_to(self.root).as_posix(), part.stream, sign, status.st_size, status.st_mtime_ns])
        return rows

    def _native_blocks(self, block_samples: int) -> Blocks:
        with contextlib.ExitStack() as stack:
            readers = []
            for part in self.parts:
                reader = audio.read_blocks(part.path, block_samples=block_samples, stream=part.stream)
                readers.append(stack.enter_context(contextlib.closing(reader)))
            while True:
                blocks = [next(reader, None) for reader in readers]
                lengths = [0 if block is None else block.shape[1] for block in blocks]
                if len(set(lengths)) > 1:
                    raise AudioError(
                        f"{self.name}: its files decode to different lengths: "
                        + ", ".join(
                            f"{_label(part)} ends {max(lengths) - n} samples early"
                            for part, n in zip(self.parts, lengths, strict=True)
                            if n < max(lengths)
                        )
                        + ". Stems must be aligned and of one length."
                    )
                read = [block for block in blocks if block is not None]
                if not read:
                    return
                yield _sum(read[: len(self.plus)]) - _sum(read[len(self.plus) :]) if self.minus else _sum(read)


@dataclasses.dataclass(frozen=True)
class Track:
    """One song.

    Attributes:
        name: unique in its source.
        split: "train", "validation" or "test".
        mixture: the song with the target; None for a recording of a folder without the target.
        accompaniment: the sum of all stems but the target's; None for a recording of a folder with the target.
        target: mixture minus accompaniment; None without stems. In .stem.mp4 every stream is coded with losses of its own, so
            this is the target's stem plus coding noise (in stempeg's example 22 dB below the mixture, most of it above 4 kHz).
        stems: every stem by name; empty for a source without stems.
    """

    name: str
    split: Split
    mixture: Recording | None
    accompaniment: Recording | None
    target: Recording | None = None
    stems: Mapping[str, Recording] = dataclasses.field(default_factory=dict)

    def stem(self, name: str) -> Recording:
        """The stem of that name, such as "vocals"."""
        if name not in self.stems:
            raise ValueError(
                f"{self.name}: has no stem {name!r}; it has {', '.join(self.stems) or 'none: its source has no stems'}."
            )
        return self.stems[name]

    def recordings(self) -> dict[str, Recording]:
        """The signals that are not None, by the names "mixture", "accompaniment" and "target"."""
        signals = {"mixture": self.mixture, "accompaniment": self.accompaniment, "target": self.target}
        return {name: recording for name, recording in signals.items() if recording is not None}

    def check(self) -> AudioInfo:
        """Reads the headers of all files. Raises AudioError where one is bad, or they differ in length, rate or channels."""
        parts = {part: None for recording in self.recordings().values() for part in recording.parts}
        return _agreed_info(self.name, tuple(parts))


@dataclasses.dataclass(frozen=True)
class Musdb18:
    """MUSDB18 as it is downloaded: root/{train,test}/NAME.stem.mp4. Needs ffmpeg."""

    root: Path
    has_stems: ClassVar[bool] = True


@dataclasses.dataclass(frozen=True)
class Musdb18HQ:
    """MUSDB18-HQ, or anything laid out like it: root/{train,test}/NAME/{mixture,drums,bass,other,vocals}.wav."""

    root: Path
    has_stems: ClassVar[bool] = True


@dataclasses.dataclass(frozen=True)
class TwoFolders:
    """Recordings in which the target plays, and recordings in which it does not; no stems. Folders are searched in depth."""

    with_target: Path
    without_target: Path
    has_stems: ClassVar[bool] = False


Source = Musdb18 | Musdb18HQ | TwoFolders


def detect_source(path: str | os.PathLike[str]) -> Musdb18 | Musdb18HQ:
    """Tells MUSDB18 from MUSDB18-HQ by what lies in its folders. Raises AudioError where it is neither."""
    root = Path(path)
    if not root.is_dir():
        raise AudioError(f"{root}: is not a folder." if root.exists() else f"{root}: does not exist.")
    stem_files = _stem_files(root)
    song_folders = [folder for folder in _song_folders(root) if any(file.suffix == ".wav" for file in folder.iterdir())]
    if stem_files and song_folders:
        raise AudioError(
            f"{root}: holds both {stem_files[0].relative_to(root)} (MUSDB18) and {song_folders[0].relative_to(root)} "
            "(MUSDB18-HQ). Move one of the two sets to a folder of its own."
        )
    if stem_files:
        return Musdb18(root)
    if song_folders:
        return Musdb18HQ(root)
    raise AudioError(
        f"{root}: holds no tracks. MUSDB18 is expected as train/NAME{STEM_SUFFIX} and test/NAME{STEM_SUFFIX}, "
        "MUSDB18-HQ as train/NAME/mixture.wav with vocals.wav, drums.wav, bass.wav and other.wav beside it. "
        "Recordings without stems are given as two folders."
    )


def find_tracks(source: Source, target: tuple[str, ...], *, validation_share: float, seed: int) -> list[Track]:
    """Lists the tracks of a source, sorted by split folder and name. Files are not opened: `Track.check` does that.

    The split is MUSDB18's own where a name of the training set is on musdb's list of validation tracks. Otherwise
    `validation_share` of the training tracks, drawn by `seed`, is held out: at least two of four or more, so that unlabeled
    and positive patches can come from different ones, and one of two or three. Of two folders, that share of each, at least one.

    Args:
        source: where the recordings are.
        target: stems that make the target; ignored by a source without stems.
        validation_share: between 0 and 1.
        seed: draws the validation tracks.

    Raises:
        AudioError: a folder is missing or has no audio, or the target does not exist.
    """
    if isinstance(source, TwoFolders):
        return _two_folder_tracks(source, validation_share, seed)
    unknown = [name for name in target if name not in STEMS]
    if unknown or not 0 < len(target) < len(STEMS):
        raise AudioError(
            f"The target {target!r} does not exist in {source.root}: name one, two or three of the stems {', '.join(STEMS)}."
        )
    description = _musdb_description()
    tracks = []
    for path in _stem_files(source.root) if isinstance(source, Musdb18) else _song_folders(source.root):
        if isinstance(source, Musdb18):
            name = path.name.removesuffix(STEM_SUFFIX)
            parts = {stem: Part(path, description["stem_ids"][stem]) for stem in ("mixture", *STEMS)}
        else:
            name = path.name
            parts = {stem: Part(path / f"{stem}.wav") for stem in ("mixture", *STEMS)}
        tracks.append(_stem_track(name, "test" if path.parent.name == "test" else "train", source.root, parts, target))
    if not tracks:
        raise AudioError(f"{source.root}: holds no tracks in train or test.")
    training = [track.name for track in tracks if track.split == "train"]
    listed = set(description["validation_tracks"]) & set(training)
    held_out = listed if 0 < len(listed) < len(training) else _draw(training, validation_share, seed, at_least=2)
    return [
        dataclasses.replace(track, split="validation") if track.split == "train" and track.name in held_out else track
        for track in tracks
    ]


def download_musdb7s(root: str | os.PathLike[str], *, url: str | None = None) -> None:
    """Downloads musdb's own set of 7-second excerpts (some 140 MB) to `root`, unless it is there already. Needs ffmpeg.

    Args:
        root: becomes root/train and root/test, with .stem.mp4 files.
        url: of the archive; None is musdb's.

    Raises:
        AudioError: the download fails, or what came is not the archive. Nothing half-made is left under train or test.
    """
    root = Path(root)
    if (root / "train").is_dir() and (root / "test").is_dir():
        return
    audio.require_ffmpeg()
    import musdb

    # musdb unpacks in place and takes any `train` folder for the whole set; so it gets a folder of its own.
    staging = root / ".download"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    database = musdb.DB(root=str(staging), subsets=[])
    database.url = url or database.setup["sample-url"]
    try:
        database.download()
        for split in ("train", "test"):
            if not list((staging / split).glob(f"*{STEM_SUFFIX}")):
                raise AudioError(f"the archive has no {split}/*{STEM_SUFFIX}")
        for split in ("train", "test"):
            if not (root / split).exists():
                (staging / split).rename(root / split)
    # A broken connection, a missing page, a full disk, a damaged archive: the remedy is the same.
    except Exception as error:
        raise AudioError(
            f"{database.url}: cannot be downloaded to {root} ({error or type(error).__name__}). "
            "Check the connection and the free space and try again, or download that archive by hand and unpack it so that "
            f"{root / 'train'} and {root / 'test'} exist."
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _musdb_description() -> dict[str, Any]:
    """The description of the set that musdb carries: numbers of the streams, validation tracks.

    Read from its file: musdb cannot be imported without ffmpeg, which MUSDB18-HQ does not need otherwise.
    """
    spec = importlib.util.find_spec("musdb")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("The package musdb is not installed: pip install musdb")
    with (Path(spec.origin).parent / "configs" / "mus.yaml").open(encoding="utf-8") as file:
        return yaml.safe_load(file)


def _stem_files(root: Path) -> list[Path]:
    return [
        path
        for split in ("train", "test")
        for path in sorted((root / split).glob(f"*{STEM_SUFFIX}"))
        if not path.name.startswith(".")
    ]


def _song_folders(root: Path) -> list[Path]:
    return [
        path
        for split in ("train", "test")
        for path in sorted((root / split).glob("*"))
        if path.is_dir() and not path.name.startswith(".")
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


def _two_folder_tracks(source: TwoFolders, validation_share: float, seed: int) -> list[Track]:
    with_target, without_target = source.with_target.resolve(), source.without_target.resolve()
    if with_target == without_target or with_target in without_target.parents or without_target in with_target.parents:
        raise AudioError(
            f"{source.with_target} and {source.without_target} are the same folder, or one lies inside the other. "
            "Recordings with and without the target must lie apart."
        )
    tracks = []
    for index, (role, folder) in enumerate((("with_target", source.with_target), ("without_target", source.without_target))):
        names = {path.relative_to(folder).as_posix(): path for path in audio_files(folder)}
        held_out = _draw(sorted(names), validation_share, seed + index)
        for name in sorted(names):
            recording = Recording(f"{role}/{name}", folder, (Part(names[name]),))
            mixture, accompaniment = (recording, None) if index == 0 else (None, recording)
            tracks.append(Track(recording.name, "validation" if name in held_out else "train", mixture, accompaniment))
    return tracks


def audio_files(folder: Path) -> list[Path]:
    """All audio files in a folder and its subfolders.  Raises AudioError where there are none."""
    if not folder.is_dir():
        raise AudioError(f"{folder}: is not a folder." if folder.exists() else f"{folder}: does not exist.")
    files = [
        path
        for path in folder.rglob("*")
        if not any(part.startswith(".") for part in path.relative_to(folder).parts) and path.is_file()
    ]
    found = [path for path in files if path.suffix.lower() in audio.AUDIO_SUFFIXES]
    if not files:
        raise AudioError(f"{folder}: is an empty folder. Put recordings into it.")
    if not found:
        raise AudioError(
            f"{folder}: has {len(files)} files, but no audio among them. "
            f"Files are taken by suffix: {', '.join(sorted(audio.AUDIO_SUFFIXES))}."
        )
    return found


def _draw(names: list[str], share: float, seed: int, at_least: int = 1) -> set[str]:
    """That share of the names, never all; `at_least` as many, where that is no more than half of them."""
    if len(names) < 2:
        return set()
    count = min(max(min(at_least, len(names) // 2), round(share * len(names))), len(names) - 1)
    return {names[index] for index in np.random.default_rng(seed).permutation(len(names))[:count]}


def _agreed_info(name: str, parts: tuple[Part, ...]) -> AudioInfo:
    infos = []
    for part in parts:
        if not part.path.exists():
            raise _missing(part.path)
        infos.append(audio.probe(part.path, stream=part.stream))
    for field, unit in (("num_channels", "channel(s)"), ("sample_rate", "Hz"), ("num_samples", "samples")):
        values = [getattr(info, field) for info in infos]
        if len(set(values)) > 1:
            raise AudioError(
                f"{name}: its files disagree: "
                + ", ".join(f"{_label(part)} has {value} {unit}" for part, value in zip(parts, values, strict=True))
                + ". The mixture and all stems of a track must have the same length, rate and channels."
            )
    return infos[0]


def _missing(path: Path) -> AudioError:
    if path.stem in ("mixture", *STEMS) and path.parent.is_dir():
        wavs = sorted(other.name for other in path.parent.glob("*.wav"))
        return AudioError(
            f"{path}: does not exist. A track of MUSDB18-HQ is a folder with mixture.wav and "
            f"{', '.join(f'{stem}.wav' for stem in STEMS)}; this one holds {', '.join(wavs) or 'no .wav'}."
        )
    return AudioError(f"{path}: does not exist.")


def _label(part: Part) -> str:
    return f"{part.path} (stream {part.stream})" if part.stream else str(part.path)


def _sum(blocks: list[np.ndarray]) -> np.ndarray:
    total = blocks[0]
    for block in blocks[1:]:
        total = total + block
    return total
