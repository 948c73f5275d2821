"""A model as one StableHLO program, which runs without jaxpu: waveforms to their targets."""

import jax
import numpy as np
from jax import export

from jaxpu.core.network import TrainedModel, make_separate_recordings

PLATFORMS = ("cpu", "cuda", "tpu")
"""Platforms of the program; one artefact serves all."""


def serialize(model: TrainedModel) -> bytes:
    """The program, for `jax.export.deserialize`, with the parameters in it.

    It takes float32 (recordings, channels, samples) at the model's rate, any number of recordings and channels and at least
    `n_fft` samples, and returns the target in each, of the same shape.  It computes what `jaxpu.separate_waveform` does, but with
    every recording as a whole, so that its memory grows with the length.  The machine that exports leaves no trace in it.

    Args:
        model: what `jaxpu.load_model` returns.
    """
    separate, variables = make_separate_recordings(model.config), jax.device_get(model.variables)
    shape = export.symbolic_shape(
        "recordings, channels, samples",
        constraints=["recordings >= 1", "channels >= 1", f"samples >= {model.config.data.patch.n_fft}"],
    )
    program = jax.jit(lambda waveform: separate(variables, waveform))
    exported = export.export(program, platforms=PLATFORMS)(jax.ShapeDtypeStruct(shape, np.float32))
    return bytes(exported.serialize())
