"""Reading batches of records with tf.data, each record by its offset."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.config import PatchSpec
from data_pipeline.errors import DataError
from data_pipeline.layout import Index, Signal
from data_pipeline.lazy_tensorflow import tensorflow
from data_pipeline.tfrecord import ends_in_file, read_record

Clips = dict[str, np.ndarray]
"""Clips of a batch, by role, as rows of the index: "unlabeled" and "target" of the mixtures, "positive" of the accompaniments."""


class BatchReader:
    """Reader of the batches of one split: tf.data opens, checks, decodes and stacks their records in parallel.

    Args:
        directory: folder of the dataset, for messages.
        spec: parameters of the patches.
        index: index of each signal.
        shards: TFRecord files of each signal.
        choose: clips of a step; the same number for every role.
        with_target: read targets too: of the role "target" where `choose` has it, else of the unlabeled clips.
    """

    def __init__(
        self,
        directory: Path,
        spec: PatchSpec,
        index: dict[Signal, Index],
        shards: dict[Signal, list[Path]],
        choose: Callable[[int], Clips],
        with_target: bool,
    ) -> None:
        self._directory = directory
        self._spec = spec
        self._index = index
        self._files = [*shards["mixture"], *shards["accompaniment"]]
        self._first_file = {"mixture": 0, "accompaniment": len(shards["mixture"])}
        self._choose = choose
        self._with_target = with_target
        # Which records `_plan` has looked at.
        self._sound = {signal: np.zeros(len(each.offset), bool) for signal, each in index.items()}

    def batches(self, start_step: int, num_steps: int | None) -> Iterator[dict[str, np.ndarray]]:
        """Read the batches of `num_steps` steps, or without end.  See `PatchDataset.batches`."""
        tf = tensorflow()
        first = self._choose(start_step)
        rows, targets_apart = len(first["unlabeled"]), "target" in first
        records = len(self._records(start_step)[0])
        dtype = tf.as_dtype(self._spec.dtype)
        files = tf.constant([str(path) for path in self._files])

        def plan(step: Any) -> Any:
            # The only Python of a step: a few array look-ups, some tens of microseconds, ahead of time.  In the first epoch
            # also a look at every record, some thirty microseconds each.
            planned = tf.numpy_function(self._plan, [step], (tf.int64, tf.int64, tf.int32), stateful=False)
            return tuple(tf.ensure_shape(tensor, [records]) for tensor in planned)

        def read(file: Any, offset: Any, track: Any) -> Any:
            # Unbuffered: a record is read as a whole, and only once.
            raw = tf.raw_ops.TFRecordDatasetV2(filenames=[files[file]], compression_type="", buffer_size=0, byte_offsets=[offset])
            record = tf.data.experimental.from_variant(raw, tf.TensorSpec([], tf.string)).take(1).get_single_element()
            features = {"level": tf.io.FixedLenFeature([], tf.float32), "stft": tf.io.FixedLenFeature([], tf.string)}
            example = tf.io.parse_single_example(record, features)
            return tf.reshape(tf.io.decode_raw(example["stft"], dtype), self._spec.patch_shape), example["level"], track

        def assemble(stft: Any, level: Any, track: Any) -> Any:
            batch = {"unlabeled": stft[:rows], "positive": stft[rows : 2 * rows]}
            batch |= {"unlabeled_track": track[:rows], "positive_track": track[rows : 2 * rows]}
            batch |= {"unlabeled_level": level[:rows], "positive_level": level[rows : 2 * rows]}
            if self._with_target:
                mixture = slice(2 * rows, 3 * rows) if targets_apart else slice(rows)
                ratio = tf.reshape(level[-rows:] / level[mixture], [rows, 1, 1, 1, 1])
                difference = tf.cast(stft[mixture], tf.float32) - ratio * tf.cast(stft[-rows:], tf.float32)
                batch["target"] = tf.cast(difference, dtype)
            return batch

        stop = np.iinfo(np.int64).max if num_steps is None else start_step + num_steps
        stream = tf.data.Dataset.range(start_step, stop).map(plan).unbatch()
        stream = stream.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        stream = stream.batch(records, drop_remainder=True).map(assemble).prefetch(2)
        return self._checked(iter(stream.as_numpy_iterator()), start_step, tf.errors.OpError)

    def _plan(self, step: np.integer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`_records`, after a look at the length that each announces: TensorFlow asks for that memory, and dies of too much."""
        for signal, rows in self._wanted(step):
            index, sound = self._index[signal], self._sound[signal]
            for row in rows[~sound[rows]]:
                path, offset = self._files[index.shard[row] + self._first_file[signal]], int(index.offset[row])
                if not ends_in_file(path, offset):
                    raise DataError(f"{path}: the record at byte {offset} does not end in its file.")
                sound[row] = True
        return self._records(step)

    def _wanted(self, step: int | np.integer) -> list[tuple[Signal, np.ndarray]]:
        """Rows of the indices that a step reads.

        Unlabeled clips first, then positive ones, the mixtures of targets with a stream of their own, and the accompaniments of
        all targets.
        """
        clips = self._choose(int(step))
        wanted: list[tuple[Signal, np.ndarray]] = [("mixture", clips["unlabeled"]), ("accompaniment", clips["positive"])]
        if "target" in clips:
            wanted.append(("mixture", clips["target"]))
        if self._with_target:
            wanted.append(("accompaniment", clips.get("target", clips["unlabeled"])))
        return wanted

    def _records(self, step: int | np.integer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Files, offsets and tracks of the records of a step, each (records,), in the order of `_wanted`."""
        wanted = self._wanted(step)
        files = [self._index[signal].shard[rows].astype(np.int64) + self._first_file[signal] for signal, rows in wanted]
        offsets = [self._index[signal].offset[rows] for signal, rows in wanted]
        tracks = [self._index[signal].track[rows] for signal, rows in wanted]
        return np.concatenate(files), np.concatenate(offsets), np.concatenate(tracks)

    def _checked(
        self, batches: Iterator[dict[str, np.ndarray]], step: int, read_errors: type[Exception]
    ) -> Iterator[dict[str, np.ndarray]]:
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (read_errors, UnicodeDecodeError) as error:  # TensorFlow's messages may quote the record.
                # TensorFlow does not name the file; a step has few enough records to check each.
                files, offsets, _ = self._records(step)
                for file, offset in zip(files, offsets, strict=True):
                    read_record(self._files[file], int(offset))
                raise DataError(f"{self._directory}: step {step} cannot be read: {error}") from error
            yield batch
            step += 1
