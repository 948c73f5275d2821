"""The locks, the wheel, and what may import what."""

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import textwrap
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from jaxpu.artifacts.starters import STARTERS

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUNTIMES = tomllib.loads((ROOT / "colab" / "runtimes.toml").read_text())
KEPT = ("jax", "jaxlib", "flax", "numpy", "optax", "orbax-checkpoint", "tensorflow", "protobuf")
"""Packages that installing jaxpu moves in none of Colab's runtimes."""

SOURCES = sorted(path for folder in ("jaxpu", "data_pipeline", "configs") for path in (ROOT / folder).rglob("*.py"))
JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}
DEVICES = {"pmap", "shard_map", "jax.distributed", "jax.devices", "jax.local_devices", "jax.device_count"}
LOCKS = ("requirements.lock", "requirements-lowest.lock")


def _run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


# The locks.


def _locked(lock: str) -> list[Requirement]:
    """The requirements `name==version; marker` of a lock file."""
    lines = (ROOT / lock).read_text().splitlines()
    return [Requirement(line.removesuffix("\\").strip()) for line in lines if line and line[0] not in " #"]


def _normal(name: str) -> str:
    return name.replace("_", "-").lower()


def _required(*groups: str) -> list[Requirement]:
    texts = list(PYPROJECT["project"]["dependencies"])
    for group in groups:
        texts += PYPROJECT["dependency-groups"][group]
    return [Requirement(text) for text in texts]


def _pins(lock: str, python: str) -> dict[str, Version]:
    """Name -> version that a lock gives to Linux with that Python."""
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    pins = [pin for pin in _locked(lock) if pin.marker is None or pin.marker.evaluate(environment)]
    return {_normal(pin.name): Version(str(pin.specifier).removeprefix("==")) for pin in pins}


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_lock_holds_every_requirement(python: str) -> None:
    pins = _pins("requirements.lock", python)
    for requirement in _required("test", "lint", "docs"):
        version = pins[_normal(requirement.name)]
        assert version in requirement.specifier, f"make lock: {requirement} is locked at {version}"


def test_lowest_lock_holds_the_lower_bounds() -> None:
    pins = _pins("requirements-lowest.lock", "3.11")
    for requirement in _required("test"):
        (bound,) = (Version(part.version) for part in requirement.specifier if part.operator == ">=")
        assert pins[_normal(requirement.name)] == bound, f"make lock: {requirement}"


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_have_hashes_and_no_addresses(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert "--index-url" not in text
    entries = re.split(r"\n(?=\S)", text.split("\n", 2)[2])
    assert len(entries) == len(_locked(lock)) > 100
    for entry in entries:
        assert "--hash=sha256:" in entry, entry


# What may import what.


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _imports(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, at its top or anywhere in it; `from a import b` gives `a.b`.

    What it imports only to run as a program does not count: it is then no module of the package.
    """
    package = _module(path) if path.name == "__init__.py" else _module(path).rpartition(".")[0]
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and "__main__" in ast.unparse(node.test))]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _mentions(path: Path) -> set[str]:
    """Everything that code (not text) in a file names: imports and dotted expressions, with all their prefixes and parts."""
    names = set(_imports(path))
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute | ast.Name):
            names.add(ast.unparse(node))
    return {".".join(parts[:end]) for name in names for parts in [name.split(".")] for end in range(1, len(parts) + 1)} | {
        part for name in names for part in name.split(".")
    }


def _packages(path: Path) -> set[str]:
    return {name.split(".")[0] for name in _imports(path)}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_directions_of_import(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    packages = _packages(path)
    if name.startswith("data_pipeline"):
        assert not packages & (JAX | {"jaxpu"})
    if name != "jaxpu/parallel.py":
        named = _mentions(path) & DEVICES
        assert not named
    if name != "jaxpu/artifacts/checkpoints.py":
        assert "orbax" not in packages
    if name in ("jaxpu/core/losses.py", "jaxpu/core/stft.py", "jaxpu/core/metrics.py", "jaxpu/core/models/features.py"):
        assert "jaxpu" not in packages


def test_every_import_is_declared() -> None:
    declared = {_normal(requirement.name) for requirement in _required()}
    declared |= {Requirement(text).name for extra in PYPROJECT["project"]["optional-dependencies"].values() for text in extra}
    distributions = importlib.metadata.packages_distributions()
    for path in SOURCES:
        for package in _packages(path) - set(sys.stdlib_module_names) - {"jaxpu", "data_pipeline"}:
            names = {_normal(name) for name in distributions[package]}
            assert names & declared, f"{path} imports {package}: declare one of {names} in pyproject.toml"


def _loaded_modules(code: str) -> set[str]:
    program = textwrap.dedent(code) + "\nimport sys\nprint(*{name.split('.')[0] for name in sys.modules})"
    return set(_run(sys.executable, "-c", program, cwd=ROOT).split())


def test_importing_jaxpu_is_light() -> None:
    heavy = {"tensorflow", "tensorflow_datasets", "musdb", "museval", "torch", "matplotlib", "librosa", "numba", "sklearn"}
    assert not _loaded_modules("import jaxpu, jaxpu.cli.__main__") & heavy


def test_data_pipeline_never_loads_jax() -> None:
    modules = [_module(path) for path in SOURCES if _module(path).startswith("data_pipeline")]
    assert not _loaded_modules("import " + ", ".join(modules)) & (JAX | {"jaxpu", "tensorflow", "musdb", "museval"})


# The wheel and the source distribution.


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel that is built from it."""
    out = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "uv", "build", "--python", sys.executable, "--no-build-isolation", "--out-dir", out, ROOT, cwd=out)
    return out


@pytest.mark.slow
def test_wheel_holds_the_package_and_its_configs(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    info = f"jaxpu-{PYPROJECT['project']['version']}.dist-info"
    assert {name.split("/")[0] for name in names} == {"jaxpu", "data_pipeline", info}
    expected = {str(path.relative_to(ROOT)) for path in SOURCES}
    expected = {f"jaxpu/{name}" if name.startswith("configs/") else name for name in expected}
    assert {name for name in names if name.endswith(".py")} == expected
    assert {
        "jaxpu/configs/baseline.py",
        "jaxpu/evaluation/html_report.html",
        *(f"jaxpu/starters/{name}.zip" for name in STARTERS.values()),
    } <= names
    assert f"{info}/licenses/LICENSE" in names


def test_source_distribution_holds_the_tests_and_the_locks(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "Makefile", "tests/conftest.py", *LOCKS} <= names
    assert {str(path.relative_to(ROOT)) for path in SOURCES} <= names
    assert {name.split("/")[0] for name in names} <= {"jaxpu", "data_pipeline", "configs", "tests", "PKG-INFO", ".gitignore"} | {
        path.name for path in ROOT.iterdir() if path.is_file()
    }


def test_versions_agree() -> None:
    import jaxpu

    assert jaxpu.__version__ == PYPROJECT["project"]["version"]
    assert f"## {jaxpu.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == jaxpu.__version__
    assert citation["license"] == PYPROJECT["project"]["license"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()


# Colab.


def _install(python: Path, runtime: dict[str, str]) -> None:
    """Install a runtime's packages exactly, by the real pip, with the package index that the machine gives it."""
    # Nothing that jaxpu needs asks for the CUDA plugins; they are large.
    pins = [f"{name}=={version}" for name, version in runtime.items() if not name.startswith("jax-cuda")]
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", *pins]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = f"pip cannot install the versions of colab/runtimes.toml; it needs a package index.\n{done.stderr[-2000:]}"
        pytest.fail(words) if os.environ.get("CI") else pytest.skip(words)


@pytest.fixture(scope="module")
def python_of_colab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment of Colab's version, without packages."""
    wanted = RUNTIMES["python"]
    pyenv = sorted((Path.home() / ".pyenv" / "versions").glob(f"{wanted}.*/bin/python"))
    found = [shutil.which(f"python{wanted}"), *map(str, pyenv)]
    # A shim of pyenv may be on the PATH, and know no such Python.
    base = next((name for name in found if name and not subprocess.run([name, "-c", ""], capture_output=True).returncode), None)
    if base is None:
        pytest.skip(f"Colab has Python {wanted}, and there is none here: put a python{wanted} on the PATH.")
    environment = tmp_path_factory.mktemp("colab") / "venv"
    _run(base, "-m", "venv", environment, cwd=environment.parent)
    return environment / "bin" / "python"


def _would_install(python: Path, wheel: Path) -> dict[str, str]:
    """Name -> version of what pip would install or move for the wheel."""
    report = wheel.parent / "report.json"
    _run(python, "-m", "pip", "install", "--quiet", "--dry-run", "--report", report, wheel, cwd=wheel.parent)
    items = json.loads(report.read_text())["install"]
    return {_normal(item["metadata"]["name"]): item["metadata"]["version"] for item in items}


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(1200)
def test_installing_the_wheel_leaves_colabs_packages_alone(dist: Path, python_of_colab: Path) -> None:
    """In the GPU runtime, and then, in the same environment, in the TPU runtime."""
    (wheel,) = dist.glob("*.whl")
    for kind in ("gpu", "tpu"):
        runtime = RUNTIMES[kind]
        if kind == "tpu":
            surplus = sorted(RUNTIMES["gpu"].keys() - runtime.keys())
            _run(python_of_colab, "-m", "pip", "uninstall", "--quiet", "--yes", *surplus, cwd=wheel.parent)
        _install(python_of_colab, runtime)
        added = _would_install(python_of_colab, wheel)
        assert added["jaxpu"] == PYPROJECT["project"]["version"]
        moved = {name: f"{runtime[name]} -> {added[name]}" for name in KEPT if name in runtime and name in added}
        assert not moved, f"{kind}: pip would move {moved}"
        assert ("tensorflow" in added) == (kind == "tpu")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_wheel_works_in_an_empty_environment(dist: Path, tmp_path: Path) -> None:
    """The dependencies that the wheel declares are enough, at the locked versions, far from the checkout."""
    (wheel,) = dist.glob("*.whl")
    python = tmp_path / "venv" / "bin" / "python"
    uv = (sys.executable, "-m", "uv")
    _run(*uv, "venv", "--python", sys.executable, tmp_path / "venv", cwd=tmp_path)
    _run(*uv, "pip", "install", "--python", python, "--constraint", ROOT / "requirements.lock", wheel, cwd=tmp_path)
    assert "prepare" in _run(python.with_name("jaxpu"), "--help", cwd=tmp_path)
    code = """
        import importlib.util
        from jaxpu.config_files import load_config

        print(importlib.util.find_spec("configs"), type(load_config("baseline")).__name__)
    """
    assert _run(python, "-c", textwrap.dedent(code), cwd=tmp_path).split() == ["None", "Config"]
    # The first command of README.
    soundfile.write(tmp_path / "song.wav", 0.1 * np.random.default_rng(0).standard_normal((3 * 44_100, 2)), 44_100)
    _run(python.with_name("jaxpu"), "separate", "starter", "song.wav", "-o", "separated", cwd=tmp_path)
    assert {path.name for path in (tmp_path / "separated" / "song").iterdir()} == {"vocals.wav", "accompaniment.wav"}
