"""Programs that are kept for the next process."""

import os
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest

from jaxpu.cli import compilation_cache
from jaxpu.cli.compilation_cache import FOLDER, keep_compiled_programs

COMPILES = """
import os
from jaxpu.cli.compilation_cache import keep_compiled_programs

keep_compiled_programs()
import jax, jax.numpy as jnp
jax.monitoring.register_event_listener(lambda event, **_: print(event))
print(os.environ.get("JAX_COMPILATION_CACHE_DIR"))
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8)))
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of the user."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(FOLDER)
    return platformdirs.user_cache_path("jaxpu") / "compiled"


def compiled(environment: dict[str, str] | None = None) -> tuple[str, int]:
    """The folder of a process that compiles a program, and how many programs it found there."""
    variables = os.environ | (environment or {})
    printed = subprocess.run(
        [sys.executable, "-c", COMPILES], env=variables, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    folder, *events = printed.splitlines()
    return folder, events.count("/jax/compilation_cache/cache_hits")


def test_the_next_process_finds_what_one_has_compiled(cache: Path) -> None:
    folder, found = compiled()
    assert Path(folder).parent == cache
    assert found == 0
    assert compiled() == (folder, len(list(Path(folder).iterdir())))


def test_the_folder_of_the_environment_is_kept(cache: Path, tmp_path: Path) -> None:
    assert compiled({FOLDER: str(tmp_path / "mine")})[0] == str(tmp_path / "mine")
    assert not cache.exists()


def test_commands_keep_their_programs(cache: Path) -> None:
    subprocess.run([sys.executable, "-m", "jaxpu", "info", "demo"], capture_output=True, check=True)
    assert len(list(cache.iterdir())) == 1


def test_a_folder_that_cannot_be_made_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").touch()
    keep_compiled_programs()
    assert FOLDER not in os.environ


def test_the_oldest_programs_go_first(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation_cache, "MAX_BYTES", 250)
    for number in (2, 0, 3, 1):  # of any processor
        program = cache / f"processor-{number % 2}" / f"jit_{number}-cache"
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_bytes(bytes(100))
        os.utime(program, (number, number))
    keep_compiled_programs()
    assert sorted(path.name for path in cache.glob("*/*")) == ["jit_2-cache", "jit_3-cache"]
