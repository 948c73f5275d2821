"""Third-octave bands of the bins of an STFT."""

import numpy as np

from data_pipeline.config import PatchSpec

_HIGHEST = 30  # Band 30 is centred on 1.024 MHz: beyond any audio.


def bin_frequencies(spec: PatchSpec) -> np.ndarray:
    """Centre frequencies of the STFT bins in Hz, float64 (bins,)."""
    return np.arange(spec.bins) * spec.sample_rate / spec.n_fft


def third_octaves(spec: PatchSpec, lowest: int) -> np.ndarray:
    """Number of the third-octave band of every STFT bin.

    Band k is centred on 2^(k / 3) kHz and extends from 2^((2 k - 1) / 6) to 2^((2 k + 1) / 6) kHz.  The octave centred on 2^m kHz
    consists of bands 3 m - 1 to 3 m + 1, so band k belongs to octave (k + 1) // 3.

    Args:
        spec: parameters of the STFT.
        lowest: number of the lowest band; all bins below it form one band, `lowest - 1`.

    Returns:
        int64 (bins,), not decreasing.  Bands narrower than a bin may be absent.
    """
    edges_hz = 1000 * 2 ** (np.arange(2 * lowest - 1, 2 * _HIGHEST, 2) / 6)
    return np.digitize(bin_frequencies(spec), edges_hz) + (lowest - 1)
