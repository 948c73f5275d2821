"""Prepared data -> batches: deterministic, resumable at any step, one share per process."""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_pipeline.config import DataConfig, PatchSpec
from data_pipeline.errors import DataError
from data_pipeline.lazy_tensorflow import tensorflow
from data_pipeline.tfrecord import read_record

FORMAT = 1
"""Version of the layout on disk. It enters the fingerprint, so that data of another layout are never mistaken for ours."""

NAME = "jaxpu"
"""Name of the TensorFlow Datasets dataset, with which its files begin."""

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
        id: the number that the records carry.
        name: of the track in its source.
        split: "train" or "validation".
        seconds: its length.
        clips: non-overlapping clips in it.
        kept: by signal, how many of them are active. A signal that the source does not have is absent.
    """

    id: int
    name: str
    split: Split
    seconds: float
    clips: int
    kept: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Index:
    """Where the clips of one signal of one split lie; all arrays have shape (clips,), in the order of tracks and time.

    Attributes:
        shard: int32, number of the TFRecord file.
        offset: int64, byte at which the record begins.
        track: int32.
        start: int64, first sample.
        active: bool. Clips that are not are stored because the other signal is active at the same place.
    """

    shard: np.ndarray
    offset: np.ndarray
    track: np.ndarray
    start: np.ndarray
    active: np.ndarray


class PatchDataset:
    """A prepared dataset on disk. Make one by `data_pipeline.prepare.prepare`, open one by `PatchDataset.open`.

    Attributes:
        directory: where it lies.
        config: what it was prepared with.
        fingerprint: of its sources and settings, 16 hexadecimal digits.
        has_stems: whether every mixture comes with its accompaniment, so that there are targets.
        uses_stems: why the choice or the making of its clips needed stems; None where it did not.
        info: all of jaxpu.json: counts, seconds and shares kept by split and signal, sizes, what was skipped.
    """

    def __init__(self, directory: Path, info: dict[str, Any], indices: dict[str, Index]) -> None:
        self.directory = directory
        self.info = info
        self.config = config_from_json(info["config"])
        self.fingerprint: str = info["fingerprint"]
        self.has_stems: bool = info["has_stems"]
        self.uses_stems: str | None = info["uses_stems"]
        self._indices = indices

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> "PatchDataset":
        """Opens a dataset without reading its records. Raises DataError where it is missing, unfinished or incomplete."""
        directory = Path(directory)
        info = read_info(directory)
        if info is None:
            if (directory / UNFINISHED_FOLDER).is_dir():
                raise DataError(
                    f"{directory}: its preparation has not finished. Run the same `jaxpu prepare` again: it goes on there."
                )
            raise DataError(f"{directory}: holds no prepared data ({INFO_FILE} is missing). Make them with `jaxpu prepare`.")
        for name, size in info["files"].items():
            path = directory / name
            if not path.is_file() or path.stat().st_size != size:
                found = f"has {path.stat().st_size} bytes instead of {size}" if path.is_file() else "is missing"
                raise DataError(f"{path}: {found}. Copy the dataset again, or delete {directory} and prepare it again.")
        with np.load(directory / INDEX_FILE) as arrays:
            indices = {
                split: Index(*(arrays[f"{split}/{field.name}"] for field in dataclasses.fields(Index)))
                for split in info["shards"]
            }
        return cls(directory, info, indices)

    @property
    def spec(self) -> PatchSpec:
        """What a patch is."""
        return self.config.patch

    def check(self, config: DataConfig) -> None:
        """Raises DataError, naming the fields that differ, unless the dataset was prepared with this configuration."""
        mine, theirs = _flat(self.config), _flat(config)
        differing = [f"{name} is {mine[name]!r} but {theirs[name]!r} is asked for" for name in mine if mine[name] != theirs[name]]
        if differing:
            raise DataError(
                f"{self.directory}: was prepared with other settings: {'; '.join(differing)}. "
                "Prepare the data with this configuration, or change it to match."
            )

    def tracks(self, split: Split) -> list[PreparedTrack]:
        """The tracks of a split, in the order of their numbers."""
        tracks = [PreparedTrack(**row) for row in self.info["tracks"]]
        return [track for track in tracks if track.split == split]

    def num_clips(self, split: Split, signal: Signal) -> int:
        """Active clips of a signal: what `batches` draws from. 0 where the split has none."""
        index = self._indices.get(f"{split}_{signal}")
        return 0 if index is None else int(np.count_nonzero(index.active))

    def batches(
        self,
        split: Split,
        *,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        num_steps: int | None = None,
        disjoint_tracks: bool,
        with_target: bool,
        num_target_tracks: int | None = None,
        shuffle: bool = True,
        process_index: int = 0,
        process_count: int = 1,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Batches from step `start_step` on. The batch of step k depends on the dataset, the seed and k alone.

        Unlabeled and positive clips are two streams. Every epoch of a stream is a permutation of all of its active clips; the
        shorter stream simply has more epochs, and a stream of fewer clips than a batch repeats them within it.

        Args:
            split: "train" or "validation".
            batch_size: unlabeled clips, and as many positive clips, of all processes together.
            seed: draws the permutations.
            start_step: first step; starting late costs nothing.
            num_steps: steps to yield. None: without end, or, in fixed order, one pass over the unlabeled clips, less the
                last incomplete batch but at least one step.
            disjoint_tracks: draw unlabeled clips from one half of the tracks and positive ones from the other; the halves are
                drawn by the seed of the dataset's own configuration, so they are the same for every run. Two folders
                are disjoint anyway.
            with_target: yield the target of the unlabeled clips too. Needs stems.
            num_target_tracks: yield targets of at most that many of the tracks that unlabeled clips come from instead, drawn by
                the seed of the dataset's own configuration: a third stream, independent of the unlabeled clips.
            shuffle: False takes the clips in the order of tracks and time, for validation.
            process_index: of this process; it gets the rows from process_index * batch_size / process_count on.
            process_count: number of processes; divides batch_size. The global batch does not depend on it.

        Yields:
            "unlabeled": (rows, channels, frames, bins, 2), spec.dtype; STFTs of mixtures, real and imaginary part.
            "positive": of the same shape, STFTs of accompaniments.
            "unlabeled_track", "positive_track": int32 (rows,).
            "unlabeled_level", "positive_level": float32 (rows,), what the clips were divided by before they were transformed.
            "target" if `with_target`: as "unlabeled", in the scale of its mixture: M - A level_A / level_M.

        Raises:
            DataError: at once, where the dataset cannot give such batches; while iterating, where a file is damaged.
        """
        if batch_size <= 0 or process_count <= 0 or batch_size % process_count or not 0 <= process_index < process_count:
            raise DataError(
                f"batch_size is {batch_size} on process {process_index} of {process_count}; "
                "it must be positive and a multiple of the number of processes."
            )
        if start_step < 0:
            raise DataError(f"start_step is {start_step}; it must not be negative.")
        rows = self._rows(split, disjoint_tracks, with_target)
        if with_target and num_target_tracks is not None:
            rows["target"] = self._rows_of_some_tracks(split, rows["unlabeled"], num_target_tracks)
        if num_steps is None and not shuffle:
            num_steps = max(1, len(rows["unlabeled"]) // batch_size)
        order = _Order({role: len(chosen) for role, chosen in rows.items()}, seed if shuffle else None)
        local = batch_size // process_count
        begin = process_index * local
        reader = _Reader(self, split, rows)

        def positions(step: int) -> dict[str, np.ndarray]:
            return {role: order(role, step * batch_size + begin, local) for role in rows}

        return reader.batches(positions, local, start_step, num_steps, with_target)

    def index(self, split: Split, signal: Signal) -> Index:
        """Where the stored clips lie, active or not. Raises DataError where the split has none."""
        index = self._indices.get(f"{split}_{signal}")
        if index is None:
            raise DataError(f"{self.directory}: has no {signal} clips in its {split} split. {_more_data(split)}")
        return index

    def shard_path(self, split: Split, signal: Signal, shard: int) -> Path:
        """The TFRecord file of that number."""
        return self.directory / self.info["shards"][f"{split}_{signal}"][shard]

    def _rows(self, split: Split, disjoint_tracks: bool, with_target: bool) -> dict[str, np.ndarray]:
        """Rows of the indices that each stream draws from: "unlabeled" of the mixture's, "positive" of the accompaniment's."""
        if with_target and not self.has_stems:
            raise DataError(f"{self.directory}: has no targets, for its source has no stems. Use an objective that needs none.")
        mixture, accompaniment = self.index(split, "mixture"), self.index(split, "accompaniment")
        unlabeled, positive = np.flatnonzero(mixture.active), np.flatnonzero(accompaniment.active)
        if disjoint_tracks and self.has_stems:
            ids = np.union1d(mixture.track[unlabeled], accompaniment.track[positive])
            shuffled = np.random.default_rng(self.config.seed).permutation(ids)
            half = (len(ids) + 1) // 2
            unlabeled = unlabeled[np.isin(mixture.track[unlabeled], shuffled[:half])]
            positive = positive[np.isin(accompaniment.track[positive], shuffled[half:])]
        for role, chosen in (("unlabeled", unlabeled), ("positive", positive)):
            if not len(chosen):
                halves = "one of the two halves into which disjoint_tracks divides its tracks" if disjoint_tracks else "the split"
                raise DataError(f"{self.directory}: {halves} has no active {role} clips in {split}. {_more_data(split)}")
        return {"unlabeled": unlabeled, "positive": positive}

    def _rows_of_some_tracks(self, split: Split, rows: np.ndarray, num_tracks: int) -> np.ndarray:
        """Those of the rows of the mixture's index that belong to that many of their tracks."""
        if num_tracks <= 0:
            raise DataError(f"num_target_tracks is {num_tracks}; it must be positive.")
        track = self.index(split, "mixture").track[rows]
        shuffled = np.random.default_rng(self.config.seed).permutation(np.unique(track))
        return rows[np.isin(track, shuffled[:num_tracks])]


def read_info(directory: Path) -> dict[str, Any] | None:
    """jaxpu.json of a dataset, or None where there is none. Raises DataError where it is not ours."""
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
            f"{directory}: has format {info.get('format')}, this version of jaxpu reads {FORMAT}. "
            "Prepare the data again in a new folder."
        )
    return info


def config_from_json(values: dict[str, Any]) -> DataConfig:
    """The inverse of `dataclasses.asdict` and JSON, which turns tuples into lists."""
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return DataConfig(**(values | {"patch": PatchSpec(**values["patch"])}))


def _flat(config: DataConfig) -> dict[str, Any]:
    values = dataclasses.asdict(config)
    patch = values.pop("patch")
    return values | {f"patch.{name}": value for name, value in patch.items()}


def _more_data(split: Split) -> str:
    if split == "validation":
        return "Give more training tracks or a larger validation_share, or use activity_on = off or disjoint_tracks = False."
    return "Give more tracks, or use activity_on = off or disjoint_tracks = False."


class _Order:
    """The order of the clips: position p of a stream, counted over all epochs, is clip `self(role, p, 1)[0]` of its rows."""

    def __init__(self, counts: dict[str, int], seed: int | None) -> None:
        self._counts = counts
        self._seed = seed
        # A batch lies in one epoch or two; very small sets have more, and a cheap permutation.
        self._permutation = functools.lru_cache(maxsize=8)(self._draw)

    def __call__(self, role: str, begin: int, count: int) -> np.ndarray:
        """int64 (count,): which clips stand at positions `begin` and following."""
        epochs, places = np.divmod(np.arange(begin, begin + count), self._counts[role])
        if self._seed is None:
            return places
        clips = np.empty(count, np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            clips[here] = self._permutation(role, int(epoch))[places[here]]
        return clips

    def _draw(self, role: str, epoch: int) -> np.ndarray:
        # Sorting raw bits: NumPy promises those for ever, and its own `permutation` only within a version.
        assert self._seed is not None
        bits = np.random.PCG64([self._seed, ("unlabeled", "positive", "target").index(role), epoch]).random_raw(
            self._counts[role]
        )
        return np.argsort(bits, kind="stable")


class _Reader:
    """Reads the records that an order asks for, each by its offset: tf.data opens, checks, decodes and stacks in parallel."""

    def __init__(self, dataset: PatchDataset, split: Split, rows: dict[str, np.ndarray]) -> None:
        self._dataset = dataset
        self._split = split
        self._rows = rows
        self._index = {signal: dataset.index(split, signal) for signal in SIGNALS}
        self._paths = [
            str(dataset.shard_path(split, signal, shard))
            for signal in SIGNALS
            for shard in range(len(dataset.info["shards"][f"{split}_{signal}"]))
        ]
        num_mixture_shards = len(dataset.info["shards"][f"{split}_mixture"])
        self._first_shard = {"mixture": 0, "accompaniment": num_mixture_shards}
        mixture, accompaniment = self._index["mixture"], self._index["accompaniment"]
        if dataset.has_stems:
            # Both signals of such a dataset hold the same clips, in the same order.
            assert np.array_equal(mixture.track, accompaniment.track)
            assert np.array_equal(mixture.start, accompaniment.start)

    def places(self, positions: dict[str, np.ndarray], with_target: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Files, offsets and tracks of a batch, each (records,).

        In this order: unlabeled, positive, then the mixture of the targets where they are a stream of their own, and last their
        accompaniment.
        """
        chosen = {role: rows[positions[role]] for role, rows in self._rows.items()}
        wanted: list[tuple[Signal, np.ndarray]] = [("mixture", chosen["unlabeled"]), ("accompaniment", chosen["positive"])]
        if "target" in chosen:
            wanted.append(("mixture", chosen["target"]))
        if with_target:
            wanted.append(("accompaniment", chosen.get("target", chosen["unlabeled"])))
        files = [self._index[signal].shard[rows].astype(np.int64) + self._first_shard[signal] for signal, rows in wanted]
        offsets = [self._index[signal].offset[rows] for signal, rows in wanted]
        tracks = [self._index[signal].track[rows] for signal, rows in wanted]
        return np.concatenate(files), np.concatenate(offsets), np.concatenate(tracks)

    def batches(
        self,
        positions: Callable[[int], dict[str, np.ndarray]],
        rows: int,
        start_step: int,
        num_steps: int | None,
        with_target: bool,
    ) -> Iterator[dict[str, np.ndarray]]:
        tf = tensorflow()
        spec = self._dataset.spec
        dtype = tf.as_dtype(spec.dtype)
        paths = tf.constant(self._paths)
        of_target = "target" in self._rows
        records = rows * (2 + of_target + with_target)

        def places(step: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            return self.places(positions(int(step)), with_target)

        def plan(step: Any) -> Any:
            # The only Python of a step: a few array look-ups, some tens of microseconds, ahead of time.
            planned = tf.numpy_function(places, [step], (tf.int64, tf.int64, tf.int32), stateful=False)
            return tuple(tf.ensure_shape(tensor, [records]) for tensor in planned)

        def read(file: Any, offset: Any, track: Any) -> Any:
            # Unbuffered: a record is read as a whole, and only once.
            raw = tf.raw_ops.TFRecordDatasetV2(filenames=[paths[file]], compression_type="", buffer_size=0, byte_offsets=[offset])
            record = tf.data.experimental.from_variant(raw, tf.TensorSpec([], tf.string)).take(1).get_single_element()
            features = {"level": tf.io.FixedLenFeature([], tf.float32), "stft": tf.io.FixedLenFeature([], tf.string)}
            example = tf.io.parse_single_example(record, features)
            return tf.reshape(tf.io.decode_raw(example["stft"], dtype), spec.patch_shape), example["level"], track

        def assemble(stft: Any, level: Any, track: Any) -> Any:
            batch = {"unlabeled": stft[:rows], "positive": stft[rows : 2 * rows]}
            batch |= {"unlabeled_track": track[:rows], "positive_track": track[rows : 2 * rows]}
            batch |= {"unlabeled_level": level[:rows], "positive_level": level[rows : 2 * rows]}
            if with_target:
                mixture = slice(2 * rows, 3 * rows) if of_target else slice(rows)
                ratio = tf.reshape(level[-rows:] / level[mixture], [rows, 1, 1, 1, 1])
                difference = tf.cast(stft[mixture], tf.float32) - ratio * tf.cast(stft[-rows:], tf.float32)
                batch["target"] = tf.cast(difference, dtype)
            return batch

        stop = np.iinfo(np.int64).max if num_steps is None else start_step + num_steps
        stream = tf.data.Dataset.range(start_step, stop).map(plan).unbatch()
        stream = stream.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        stream = stream.batch(records, drop_remainder=True).map(assemble).prefetch(2)
        return self._checked(iter(stream.as_numpy_iterator()), positions, start_step, with_target, tf.errors.OpError)

    def _checked(
        self,
        batches: Iterator[dict[str, np.ndarray]],
        positions: Callable[[int], dict[str, np.ndarray]],
        start_step: int,
        with_target: bool,
        read_errors: type[Exception],
    ) -> Iterator[dict[str, np.ndarray]]:
        step = start_step
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except read_errors as error:
                # TensorFlow does not say which file it was: the records of this step are few enough to look.
                files, offsets, _ = self.places(positions(step), with_target)
                for file, offset in zip(files, offsets, strict=True):
                    read_record(Path(self._paths[file]), int(offset))
                raise DataError(f"{self._dataset.directory}: step {step} cannot be read: {error}") from error
            yield batch
            step += 1
