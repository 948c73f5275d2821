"""Worker processes that end with their parent, and silently on Ctrl-C."""

import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def worker_pool(num_workers: int) -> Iterator[concurrent.futures.ProcessPoolExecutor]:
    """Open a pool of processes; jobs that have not started when the `with` statement ends are cancelled."""
    # Not `fork`: this process may hold threads of JAX or TensorFlow.
    context = multiprocessing.get_context("spawn")
    executor = concurrent.futures.ProcessPoolExecutor(num_workers, context, initializer=_begin)
    # The terminal sends Ctrl-C to the workers too, and each would print a traceback.  They inherit the blocked signal.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        for _ in range(num_workers):
            executor.submit(os.getpid)  # Starts a process.
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def _begin() -> None:
    """End this worker silently on Ctrl-C, and when its parent ends: after a kill -9 of the parent it would wait for ever."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch(sentinel: int) -> None:
        multiprocessing.connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()
