"""Prepared data and their batches: deterministic, resumable at any step, divided among processes."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.config import DataConfig, PatchSpec
from data_pipeline.dataclass_json import decode
from data_pipeline.errors import DataError
from data_pipeline.layout import (
    INFO_FILE,
    SIGNALS,
    UNFINISHED_FOLDER,
    Index,
    PreparedTrack,
    Signal,
    Split,
    read_indices,
    read_info,
)
from data_pipeline.reader import BatchReader, Clips


class PatchDataset:
    """A prepared dataset on disk.  `data_pipeline.prepare.prepare` makes one, `PatchDataset.open` opens one.

    Attributes:
        directory: folder of the dataset.
        config: settings that it was prepared with.
        fingerprint: hash of its sources and settings, 16 hexadecimal digits.
        has_stems: whether every mixture comes with its accompaniment, so that there are targets.
        uses_stems: settings that needed stems to choose or make the clips; None if there were none.
        info: all of jaxpu.json: counts, seconds and fractions kept by split and signal, sizes, skipped recordings.
    """

    def __init__(self, directory: Path, info: dict[str, Any], indices: dict[str, Index]) -> None:
        self.directory = directory
        self.info = info
        self.config: DataConfig = decode(DataConfig, info["config"])
        self.fingerprint: str = info["fingerprint"]
        self.has_stems: bool = info["has_stems"]
        self.uses_stems: str | None = info["uses_stems"]
        self._indices = indices

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> "PatchDataset":
        """Open a dataset without reading its records.  Raises DataError if it is missing, unfinished or incomplete."""
        directory = Path(directory)
        info = read_info(directory)
        if info is None:
            if (directory / UNFINISHED_FOLDER).is_dir():
                raise DataError(f"{directory}: its preparation has not finished. Rerun the same `jaxpu prepare` to resume it.")
            raise DataError(f"{directory}: holds no prepared data ({INFO_FILE} is missing). Prepare some with `jaxpu prepare`.")
        for name, size in info["files"].items():
            path = directory / name
            if not path.is_file() or path.stat().st_size != size:
                found = f"has {path.stat().st_size} bytes instead of {size}" if path.is_file() else "is missing"
                raise DataError(f"{path}: {found}. Copy the dataset again, or delete {directory} and prepare it again.")
        return cls(directory, info, read_indices(directory, info))

    @property
    def spec(self) -> PatchSpec:
        """Parameters of the patches."""
        return self.config.patch

    def check(self, config: DataConfig) -> None:
        """Raise DataError, naming the fields that differ, unless the dataset was prepared with this configuration."""
        mine, theirs = _flat(self.config), _flat(config)
        differing = [f"{name} is {mine[name]!r} but {theirs[name]!r} is asked for" for name in mine if mine[name] != theirs[name]]
        if differing:
            raise DataError(
                f"{self.directory}: was prepared with other settings: {'; '.join(differing)}. "
                "Prepare the data with this configuration, or change the configuration to match."
            )

    def tracks(self, split: Split) -> list[PreparedTrack]:
        """Tracks of a split, ordered by number."""
        tracks = [PreparedTrack(**row) for row in self.info["tracks"]]
        return [track for track in tracks if track.split == split]

    @property
    def marked_tracks(self) -> list[int]:
        """Numbers of the tracks whose positive clips are marked passages."""
        return [] if self.has_stems else [row["id"] for row in self.info["tracks"] if len(row["kept"]) == len(SIGNALS)]

    def record(self) -> dict[str, Any]:
        """The part of `info` that checkpoints keep, without names of recordings.

        Amounts, a digest of where the clips lie, and how many marks were left out.
        """
        record = {"has_stems": self.has_stems, "counts": self.info["counts"], "clips": self._digest_of_clips()}
        checked = self.info.get("marks_check")
        if checked is not None:
            number = len(checked["left_out"])
            record["marks_check"] = {"model": checked["model"], "num_marks": checked["num_marks"], "num_left_out": number}
        return record

    def _digest_of_clips(self) -> str:
        """Hash of the track, the first sample and the activity of every clip."""
        digest = hashlib.sha256()
        for name, index in sorted(self._indices.items()):
            digest.update(name.encode())
            for values, kind in ((index.track, "<i4"), (index.start, "<i8"), (index.active, "u1")):
                digest.update(np.ascontiguousarray(values, kind).tobytes())
        return digest.hexdigest()[:16]

    def num_clips(self, split: Split, signal: Signal) -> int:
        """Number of active clips of a signal, from which `batches` draws; 0 if the split has none."""
        index = self._indices.get(f"{split}_{signal}")
        return 0 if index is None else int(np.count_nonzero(index.active))

    def index(self, split: Split, signal: Signal) -> Index:
        """Index of the stored clips, active or not.  Raises DataError if the split has none."""
        index = self._indices.get(f"{split}_{signal}")
        if index is None:
            raise DataError(f"{self.directory}: has no {signal} clips in its {split} split. {self._more_clips(halved=False)}")
        return index

    def shard_path(self, split: Split, signal: Signal, shard: int) -> Path:
        """Path of a TFRecord file."""
        return self.directory / self.info["shards"][f"{split}_{signal}"][shard]

    def batches(
        self,
        split: Split,
        *,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        num_steps: int | None = None,
        disjoint_tracks: bool,
        with_target: bool,
        num_target_tracks: int | None = None,
        process_index: int = 0,
        process_count: int = 1,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Read batches from step `start_step` on.  The batch of step k depends on the dataset, the seed and k alone.

        Unlabeled and positive clips are two streams.  Every epoch of a stream is a permutation of its active clips.  The shorter
        stream has more epochs, and a stream with fewer clips than a batch repeats them within the batch.

        Args:
            split: "train" or "validation".
            batch_size: number of unlabeled clips, and of positive clips, over all processes.
            seed: seed of the permutations.
            start_step: first step; earlier steps are not read.
            num_steps: number of steps; None for no end.
            disjoint_tracks: draw unlabeled clips from one half of the tracks and positive clips from the other.  The seed of
                `config` draws the halves, so they are the same for every run.  It only concerns stems.
            with_target: also yield the targets of the unlabeled clips.  Needs stems.
            num_target_tracks: instead yield targets of at most this many of the unlabeled tracks, drawn by the seed of `config`:
                a third stream, independent of the unlabeled clips.
            process_index: index of this process, which gets rows process_index * batch_size / process_count and following.
            process_count: number of processes; must divide batch_size.  The global batch does not depend on it.

        Yields:
            "unlabeled": spec.dtype (rows, channels, frames, bins, 2), STFTs of mixtures, real and imaginary part.
            "positive": same shape and type, STFTs of accompaniments.
            "unlabeled_track", "positive_track": int32 (rows,).
            "marked" of a dataset with marks: bool (rows,), whether each positive clip is of a marked passage.
            "unlabeled_level", "positive_level": float32 (rows,), divisors of the clips before the transform.
            "target" if `with_target`: as "unlabeled", in the scale of its mixture: M - A level_A / level_M.

        Raises:
            DataError: at once if the dataset cannot provide such batches; during iteration if a file is damaged.
        """
        _check_bounds(batch_size, start_step, process_index, process_count)
        clips = self.streams(split, disjoint_tracks=disjoint_tracks, with_target=with_target, num_target_tracks=num_target_tracks)
        choose = _Order(clips, seed, batch_size, process_index, process_count)
        index = {signal: self.index(split, signal) for signal in SIGNALS}
        shards = {signal: [self.directory / name for name in self.info["shards"][f"{split}_{signal}"]] for signal in SIGNALS}
        reader = BatchReader(self.spec, index, shards, choose, with_target)
        batches = reader.batches(start_step, num_steps)
        marked = self.marked_tracks
        if not marked:
            return batches
        return (batch | {"marked": np.isin(batch["positive_track"], marked)} for batch in batches)

    def streams(self, split: Split, *, disjoint_tracks: bool, with_target: bool, num_target_tracks: int | None = None) -> Clips:
        """The clips from which each stream of `batches` draws, by role, as rows of the index; none is empty.

        Raises DataError if a stream would be empty, or if there are no targets.
        """
        clips = self._active_clips(split, disjoint_tracks, with_target)
        if with_target and num_target_tracks is not None:
            clips["target"] = self._clips_of_some_tracks(split, clips["unlabeled"], num_target_tracks)
        return clips

    def _active_clips(self, split: Split, disjoint_tracks: bool, with_target: bool) -> Clips:
        """Clips from which unlabeled and positive clips are drawn."""
        if with_target and not self.has_stems:
            raise DataError(f"{self.directory}: has no targets, for its source has no stems. Use an objective that needs none.")
        mixture, accompaniment = self.index(split, "mixture"), self.index(split, "accompaniment")
        unlabeled, positive = np.flatnonzero(mixture.active), np.flatnonzero(accompaniment.active)
        if disjoint_tracks and self.has_stems:
            ids = np.union1d(mixture.track[unlabeled], accompaniment.track[positive])
            shuffled = np.random.default_rng(self.config.seed).permutation(ids)
            half = (len(ids) + 1) // 2
            unlabeled = unlabeled[np.isin(mixture.track[unlabeled], shuffled[:half])]
            positive = positive[np.isin(accompaniment.track[positive], shuffled[half:])]
        clips = {"unlabeled": unlabeled, "positive": positive}
        for role, chosen in clips.items():
            if not len(chosen):
                halved = disjoint_tracks and self.has_stems
                halves = "one of the two halves into which disjoint_tracks divides its tracks" if halved else "the split"
                raise DataError(f"{self.directory}: {halves} has no active {role} clips in {split}. {self._more_clips(halved)}")
        return clips

    def _more_clips(self, halved: bool) -> str:
        """The remedy for a split without clips, as a sentence."""
        if halved:
            return "Give more tracks, or set disjoint_tracks to False (--train.no-disjoint-tracks)."
        if self.config.activity_on == "off":
            return "Rerun `jaxpu prepare`, which holds out a stretch of a recording where it has to, or give more recordings."
        return "Rerun `jaxpu prepare` with more recordings, or with activity_on = off."

    def _clips_of_some_tracks(self, split: Split, clips: np.ndarray, num_tracks: int) -> np.ndarray:
        """Select the clips of `num_tracks` of their tracks, drawn by the seed of `config`."""
        if num_tracks <= 0:
            raise DataError(f"num_target_tracks is {num_tracks}; it must be positive.")
        track = self.index(split, "mixture").track[clips]
        shuffled = np.random.default_rng(self.config.seed).permutation(np.unique(track))
        return clips[np.isin(track, shuffled[:num_tracks])]


class _Order:
    """Choice of the clips of a process for a step, by role, as a function of the seed and the step alone.

    Args:
        clips: clips from which each role draws, as rows of the index.
        seed: seed of the permutations, one for every role and epoch.
        batch_size: clips of a role in the global batch.
        process_index: index of this process.
        process_count: number of processes; divides batch_size.
    """

    def __init__(self, clips: Clips, seed: int, batch_size: int, process_index: int, process_count: int) -> None:
        self._clips = clips
        self._seed = seed
        self._batch_size = batch_size
        self._count = batch_size // process_count
        self._begin = process_index * self._count
        # A batch lies in one epoch or two; very small sets have more, and a cheap permutation.
        self._permutation = functools.lru_cache(maxsize=8)(self._draw)

    def __call__(self, step: int) -> Clips:
        begin = step * self._batch_size + self._begin
        return {role: self._at(role, np.arange(begin, begin + self._count)) for role in self._clips}

    def _at(self, role: str, positions: np.ndarray) -> np.ndarray:
        """Clips at positions of a stream, counted over all epochs."""
        epochs, places = np.divmod(positions, len(self._clips[role]))
        clips = np.empty(len(positions), np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            clips[here] = self._clips[role][self._permutation(role, int(epoch))[places[here]]]
        return clips

    def _draw(self, role: str, epoch: int) -> np.ndarray:
        # Sorting raw bits: NumPy guarantees those for ever, but its own `permutation` only within a version.
        generator = np.random.PCG64([self._seed, ("unlabeled", "positive", "target").index(role), epoch])
        return np.argsort(generator.random_raw(len(self._clips[role])), kind="stable")


def _check_bounds(batch_size: int, start_step: int, process_index: int, process_count: int) -> None:
    if batch_size <= 0 or process_count <= 0 or batch_size % process_count or not 0 <= process_index < process_count:
        raise DataError(
            f"batch_size is {batch_size} on process {process_index} of {process_count}; "
            "it must be positive and a multiple of the number of processes."
        )
    if start_step < 0:
        raise DataError(f"start_step is {start_step}; it must not be negative.")


def _flat(config: DataConfig) -> dict[str, Any]:
    values = dataclasses.asdict(config)
    patch = values.pop("patch")
    return values | {f"patch.{name}": value for name, value in patch.items()}
