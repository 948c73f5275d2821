"""Publication of a dataset: metadata, index and a plan of renaming; then the renaming, which a kill may interrupt."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from data_pipeline import residual, tfds_metadata
from data_pipeline.config import DataConfig, PatchSpec
from data_pipeline.errors import DataError
from data_pipeline.files import write_text, writing_data
from data_pipeline.folder_check import compare
from data_pipeline.layout import FORMAT, INDEX_FILE, INFO_FILE, NAME, SIGNALS, SPLITS, UNFINISHED_FOLDER, Index
from data_pipeline.marks_check import CheckedMarks
from data_pipeline.recording_statistics import Statistics
from data_pipeline.stored_json import read_json
from data_pipeline.tfds_metadata import SplitFiles, write_metadata

MIN_FREE_S = 60.0
"""Seconds of target-free material below which `plan` warns."""

_PLAN_FILE = "plan.json"
_NAMED = 5
# In the order of publication: TensorFlow Datasets needs the second and third to open a folder, jaxpu the last.
_METADATA_FILES = (INDEX_FILE, tfds_metadata.FEATURES_FILE, tfds_metadata.INFO_FILE, INFO_FILE)


@dataclasses.dataclass(frozen=True)
class MadeTrack:
    """A finished track that is not published yet.

    Attributes:
        id: number of the track in its records.
        name: name of the track.
        split: "train" or "validation".
        folder: folder of its files.
        num_samples: length at PatchSpec.sample_rate.
        clips: number of whole clips by signal.
        marked: whether its accompaniment is marked passages of its mixture.
        lost_s: seconds of the marked passages that are shorter than a clip.
        kept: number of active clips by signal.
        unmixed: number of clips whose ratio of target to accompaniment could not be set.
        rows: (offset, start, active) of every record, by signal.
        files: size in bytes of every file, by name; a signal without records has no file.
        statistics: of a recording without stems; None with stems, or without an active clip.
        rms: level of each signal without its pauses; empty for a track that an earlier version made.
        residual: fields of `data_pipeline.residual.Residual`; None without stems.
    """

    id: int
    name: str
    split: str
    folder: Path
    num_samples: int
    clips: dict[str, int]
    marked: bool
    lost_s: float
    kept: dict[str, int]
    unmixed: int
    rows: dict[str, list[tuple[int, int, bool]]]
    files: dict[str, int]
    statistics: Statistics | None = None
    rms: dict[str, float] = dataclasses.field(default_factory=dict)
    residual: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class MadeDataset:
    """A finished dataset that is not published yet.

    Attributes:
        config: settings that it was made with.
        fingerprint: hash of its sources and settings, and of the stretches that are held out.
        source_fingerprint: hash of its sources and settings alone.
        has_stems: whether its source has stems.
        uses_stems: settings that need stems; None if there are none.
        tracks: all tracks that can be used.
        skipped: error messages of the skipped recordings, by name of the track.
        marks_check: the outcome of the check of marks; None if there was none.
    """

    config: DataConfig
    fingerprint: str
    source_fingerprint: str
    has_stems: bool
    uses_stems: str | None
    tracks: list[MadeTrack]
    skipped: dict[str, str]
    marks_check: CheckedMarks | None = None


@dataclasses.dataclass
class _Shards:
    """TFRecord files and index of a dataset, by names such as "train_mixture".

    Attributes:
        names: file names.
        lengths: number of records in each file.
        sizes: size in bytes by file name.
        moves: paths of every file before and after publication, relative to the dataset.
        index: arrays of the index file.
    """

    names: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    lengths: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    sizes: dict[str, int] = dataclasses.field(default_factory=dict)
    moves: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    index: dict[str, Any] = dataclasses.field(default_factory=dict)

    def add(self, name: str, signal: str, tracks: list[MadeTrack], directory: Path) -> None:
        """Add the files of a signal, one for every track."""
        self.names[name] = [f"{NAME}-{name}.tfrecord-{number:05d}-of-{len(tracks):05d}" for number in range(len(tracks))]
        self.lengths[name] = [len(track.rows[signal]) for track in tracks]
        for track, shard in zip(tracks, self.names[name], strict=True):
            self.moves.append((str((track.folder / shard_file(signal)).relative_to(directory)), shard))
            self.sizes[shard] = track.files[shard_file(signal)]
        self.index |= {f"{name}/{field}": array for field, array in vars(_index(tracks, signal)).items()}

    def num_bytes(self, name: str) -> int:
        """Size of all files of a signal."""
        return sum(self.sizes[shard] for shard in self.names[name])


def shard_file(signal: str) -> str:
    """Name of a track's file of records before it is published."""
    return f"{signal}.tfrecord"


def plan(directory: Path, dataset: MadeDataset, say: Callable[[str], None]) -> None:
    """Write metadata, index and the plan of renaming into directory/unfinished; report what was kept.

    Raises DataError if a split has no active mixture or no active accompaniment.
    """
    unfinished = directory / UNFINISHED_FOLDER
    shards, counts = _Shards(), {}
    for split in SPLITS:
        for signal in SIGNALS:
            tracks = [track for track in dataset.tracks if track.split == split and signal in track.kept]
            filled = [track for track in tracks if track.rows.get(signal)]
            counts[f"{split}_{signal}"] = count = _count(tracks, signal, dataset.config.patch)
            share, minutes = f"{count['kept_share']:.1%}", f"{count['kept_s'] / 60:.1f} min"
            say(f"{split} {signal}: kept {count['kept']} of {count['clips']} clips ({share}, {minutes}).")
            if not count["kept"]:
                raise _nothing_kept(dataset, directory, split, signal, count["clips"])
            if filled:
                shards.add(f"{split}_{signal}", signal, filled, directory)

    _tell_unused(dataset, say)
    comparison = None if dataset.has_stems else _compare(dataset, say)
    if dataset.has_stems:
        _warn_of_songs(dataset, say)
    _tell_marks(dataset, counts, say)
    with writing_data(unfinished):
        np.savez(unfinished / INDEX_FILE, **shards.index)
        splits = [SplitFiles(split, shards.num_bytes(split), lengths) for split, lengths in shards.lengths.items()]
        write_metadata(unfinished, NAME, dataset.config.patch, splits)
        info = _info(dataset, shards, counts, comparison, index_bytes=(unfinished / INDEX_FILE).stat().st_size)
        (unfinished / INFO_FILE).write_text(json.dumps(info, indent=1), encoding="utf-8")
        moves = shards.moves + [(f"{UNFINISHED_FOLDER}/{name}", name) for name in _METADATA_FILES]
        write_text(unfinished / _PLAN_FILE, json.dumps({"fingerprint": dataset.source_fingerprint, "moves": moves}, indent=1))
    say(f"{directory}: {info['bytes'] / 1e6:.1f} MB in {len(shards.moves)} files.")


def _info(
    dataset: MadeDataset, shards: _Shards, counts: dict[str, Any], comparison: dict[str, Any] | None, index_bytes: int
) -> dict[str, Any]:
    """Compose jaxpu.json."""
    return {
        "format": FORMAT,
        "fingerprint": dataset.fingerprint,
        "source_fingerprint": dataset.source_fingerprint,
        "config": dataclasses.asdict(dataset.config),
        "has_stems": dataset.has_stems,
        "uses_stems": dataset.uses_stems,
        "bytes": sum(shards.sizes.values()),
        "counts": counts,
        "comparison": comparison,
        "marks_check": dataset.marks_check,
        "residual_db": {track.name: track.residual["db"] for track in dataset.tracks if track.residual},
        "unmixed_clips": sum(track.unmixed for track in dataset.tracks),
        "skipped": dataset.skipped,
        "tracks": [
            {
                "id": track.id,
                "name": track.name,
                "split": track.split,
                "seconds": track.num_samples / dataset.config.patch.sample_rate,
                "clips": max(track.clips.values()),
                "kept": track.kept,
            }
            for track in dataset.tracks
        ],
        "shards": shards.names,
        "files": shards.sizes | {INDEX_FILE: index_bytes},
    }


class _Plan(TypedDict):
    """The plan of renaming: paths before and after, relative to the dataset."""

    fingerprint: str
    moves: list[tuple[str, str]]


def is_planned(directory: Path, fingerprint: str) -> bool:
    """Whether a plan for a dataset of these sources and settings exists, perhaps partly carried out, with all of its files.

    Every file is in its old or new place.
    """
    try:
        planned = read_json(directory / UNFINISHED_FOLDER / _PLAN_FILE, _Plan, DataError, "Rerun the same command.")
    except (DataError, FileNotFoundError):  # A damaged plan is made again.
        return False
    return planned["fingerprint"] == fingerprint and all(
        (directory / source).is_file() or (directory / destination).is_file() for source, destination in planned["moves"]
    )


def publish(directory: Path) -> None:
    """Carry out the plan, or the remainder of it.  An older dataset is deleted first; the new one opens only at the end."""
    unfinished = directory / UNFINISHED_FOLDER
    moves = json.loads((unfinished / _PLAN_FILE).read_text(encoding="utf-8"))["moves"]
    with writing_data(directory):
        for name in reversed(_METADATA_FILES):
            if (unfinished / name).is_file():  # So the one in its new place belongs to the older dataset.
                (directory / name).unlink(missing_ok=True)
        shards = {destination for _, destination in moves}
        for path in directory.glob(f"{NAME}-*.tfrecord-*"):
            if path.name not in shards:
                path.unlink()
        for source, destination in moves:
            if (directory / source).is_file():
                (directory / source).replace(directory / destination)
    shutil.rmtree(unfinished)


def _count(tracks: list[MadeTrack], signal: str, spec: PatchSpec) -> dict[str, Any]:
    clips = sum(track.clips[signal] for track in tracks)
    kept = sum(track.kept[signal] for track in tracks)
    marked = [track for track in tracks if track.marked and signal == "accompaniment" and track.kept[signal]]
    levels = [20 * math.log10(track.rms[signal]) for track in tracks if track.rms.get(signal)]
    count = {
        "tracks": len(tracks),
        "clips": clips,
        "stored": sum(len(track.rows.get(signal, [])) for track in tracks),
        "kept": kept,
        "kept_share": kept / clips if clips else 0.0,
        "kept_s": sum(_kept_s(track, signal, spec) for track in tracks),
        "level_db": sum(levels) / len(levels) if levels else None,
    }
    marked_s = sum(_kept_s(track, signal, spec) for track in marked)
    return count | ({"marked_tracks": len(marked), "marked_s": marked_s} if marked else {})


def _kept_s(track: MadeTrack, signal: str, spec: PatchSpec) -> float:
    """Seconds of the active clips of a signal; where clips overlap, each second counts once."""
    starts = np.array([start for _, start, active in track.rows.get(signal, []) if active])
    if not len(starts):
        return 0.0
    return float(np.minimum(np.diff(starts, append=starts[-1] + spec.clip_samples), spec.clip_samples).sum() / spec.sample_rate)


def _compare(dataset: MadeDataset, say: Callable[[str], None]) -> dict[str, Any]:
    """Compare recordings with the target and others without it, and print the warnings."""
    statistics: dict[str, dict[str, Statistics]] = {signal: {} for signal in SIGNALS}
    for track in dataset.tracks:
        if track.statistics is not None:
            signal = "mixture" if "mixture" in track.kept else "accompaniment"
            statistics[signal][track.name] = track.statistics
    comparison = compare(statistics["mixture"], statistics["accompaniment"], dataset.config.patch, dataset.config.target)
    for warning in comparison["warnings"]:
        say(f"Warning: {warning}")
    return comparison


def _nothing_kept(dataset: MadeDataset, directory: Path, split: str, signal: str, num_clips: int) -> DataError:
    """The error for a split without clips of a signal."""
    spec, name = dataset.config.patch, f"the {'training' if split == 'train' else 'validation'} split"
    if num_clips:
        on = dataset.config.activity_on
        remedies = ["use activity_on = off"] * (on != "off") + ["give louder or more recordings"]
        if signal == "mixture" and any(track.marked for track in dataset.tracks):
            remedies += ["mark less: marked passages are those without the target"]
        text = ", or ".join(remedies)
        return DataError(
            f"{directory}: none of the {num_clips} clips of {name}'s {signal} was kept (activity_on = {on}). "
            f"{text[0].upper()}{text[1:]}."
        )
    if dataset.has_stems:
        return DataError(
            f"{directory}: {name} has no songs. Put songs into the folder train; or directly into the source's folder, where it "
            "has no folder test."
        )
    if signal == "mixture":
        return DataError(f"{directory}: {name} has no recordings with the target. Give more (--with).")
    if any(track.marked for track in dataset.tracks):
        return DataError(
            f"{directory}: no marked passage of {name} is as long as a clip of {spec.clip_s:.2f} s. Mark longer ones (in "
            "Audacity select a passage, then press Ctrl+B), or use shorter clips (--data.patch.clip-samples)."
        )
    return DataError(
        f"{directory}: {name} has no material without the target. Mark passages without it (--marks), or give recordings "
        "without it (--without)."
    )


def _tell_marks(dataset: MadeDataset, counts: dict[str, Any], say: Callable[[str], None]) -> None:
    """Print how much target-free material is marked, how much of it is lost, and whether there is little of it in all."""
    if any(track.marked for track in dataset.tracks):
        marked = [counts[f"{split}_accompaniment"] for split in SPLITS]
        minutes = " and ".join(
            f"{count.get('marked_s', 0) / 60:.1f} min of {count.get('marked_tracks', 0)} songs" for count in marked
        )
        lost_s = sum(track.lost_s for track in dataset.tracks)
        lost = (
            f"; {lost_s:.1f} s in passages shorter than a clip of {dataset.config.patch.clip_s:.2f} s are lost" if lost_s else ""
        )
        say(f"Marked passages: {minutes} for training and validation{lost}.")
    free_s = counts["train_accompaniment"]["kept_s"]
    if free_s < MIN_FREE_S and not dataset.has_stems:
        say(
            f"Warning: there are {free_s / 60:.1f} min of target-free material to train on. Mark more passages, or give more "
            "recordings without the target: a model needs several minutes."
        )


def _tell_unused(dataset: MadeDataset, say: Callable[[str], None]) -> None:
    """Name the recordings of which no clip was kept."""
    names = [track.name for track in dataset.tracks if not any(track.kept.values())]
    if names:
        more = ", ..." if len(names) > _NAMED else ""
        say(f"Recordings of which no clip was kept: {len(names)} ({', '.join(names[:_NAMED])}{more}).")


def _warn_of_songs(dataset: MadeDataset, say: Callable[[str], None]) -> None:
    """Print what is wrong with the songs of a source with stems: residuals, and a split of a single song."""
    text = residual.warning({track.name: residual.Residual(**track.residual) for track in dataset.tracks if track.residual})
    if text:
        say(text)
    for split in SPLITS:
        names = [track.name for track in dataset.tracks if track.split == split and any(track.kept.values())]
        if len(names) == 1:
            say(
                f"Warning: the {split} split has one song with active clips, {names[0]}. Training draws mixtures and "
                "accompaniments from different songs (disjoint_tracks) and needs two: give more songs, or train with "
                "--train.no-disjoint-tracks."
            )


def _index(tracks: list[MadeTrack], signal: str) -> Index:
    lengths = [len(track.rows[signal]) for track in tracks]
    offset, start, active = zip(*(row for track in tracks for row in track.rows[signal]), strict=True)
    return Index(
        shard=np.repeat(np.arange(len(tracks), dtype=np.int32), lengths),
        offset=np.array(offset, np.int64),
        track=np.repeat(np.array([track.id for track in tracks], np.int32), lengths),
        start=np.array(start, np.int64),
        active=np.array(active, bool),
    )
