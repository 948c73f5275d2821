"""Reading batches of records: NumPy reads and checks them, and tf.data does so for several steps at once, ahead of time."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.config import PatchSpec
from data_pipeline.layout import Index, Signal
from data_pipeline.lazy_tensorflow import tensorflow
from data_pipeline.tfrecord import read_clip

Clips = dict[str, np.ndarray]
"""Clips of a batch, by role, as rows of the index: "unlabeled" and "target" of the mixtures, "positive" of the accompaniments."""


class BatchReader:
    """Reader of the batches of one split.

    Args:
        spec: parameters of the patches.
        index: index of each signal.
        shards: TFRecord files of each signal.
        choose: clips of a step; the same number for every role.  Threads call it.
        with_target: read targets too: of the role "target" where `choose` has it, else of the unlabeled clips.
    """

    def __init__(
        self,
        spec: PatchSpec,
        index: dict[Signal, Index],
        shards: dict[Signal, list[Path]],
        choose: Callable[[int], Clips],
        with_target: bool,
    ) -> None:
        self._spec = spec
        self._dtype = np.dtype(spec.dtype)
        self._index = index
        self._shards = shards
        self._choose = choose
        self._with_target = with_target

    def batches(self, start_step: int, num_steps: int | None) -> Iterator[dict[str, np.ndarray]]:
        """Read the batches of `num_steps` steps, or without end.  See `PatchDataset.batches`."""
        if num_steps is not None and num_steps <= 0:
            return
        # TensorFlow takes seconds to import.  The first batch needs none, so that the training step compiles meanwhile.
        threading.Thread(target=_import_tensorflow, daemon=True).start()
        first = self._read(start_step)
        with np.errstate(over="ignore"):  # As TensorFlow converts.
            batch = self._assembled(first, np.ndarray.astype)
        yield batch
        if num_steps == 1:
            return
        tf = tensorflow()
        stop = np.iinfo(np.int64).max if num_steps is None else start_step + num_steps
        types = [tf.as_dtype(array.dtype) for array in first.values()]
        failed: dict[int, Exception] = {}

        def attempt(step: np.integer) -> tuple[np.ndarray, ...]:
            try:
                return tuple(self._read(int(step)).values())
            except Exception as error:  # TensorFlow would print its own account of it.
                failed[int(step)] = error
                return tuple(np.zeros_like(array) for array in first.values())

        @tf.autograph.experimental.do_not_convert
        def read(step: Any) -> Any:
            arrays = tf.numpy_function(attempt, [step], types, stateful=False)
            # tf.cast is some five times as fast as NumPy's conversion of float16.
            return self._assembled(dict(zip(first, arrays, strict=True)), tf.cast)

        # `deterministic`: in the order of the steps, though several are read at once.
        stream = tf.data.Dataset.range(start_step + 1, stop).map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        for step, batch in enumerate(stream.prefetch(2).as_numpy_iterator(), start_step + 1):
            if step in failed:
                raise failed[step]
            yield batch

    def _read(self, step: int) -> dict[str, np.ndarray]:
        """Read what makes the batch of a step.  Raises DataError if a record cannot be read."""
        clips = self._choose(step)
        parts: dict[str, np.ndarray] = {}
        parts["unlabeled"], parts["unlabeled_level"], parts["unlabeled_track"] = self._signal("mixture", clips["unlabeled"])
        parts["positive"], parts["positive_level"], parts["positive_track"] = self._signal("accompaniment", clips["positive"])
        if self._with_target:
            level = parts["unlabeled_level"]
            if "target" in clips:
                parts["target_mixture"], level, _ = self._signal("mixture", clips["target"])
            parts["accompaniment"], own_level, _ = self._signal("accompaniment", clips.get("target", clips["unlabeled"]))
            parts["ratio"] = (own_level / level)[:, None, None, None, None]
        return parts

    def _assembled(self, parts: dict[str, Any], cast: Callable[[Any, Any], Any]) -> dict[str, Any]:
        """Make a batch of what `_read` returns, as arrays of NumPy or of TensorFlow, which `cast` converts."""
        batch = {name: array for name, array in parts.items() if name not in ("target_mixture", "accompaniment", "ratio")}
        if self._with_target:
            mixture, accompaniment = parts.get("target_mixture", parts["unlabeled"]), parts["accompaniment"]
            difference = cast(mixture, np.float32) - parts["ratio"] * cast(accompaniment, np.float32)
            batch["target"] = cast(difference, self._dtype)
        return batch

    def _signal(self, signal: Signal, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """STFTs, levels and tracks of rows of the index: spec.dtype (rows, ...), float32 (rows,), int32 (rows,)."""
        index, shards = self._index[signal], self._shards[signal]
        stft = np.empty((len(rows), *self._spec.patch_shape), self._dtype)
        level = np.empty(len(rows), np.float32)
        # As bytes: numbers that begin at any byte would be copied one by one.
        as_bytes = stft.reshape(len(rows), -1).view(np.uint8)
        for number, (row, clip) in enumerate(zip(rows, as_bytes, strict=True)):
            level[number], clip[...] = read_clip(shards[index.shard[row]], int(index.offset[row]), clip.nbytes)
        return stft, level, index.track[rows]


def _import_tensorflow() -> None:
    with contextlib.suppress(Exception):  # Where it is needed, it fails again, and says why.
        tensorflow()
