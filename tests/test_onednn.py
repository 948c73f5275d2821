"""Convolutions of oneDNN, called by XLA: values, and what may go wrong between three libraries."""

import ctypes
import importlib.metadata
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpu import onednn
from jaxpu.core.models.convolution import choose_convolution
from jaxpu.onednn.foreign_call import Execution, Handler, Library, Memory, interface_version
from jaxpu.training.loop import announce_compilation

pytestmark = pytest.mark.skipif(not onednn.SUPPORTED, reason="there is no package of oneDNN for this machine")

SHAPE, KERNEL, DILATION = (2, 11, 14, 3), (3, 5, 3, 4), (2, 1)

LONG_PROGRAM = """
import jax
import jax.numpy as jnp
from jaxpu import onednn

@jax.jit
def program(x, kernel):
    for _ in range(60):
        x = onednn.convolution(x, kernel, (1, 1)) / 144
    return x

arguments = jnp.ones((8, 47, 513, 16)), jnp.ones((3, 3, 16, 16))
jax.block_until_ready(program(*arguments))
print("ready", flush=True)
"""


def arrays(seed: int = 0) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.standard_normal(shape, dtype=np.float32)) for shape in (SHAPE, KERNEL))  # type: ignore[return-value]


def with_gradients(inputs: jax.Array, kernel: jax.Array) -> Any:
    def value(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.square(onednn.convolution(inputs, kernel, DILATION)).sum()

    return jax.value_and_grad(value, (0, 1))(inputs, kernel)


def reference(inputs: jax.Array, kernel: jax.Array) -> Any:
    def value(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
        numbers = ("NHWC", "HWIO", "NHWC")
        outputs = jax.lax.conv_general_dilated(
            inputs, kernel, (1, 1), "SAME", rhs_dilation=DILATION, dimension_numbers=numbers, precision="highest"
        )
        return jnp.square(outputs).sum()

    return jax.value_and_grad(value, (0, 1))(inputs, kernel)


def assert_close(actual: Any, expected: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max()), actual, expected)


def test_onednn_is_installed_where_tests_run() -> None:
    assert onednn.why_missing() is None


def test_values_and_gradients_equal_those_of_jax() -> None:
    assert_close(jax.jit(with_gradients)(*arrays()), reference(*arrays()))


@pytest.mark.parametrize(("dtype", "called"), [(jnp.float32, True), (jnp.bfloat16, False)])
def test_the_form_of_convolutions_calls_onednn_for_float32(dtype: Any, called: bool) -> None:
    convolve = choose_convolution("onednn", DILATION)
    assert convolve is not None
    numbers = ("NHWC", "HWIO", "NHWC")
    program = jax.jit(lambda x, kernel: convolve(x, kernel, (1, 1), "SAME", rhs_dilation=DILATION, dimension_numbers=numbers))
    text = program.lower(*(each.astype(dtype) for each in arrays())).as_text()
    assert ("jaxpu_onednn_forward" in text) == called


def test_examples_of_vmap_are_calls_of_their_own() -> None:
    singles = [arrays(seed) for seed in range(3)]
    stacked = jax.jit(jax.vmap(with_gradients))(*(jnp.stack(each) for each in zip(*singles, strict=True)))
    for number, single in enumerate(singles):
        assert_close(jax.tree.map(lambda leaf, number=number: leaf[number], stacked), reference(*single))


def test_threads_may_run_the_same_program_at_once() -> None:
    program, singles = jax.jit(with_gradients), [arrays(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: program(*singles[number % 4]), range(80)))
    for number, each in enumerate(found):
        assert_close(each, reference(*singles[number % 4]))


def test_a_compiled_program_is_used_again_by_another_process(tmp_path: Path) -> None:
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }
    script = LONG_PROGRAM + "print(float(program(*arguments).sum()))"
    results = []
    for _ in range(2):
        results.append(subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True).stdout)
        cached = sorted(path.name for path in tmp_path.iterdir() if path.name.endswith("-cache"))
        results.append(cached)
    assert any(name.startswith("jit_program") for name in cached)
    assert results[:2] == results[2:]


@pytest.mark.parametrize(("last_words", "status"), [("", 0), ("raise SystemExit(3)", 3)])
def test_python_may_end_while_a_program_runs(last_words: str, status: int) -> None:
    script = f"{LONG_PROGRAM}\nprogram(*arguments)\n{last_words}"
    assert subprocess.run([sys.executable, "-c", script], timeout=120, check=False).returncode == status


def test_ctrl_c_interrupts_a_program() -> None:
    script = f"{LONG_PROGRAM}\nwhile True: jax.block_until_ready(program(*arguments))"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in process.communicate(timeout=60)[1]


@pytest.fixture
def failing() -> Iterator[str]:
    """A target of XLA whose function of oneDNN fails with status 2."""
    fails = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 4)(lambda *_: 2)
    address = ctypes.cast(fails, ctypes.c_void_p).value
    assert address is not None
    handler = Handler(Library(0, 0, address, address, address), [Execution(0, {1: Memory(0, 0)})], "a_test")
    function = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(handler.address)
    jax.ffi.register_ffi_target("jaxpu_test_failing", jax.ffi.pycapsule(function), platform="cpu")
    yield "jaxpu_test_failing"
    del handler


def test_an_error_of_onednn_ends_the_program_and_names_the_convolution(failing: str) -> None:
    call = jax.ffi.ffi_call(failing, jax.ShapeDtypeStruct((3,), jnp.float32))
    with pytest.raises(jax.errors.JaxRuntimeError, match="oneDNN failed in a_test"):
        jax.block_until_ready(jax.jit(call)(jnp.ones(3)))


@pytest.fixture
def fresh_library() -> Iterator[None]:
    """Nothing loaded before and after."""
    onednn._library.cache_clear()
    yield
    onednn._library.cache_clear()


@pytest.mark.usefixtures("fresh_library")
def test_a_missing_package_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "PACKAGE", "jaxpu-has-no-such-package")
    assert "pip install 'jaxpu[cpu]'" in str(onednn.why_missing())


@pytest.mark.usefixtures("fresh_library")
def test_a_library_that_does_not_load_is_told_with_the_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A library that needs another one, which is not there."""
    broken = tmp_path / onednn.LIBRARY
    (original,) = (file.locate() for file in importlib.metadata.files(onednn.PACKAGE) or () if file.name == onednn.LIBRARY)
    broken.write_bytes(Path(str(original)).read_bytes().replace(b"libgomp.so.1", b"libgone.so.1"))

    class File:
        name = onednn.LIBRARY

        def locate(self) -> Path:
            return broken

    monkeypatch.setattr(importlib.metadata, "files", lambda _: [File()])
    assert "cannot be loaded: libgone.so.1: cannot open shared object file" in str(onednn.why_missing())


@pytest.mark.usefixtures("fresh_library")
def test_an_interface_of_another_major_version_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    header = tmp_path / "xla" / "ffi" / "api" / "c_api.h"
    header.parent.mkdir(parents=True)
    header.write_text("#define XLA_FFI_API_MAJOR 1\n#define XLA_FFI_API_MINOR 2\n")
    monkeypatch.setattr(jax.ffi, "include_dir", lambda: str(tmp_path))
    interface_version.cache_clear()
    assert "has version 1.2" in str(onednn.why_missing())
    interface_version.cache_clear()


def test_training_says_what_would_make_it_faster(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    announce_compilation()
    assert len(capsys.readouterr().err.splitlines()) == 1
    monkeypatch.setattr(onednn, "PACKAGE", "jaxpu-has-no-such-package")
    onednn._library.cache_clear()
    announce_compilation()
    onednn._library.cache_clear()
    assert capsys.readouterr().err.endswith("makes training on CPUs up to twice as fast.\n")
