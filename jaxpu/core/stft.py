"""STFT and inverse STFT in JAX; they agree with librosa's to float32 rounding.

`jax.scipy.signal` has both, but not for symbolic lengths, which `jaxpu.artifacts.stablehlo` exports.
"""

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.config import PatchSpec

_WINDOWS = {"hamming": np.hamming, "hann": np.hanning, "blackman": np.blackman}
"""Symmetric windows.  `scipy.signal` has periodic ones too, but takes 0.6 s to import."""


def stft(waveform: jax.Array, patch: PatchSpec) -> jax.Array:
    """Short-time Fourier transform with centred frames and reflected edges.

    Equal to `librosa.stft(waveform, n_fft=..., hop_length=..., win_length=..., window=..., center=True, pad_mode="reflect")`
    with its last two axes swapped.

    Args:
        waveform: float32 (..., samples), at least `n_fft` samples.
        patch: gives the window and its sizes.

    Returns:
        complex64 (..., frames, bins), `frames = 1 + samples // hop_length`.

    Raises:
        ValueError: on a shorter waveform.
    """
    if waveform.shape[-1] < patch.n_fft:
        raise ValueError(f"waveform has {waveform.shape[-1]} samples; it must have at least n_fft = {patch.n_fft}.")
    half = patch.n_fft // 2
    begin, end = (jnp.flip(edge, -1) for edge in (waveform[..., 1 : half + 1], waveform[..., -half - 1 : -1]))
    extended = jnp.concatenate([begin, waveform, end], axis=-1)
    first = patch.hop_length * jnp.arange(1 + waveform.shape[-1] // patch.hop_length)
    frames = extended[..., first[:, None] + np.arange(patch.n_fft)[None]]  # (..., frames, n_fft)
    return jnp.fft.rfft(frames * jnp.broadcast_to(_padded_window(patch), frames.shape))


def istft(spectrum: jax.Array, patch: PatchSpec, num_samples: int) -> jax.Array:
    """Inverse of `stft`: overlap-add with the synthesis window of least squares (Griffin & Lim 1984, equation 6).

    Args:
        spectrum: complex64 (..., frames, bins), `frames = 1 + num_samples // hop_length`.
        patch: gives the window and its sizes.
        num_samples: length of the waveform.

    Returns:
        float32 (..., num_samples).
    """
    frames = jnp.fft.irfft(spectrum, patch.n_fft)  # (..., frames, n_fft)
    window = jnp.broadcast_to(_padded_window(patch), frames.shape)
    weight = _overlap_add(window**2, patch.hop_length)
    waveform = _overlap_add(frames * window, patch.hop_length) / jnp.where(weight > 1e-10, weight, 1)
    # The reflected edges are cut off.
    start = patch.n_fft // 2
    return waveform[..., start : start + num_samples]


def magnitude(spectrum: jax.Array) -> jax.Array:
    """Root mean square over the channels: complex64 (..., channels, frames, bins) to float32 (..., frames, bins).

    It has no gradient where all channels are silent; jaxpu never differentiates by an STFT.
    """
    return jnp.sqrt(jnp.mean(jnp.square(spectrum.real) + jnp.square(spectrum.imag), axis=-3))


def _overlap_add(frames: jax.Array, hop_length: int) -> jax.Array:
    """The sum of frames that begin `hop_length` samples after each other: (..., frames, n) to (..., samples)."""
    hops = -(-frames.shape[-1] // hop_length)  # in a frame
    untouched = ((0, 0),) * (frames.ndim - 1)
    pieces = jnp.pad(frames, (*untouched, (0, hops * hop_length - frames.shape[-1])))
    pieces = pieces.reshape(*frames.shape[:-1], hops, hop_length)
    # Row k of the sum holds piece h of frame k - h.
    shifted = [jnp.pad(pieces[..., hop, :], (*untouched[1:], (hop, hops - 1 - hop), (0, 0))) for hop in range(hops)]
    return sum(shifted[1:], shifted[0]).reshape(*frames.shape[:-2], -1)


def _padded_window(patch: PatchSpec) -> np.ndarray:
    """The periodic window, float32 (n_fft,), zeros on both sides where it is shorter than the DFT."""
    # A periodic window is a symmetric one of one sample more without its last.
    window = _WINDOWS[patch.window](patch.win_length + 1)[:-1].astype(np.float32)
    left = (patch.n_fft - patch.win_length) // 2
    return np.pad(window, (left, patch.n_fft - patch.win_length - left))
