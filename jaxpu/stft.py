"""The one STFT and inverse STFT in JAX; they agree with librosa's to float32 rounding."""

import jax
import jax.numpy as jnp
import jax.scipy.signal
import numpy as np
import scipy.signal

from data_pipeline.spec import PatchSpec


def stft(waveform: jax.Array, patch: PatchSpec) -> jax.Array:
    """Short-time Fourier transform with centred frames and reflected edges.

    Equal to `librosa.stft(waveform, n_fft=..., hop_length=..., win_length=..., window=..., center=True, pad_mode="reflect")`
    with its last two axes swapped.

    Args:
        waveform: float32 (..., samples), at least `n_fft` samples.
        patch: gives the window and its sizes.

    Returns:
        complex64 (..., frames, bins), `frames = 1 + samples // hop_length`.
    """
    window = _padded_window(patch)
    _, _, spectrum = jax.scipy.signal.stft(
        waveform,
        window=window,  # type: ignore[arg-type]  # Arrays are taken too, as in scipy.
        nperseg=patch.n_fft,
        noverlap=patch.n_fft - patch.hop_length,
        boundary="even",
        padded=False,
    )
    # scipy divides by the sum of the window, librosa does not.
    return jnp.swapaxes(spectrum, -1, -2) * float(window.sum())


def istft(spectrum: jax.Array, patch: PatchSpec, num_samples: int) -> jax.Array:
    """Inverse of `stft`: overlap-add with the synthesis window of least squares (Griffin & Lim 1984, equation 6).

    Args:
        spectrum: complex64 (..., frames, bins), `frames = 1 + num_samples // hop_length`.
        patch: gives the window and its sizes.
        num_samples: length of the waveform.

    Returns:
        float32 (..., num_samples).
    """
    window = _padded_window(patch)
    # `boundary=False` keeps the samples behind the centre of the last frame; the reflected edges are cut off here.
    _, waveform = jax.scipy.signal.istft(
        spectrum / float(window.sum()),
        window=window,  # type: ignore[arg-type]  # Arrays are taken too, as in scipy.
        nperseg=patch.n_fft,
        noverlap=patch.n_fft - patch.hop_length,
        boundary=False,
        time_axis=-2,
        freq_axis=-1,
    )
    start = patch.n_fft // 2
    return waveform[..., start : start + num_samples]


def _padded_window(patch: PatchSpec) -> np.ndarray:
    """The periodic window, float32 (n_fft,), zeros on both sides where it is shorter than the DFT."""
    window = scipy.signal.get_window(patch.window, patch.win_length, fftbins=True).astype(np.float32)
    left = (patch.n_fft - patch.win_length) // 2
    return np.pad(window, (left, patch.n_fft - patch.win_length - left))
