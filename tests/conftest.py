"""What all tests share.  JAX reads these variables when it is first imported, so they are set before any test module is.

They are inherited by the programs that tests start.
"""

import os
from collections.abc import Iterator

import pytest

# Eight simulated devices, so that one machine without accelerators runs the code for several.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Shapes never adapt by themselves: what looks like broadcasting is often a missing axis.
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# TensorFlow and matplotlib stay quiet, off the GPU and off the screen.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "agg")


@pytest.fixture
def strict_dtypes() -> Iterator[None]:
    """Dtypes never adapt by themselves either.  Not everywhere: optax and Flax count on it in Adam and batch normalisation."""
    import jax

    with jax.numpy_dtype_promotion("strict"):
        yield
