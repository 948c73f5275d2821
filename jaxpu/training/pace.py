"""How fast training goes, and whether it waits for data."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax


class Pace:
    """Clips a second, and the share of the time in which the devices had nothing to do but wait for a batch."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin to measure."""
        self._begin, self._waited_s = time.perf_counter(), 0.0

    def timed(self, batches: Iterator[Any], pending: Sequence[Any]) -> Iterator[Any]:
        """The same batches.  The time until each counts as waiting, unless the devices still compute the last of `pending`."""
        while True:
            begin = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            if all(array.is_ready() for array in jax.tree.leaves(pending[-1:])):
                self._waited_s += time.perf_counter() - begin
            yield batch

    def read(self, num_steps: int, batch_size: int) -> dict[str, float]:
        """`clips_per_s`, and `data_wait`, the share of waiting in the time since `restart`, at most 1."""
        seconds = time.perf_counter() - self._begin
        return {"clips_per_s": batch_size * num_steps / seconds, "data_wait": self._waited_s / seconds}
