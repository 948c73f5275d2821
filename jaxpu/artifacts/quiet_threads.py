"""Silence for the threads of Orbax and TensorStore, whose errors the main thread raises, too."""

import contextlib
import gc
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any

LAST_CALLBACKS_S = 1.0
"""How long after a failed save the callbacks of the other arrays may come."""

_LOGGERS = ("absl", "asyncio")


@contextlib.contextmanager
def quiet_threads() -> Iterator[None]:
    """Drop the log lines and tracebacks of the threads of a save.

    Where a save fails, Orbax logs the same error for every array, asyncio reports the tasks that nobody waited for, and callbacks
    of TensorStore find their event loop closed: hundreds of lines.
    """
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels, hook = [logger.level for logger in loggers], sys.unraisablehook

    def quiet_hook(unraisable: Any) -> None:
        if not any("asyncio" in frame.filename for frame in traceback.extract_tb(unraisable.exc_traceback)):
            hook(unraisable)

    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = quiet_hook
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        sys.unraisablehook = hook


def wait_for_callbacks() -> None:
    """Let the threads of a failed save end, and collect its tasks, within `quiet_threads`; no reference may hold its error."""
    time.sleep(LAST_CALLBACKS_S)
    gc.collect()
