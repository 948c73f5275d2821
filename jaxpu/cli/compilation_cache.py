"""Compiled programs are kept for the next process, in the user's cache folder."""

import contextlib
import hashlib
import os
import platform
import sys
from pathlib import Path

import platformdirs

MAX_BYTES = 256 << 20
"""Largest size of all programs when a process begins; that of a training step has about half a million bytes."""

FOLDER = "JAX_COMPILATION_CACHE_DIR"
"""The variable that tells JAX the folder.  JAX reads it when it is first imported."""


def keep_compiled_programs() -> None:
    """Choose the folder of compiled programs, unless the environment does, and delete the oldest programs above `MAX_BYTES`.

    A folder that cannot be written keeps nothing, and commands compile again.
    """
    if FOLDER in os.environ:
        return
    root = platformdirs.user_cache_path("jaxpu") / "compiled"
    folder = root / _processor()
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        _delete_oldest(root)
    if os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        os.environ[FOLDER] = str(folder)


def _delete_oldest(root: Path) -> None:
    """Delete the oldest programs until the others have at most `MAX_BYTES`."""
    found = [(status.st_mtime, status.st_size, path) for path in root.glob("*/*") if (status := path.stat())]
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= MAX_BYTES:
            break
        path.unlink(missing_ok=True)  # Another process may have begun, too.
        total -= size


def _processor() -> str:
    """Name of the kind of processor.

    Machines that share a home differ in their instructions, and a program that was compiled with others would crash.
    """
    features = platform.processor()
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        features = next((line for line in lines if line.startswith(("flags", "Features"))), features)
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"
