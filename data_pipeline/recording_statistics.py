"""Statistics of a recording, from some of its stored STFTs, for the comparison of two sets of recordings."""

import dataclasses
import math
from typing import Any

import numpy as np
import scipy.ndimage
import scipy.signal

from data_pipeline.config import PatchSpec
from data_pipeline.third_octaves import third_octaves

CLIPS_PER_RECORDING = 24
"""Approximate number of clips measured per recording, at most a third of them: cheap compared to the transform."""

SILENT_DB = -50.0
"""Power of a frame, relative to the mean of its recording, below which it counts as silent."""

QUIET_QUANTILE = 0.05
QUIET_S = 3.0
"""Quantile of the levels of a band that stands for its quiet moments, and least seconds of clips over which it is taken."""

_CLIFF_DB = 20.0  # Music falls by a few dB from one linear band to the next; a low-pass by tens.
_FLOOR_DB = -100.0
_NUM_LINEAR_BANDS = 64
_SHARE_FLOOR_DB = -70.0
_WIDTH_LIMIT_DB = 30.0
_LOUDNESS_GATE_DB, _LOUDNESS_CLIPS = -20.0, 8
_DYNAMIC_RANGE_DB = 60.0
_FRAME_S = 0.02  # Distance of the frames measured, at most, unless they are stored farther apart.
_ONSET_LAG_S, _ONSET_DB, _ONSET_DISTANCE_S = 0.03, 4.0, 0.1
_MEDIAN_S, _MEDIAN_BANDS = 0.25, 9


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Statistics of one recording; JSON-serializable.

    Attributes:
        level_db: root mean square of its active clips on disk, in dBFS.
        bandwidth_hz: frequency at which the spectrum breaks off, or the highest frequency.
        silent_share: fraction of frames `SILENT_DB` below their mean power.
        spectrum_db: power of every third-octave band relative to the total, at least -70 dB.
        percussive_share: fraction of the power in sounds that are short and broad, by median filters (Fitzgerald 2010).
        onsets_per_s: onsets a second: peaks of the spectral flux, in dB.
        modulation_db: standard deviation of the level of a third-octave band over the frames of a clip, mean of bands and clips.
        loudness_range_db: from the 10th to the 95th percentile of the levels of its measured clips, those more than 20 dB below
            their mean power left out, as in EBU Tech 3342 but without the filter; None with fewer than 8 clips.
        width_db: power of the difference of the channels relative to their sum, from -30 to 30 dB; None where STFTs are mono.
        quiet: 5th percentile of the level of every third-octave band over `QUIET_S` or more of consecutive measured clips, silent
            frames left out, in dB.
    """

    level_db: float
    bandwidth_hz: float
    silent_share: float
    spectrum_db: list[float]
    percussive_share: float
    onsets_per_s: float
    modulation_db: float
    loudness_range_db: float | None
    width_db: float | None
    quiet: list[list[float]]


class StatisticsMeter:
    """Meter of the statistics of one recording, clip by clip.

    Args:
        spec: parameters of the patches.
        num_clips: number of whole clips in the recording.
    """

    def __init__(self, spec: PatchSpec, num_clips: int) -> None:
        self._spec = spec
        self._every_clip = max(3, num_clips // CLIPS_PER_RECORDING)
        self._every_frame = max(1, int(_FRAME_S * spec.sample_rate / spec.hop_length))
        self._power = np.zeros(spec.bins)  # Sum over frames.
        self._side_and_mid = np.zeros(2)
        self._frames: list[np.ndarray] = []  # Power of each frame, by clip.
        self._levels: list[np.ndarray] = []  # Of third-octave bands and frames, in dB.
        self._measures: list[np.ndarray] = []  # Percussive share, onsets and modulation by clip.
        self._starts = band_starts(spec)
        self._seen = 0
        window = scipy.signal.get_window(spec.window, spec.win_length)
        # Parseval: all bins but the first and last represent two of the DFT.
        self._to_mean_square = 2 / (spec.n_fft * float(np.square(window).sum()))

    def add(self, stft: np.ndarray, levels: np.ndarray, active: np.ndarray) -> None:
        """Measure consecutive stored clips.

        Args:
            stft: (clips, channels, frames, bins, 2), real and imaginary part.
            levels: divisors of the clips, (clips,).
            active: bool (clips,); others are skipped.
        """
        numbers = np.flatnonzero(active)
        chosen = numbers[(np.arange(len(numbers)) + self._seen) % self._every_clip == 0]
        self._seen += len(numbers)
        if not len(chosen):
            return
        parts = stft[chosen].astype(np.float32)
        parts *= levels[chosen].astype(np.float32)[:, None, None, None, None]
        if self._spec.stereo:
            left, right = parts[:, 0], parts[:, 1]
            self._side_and_mid += [np.square(left - right).sum(dtype=np.float64), np.square(left + right).sum(dtype=np.float64)]
        np.square(parts, out=parts)
        power = (parts[..., 0] + parts[..., 1]).mean(axis=1)  # (clips, frames, bins); `sum` over an axis of 2 is slow.
        self._power += power.sum((0, 1), dtype=np.float64)
        self._frames.append(power.sum(-1))
        power = power[:, :: self._every_frame]
        level_db = _level_db(np.add.reduceat(power, self._starts, axis=-1))
        self._levels.append(level_db)
        frame_s = self._every_frame * self._spec.hop_length / self._spec.sample_rate
        shares, onsets = percussive_share(_linear_bands(power), frame_s), count_onsets(level_db, frame_s)
        self._measures.append(np.stack([shares, onsets / self._spec.clip_s, level_db.std(1).mean(-1)], axis=-1))

    def result(self) -> Statistics | None:
        """Return the statistics; None if no clip is active, or all are silent."""
        if not self._frames or not self._power.any():
            return None
        frames = np.concatenate(self._frames)
        shares = np.add.reduceat(self._power, self._starts) / self._power.sum()
        percussive, onsets, modulation_db = np.concatenate(self._measures).mean(0)
        side, mid = self._side_and_mid
        return Statistics(
            level_db=round(float(_db(frames.mean() * self._to_mean_square)), 2),
            bandwidth_hz=_bandwidth_hz(self._power, self._spec),
            silent_share=round(float(np.mean(frames < frames.mean() * 10 ** (SILENT_DB / 10))), 4),
            spectrum_db=np.maximum(_db(shares), _SHARE_FLOOR_DB).round(1).tolist(),
            percussive_share=round(float(percussive), 3),
            onsets_per_s=round(float(onsets), 2),
            modulation_db=round(float(modulation_db), 2),
            loudness_range_db=_loudness_range_db(frames.mean(-1)),
            width_db=round(float(np.clip(_db(side) - _db(mid), -_WIDTH_LIMIT_DB, _WIDTH_LIMIT_DB)), 1)
            if self._spec.stereo
            else None,
            quiet=self._quiet().round(1).tolist(),
        )

    def _quiet(self) -> np.ndarray:
        """Compute `Statistics.quiet`."""
        levels = np.concatenate(self._levels)
        num_groups = min(max(1, int(len(levels) * self._spec.clip_s / QUIET_S)), len(levels))
        quiet = []
        for group in np.array_split(levels, num_groups):
            loudest = group.max(-1)
            quiet.append(np.quantile(group[loudest > loudest.max() + SILENT_DB], QUIET_QUANTILE, axis=0))
        return np.stack(quiet).astype(np.float64)


def band_starts(spec: PatchSpec) -> np.ndarray:
    """First bin of every third-octave band, int (bands,); all bins below 44 Hz form one band."""
    bands = third_octaves(spec, lowest=-13)
    return np.flatnonzero(np.diff(bands, prepend=bands[0] - 1))


def percussive_share(power: np.ndarray, frame_s: float) -> np.ndarray:
    """Fraction of the power in percussive sounds, which are ridges over frequency; sustained ones are ridges over time.

    The source: D. Fitzgerald, "Harmonic/percussive separation using median filtering", DAFx 2010, with squared soft masks.

    Args:
        power: (clips, frames, bands).
        frame_s: distance of frames in seconds.

    Returns:
        Values from 0 to 1, (clips,).
    """
    frames = 2 * round(_MEDIAN_S / frame_s / 2) + 1
    magnitude = np.sqrt(power)
    harmonic = np.square(scipy.ndimage.median_filter(magnitude, (1, frames, 1)))
    percussive = np.square(scipy.ndimage.median_filter(magnitude, (1, 1, _MEDIAN_BANDS)))
    masked = power * percussive / np.maximum(harmonic + percussive, 1e-20)
    return np.asarray(masked.sum((1, 2)) / np.maximum(power.sum((1, 2)), 1e-20))


def count_onsets(level_db: np.ndarray, frame_s: float) -> np.ndarray:
    """Number of moments at which the mean rise of all bands peaks, by clip (spectral flux in dB).

    Args:
        level_db: levels of bands, (clips, frames, bands).
        frame_s: distance of frames in seconds.

    Returns:
        int (clips,).
    """
    lag = max(1, round(_ONSET_LAG_S / frame_s))
    rise = np.maximum(level_db[:, lag:] - level_db[:, :-lag], 0).mean(-1)
    distance = max(1, math.ceil(_ONSET_DISTANCE_S / frame_s))
    return np.array([len(scipy.signal.find_peaks(each, prominence=_ONSET_DB, distance=distance)[0]) for each in rise], int)


def _level_db(bands: np.ndarray) -> np.ndarray:
    """Levels of (clips, frames, bands) in dB, at most `_DYNAMIC_RANGE_DB` below the highest of a clip."""
    level_db = 10 * np.log10(bands + np.float32(1e-20))
    return np.maximum(level_db, level_db.max((1, 2), keepdims=True) - _DYNAMIC_RANGE_DB)


def _linear_bands(power: np.ndarray) -> np.ndarray:
    """Sum the bins of (clips, frames, bins) in `_NUM_LINEAR_BANDS` bands, or fewer."""
    return np.add.reduceat(power, _linear_starts(power.shape[-1]), axis=-1)


def _linear_starts(bins: int) -> np.ndarray:
    """First bin of every linear band."""
    return np.unique(np.linspace(0, bins, _NUM_LINEAR_BANDS, endpoint=False).astype(int))


def _loudness_range_db(powers: np.ndarray) -> float | None:
    """Compute `Statistics.loudness_range_db` from the mean powers of clips, (clips,)."""
    levels_db = _db(powers[powers > powers.mean() * 10 ** (_LOUDNESS_GATE_DB / 10)])
    if len(levels_db) < _LOUDNESS_CLIPS:
        return None
    low, high = np.percentile(levels_db, [10, 95])
    return round(float(high - low), 1)


def _db(power: Any) -> Any:
    return 10 * np.log10(np.maximum(power, 1e-20))


def _bandwidth_hz(power: np.ndarray, spec: PatchSpec) -> float:
    """Frequency in Hz at which the spectrum drops and stays low; half the sample rate if it does not."""
    starts = _linear_starts(spec.bins)
    level = _db(np.add.reduceat(power, starts) / np.diff(starts, append=spec.bins))
    level = np.maximum(level - level.max(), _FLOOR_DB)
    highest_above = np.maximum.accumulate(level[::-1])[::-1]
    for band in range(len(level) // 8, len(level) - 3):
        if level[band] - highest_above[band + 3] > _CLIFF_DB:
            return round(float(starts[band + 2] * spec.sample_rate / spec.n_fft), 1)
    return spec.sample_rate / 2
