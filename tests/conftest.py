"""Fixtures and settings of all tests.

JAX reads the variables below when it is first imported, so they are set before any test module is imported.  The programs that
tests start inherit them.
"""

import copy
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Eight simulated devices, so that one machine without accelerators runs the code for several.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Shapes never adapt by themselves: what looks like broadcasting is often a missing axis.
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# Programs are compiled quickly, since most run for a few steps, and once: for all tests, for the processes that they start, and
# for the next run of the tests.  `make clean` removes what is kept.
COMPILED = Path(__file__).parent.parent / ".pytest_cache" / "compiled"
MAX_COMPILED_BYTES = 300 << 20
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(COMPILED)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"
# Each worker of xdist keeps to a processor of its own: commands then work in its process.  They start others, which import
# everything again, only where a test asks for them.
if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {processors[int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw")) % len(processors)]})
# TensorFlow and matplotlib stay quiet, off the GPU and off the screen.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "agg")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Begin anew before the programs of earlier versions fill the disk."""
    workers_share_it = hasattr(session.config, "workerinput")
    if not workers_share_it and sum(path.stat().st_size for path in COMPILED.glob("*")) > MAX_COMPILED_BYTES:
        shutil.rmtree(COMPILED)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that hold the most slow tests, so that parallel workers finish at about the same time.

    It needs xdist's `--no-loadscope-reorder`, as in the Makefile.
    """
    num_slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -num_slow[item.path])


@pytest.fixture
def all_processors() -> Iterator[None]:
    """Commands start worker processes, as they do for users."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    yield
    os.sched_setaffinity(0, own)


@pytest.fixture
def strict_dtypes() -> Iterator[None]:
    """Dtypes never adapt by themselves either.  Not everywhere: optax and Flax count on it in Adam and batch normalization."""
    import jax

    with jax.numpy_dtype_promotion("strict"):
        yield


class JsonDamage:
    """Damage to JSON documents: values of other types and sizes in every place."""

    values: tuple[Any, ...] = (None, [], {}, "x", -1, 0, 1e308, 10**30, True, 0.5, "../../x", float("nan"))

    def paths(self, document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        """Paths of all values in a document, branches first."""
        yield path
        items = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
        for key, value in items:
            yield from self.paths(value, (*path, key))

    def changed(self, document: Any, path: tuple[Any, ...], value: Any) -> Any:
        """A copy with another value at a path."""
        if not path:
            return value
        document, place = self._copied(document, path)
        place[path[-1]] = value
        return document

    def removed(self, document: Any, path: tuple[Any, ...]) -> Any:
        """A copy without the value at a path."""
        document, place = self._copied(document, path)
        del place[path[-1]]
        return document

    def variants(self, document: Any) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
        """Path, value there and document, for every value at every path."""
        for path in self.paths(document):
            for value in self.values:
                yield path, value, self.changed(document, path, value)

    def _copied(self, document: Any, path: tuple[Any, ...]) -> tuple[Any, Any]:
        """A copy, and the part of it that holds the end of a path."""
        document = place = copy.deepcopy(document)
        for key in path[:-1]:
            place = place[key]
        return document, place


@pytest.fixture(scope="session")
def json_damage() -> JsonDamage:
    """See `JsonDamage`."""
    return JsonDamage()
