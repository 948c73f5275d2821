"""Layout of a prepared dataset on disk: file names, metadata and index."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_pipeline.errors import DataError

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
        clips: number of non-overlapping clips.
        kept: number of active clips by signal.  Signals that the source does not have are absent.
    """

    id: int
    name: str
    split: Split
    seconds: float
    clips: int
    kept: dict[str, int]


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


def read_info(directory: Path) -> dict[str, Any] | None:
    """Read jaxpu.json of a dataset; None if there is none.  Raises DataError if it is damaged or of another format."""
    try:
        info = json.loads((directory / INFO_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise DataError(f"{directory}: is a file; it must be a folder.") from error
    except ValueError as error:
        raise DataError(
            f"{directory / INFO_FILE}: is damaged ({error}). Delete the folder and prepare the data again."
        ) from error
    if info.get("format") != FORMAT:
        raise DataError(
            f"{directory}: has format {info.get('format')}; this version of jaxpu reads format {FORMAT}. "
            "Prepare the data again in a new folder."
        )
    return info


def read_indices(directory: Path, names: list[str]) -> dict[str, Index]:
    """Read the index of every split and signal, by names such as "train_mixture"."""
    fields = [field.name for field in dataclasses.fields(Index)]
    with np.load(directory / INDEX_FILE) as arrays:
        return {name: Index(*(arrays[f"{name}/{field}"] for field in fields)) for name in names}
