"""The log of a run, and the signals that ask training to stop."""

import contextlib
import errno
import importlib.util
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from data_pipeline.dataclass_json import Measured
from data_pipeline.errors import UserError
from data_pipeline.files import write_text
from data_pipeline.lazy_tensorflow import tensorflow
from data_pipeline.progress import Bar
from data_pipeline.stored_json import check_json, parse_json
from jaxpu import parallel

LOG_FILE = "metrics.jsonl"

_REMEDY = "Remove that line: only curves are drawn from it."


class LogError(UserError):
    """A log that cannot be read."""


class _Line(TypedDict):
    kind: str
    step: int
    text: NotRequired[str]
    loss: NotRequired[Measured]
    interruption: NotRequired[bool]


def read_log(run_dir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Lines of a run's log, oldest first; none where there is no log.

    A last line that a kill cut in two is left out.

    Raises:
        LogError: another line is damaged.
    """
    path = Path(run_dir) / LOG_FILE
    try:
        *texts, last = path.read_bytes().split(b"\n")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise LogError(f"{path}: cannot be read ({error.strerror or error}). Check the path and its permissions.") from error
    lines = [_read_line(text, f"{path}: line {number}") for number, text in enumerate(texts, 1) if text.strip()]
    # The newline is written last.
    with contextlib.suppress(LogError):
        lines.append(_read_line(last, str(path)))
    return lines


def _read_line(text: bytes, where: str) -> dict[str, Any]:
    line: dict[str, Any] = parse_json(text, _Line, where, LogError, _REMEDY)
    required = {"warning": ["text"], "train": ["loss"], "evaluate": ["loss"]}.get(line["kind"], [])
    missing = [name for name in required if name not in line]
    if missing:
        raise LogError(f"{where}: {missing[0]} is missing. {_REMEDY}")
    numbers = {name: value for name, value in line.items() if name not in ("kind", "step", "text", "interruption")}
    check_json(numbers, dict[str, Measured], where, LogError, _REMEDY)
    return line


class RunLog:
    """`metrics.jsonl`, and TensorBoard's files where the extra `tensorboard` is installed; only process 0 writes.

    Attributes:
        path: of `metrics.jsonl`.
    """

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / LOG_FILE
        self._active = parallel.process_index() == 0
        self._file: Any = None
        self._for_tensorboard = self._active and importlib.util.find_spec("tensorboard") is not None
        self._summaries: Any = None

    def __enter__(self) -> "RunLog":
        return self

    def start(self, step: int) -> None:
        """Drop the lines after `step`: a killed run has logged beyond its last checkpoint."""
        if not self._active:
            return
        kept = [json.dumps(line) for line in read_log(self.path.parent) if line["step"] <= step]
        write_text(self.path, "".join(line + "\n" for line in kept))
        self._file = self.path.open("a", buffering=1)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Write one line; `kind` is `train`, `evaluate` or `warning`."""
        if not self._active:
            return
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        # Not before there is something to write: the first step compiles while TensorFlow is imported.  And TensorFlow would make
        # the folder of a run that was removed again.
        if self._for_tensorboard and self.path.parent.is_dir():
            folder = self.path.parent / "tensorboard"
            with _as_os_errors(folder):
                self._summaries = self._summaries or tensorflow().summary.create_file_writer(str(folder))
                with self._summaries.as_default(step=step):
                    for name, value in values.items():
                        if isinstance(value, float):
                            tensorflow().summary.scalar(f"{kind}/{name}", value)

    def warn(self, step: int, text: str) -> None:
        """Write a line of the kind `warning`, and show it."""
        if self._active:
            Bar.write(text, file=sys.stderr)
        self.write("warning", step, text=text)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._file is not None:
            # A full disk refuses the last line once more; it has been reported.
            with contextlib.suppress(*([OSError] if kind else [])):
                self._file.close()
        if self._summaries is not None:
            try:
                with _as_os_errors(self.path.parent / "tensorboard"):
                    self._summaries.close()
            except OSError as error:
                if not kind:  # TensorFlow writes late: the run itself is complete.
                    print(f"Warning: {error.filename}: is incomplete ({error.strerror}).", file=sys.stderr)


@contextlib.contextmanager
def _as_os_errors(path: Path) -> Iterator[None]:
    """Turn TensorFlow's errors into those of the operating system."""
    errors = tensorflow().errors
    try:
        yield
    except errors.OpError as error:
        number = errno.ENOSPC if isinstance(error, errors.ResourceExhaustedError) else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error


class StopSignal:
    """Record SIGTERM, SIGHUP and SIGINT, so that the loop can save a checkpoint first; a second SIGINT ends the process at once.

    Only this process receives it: `jaxpu.parallel.any_process` tells the others.
    """

    def __init__(self) -> None:
        self.received = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        # Only the main thread may handle signals; notebooks and tests may run training elsewhere.
        if threading.current_thread() is threading.main_thread():
            numbers = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
            if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # Under nohup, training outlives its terminal.
                numbers.remove(signal.SIGHUP)
            for number in numbers:
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def _receive(self, number: int, frame: Any) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = True

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
