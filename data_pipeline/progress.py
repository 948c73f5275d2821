"""The one progress bar: a bar on a terminal and in a notebook, a line now and then in a log."""

import sys
from typing import Any

from tqdm.asyncio import tqdm_asyncio
from tqdm.auto import tqdm as Bar  # in a notebook its widget, else tqdm_asyncio

SECONDS_BETWEEN_LINES = 30.0
"""In a log, where a bar that is drawn anew ten times a second would fill the file."""


class _Lines:
    """A stream to which tqdm's updates are lines, without the characters that move the cursor."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        text = text.strip("\r\n ")
        if text:
            self._stream.write(text + "\n")

    def flush(self) -> None:
        self._stream.flush()


def progress_bar(total: float, title: str, unit: str = "it", *, show: bool = True, **options: Any) -> Bar:
    """A bar on standard error; where that is no terminal, a line at the beginning, every 30 s and at the end.

    Args:
        total: of the units.
        title: stands before the bar.
        unit: of what `update` counts.
        show: False draws nothing.
        options: of tqdm, such as `initial`.

    Returns:
        A tqdm bar, or tqdm's widget in a notebook.
    """
    in_notebook = Bar is not tqdm_asyncio
    if not in_notebook and not sys.stderr.isatty():
        # tqdm would look at the clock less and less often: `miniters` has it look at every update.
        options = {"bar_format": "{desc}: {percentage:3.0f}% {r_bar}", **options}
        options |= {"file": _Lines(sys.stderr), "mininterval": SECONDS_BETWEEN_LINES, "miniters": 1}
    return Bar(total=total, desc=title, unit=unit, disable=not show, **options)
