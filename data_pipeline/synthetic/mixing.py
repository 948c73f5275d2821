"""Mixing of the stems of a synthetic song: levels, reverberation, equalization and quantization.

Signals are float64 (channels, samples).
"""

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.signal

from data_pipeline.config import STEMS
from data_pipeline.synthetic.instruments import FloatArray

# Long-term spectrum to which both voice and accompaniment are equalized: energy per octave in dB, near that of pop records but
# with more treble, so that all octaves matter.
OCTAVE_CENTRES = 62.5 * 2.0 ** np.arange(9)
OCTAVE_DB = np.array((-12.0, -5.0, 0.0, 0.0, -1.0, -4.0, -7.0, -10.0, -14.0))
LOUDNESS_DBFS = -19.0


def mix(stems: dict[str, FloatArray]) -> FloatArray:
    """Sum the stems."""
    return np.sum(list(stems.values()), axis=0)


def amplitude(decibels: float) -> float:
    """Convert decibels to an amplitude ratio."""
    return float(10 ** (decibels / 20))


def rms(signal: FloatArray) -> float:
    """Root mean square over all channels."""
    return float(np.sqrt(np.mean(signal**2)))


def reverberate(signal: FloatArray, sample_rate: int, level_db: float, rng: np.random.Generator) -> FloatArray:
    """Add decaying noise tails at `level_db` relative to the dry signal, a different one for each channel."""
    time = np.arange(round(0.4 * sample_rate)) / sample_rate
    tails = rng.standard_normal((len(signal), len(time))) * np.exp(-time / rng.uniform(0.06, 0.15))
    wet = scipy.signal.fftconvolve(signal, tails, axes=1)[:, : signal.shape[1]]
    return signal + wet * (amplitude(level_db) * rms(signal) / max(rms(wet), 1e-9))


def equalizer(signal: FloatArray, sample_rate: int, tilt_db: float) -> FloatArray:
    """Compute gains for `filtered` that bring a signal near the long-term spectrum, tilted by `tilt_db` per octave."""
    size = _filter_size(signal.shape[-1])
    power = np.sum(np.abs(np.fft.rfft(signal, size)) ** 2, axis=0)
    frequencies = np.fft.rfftfreq(size, 1 / sample_rate)
    centres = OCTAVE_CENTRES[np.sqrt(2) * OCTAVE_CENTRES <= sample_rate / 2 * 1.5]
    position = np.log2(np.maximum(frequencies, 1) / OCTAVE_CENTRES[0])
    energy = np.array([power[np.abs(position - octave) <= 0.5].sum() for octave in range(len(centres))])
    wanted = OCTAVE_DB[: len(centres)] + tilt_db * (np.arange(len(centres)) - 3)
    gains_db = wanted - 10 * np.log10(np.maximum(energy / energy.sum(), 1e-6))
    gains_db -= np.median(gains_db)
    # Bands with hardly any energy cannot be raised: below its lowest note a voice has only noise.
    gains_db = np.clip(gains_db, -18, 18)
    return np.asarray(10 ** (np.interp(position, np.arange(len(centres)), gains_db) / 20))


def _filter_size(num_samples: int) -> int:
    return int(scipy.fft.next_fast_len(num_samples + 4096, real=True))


def filtered(signal: FloatArray, response: FloatArray) -> FloatArray:
    """Apply a zero-phase filter, given as gains from `equalizer`."""
    size = _filter_size(signal.shape[-1])
    return np.fft.irfft(np.fft.rfft(signal, size) * response, size)[:, : signal.shape[-1]]


def quantize(stems: dict[str, FloatArray]) -> dict[str, npt.NDArray[np.int16]]:
    """Scale all stems by one gain so that the mixture has its loudness and nothing clips; then round each stem to 16 bit."""
    mixture = mix(stems)
    peak = max(np.abs(signal).max() for signal in (mixture, *stems.values()))
    gain = 32767 * min(amplitude(LOUDNESS_DBFS) / rms(mixture), 0.99 / peak)
    return {name: np.round(gain * stems[name]).astype(np.int16) for name in STEMS}
