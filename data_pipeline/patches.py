"""Complex STFT patches of a track, clip by clip, in constant memory."""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path

import librosa
import numpy as np

from data_pipeline import activity
from data_pipeline.audio import Blocks, mean_and_deviation
from data_pipeline.config import DataConfig
from data_pipeline.errors import DataError
from data_pipeline.files import writing_data
from data_pipeline.layout import Signal
from data_pipeline.mark_formats import merged
from data_pipeline.recordings import Recording, Track
from data_pipeline.residual import Residual, ResidualMeter, song_parts
from data_pipeline.silence import check_sound

SILENT_DEVIATION = 1e-4
"""Deviation (-80 dBFS) below which a clip counts as silent when a ratio of two levels is set."""

MAX_PEAK = 1e6
"""Limit of samples.  Larger ones are no audio, and their squares would exceed float32."""

# Clips transformed in one call: enough to amortise librosa's overhead, few enough to stay small.
_CLIPS_PER_CALL = 16
_MAX_BUFFER_BYTES = 64 << 20
# Deviations below this fraction of the mean are rounding errors of a constant.
_ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True)
class Patches:
    """Consecutive stored clips of one signal of a track.

    Attributes:
        signal: "mixture" or "accompaniment".
        starts: int64 (clips,), first sample of each clip.
        active: bool (clips,), whether this signal is active there.
        levels: float32 (clips,), divisor of each clip.
        stft: PatchSpec.dtype (clips, channels, frames, bins, 2), a view of a buffer that the next patches overwrite.
    """

    signal: Signal
    starts: np.ndarray
    active: np.ndarray
    levels: np.ndarray
    stft: np.ndarray


class PatchMaker:
    """Maker of the patches of tracks; reuses its buffers from one track to the next.

    Clips follow each other without overlap, but in marked passages, where they overlap by `DataConfig.marked_hop`.  The end of a
    recording that is shorter than a clip is dropped.
    """

    def __init__(self, config: DataConfig) -> None:
        self._config = config
        self._spec = spec = config.patch
        bytes_per_clip = 8 * spec.num_channels * spec.frames * spec.bins
        self._clips = max(1, min(_CLIPS_PER_CALL, _MAX_BUFFER_BYTES // bytes_per_clip))
        # All clips of a call form one long signal, each with its reflected edges, spaced by whole hops: librosa transforms it in
        # two thirds of the time that a batch of short signals takes.
        self._distance = -(-(spec.clip_samples + spec.n_fft) // spec.hop_length)
        rows = self._clips * spec.num_channels
        # Allocating for every call would cost as much as the transform.
        self._signal = np.zeros(rows * self._distance * spec.hop_length + spec.n_fft - spec.hop_length, np.float32)
        self._complex = np.empty((rows * self._distance, spec.bins), np.complex64)
        self._stored = np.empty((self._clips, *spec.patch_shape), spec.dtype)

    def stft(self, clips: np.ndarray) -> np.ndarray:
        """Compute the STFT of some clips.

        Args:
            clips: float32 (clips, channels, clip_samples), at most as many as the buffer holds.

        Returns:
            PatchSpec.dtype (clips, channels, frames, bins, 2), a view of a buffer that the next call overwrites: librosa's STFT,
            transposed, with centred frames, reflected edges and a periodic window, zero-padded to n_fft.

        Raises:
            FloatingPointError: a value exceeds 65504, the range of float16.  Impossible with `level = clip`.
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
        # Frames beyond the end of a clip are dropped.
        frames = transformed.view(np.float32).reshape(*clips.shape[:2], self._distance, spec.bins, 2)[:, :, : spec.frames]
        with np.errstate(over="raise"):
            stored[...] = frames
        return stored

    def track(self, track: Track, scratch: Path) -> "TrackPatches":
        """Decode a track into files below `scratch`, and find its active clips.

        Raises:
            AudioError: a file is damaged.
            DataError: a recording is silent throughout, shorter than a clip, or out of range.
            WriteError: the disk refuses the decoded signals.
        """
        return TrackPatches(self, self._config, self._clips, track, scratch)


class TrackPatches:
    """Clips of one track; iterate over them once, with `patches`.

    Attributes:
        num_samples: length of the track at PatchSpec.sample_rate.
        starts: by signal, int64 (clips,): first samples of the clips.  With stems, those of both signals are the same.
        kept: by signal, bool (clips,): which clips are active, and of the mixture, not marked.
        lost_s: seconds of the marked passages that are shorter than a clip.
        rms: by signal, the level of the recording without its pauses, see `activity.gated_level`.
        residual: of the stems, see `data_pipeline.residual`; None without stems, or where the target has no file of its own.
        unmixed: number of clips that `target_to_accompaniment_db` leaves unchanged, since target or accompaniment is silent.
    """

    def __init__(self, maker: PatchMaker, config: DataConfig, clips_per_call: int, track: Track, scratch: Path) -> None:
        self._maker = maker
        self._config = config
        self._clips_per_call = clips_per_call
        self._track = track
        recordings: dict[Signal, Recording] = {}
        if track.mixture is not None:
            recordings["mixture"] = track.mixture
        if track.accompaniment is not None:
            recordings["accompaniment"] = track.accompaniment
        # With marks, both signals are one recording, which is decoded once.
        self._files = {signal: scratch / f"{'mixture' if track.passages else signal}.f32" for signal in recordings}
        self._recordings = recordings
        self.residual: Residual | None = None
        decoded: dict[Signal, Recording] = {"mixture": recordings["mixture"]} if track.passages else recordings
        self.num_samples, energies = self._decode(decoded)
        spec = config.patch
        if self.num_samples < spec.clip_samples:
            raise DataError(
                f"{next(iter(recordings.values())).name}: is {self.num_samples / spec.sample_rate:.2f} s long, shorter than one "
                f"clip of {spec.clip_s:.2f} s. Use shorter clips (clip_samples), or leave it out (--skip-bad)."
            )
        grid = np.arange(self.num_samples // spec.clip_samples, dtype=np.int64) * spec.clip_samples
        self.starts: dict[Signal, np.ndarray] = dict.fromkeys(recordings, grid)
        self.lost_s = 0.0
        if track.passages:
            track.check_passages(self.num_samples / spec.sample_rate)
            self.starts["accompaniment"], self.lost_s = self._starts_in_passages()
            energies["accompaniment"] = energies["mixture"]
        self.rms = {signal: activity.gated_level(energies[signal]) for signal in decoded}
        self.kept = {signal: self._keep(signal, self._deciding(signal, energies)) for signal in recordings}
        if track.passages:
            self.kept["mixture"] &= ~self._marked(self.starts["mixture"])
        self.unmixed = self._remix() if config.target_to_accompaniment_db is not None else 0

    def patches(self) -> Iterator[Patches]:
        """Iterate over active clips: first those of the mixture, then of the accompaniment, by time.

        With stems, a clip that is active in either signal is stored for both.
        """
        either = None if self._track.passages else np.logical_or.reduce(list(self.kept.values()))
        for signal in self._files:
            stored = self.kept[signal] if either is None else either
            scale = self._scale(signal) if self._config.patch.level == "recording" else None
            for first, clips in self._clip_runs(signal):
                chosen = np.flatnonzero(stored[first : first + len(clips)])
                if not len(chosen):
                    continue
                levelled, levels = self._levelled(clips[chosen], scale)
                try:
                    stft = self._maker.stft(levelled)
                except FloatingPointError as error:
                    raise DataError(
                        f"{self._recordings[signal].name}: within {len(clips)} clips from "
                        f"{self.starts[signal][first] / self._config.patch.sample_rate:.1f} s on, an STFT value exceeds 65504, "
                        "the range of float16. Set dtype to float32 or level to clip."
                    ) from error
                number = first + chosen
                yield Patches(signal, self.starts[signal][number], self.kept[signal][number], levels, stft)

    def _scale(self, signal: Signal) -> tuple[float, float]:
        """Mean and deviation of the whole recording, including the samples after its last clip.

        Of a stretch or a marked passage, too: so clips have the level at which they are separated, for recordings are separated
        as a whole, and a passage without the target is as loud as the accompaniment elsewhere in its song.
        """
        recording, spec = self._recordings[signal], self._config.patch
        if recording.span is None or self._config.target_to_accompaniment_db is not None:
            return mean_and_deviation(_blocks(self._files[signal]))
        with contextlib.closing(recording.whole.blocks(spec.sample_rate, spec.stereo)) as blocks:
            return mean_and_deviation(blocks)

    def _decode(self, recordings: dict[Signal, Recording]) -> tuple[int, dict[str, np.ndarray]]:
        """Write the signals to their files, float32 (samples, channels); return their length and chunk energies."""
        spec = self._config.patch
        streams = [recording.blocks(spec.sample_rate, spec.stereo) for recording in recordings.values()]
        files = []
        names = [*recordings, "target"] if len(recordings) == 2 else [*recordings]
        meters = {name: activity.EnergyMeter(spec.sample_rate) for name in names}
        num_samples = 0
        stem_blocks = self._stem_blocks()
        residual = ResidualMeter(spec.sample_rate, song_parts(self._track)) if self._track.stems else None
        try:
            paths = [self._files[signal] for signal in recordings]
            for path in paths:
                with writing_data(path):
                    files.append(path.open("wb"))
            for blocks in itertools.zip_longest(*streams):
                if len({0 if block is None else block.shape[1] for block in blocks}) > 1:
                    raise DataError(
                        f"{self._track.name}: its mixture and its other stems decode to different lengths. Export them again."
                    )
                for name, block, file, path in zip(recordings, blocks, files, paths, strict=True):
                    if max(block.max(), -block.min()) > MAX_PEAK:
                        raise DataError(
                            f"{recordings[name].name}: has samples above {MAX_PEAK:g} times full scale. Export it again."
                        )
                    meters[name].add(block)
                    with writing_data(path):
                        file.write(np.ascontiguousarray(block.T).data)
                if "target" in meters and self._config.activity_on == "target":
                    meters["target"].add(blocks[0] - blocks[1])
                if residual is not None:
                    residual.add(blocks[0], blocks[1], next(stem_blocks, None))
                num_samples += blocks[0].shape[1]
        finally:
            for stream in (*streams, stem_blocks):
                stream.close()
            for file, path in zip(files, paths, strict=False):
                with writing_data(path):
                    file.close()
        self.residual = residual.result() if residual is not None else None
        energies = {name: meter.energies for name, meter in meters.items()}
        for signal, recording in recordings.items():
            check_sound(recording, energies[signal], spec)
        return num_samples, energies

    def _stem_blocks(self) -> Blocks:
        """Blocks of the sum of the target's own stems, which only `residual` needs; none if a file does not exist."""
        stems = [self._track.stems[name] for name in self._config.target if name in self._track.stems]
        plus, minus = (tuple(part for stem in stems for part in getattr(stem, side)) for side in ("plus", "minus"))
        if plus and all(part.path.exists() for part in plus):
            target = dataclasses.replace(stems[0], plus=plus, minus=minus)
            yield from target.blocks(self._config.patch.sample_rate, self._config.patch.stereo)

    def _deciding(self, signal: str, energies: dict[str, np.ndarray]) -> np.ndarray | None:
        """Chunk energies that decide which clips of a signal are kept; None keeps all."""
        if self._config.activity_on == "off":
            return None
        return energies["target" if signal == "mixture" and self._config.activity_on == "target" else signal]

    def _starts_in_passages(self) -> tuple[np.ndarray, float]:
        """First samples of the clips in the marked passages, and the seconds of the passages that are shorter than a clip."""
        spec, starts, lost_s = self._config.patch, [], 0.0
        hop = max(round(self._config.marked_hop * spec.clip_samples), 1)
        for mark in merged(self._track.passages):
            begin = math.ceil(mark.begin_s * spec.sample_rate)
            end = self.num_samples if mark.end_s is None else min(int(mark.end_s * spec.sample_rate), self.num_samples)
            starts.append(np.arange(begin, end - spec.clip_samples + 1, hop))
            lost_s += max(end - begin, 0) * (end - begin < spec.clip_samples) / spec.sample_rate
        return np.concatenate(starts).astype(np.int64), lost_s

    def _marked(self, starts: np.ndarray) -> np.ndarray:
        """Whether the middle of a clip is in a marked passage, bool (clips,): then it is no mixture."""
        spec = self._config.patch
        middle_s = (starts + spec.clip_samples / 2) / spec.sample_rate
        ends_s = [(mark.begin_s, math.inf if mark.end_s is None else mark.end_s) for mark in self._track.passages]
        return np.any([(middle_s >= begin_s) & (middle_s < end_s) for begin_s, end_s in ends_s], axis=0)

    def _keep(self, signal: Signal, energies: np.ndarray | None) -> np.ndarray:
        starts, spec = self.starts[signal], self._config.patch
        if energies is None:
            return np.ones(len(starts), bool)
        chunks = activity.DETECTORS[self._config.activity_detector](energies)
        return np.array([activity.is_active(chunks, spec.sample_rate, start, spec.clip_samples) for start in starts], bool)

    def _clip_runs(self, signal: Signal) -> Iterator[tuple[int, np.ndarray]]:
        """Read runs of clips: number of the first clip, and float32 (clips, channels, clip_samples)."""
        spec, starts = self._config.patch, self.starts[signal]
        with self._files[signal].open("rb") as file:
            for first in range(0, len(starts), self._clips_per_call):
                run = starts[first : first + self._clips_per_call]
                clips = np.empty((len(run), spec.clip_samples, spec.num_channels), np.float32)
                for start, clip in zip(run.tolist(), clips, strict=True):
                    file.seek(4 * start * spec.num_channels)
                    file.readinto(clip.data.cast("B"))
                yield first, clips.swapaxes(1, 2)

    def _levelled(self, clips: np.ndarray, scale: tuple[float, float] | None) -> tuple[np.ndarray, np.ndarray]:
        """Scale clips to the level at which they are stored; also return their divisors, float32 (clips,)."""
        if self._config.patch.level == "reference":
            return clips, np.ones(len(clips), np.float32)
        if scale is not None:
            mean, deviation = (np.full(len(clips), value, np.float32) for value in scale)
        else:
            mean, deviation = clip_statistics(clips)
        return (clips - mean[:, None, None]) / deviation[:, None, None], deviation

    def _remix(self) -> int:
        """Remix every clip of the mixture at the ratio drawn for it, and measure its level; return how many stay unchanged."""
        assert self._config.target_to_accompaniment_db is not None
        low, high = self._config.target_to_accompaniment_db
        spec, unmixed = self._config.patch, 0
        meter = activity.EnergyMeter(spec.sample_rate)
        with self._files["mixture"].open("r+b") as file:
            for (first, mixtures), (_, accompaniments) in zip(
                self._clip_runs("mixture"), self._clip_runs("accompaniment"), strict=True
            ):
                mixed = np.empty((len(mixtures), spec.clip_samples, spec.num_channels), np.float32)
                for number, (mixture, accompaniment) in enumerate(zip(mixtures, accompaniments, strict=True)):
                    ratio_db = low + (high - low) * _hashed_share(self._config.seed, self._track.name, first + number)
                    remixed = mix(mixture - accompaniment, accompaniment, ratio_db)
                    unmixed += remixed is None
                    mixed[number] = (mixture if remixed is None else remixed).T
                meter.add(mixed.reshape(-1, spec.num_channels).T)
                with writing_data(self._files["mixture"]):
                    file.seek(4 * first * spec.clip_samples * spec.num_channels)
                    file.write(mixed.data)
                    file.flush()
        self.rms["mixture"] = activity.gated_level(meter.energies)
        return unmixed


def clip_statistics(clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute mean and standard deviation of each clip, over all its channels.

    As in `torch.std`, and so in PULSE, the deviation divides by n - 1.  If it is 0, or no larger than the rounding of a constant,
    it is given as 1, so that silence stays silent.

    Args:
        clips: float32 (clips, channels, samples).

    Returns:
        Mean and deviation, both float32 (clips,).
    """
    mean = clips.mean(axis=(1, 2))
    deviation = clips.std(axis=(1, 2), ddof=1)
    deviation[deviation <= _ROUNDING * np.abs(mean)] = 1
    return mean, deviation


def mix(target: np.ndarray, accompaniment: np.ndarray, ratio_db: float) -> np.ndarray | None:
    """Mix a clip as in PULSE's training lists: remove the mean of the target, scale it to the ratio, and add it.

    Args:
        target: float32, any shape.
        accompaniment: float32, same shape; not scaled.
        ratio_db: ratio of the deviations of target and accompaniment, in dB.

    Returns:
        float32, same shape; None if either is silent, so that there is no such ratio.
    """
    target = target - target.mean()
    target_deviation, accompaniment_deviation = float(target.std()), float(accompaniment.std())
    if min(target_deviation, accompaniment_deviation) < SILENT_DEVIATION:
        return None
    gain = np.float32(10 ** (ratio_db / 20) * accompaniment_deviation / target_deviation)
    return gain * target + accompaniment


def _hashed_share(*parts: int | str) -> float:
    """Pseudo-random number in [0, 1) that depends on the parts alone: neither on the order of work nor on a random generator."""
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:6], "big") / 2**48


def _blocks(path: Path) -> Iterator[np.ndarray]:
    with path.open("rb") as file:
        while len(block := np.fromfile(file, np.float32, 1 << 18)):
            yield block
