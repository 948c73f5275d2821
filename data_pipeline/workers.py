"""Worker processes that end with their parent, and without a word at a Ctrl-C."""

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
    """A pool of processes; what has not begun when the `with` statement ends, by an error or Ctrl-C, is not done."""
    # Not `fork`: this process may hold threads of JAX or TensorFlow.
    context = multiprocessing.get_context("spawn")
    executor = concurrent.futures.ProcessPoolExecutor(num_workers, context, initializer=_begin)
    # The terminal sends Ctrl-C to the workers too, which would print where they are. They inherit that it is held back.
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
    """Ends this worker at Ctrl-C, and when its parent ends: it would wait for work for ever after a kill -9 of the parent."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch(sentinel: int) -> None:
        multiprocessing.connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()
