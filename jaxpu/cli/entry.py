"""The entry of the program: standard streams and signals are put in order before anything heavy is imported.

A request to stop (Ctrl-C, SIGTERM, SIGHUP) raises KeyboardInterrupt in the main thread, so that temporary files are removed, and
the program ends with exit status 130.  Not within an import, whose code may swallow it or print a traceback: while a command
imports what it needs, nothing has begun and the program ends at once; later, the exception waits until the import has ended.  It
waits for Orbax, too, which would take it for a damaged checkpoint.
"""

import contextlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

_INTERRUPTED = 130  # As in `jaxpu.cli.command`, whose import takes too long here.

_TRAINING = ("train", "sweep", "demo")
_HUGE_PAGES = "glibc.malloc.hugetlb"

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_AGAIN_AFTER_S = 0.05
_ORBAX = f"{os.sep}orbax{os.sep}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command of `jaxpu` as a program; see `jaxpu.cli.__main__.main`."""
    if argv is None and len(sys.argv) > 1 and sys.argv[1] in _TRAINING:
        _start_with_huge_pages()
    _open_streams()
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # As under nohup, or in the background of a script.
            signal.signal(number, _stop)
    try:
        from jaxpu.cli.__main__ import main as run
        from jaxpu.cli.compilation_cache import keep_compiled_programs

        keep_compiled_programs()
        return run(argv)
    except KeyboardInterrupt:  # Just before or after what `run` guards.
        return _INTERRUPTED
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number in _SIGNALS:  # Ctrl-C while Python ends would print a traceback.
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)


def _start_with_huge_pages() -> None:
    """Start the program again, as the same process, with an allocator that asks for huge pages, unless the user has decided.

    A training step on a CPU frees and takes hundreds of MB, and the system zeroes them page by page: a fifth to a third of its
    time (docs/performance.md).  glibc reads the setting when a process starts; other C libraries ignore it.
    """
    given = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform == "linux" and _HUGE_PAGES not in given:
        tunables = ":".join(filter(None, [given, f"{_HUGE_PAGES}=1"]))
        with contextlib.suppress(OSError):
            os.execve(sys.executable, sys.orig_argv, {**os.environ, "GLIBC_TUNABLES": tunables})


def _open_streams() -> None:
    """Open what is closed, and let text that the encoding lacks pass as backslash escapes.

    Else the next file that is opened would get the number of a closed stream, and all messages of C libraries.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", errors="backslashreplace"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if isinstance(sys.stderr, io.TextIOWrapper):
        # A descriptor of Python's own: while TensorFlow is imported, what libraries write to 2 is filtered line by line, which
        # would hold progress bars back.
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")


def _stop(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, but in no import; a second Ctrl-C interrupts the cleaning up, too."""
    importer = _importer(frame)
    if importer is not None and importer.f_globals.get("__name__", "").startswith(("jaxpu.cli", "__main__")):
        with contextlib.suppress(OSError):
            os.write(2, b"jaxpu: interrupted.\n")
        os._exit(_INTERRUPTED)
    if importer is not None or _within_orbax(frame):
        signal.signal(signal.SIGALRM, _stop)
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_AFTER_S)
        return
    for each in _SIGNALS[1:]:  # Closing a terminal sends SIGHUP twice.
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _within_orbax(frame: FrameType | None) -> bool:
    """Whether a function of Orbax is under way."""
    while frame is not None:
        if _ORBAX in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


def _importer(frame: FrameType | None) -> FrameType | None:
    """The frame whose import statement is being carried out, the outermost if there are several; None if there is none."""
    importer, within = None, False
    while frame is not None:
        is_import = frame.f_code.co_filename.startswith("<frozen importlib")
        if within and not is_import:
            importer = frame
        within, frame = is_import, frame.f_back
    return importer
