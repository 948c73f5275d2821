"""Layout of a prepared dataset on disk: file names, metadata and index."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np

from data_pipeline.config import DataConfig
from data_pipeline.dataclass_json import decode
from data_pipeline.errors import DataError, shown
from data_pipeline.marks_check import CheckedMarks
from data_pipeline.stored_arrays import ArrayError, read_arrays
from data_pipeline.stored_json import check_json, read_json

FORMAT = 1
"""Version of the layout.  It is part of the fingerprint, so that data of another layout are never reused."""

NAME = "jaxpu"
"""Name of the TensorFlow Datasets dataset: the prefix of its files."""

INFO_FILE = "jaxpu.json"
INDEX_FILE = "index.npz"
UNFINISHED_FOLDER = "unfinished"

Split = Literal["train", "validation"]
Signal = Literal["mixture", "accompaniment"]
SIGNALS: tuple[Signal, ...] = ("mixture", "accompaniment")
SPLITS: tuple[Split, ...] = ("train", "validation")


@dataclasses.dataclass(frozen=True)
class PreparedTrack:
    """A track of a dataset.

    Attributes:
        id: number of the track in the records.
        name: name of the track in its source.
        split: "train" or "validation".
        seconds: duration.
        clips: number of whole clips; those of marked passages overlap.
        kept: number of active clips by signal.  Signals that the source does not have are absent.
    """

    id: int
    name: str
    split: Split
    seconds: float
    clips: int
    kept: dict[str, int]


_INDEX_DTYPES = {"shard": "<i4", "offset": "<i8", "track": "<i4", "start": "<i8", "active": "|b1"}


@dataclasses.dataclass(frozen=True)
class Index:
    """Positions of the clips of one signal of one split.  All arrays have shape (clips,), ordered by track and time.

    Attributes:
        shard: int32, number of the TFRecord file.
        offset: int64, first byte of the record.
        track: int32, number of the track.
        start: int64, first sample of the clip.
        active: bool, whether this signal is active.  Inactive clips are stored if the other signal is active there.
    """

    shard: np.ndarray
    offset: np.ndarray
    track: np.ndarray
    start: np.ndarray
    active: np.ndarray


class Count(TypedDict):
    """Recordings and clips of one signal of one split; `stored` ones are in the records, `kept` ones are active.

    `kept_s` counts the seconds of overlapping clips once; `marked_s` of it are in marked passages of `marked_tracks` recordings.
    `level_db` is the mean level of the recordings without their pauses, in dB; None where an earlier version made them.
    """

    tracks: int
    clips: int
    stored: int
    kept: int
    kept_share: float
    kept_s: float
    marked_tracks: NotRequired[int]
    marked_s: NotRequired[float]
    level_db: NotRequired[float | None]


class Comparison(TypedDict):
    """The findings of `data_pipeline.folder_check.compare` that are shown."""

    warnings: list[str]


class Info(TypedDict):
    """Content of jaxpu.json: `shards` has the names of the TFRecord files by index, `files` their sizes and that of the index."""

    format: int
    fingerprint: str
    config: DataConfig
    has_stems: bool
    uses_stems: str | None
    counts: dict[str, Count]
    comparison: NotRequired[Comparison | None]
    marks_check: NotRequired[CheckedMarks | None]
    skipped: dict[str, str]
    tracks: list[PreparedTrack]
    shards: dict[str, list[str]]
    files: dict[str, int]


_REMEDY = "Copy the dataset again, or prepare the data again in a new folder."


def read_info(directory: Path) -> dict[str, Any] | None:
    """Read jaxpu.json of a dataset; None if there is none.

    Raises:
        DataError: it is damaged or of another format, a field is not of its type, or its fields contradict each other.
    """
    path = directory / INFO_FILE
    if directory.is_file():
        raise DataError(f"{directory}: is a file; it must be a folder.")
    try:
        info: dict[str, Any] = read_json(path, dict[str, Any], DataError, _REMEDY)
    except FileNotFoundError:
        return None
    if info.get("format") != FORMAT:
        raise DataError(
            f"{directory}: has format {shown(info.get('format'))}; this version of jaxpu reads format {FORMAT}. "
            "Prepare the data again in a new folder."
        )
    check_json(info, Info, str(path), DataError, _REMEDY)
    contradiction = next(_contradictions(info), None)
    if contradiction:
        raise DataError(f"{path}: {contradiction}. {_REMEDY}")
    return info


def _contradictions(info: dict[str, Any]) -> Iterator[str]:
    """Contradictions in jaxpu.json, where every field is of its type."""
    signals = {f"{split}_{signal}" for split in SPLITS for signal in SIGNALS}
    for name, size in info["files"].items():
        if Path(name).name != name or name in ("", ".", "..") or size < 0:
            yield f"files has {shown(name)} with {size} bytes; it must be a file of this folder, with its size"
    ids = [track["id"] for track in info["tracks"]]
    if len(set(ids)) < len(ids) or min(ids, default=0) < 0:
        yield "tracks must have ids that differ, 0 or more"
    for name, shards in info["shards"].items():
        count = info["counts"].get(name)
        if name not in signals or count is None:
            yield f"shards has {shown(name)}; it must be one of {', '.join(sorted(signals))}, and in counts"
            return
        lost = [shard for shard in shards if shard not in info["files"]]
        if lost:
            yield f"shards.{name} has {shown(lost[0])}, which files has not"
            return
        stored, size = count["stored"], sum(info["files"][shard] for shard in shards)
        if not 0 <= count["kept"] <= stored or stored * _patch_bytes(info) > size:
            yield f"counts.{name}.stored is {stored}, kept {count['kept']}; the files of {size} bytes cannot hold these"
    if info["shards"] and INDEX_FILE not in info["files"]:
        yield f"files has no {INDEX_FILE}"


def _patch_bytes(info: dict[str, Any]) -> int:
    """Bytes of a patch, less than those of its record."""
    spec = decode(DataConfig, info["config"]).patch
    return math.prod(spec.patch_shape) * np.dtype(spec.dtype).itemsize


def read_indices(directory: Path, info: dict[str, Any]) -> dict[str, Index]:
    """Read the index of every split and signal, by names such as "train_mixture".

    Args:
        directory: of the dataset.
        info: from `read_info`.

    Raises:
        DataError: it is damaged, or does not fit the records.
    """
    path = directory / INDEX_FILE
    wanted = {
        f"{name}/{field}": ((info["counts"][name]["stored"],), np.dtype(dtype))
        for name in info["shards"]
        for field, dtype in _INDEX_DTYPES.items()
    }
    try:
        arrays = read_arrays(path, wanted)
    except (ArrayError, OSError) as error:
        raise DataError(f"{path}: is damaged ({error}). {_REMEDY}") from error
    indices = {name: Index(*(arrays[f"{name}/{field}"] for field in _INDEX_DTYPES)) for name in info["shards"]}
    for name, index in indices.items():
        wrong = next(_misfits(name, index, info), None)
        if wrong:
            raise DataError(f"{path}: {name}/{wrong}. {_REMEDY}")
    for split in SPLITS if info["has_stems"] else ():
        mixture, accompaniment = (indices.get(f"{split}_{signal}") for signal in SIGNALS)
        # With stems, both signals hold the same clips in the same order.
        same = mixture is accompaniment or (
            mixture is not None
            and accompaniment is not None
            and np.array_equal(mixture.track, accompaniment.track)
            and np.array_equal(mixture.start, accompaniment.start)
        )
        if not same:
            raise DataError(f"{path}: {split}_mixture and {split}_accompaniment do not hold the same clips. {_REMEDY}")
    return indices


def _misfits(name: str, index: Index, info: dict[str, Any]) -> Iterator[str]:
    """Arrays of an index that do not fit jaxpu.json and the files."""
    shards = info["shards"][name]
    split = name.partition("_")[0]
    ids = [track["id"] for track in info["tracks"] if track["split"] == split]
    if not ((index.shard >= 0) & (index.shard < len(shards))).all():
        yield f"shard names a file outside the {len(shards)} of this signal"
        return
    sizes = np.array([info["files"][shard] for shard in shards], np.int64)
    if not ((index.offset >= 0) & (index.offset <= sizes[index.shard] - _patch_bytes(info))).all():
        yield "offset points outside its file"
    if not np.isin(index.track, ids).all():
        yield f"track has numbers of tracks that are not in the split {split}"
    if (index.start < 0).any():
        yield "start has negative samples"
    if np.count_nonzero(index.active) != info["counts"][name]["kept"]:
        yield f"active marks {np.count_nonzero(index.active)} clips, where counts has {info['counts'][name]['kept']}"
