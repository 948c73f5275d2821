"""Learning curves below a notebook cell, updated while it trains."""

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
    """Show the curves of `jaxpu.monitoring.plots.plot_curves` while the body trains in `run_dir`, and once more at the end.

        with live_curves(run_dir):
            train(config, data_dir, run_dir)

    Outside notebooks nothing is drawn.  An error in drawing is reported below the cell and does not stop training.

    Args:
        run_dir: run directory; need not exist yet.
        every_s: minimum time between two updates in seconds.
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
        except Exception as error:  # A run is worth more than its pictures.
            handle.update(HTML(f"<p>The curves cannot be drawn ({type(error).__name__}). Training continues.</p>"))

    # ipykernel keeps in the context which cell an output belongs to.
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
