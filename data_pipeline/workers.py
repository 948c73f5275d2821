"""Worker processes that end with their parent.  Asked to stop, they clean up first and end silently."""

import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_at_work = False


class _Pool(concurrent.futures.ProcessPoolExecutor):
    """A pool whose jobs can be interrupted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        return super().submit(_work, fn, *args, **kwargs)


@contextlib.contextmanager
def worker_pool(num_workers: int) -> Iterator[concurrent.futures.ProcessPoolExecutor]:
    """Open a pool of processes.

    Jobs that have not started when the `with` statement ends are cancelled.  KeyboardInterrupt ends those that have started, too:
    they remove their temporary files first.
    """
    # Not `fork`: this process may hold threads of JAX or TensorFlow.
    context = multiprocessing.get_context("spawn")
    executor = _Pool(num_workers, context, initializer=_begin)
    others = set(multiprocessing.active_children())
    # The terminal sends Ctrl-C to the workers too, and each would print a traceback.  They inherit the blocked signals.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        for _ in range(num_workers):
            executor.submit(os.getpid)  # Starts a process.
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield executor
    except KeyboardInterrupt:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def _begin() -> None:
    """End this worker when it is asked to stop, and with its parent: after a kill -9 of the parent it would wait for ever."""
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # As under nohup.
            signal.signal(number, _stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch(sentinel: int) -> None:
        multiprocessing.connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()


def _work(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    global _at_work
    _at_work = True
    try:
        return function(*args, **kwargs)
    except KeyboardInterrupt:
        os._exit(1)
    finally:
        _at_work = False


def _stop(number: int, frame: Any) -> None:
    if not _at_work:
        os._exit(1)
    for each in _SIGNALS:  # The job is cleaning up.
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt
