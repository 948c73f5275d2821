"""A model as one StableHLO program, which runs without jaxpu: waveforms to their targets."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from jaxpu.core.network import TrainedModel, make_mask_fn
from jaxpu.core.stft import istft, stft

PLATFORMS = ("cpu", "cuda", "tpu")
"""What the program is lowered for, in one artefact."""


def serialize(model: TrainedModel) -> bytes:
    """The program, for `jax.export.deserialize`, with the parameters in it.

    It takes float32 (recordings, channels, samples) at the model's rate, any number of recordings and channels and at least
    `n_fft` samples, and returns the target in each, of the same shape.  It does what `jaxpu.separate_waveform` does, but with
    every recording as a whole, so that its memory grows with the length.

    Args:
        model: what `jaxpu.load_model` returns.
    """
    patch, mask_fn = model.config.data.patch, make_mask_fn(model.config)
    variables = jax.device_get(model.variables)

    def separate(waveform: jax.Array) -> jax.Array:
        num_samples = waveform.shape[-1]
        heard = waveform if patch.stereo else waveform.mean(1, keepdims=True)
        mean, deviation = jnp.float32(0), jnp.float32(1)
        if patch.level != "reference":
            mean = heard.mean((1, 2), keepdims=True)
            deviation = heard.std((1, 2), keepdims=True, ddof=1)
            # Rounding leaves a constant signal a deviation, too.
            deviation = jnp.where(deviation > 1e-7 * jnp.abs(mean), deviation, 1)

        def spectrum_of(signal: jax.Array) -> jax.Array:
            levelled = (signal - mean) / deviation
            # Reflected at its end to a whole number of hops, as `jaxpu.separation.overlap_add` does.
            hop = patch.hop_length
            extended = jnp.concatenate([levelled, jnp.flip(levelled[..., -hop:-1], -1)], axis=-1)
            return stft(extended[..., : -(-num_samples // hop) * hop], patch)  # (recordings, channels, frames, bins)

        spectrum, heard_spectrum = spectrum_of(waveform), spectrum_of(heard)
        # Recordings and channels are examples alike.
        mask = mask_fn(variables, heard_spectrum.reshape(-1, *heard_spectrum.shape[2:])).reshape(heard_spectrum.shape)
        return deviation * istft(mask.astype(spectrum.dtype) * spectrum, patch, num_samples)

    shape = export.symbolic_shape(
        "recordings, channels, samples",
        constraints=["recordings >= 1", "channels >= 1", f"samples >= {patch.n_fft}"],
    )
    exported = export.export(jax.jit(separate), platforms=PLATFORMS)(jax.ShapeDtypeStruct(shape, np.float32))
    return bytes(exported.serialize())
