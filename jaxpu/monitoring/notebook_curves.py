"""The learning curves of a run, drawn below the cell of a notebook while it trains."""

import base64
import contextlib
import contextvars
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

from jaxpu.monitoring.plots import CURVES, plot_curves
from jaxpu.monitoring.run_log import read_log


@contextlib.contextmanager
def live_curves(run_dir: str | os.PathLike[str], *, every_s: float = 5.0) -> Iterator[None]:
    """Draws the curves of `jaxpu.monitoring.plots.plot_curves` while its body trains in `run_dir`, and once more at the end.

        with live_curves(run_dir):
            train(config, data_dir, run_dir)

    Where no notebook shows them it draws nothing.  What goes wrong in drawing is said below the cell, and leaves training alone.

    Args:
        run_dir: of the run; need not exist yet.
        every_s: least time in s between two drawings.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if getattr(shell, "kernel", None) is None:
        yield
        return
    from IPython.display import HTML, display

    handle = display(HTML("<p>The first curves appear after some steps.</p>"), display_id=True)
    finished = threading.Event()

    def update() -> None:
        drawn: list[dict[str, Any]] = []
        try:
            while True:
                last = finished.wait(every_s)
                lines = read_log(run_dir)
                if lines != drawn:
                    handle.update(HTML(_pictures(lines)))
                    drawn = lines
                if last:
                    return
        except Exception as error:  # A picture less is no reason to lose a run.
            handle.update(HTML(f"<p>The curves cannot be drawn ({type(error).__name__}). Training goes on.</p>"))

    # ipykernel finds the cell that an output belongs to in the context.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(update,), name="live curves", daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()


def _pictures(lines: list[dict[str, Any]]) -> str:
    images = (
        f'<img alt="{CURVES[key]}, by step" style="max-width:32%" '
        f'src="data:image/webp;base64,{base64.b64encode(picture).decode("ascii")}">'
        for key, picture in plot_curves({"": lines}).items()
    )
    return "".join(images)
