"""Fixtures and settings of all tests.

JAX reads the variables below when it is first imported, so they are set before any test module is imported.  The programs that
tests start inherit them.
"""

import copy
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

# Eight simulated devices, so that one machine without accelerators runs the code for several.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Shapes never adapt by themselves: what looks like broadcasting is often a missing axis.
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# TensorFlow and matplotlib stay quiet, off the GPU and off the screen.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "agg")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that hold the most slow tests, so that parallel workers finish at about the same time."""
    num_slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -num_slow[item.path])


@pytest.fixture
def strict_dtypes() -> Iterator[None]:
    """Dtypes never adapt by themselves either.  Not everywhere: optax and Flax count on it in Adam and batch normalisation."""
    import jax

    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture(scope="module")
def shared_compilations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Runs of the same config compile once, in this process and in those that it starts with this environment."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    directory = tmp_path_factory.mktemp("compiled")
    settings = {
        "jax_compilation_cache_dir": str(directory),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
        "jax_disable_most_optimizations": True,
    }
    before = {name: jax.config.values[name] for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield {name.upper(): str(value) for name, value in settings.items()}
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


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
