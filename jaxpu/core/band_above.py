"""The target above the band of a model, in recordings of a higher rate than the model's.  NumPy only.

A model at 16 kHz makes masks up to 8 kHz.  Above, every moment of the recording is multiplied by one gain: the square of the mask
in the third of an octave below the model's upper limit.  The square, since the masks fall toward high frequencies for targets
that have little there, and a gain that is too low costs less than one that is too high (docs/results.md, "Above the band").
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


def in_words(model_rate: int) -> str:
    """What recordings of higher rates get above the band of a model, in one sentence; `model_rate` in Hz."""
    upper = f"{model_rate / 2000:g} kHz"
    return f"Above {upper}, where the model's masks end, every moment has one gain: the square of the mask just below."


def with_band_above(
    blocks: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]],
    sample_rate: int,
    model_rate: int,
    *,
    one_mask: bool,
    power: float = 2.0,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Add to a target what lies above the band of the model, in constant memory.

    Args:
        blocks: consecutive blocks of the recording, of the recording up to the band of the model, and of the target:
            float32 (channels, samples) each.
        sample_rate: of the blocks, in Hz.
        model_rate: of the model, in Hz; lower.
        one_mask: whether all channels share a mask, and so a gain.
        power: exponent of the mask.

    Yields:
        A block of the recording and its target, float32 (channels, samples) each; in all as many samples as came in.
    """
    hop = max(round(HOP_S * sample_rate), 1)
    window = np.hanning(2 * hop + 1)[:-1].astype(np.float32)
    frequencies = np.fft.rfftfreq(2 * hop, 1 / sample_rate)
    top = slice(
        int(np.argmax(frequencies >= model_rate / 2 * 2**-TOP_OCTAVES)), int(np.argmax(frequencies >= LIMIT * model_rate / 2)) + 1
    )
    buffer: np.ndarray | None = None  # (3, channels, samples), from a hop before the first sample that is not final.
    for block in itertools.chain(blocks, [None]):
        if block is not None:
            stacked = np.stack(block)
            buffer = np.concatenate(
                [np.zeros((*stacked.shape[:2], hop), np.float32) if buffer is None else buffer, stacked], axis=2
            )
            num_final = None
        elif buffer is None:
            return
        else:
            num_final = buffer.shape[2] - hop
            buffer = np.pad(buffer, ((0, 0), (0, 0), (0, hop + -num_final % hop + hop)))
        num_gains = buffer.shape[2] // hop - 1
        if num_gains < 2:
            continue
        gains = _gains(buffer[1:, :, : (num_gains + 1) * hop], hop, window, top, one_mask=one_mask) ** power
        ramp = np.arange(hop, dtype=np.float32) / hop
        curve = (gains[:, :-1, None] * (1 - ramp) + gains[:, 1:, None] * ramp).reshape(len(gains), -1)[:, :num_final]
        mixture, heard, target = buffer[:, :, hop : hop + curve.shape[1]]
        yield mixture, target + curve * (mixture - heard)
        buffer = buffer[:, :, (num_gains - 1) * hop :]


def _gains(pair: np.ndarray, hop: int, window: np.ndarray, top: slice, *, one_mask: bool) -> np.ndarray:
    """The mask of a band at the ends of hops, by least squares: float32 (channels or 1, hops - 1), from 0 to 1.

    Args:
        pair: float32 (2, channels, hops * hop), the recording and the target.
        hop: samples between two gains.
        window: float32 (2 * hop,).
        top: bins of the band.
        one_mask: whether all channels share a gain.
    """
    frames = np.lib.stride_tricks.sliding_window_view(pair, 2 * hop, axis=2)[:, :, ::hop] * window
    mixture, target = np.fft.rfft(frames)[..., top]
    products = np.sum(mixture.real * target.real + mixture.imag * target.imag, axis=-1, dtype=np.float64)
    energies = np.sum(np.abs(mixture) ** 2, axis=-1, dtype=np.float64)
    if one_mask:
        products, energies = products.sum(0, keepdims=True), energies.sum(0, keepdims=True)
    gains = np.divide(products, energies, out=np.zeros_like(products), where=energies > 0)
    return np.clip(gains, 0, 1).astype(np.float32)
