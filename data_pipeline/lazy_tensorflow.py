"""TensorFlow, imported where it is first used."""

import functools
import os
from typing import Any


@functools.cache
def tensorflow() -> Any:
    """TensorFlow, imported late since that takes long, kept off the accelerators, which belong to JAX, and quiet about them."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    try:
        tf.config.set_visible_devices([], "GPU")
        tf.config.set_visible_devices([], "TPU")
    except (RuntimeError, ValueError):
        pass  # the caller has set TensorFlow up before; tf.data runs on the CPU in any case
    return tf
