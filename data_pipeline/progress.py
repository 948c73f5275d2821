"""Progress bar of all commands: a bar on a terminal and in a notebook, occasional lines in a log."""

import contextlib
import functools
import sys
from typing import Any

from tqdm.asyncio import tqdm_asyncio
from tqdm.auto import tqdm as Bar  # A widget in a notebook, tqdm_asyncio elsewhere.

SECONDS_BETWEEN_LINES = 30.0
"""Interval of the lines in a log, which a bar redrawn ten times a second would fill."""


class _Lines:
    """Stream that writes tqdm's updates as lines, without the characters that move the cursor."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        text = text.strip("\r\n ")
        if text:
            self._stream.write(text + "\n")

    def flush(self) -> None:
        self._stream.flush()


def progress_bar(total: float, title: str, unit: str = "it", *, show: bool = True, **options: Any) -> Bar:
    """Make a progress bar on standard error; if that is not a terminal, print a line at the start, every 30 s and at the end.

    Args:
        total: number of units.
        title: text before the bar.
        unit: name of a unit.
        show: False draws nothing.
        options: options of tqdm, such as `initial`.

    Returns:
        A tqdm bar, or tqdm's widget in a notebook.
    """
    in_notebook = Bar is not tqdm_asyncio
    if not in_notebook and not sys.stderr.isatty():
        # By default tqdm checks the clock less and less often; `miniters` makes it check at every update.
        options = {"bar_format": "{desc}: {percentage:3.0f}% {r_bar}", **options}
        options |= {"file": _Lines(sys.stderr), "mininterval": SECONDS_BETWEEN_LINES, "miniters": 1}
    return Bar(total=total, desc=title, unit=unit, disable=not show, **options)


@functools.lru_cache(maxsize=4096)
def say_once(text: str) -> None:
    """Print a line on standard error, above a bar if one is drawn; the same line is printed once in a process."""
    with contextlib.suppress(OSError, ValueError):  # Nobody reads it any more.
        Bar.write(f"jaxpu: {text}", file=sys.stderr)
