"""TensorFlow, imported where it is first used, and without its messages about GPUs, which it never uses here."""

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

_EXPECTED_MESSAGES = "|".join(
    (
        "^WARNING: All log messages before absl::InitializeLog",
        "^I[0-9]{4} ",  # INFO, which is printed at any log level while the library loads
        "^[0-9-]{10} [0-9:.]+: I ",
        "^To enable the following instructions:",
        r"\] failed call to cuInit",  # TensorFlow's search for GPUs; JAX reports faults of the GPU that it uses
        r"\] Unable to register cu[A-Z]+ factory",
        r"\] computation placer already registered",
    )
)
"""Lines of TensorFlow that say nothing is wrong, as an extended regular expression."""


_LAST_LINES_S = 1.0
"""How long to wait for the last lines of the filter."""

_LOCK = threading.Lock()
"""Held while TensorFlow is imported: two threads must not redirect standard error at once."""


def tensorflow() -> Any:
    """Import TensorFlow, which takes seconds, and keep it off the accelerators, which belong to JAX.

    A thread that calls this while another imports waits for that.  TF_CPP_MIN_LOG_LEVEL=0, set before jaxpu starts, shows
    everything that TensorFlow prints.
    """
    with _LOCK:
        return _imported()


@functools.cache
def _imported() -> Any:
    with quiet_standard_error(), _without_keras():
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # no INFO; JAX sets the same
        # oneDNN computes nothing here, and would report an error for float16 on processors without AVX-512.
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
        import tensorflow as tf

        try:
            tf.config.set_visible_devices([], "GPU")
            tf.config.set_visible_devices([], "TPU")
        except (RuntimeError, ValueError):
            pass  # the caller has initialized TensorFlow already; tf.data runs on the CPU in any case
    return tf


@contextlib.contextmanager
def _without_keras() -> Iterator[None]:
    """Let TensorFlow load Keras where somebody asks for `tf.keras`, not when it is imported.

    With scikit-learn and pandas, Keras takes a third of the time.  TensorFlow now looks for Keras 2 instead, and does without it
    where it is not installed.
    """
    name = "TF_USE_LEGACY_KERAS"
    if name in os.environ:
        yield
        return
    os.environ[name] = "1"
    try:
        yield
    finally:
        del os.environ[name]


@contextlib.contextmanager
def quiet_standard_error() -> Iterator[None]:
    """Drop TensorFlow's expected messages from standard error, and pass on everything else.

    TensorFlow's libraries write to the file descriptor, past `sys.stderr`.  A process of its own does the filtering, so that
    what they print last before a crash comes through too.
    """
    stderr = None
    grep = shutil.which("grep")
    if grep is not None and os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "0":
        with contextlib.suppress(OSError):  # standard error is closed
            stderr = os.dup(2)
    if grep is None or stderr is None:
        yield
        return
    # Line by line, since other threads may write meanwhile.  In a session of its own, which Ctrl-C does not reach.
    command = (grep, "--line-buffered", "-v", "-E", _EXPECTED_MESSAGES)
    environment = os.environ | {"LC_ALL": "C"}
    with os.fdopen(stderr, "wb"):  # closes the descriptor
        filtering = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stderr, env=environment, start_new_session=True)
        assert filtering.stdin is not None
        os.dup2(filtering.stdin.fileno(), 2)
        try:
            yield
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.flush()
            os.dup2(stderr, 2)
            filtering.stdin.close()
            # A process that was started meanwhile may hold the pipe open for as long as it runs.
            with contextlib.suppress(subprocess.TimeoutExpired):
                filtering.wait(_LAST_LINES_S)
