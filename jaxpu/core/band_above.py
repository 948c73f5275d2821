"""The target above the band of a model, in recordings of a higher rate than the model's.  NumPy only.

A model at 16 kHz makes masks up to 8 kHz.  Above, every moment of the recording is multiplied by one gain: the square of the mask
in the third of an octave below the model's upper limit.  The square, since masks fall toward high frequencies for targets that
have little there: for them the mask itself is too high a gain (docs/results.md, "Above the band").
"""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np

HOP_S = 0.02
"""Seconds between two gains.  Each is measured in twice as many, and between them gains are interpolated."""

TOP_OCTAVES = 1 / 3
"""Width of the band below the model's upper limit in which the mask is measured."""

LIMIT = 0.95
"""Upper end of that band, as a share of the model's upper limit: resampling damps what lies above."""


REFLECTED_SAMPLES = 256
"""Of a target at the model's rate, by which its end is extended for resampling: more than the resampler's filter reaches."""


def in_words(model_rate: int) -> str:
    """The rule of this module in one sentence, for a model at `model_rate` in Hz."""
    upper = f"{model_rate / 2000:g} kHz"
    return f"Above {upper}, where the model's masks end, every moment has one gain: the square of the mask just below."


class BandAbove:
    """Gains of the moments of one recording, in constant memory.

    With the recording x and the target y at the model's rate, and gains g, the target at the recording's rate is g * recording +
    resampled(y - g * x): y in the band of the model, and g * recording above.

    Args:
        model_rate: of the model, in Hz.
        one_mask: whether all channels share a mask, and so a gain.
        power: exponent of the mask.
    """

    def __init__(self, model_rate: int, *, one_mask: bool, power: float = 2.0) -> None:
        self._rate, self._one_mask, self._power = model_rate, one_mask, power
        self._hop = max(round(HOP_S * model_rate), 1)
        self._window = np.hanning(2 * self._hop + 1)[:-1].astype(np.float32)
        frequencies = np.fft.rfftfreq(2 * self._hop, 0.5)  # The model's upper limit is 1.
        low, high = np.searchsorted(frequencies, [2**-TOP_OCTAVES, LIMIT])
        self._top = slice(int(low), int(high) + 1)
        self._gains: np.ndarray | None = None  # (channels or 1, hops)
        self._first = 0  # hop of the first of them

    def differences(self, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterator[np.ndarray]:
        """Measure the gains g, and yield y - g * x.

        Args:
            pairs: consecutive blocks x of the recording and y of the target at the model's rate, float32 (channels, samples).

        Yields:
            float32 (channels, any number), in all as many samples as came in.
        """
        hop = self._hop
        buffer: np.ndarray | None = None  # (2, channels, samples), from a hop before the first sample to come.
        for pair in itertools.chain(pairs, [None]):
            num_left = None
            if pair is not None:
                stacked = np.stack(pair)
                before = np.zeros((*stacked.shape[:2], hop), np.float32) if buffer is None else buffer
                buffer = np.concatenate([before, stacked], axis=2)
            elif buffer is not None:
                num_left = buffer.shape[2] - hop
                buffer = np.pad(buffer, ((0, 0), (0, 0), (0, hop + -num_left % hop + hop)))
            if buffer is None or buffer.shape[2] < 3 * hop:
                continue
            num_gains = buffer.shape[2] // hop - 1
            gains = self._measure(buffer[:, :, : (num_gains + 1) * hop])
            # The first gain is the last one before.
            self._gains = gains if self._gains is None else np.concatenate([self._gains, gains[:, 1:]], axis=1)
            ramp = np.arange(hop, dtype=np.float32) / hop
            curve = (gains[:, :-1, None] * (1 - ramp) + gains[:, 1:, None] * ramp).reshape(len(gains), -1)[:, :num_left]
            recording, target = buffer[:, :, hop : hop + curve.shape[1]]
            yield target - curve * recording
            buffer = buffer[:, :, (num_gains - 1) * hop :]

    def at(self, begin: int, num_samples: int, sample_rate: int) -> np.ndarray:
        """The gains of samples at the recording's rate; they begin no earlier than those of the call before.

        Args:
            begin: index of the first sample.
            num_samples: number of samples, for which `differences` has measured the gains.
            sample_rate: of the recording, in Hz.

        Returns:
            float32 (channels or 1, samples).
        """
        if self._gains is None:
            return np.zeros((1, num_samples), np.float32)
        hops = (begin + np.arange(num_samples)) * (self._rate / (sample_rate * self._hop))
        passed = min(int(hops[0]) - self._first, self._gains.shape[1] - 1) if num_samples else 0
        self._gains, self._first = self._gains[:, passed:], self._first + passed
        known = self._first + np.arange(self._gains.shape[1])
        return np.stack([np.interp(hops, known, gains) for gains in self._gains]).astype(np.float32)

    def _measure(self, pair: np.ndarray) -> np.ndarray:
        """The gains at the ends of hops, by least squares: float32 (channels or 1, hops - 1), from 0 to 1.

        Args:
            pair: float32 (2, channels, hops * hop), the recording and the target.
        """
        frames = np.lib.stride_tricks.sliding_window_view(pair, 2 * self._hop, axis=2)[:, :, :: self._hop] * self._window
        recording, target = np.fft.rfft(frames)[..., self._top]
        products = np.sum(recording.real * target.real + recording.imag * target.imag, axis=-1, dtype=np.float64)
        energies = np.sum(np.abs(recording) ** 2, axis=-1, dtype=np.float64)
        if self._one_mask:
            products, energies = products.sum(0, keepdims=True), energies.sum(0, keepdims=True)
        masks = np.divide(products, energies, out=np.zeros_like(products), where=energies > 0)
        return (np.clip(masks, 0, 1) ** self._power).astype(np.float32)
