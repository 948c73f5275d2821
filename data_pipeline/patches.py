"""A track -> patches of complex STFT, clip by clip, in memory that does not grow with the track's length."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import librosa
import numpy as np

from data_pipeline import activity
from data_pipeline.config import DataConfig
from data_pipeline.errors import DataError
from data_pipeline.tfrecord import writing
from data_pipeline.tracks import Recording, Track

SILENT_DEVIATION = 1e-4
"""A clip whose deviation is below this (-80 dB of full scale) counts as silent when a ratio of two levels is to be set."""

MAX_PEAK = 1e6
"""Larger samples are no audio; their squares would leave float32."""

# Clips that are transformed in one call: enough to spread librosa's overhead, few enough to stay small.
_CLIPS_PER_CALL = 16
_MAX_BUFFER_BYTES = 64 << 20
# Deviations below this share of the mean are rounding errors of a constant.
_ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True)
class Patches:
    """Consecutive stored clips of one signal of a track.

    Attributes:
        signal: "mixture" or "accompaniment".
        starts: int64 (clips,), first samples.
        active: bool (clips,), whether the signal itself is kept there.
        levels: float32 (clips,), what each clip was divided by.
        stft: PatchSpec.dtype (clips, channels, frames, bins, 2). A view of a buffer that the next patches overwrite.
    """

    signal: Literal["mixture", "accompaniment"]
    starts: np.ndarray
    active: np.ndarray
    levels: np.ndarray
    stft: np.ndarray


class PatchMaker:
    """Cuts tracks into clips and transforms them; keeps its buffers from one track to the next.

    Clips follow each other without overlap; what is left at the end of a recording and shorter than a clip is dropped.
    """

    def __init__(self, config: DataConfig) -> None:
        self._config = config
        self._spec = spec = config.patch
        bytes_per_clip = 8 * spec.num_channels * spec.frames * spec.bins
        self._clips = max(1, min(_CLIPS_PER_CALL, _MAX_BUFFER_BYTES // bytes_per_clip))
        # All clips of a call stand in one long signal, each with its reflected edges, at a distance of whole hops: librosa
        # transforms that in two thirds of the time that it takes for a batch of short ones.
        self._distance = -(-(spec.clip_samples + spec.n_fft) // spec.hop_length)
        rows = self._clips * spec.num_channels
        # Fresh memory for every call would cost as much as the transform.
        self._signal = np.zeros(rows * self._distance * spec.hop_length + spec.n_fft - spec.hop_length, np.float32)
        self._complex = np.empty((rows * self._distance, spec.bins), np.complex64)
        self._stored = np.empty((self._clips, *spec.patch_shape), spec.dtype)

    def stft(self, clips: np.ndarray) -> np.ndarray:
        """The transform of some clips.

        Args:
            clips: float32 (clips, channels, clip_samples), at most as many as fit into the buffer.

        Returns:
            PatchSpec.dtype (clips, channels, frames, bins, 2), a view of a buffer that the next call overwrites: librosa's STFT,
            transposed, with centred frames, reflected edges and a periodic window, zero-padded to n_fft.

        Raises:
            FloatingPointError: a value exceeds the range of float16, 65504. With `level = clip` none can.
        """
        spec = self._spec
        rows, edge, samples = len(clips) * spec.num_channels, spec.n_fft // 2, spec.clip_samples
        signal = self._signal[: rows * self._distance * spec.hop_length + spec.n_fft - spec.hop_length]
        padded = signal[: rows * self._distance * spec.hop_length].reshape(*clips.shape[:2], -1)
        padded[..., edge : edge + samples] = clips
        padded[..., :edge] = clips[..., edge:0:-1]
        padded[..., edge + samples : 2 * edge + samples] = clips[..., -2 : -2 - edge : -1]
        transformed = self._complex[: rows * self._distance]
        librosa.stft(
            signal,
            n_fft=spec.n_fft,
            hop_length=spec.hop_length,
            win_length=spec.win_length,
            window=spec.window,
            center=False,
            out=transformed.T,
        )
        stored = self._stored[: len(clips)]
        # Frames that reach over the end of a clip are left out.
        frames = transformed.view(np.float32).reshape(*clips.shape[:2], self._distance, spec.bins, 2)[:, :, : spec.frames]
        with np.errstate(over="raise"):
            stored[...] = frames
        return stored

    def track(self, track: Track, scratch: Path) -> "TrackPatches":
        """Decodes a track once, into files below `scratch`, and measures what is active.

        Raises:
            AudioError: a file is bad.
            DataError: a recording is silent all through, shorter than a clip, or out of range.
            WriteError: the disk refuses the decoded signals.
        """
        return TrackPatches(self, self._config, self._clips, track, scratch)


class TrackPatches:
    """The clips of one track; iterate over them once, with `patches`.

    Attributes:
        num_samples: length of the track at PatchSpec.sample_rate.
        num_clips: whole clips in it.
        kept: by signal, bool (num_clips,): which clips are active.
        unmixed: clips left as they are by `target_to_accompaniment_db`, since target or accompaniment are silent there.
    """

    def __init__(self, maker: PatchMaker, config: DataConfig, clips_per_call: int, track: Track, scratch: Path) -> None:
        self._maker = maker
        self._config = config
        self._clips_per_call = clips_per_call
        self._track = track
        recordings: dict[Literal["mixture", "accompaniment"], Recording] = {}
        if track.mixture is not None:
            recordings["mixture"] = track.mixture
        if track.accompaniment is not None:
            recordings["accompaniment"] = track.accompaniment
        self._names = {signal: recording.name for signal, recording in recordings.items()}
        self._files = {signal: scratch / f"{signal}.f32" for signal in recordings}
        self.num_samples, energies = self._decode(recordings)
        spec = config.patch
        if self.num_samples < spec.clip_samples:
            raise DataError(
                f"{next(iter(self._names.values()))}: is {self.num_samples / spec.sample_rate:.2f} s long, shorter than one clip "
                f"of {spec.clip_s:.2f} s. Take shorter clips (clip_samples), or leave it out (--skip-bad)."
            )
        self.num_clips = self.num_samples // spec.clip_samples
        self.kept = {signal: self._keep(self._deciding(signal, energies)) for signal in recordings}
        self.unmixed = self._mix_anew() if config.target_to_accompaniment_db is not None else 0

    def patches(self) -> Iterator[Patches]:
        """All clips that are kept in either signal, the mixture's first, by time."""
        stored = np.logical_or.reduce(list(self.kept.values()))
        for signal in self._files:
            scale = self._recording_scale(signal) if self._config.patch.level == "recording" else None
            for first, clips in self._clip_runs(signal):
                chosen = np.flatnonzero(stored[first : first + len(clips)])
                if not len(chosen):
                    continue
                levelled, levels = self._levelled(clips[chosen], scale)
                try:
                    stft = self._maker.stft(levelled)
                except FloatingPointError as error:
                    raise DataError(
                        f"{self._names[signal]}: within {len(clips)} clips from {first * self._config.patch.clip_s:.1f} s on, an "
                        "STFT value exceeds 65504, the range of float16. Set dtype to float32 or level to clip."
                    ) from error
                number = first + chosen
                yield Patches(signal, number * self._config.patch.clip_samples, self.kept[signal][number], levels, stft)

    def _decode(self, recordings: dict[Literal["mixture", "accompaniment"], Recording]) -> tuple[int, dict[str, np.ndarray]]:
        """Writes the signals to their files, float32 (samples, channels). Returns their length and chunk energies."""
        spec = self._config.patch
        streams = [recording.blocks(spec.sample_rate, spec.stereo) for recording in recordings.values()]
        files = []
        names = [*recordings, "target"] if len(recordings) == 2 else [*recordings]
        meters = {name: activity.EnergyMeter(spec.sample_rate) for name in names}
        num_samples = 0
        try:
            for path in self._files.values():
                with writing(path):
                    files.append(path.open("wb"))
            for blocks in itertools.zip_longest(*streams):
                if len({0 if block is None else block.shape[1] for block in blocks}) > 1:
                    raise DataError(
                        f"{self._track.name}: its mixture and its other stems decode to different lengths. Export them again."
                    )
                for name, block, file, path in zip(recordings, blocks, files, self._files.values(), strict=True):
                    if max(block.max(), -block.min()) > MAX_PEAK:
                        raise DataError(f"{self._names[name]}: has samples above {MAX_PEAK:g} times full scale. Export it again.")
                    meters[name].add(block)
                    with writing(path):
                        file.write(np.ascontiguousarray(block.T).data)
                if "target" in meters and self._config.activity_on == "target":
                    meters["target"].add(blocks[0] - blocks[1])
                num_samples += blocks[0].shape[1]
        finally:
            for stream in streams:
                stream.close()
            for file, path in zip(files, self._files.values(), strict=False):
                with writing(path):
                    file.close()
        energies = {name: meter.energies for name, meter in meters.items()}
        for signal, recording in recordings.items():
            if activity.is_silent(energies[signal]):
                raise DataError(f"{recording.name}: is silent all through. Replace it, or leave it out (--skip-bad).")
        return num_samples, energies

    def _deciding(self, signal: str, energies: dict[str, np.ndarray]) -> np.ndarray | None:
        """Energies of the signal whose activity decides on clips of this one; None keeps them all."""
        if self._config.activity_on == "off":
            return None
        return energies["target" if signal == "mixture" and self._config.activity_on == "target" else signal]

    def _keep(self, energies: np.ndarray | None) -> np.ndarray:
        if energies is None:
            return np.ones(self.num_clips, bool)
        spec = self._config.patch
        chunks = activity.DETECTORS[self._config.activity_detector](energies)
        starts = range(0, self.num_clips * spec.clip_samples, spec.clip_samples)
        return np.array([activity.is_active(chunks, spec.sample_rate, start, spec.clip_samples) for start in starts], bool)

    def _clip_runs(self, signal: Literal["mixture", "accompaniment"]) -> Iterator[tuple[int, np.ndarray]]:
        """Number of the first clip, and float32 (clips, channels, clip_samples), run after run through the whole track."""
        spec = self._config.patch
        with self._files[signal].open("rb") as file:
            for first in range(0, self.num_clips, self._clips_per_call):
                count = min(self._clips_per_call, self.num_clips - first)
                data = np.fromfile(file, np.float32, count * spec.clip_samples * spec.num_channels)
                yield first, data.reshape(count, spec.clip_samples, spec.num_channels).swapaxes(1, 2)

    def _levelled(self, clips: np.ndarray, scale: tuple[float, float] | None) -> tuple[np.ndarray, np.ndarray]:
        """The clips in the scale in which they are stored, and what they were divided by, float32 (clips,)."""
        level = self._config.patch.level
        if level == "reference":
            return clips, np.ones(len(clips), np.float32)
        if scale is not None:
            mean, deviation = (np.full(len(clips), value, np.float32) for value in scale)
        else:
            mean, deviation = mean_and_deviation(clips)
        return (clips - mean[:, None, None]) / deviation[:, None, None], deviation

    def _recording_scale(self, signal: Literal["mixture", "accompaniment"]) -> tuple[float, float]:
        """Mean and deviation (n - 1) of a whole signal, the rest after its last clip included; 1 where it is constant."""
        path = self._files[signal]
        mean = _blockwise_mean(path, lambda block: block)
        count = path.stat().st_size // 4
        variance = _blockwise_mean(path, lambda block: np.square(block - mean)) * count / (count - 1)
        deviation = float(np.sqrt(variance))
        return mean, deviation if deviation > _ROUNDING * abs(mean) else 1.0

    def _mix_anew(self) -> int:
        """Gives every clip of the decoded mixture the ratio drawn for it. Returns how many clips are left as they are."""
        assert self._config.target_to_accompaniment_db is not None
        low, high = self._config.target_to_accompaniment_db
        spec = self._config.patch
        unmixed = 0
        with self._files["mixture"].open("r+b") as file:
            for (first, mixtures), (_, accompaniments) in zip(
                self._clip_runs("mixture"), self._clip_runs("accompaniment"), strict=True
            ):
                mixed = np.empty((len(mixtures), spec.clip_samples, spec.num_channels), np.float32)
                for number, (mixture, accompaniment) in enumerate(zip(mixtures, accompaniments, strict=True)):
                    ratio_db = low + (high - low) * _hashed_share(self._config.seed, self._track.name, first + number)
                    anew = mix(mixture - accompaniment, accompaniment, ratio_db)
                    unmixed += anew is None
                    mixed[number] = (mixture if anew is None else anew).T
                with writing(self._files["mixture"]):
                    file.seek(4 * first * spec.clip_samples * spec.num_channels)
                    file.write(mixed.data)
                    file.flush()
        return unmixed


def mean_and_deviation(clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of every clip, its channels together.

    The deviation divides by n - 1, as `torch.std` does, and so PULSE. Where it is 0, or no more than the rounding of a
    constant, it is given as 1: silence stays silence.

    Args:
        clips: float32 (clips, channels, samples).

    Returns:
        Two float32 arrays (clips,).
    """
    mean = clips.mean(axis=(1, 2))
    deviation = clips.std(axis=(1, 2), ddof=1)
    deviation[deviation <= _ROUNDING * np.abs(mean)] = 1
    return mean, deviation


def mix(target: np.ndarray, accompaniment: np.ndarray, ratio_db: float) -> np.ndarray | None:
    """Mixes a clip as PULSE's training lists do: the target, its mean removed, is scaled to the ratio and added.

    Args:
        target: float32, any shape.
        accompaniment: float32, the same shape; it enters the mixture as it is.
        ratio_db: deviation of the target over that of the accompaniment, in dB.

    Returns:
        float32, the same shape; None where either is silent, so that there is no such ratio.
    """
    target = target - target.mean()
    target_deviation, accompaniment_deviation = float(target.std()), float(accompaniment.std())
    if min(target_deviation, accompaniment_deviation) < SILENT_DEVIATION:
        return None
    gain = np.float32(10 ** (ratio_db / 20) * accompaniment_deviation / target_deviation)
    return gain * target + accompaniment


def _hashed_share(*parts: int | str) -> float:
    """A number in [0, 1) that depends on the parts alone: neither on the order of work nor on a library's generator."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _blockwise_mean(path: Path, function: Callable[[np.ndarray], np.ndarray]) -> float:
    total, count = 0.0, 0
    with path.open("rb") as file:
        while len(block := np.fromfile(file, np.float32, 1 << 18)):
            total += float(function(block).sum(dtype=np.float64))
            count += len(block)
    return total / count
