"""Separate a sound from recordings without ever having that sound alone: positive-unlabeled learning for audio, in JAX."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxpu.artifacts.checkpoints import load_model
    from jaxpu.config_files import load_config
    from jaxpu.separation.files import separate_waveform

__version__ = "0.1.0"

_HOMES = {
    "load_config": "jaxpu.config_files",
    "load_model": "jaxpu.artifacts.checkpoints",
    "separate_waveform": "jaxpu.separation.files",
}


def __getattr__(name: str) -> Any:
    """Import a public name where it is first used (PEP 562), so that `import jaxpu` loads neither JAX nor TensorFlow."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return ["__version__", *_HOMES]
