"""Importing TensorFlow: its expected messages are dropped, and nothing else."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

EXPECTED = (
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    "I0000 00:00:1795838563.339287   13827 cudart_stub.cc:31] Could not find cuda drivers on your machine, GPU will not be used.",
    "2025-09-01 04:15:44.802758: I external/local_xla/xla/tsl/cuda/cudart_stub.cc:31] Could not find cuda drivers.",
    "To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow.",
    "E0000 00:00:1795838656.308399   13827 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error: UNKNOWN ERROR (303)",
    "E0000 00:00:1795838656.308399   13827 cuda_dnn.cc:8579] Unable to register cuDNN factory: Attempting to register factory",
)
OTHERS = (
    "E0000 00:00:1795838656.308399   13827 platform.cc:52] out of memory",
    "2025-09-01 04:15:44.802758: W tensorflow/core/platform/file.cc:7] the disk is full",
    "prepare: 100% | 6/6 [00:02<00:00]",
    "Warnung: größer",
)


def printed(ending: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a process whose libraries print all lines inside the filter, and then end as told."""
    code = f"""
import os
from data_pipeline.lazy_tensorflow import quiet_standard_error
with quiet_standard_error():
    os.write(2, {"".join(line + chr(10) for line in EXPECTED + OTHERS).encode()!r})
    {ending}
os.write(2, b"I0000 after")
"""
    clean = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, env=clean | environment, capture_output=True, text=True, check=False)


def test_expected_messages_are_dropped_and_all_others_pass() -> None:
    done = printed("pass")
    assert done.returncode == 0
    assert done.stderr.splitlines() == [*OTHERS, "I0000 after"]


def test_log_level_0_shows_everything() -> None:
    assert printed("pass", TF_CPP_MIN_LOG_LEVEL="0").stderr.splitlines() == [*EXPECTED, *OTHERS, "I0000 after"]


@pytest.mark.parametrize(("ending", "status"), [("os.abort()", -signal.SIGABRT), ("raise ImportError('no protobuf')", 1)])
def test_last_words_of_a_crash_pass(ending: str, status: int) -> None:
    done = printed(ending)
    assert done.returncode == status
    assert done.stderr.splitlines()[: len(OTHERS)] == list(OTHERS)
    assert ("no protobuf" in done.stderr) == (status == 1)


def test_a_closed_standard_error_is_no_obstacle() -> None:
    code = "import os, data_pipeline.lazy_tensorflow as lazy; os.close(2)\nwith lazy.quiet_standard_error(): print('ok')"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout == "ok\n"


@pytest.mark.slow
def test_keras_is_loaded_where_it_is_asked_for() -> None:
    code = """
import os, sys
from data_pipeline.lazy_tensorflow import tensorflow
tf = tensorflow()
assert "TF_USE_LEGACY_KERAS" not in os.environ
print([name for name in ("keras", "sklearn", "pandas") if name in sys.modules])
from tensorflow.keras import layers
print(layers.__name__, tf.keras.layers.Dense(2)(tf.ones((1, 3))).shape)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "keras._tf_keras.keras.layers (1, 2)"]
