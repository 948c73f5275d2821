"""Finished tracks -> a dataset: metadata, index and a plan of what to rename; then the renaming, which a kill may interrupt."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.config import DataConfig, PatchSpec
from data_pipeline.errors import DataError
from data_pipeline.folder_check import Statistics, compare
from data_pipeline.layout import FORMAT, INDEX_FILE, INFO_FILE, NAME, SIGNALS, SPLITS, UNFINISHED_FOLDER, Index
from data_pipeline.tfrecord import writing

_PLAN_FILE = "plan.json"
# In the order of publishing: TensorFlow Datasets opens a folder with the second and third, jaxpu one with the last.
_METADATA_FILES = (INDEX_FILE, "features.json", "dataset_info.json", INFO_FILE)


@dataclasses.dataclass(frozen=True)
class MadeTrack:
    """A finished track that is not published yet.

    Attributes:
        id: the number in its records.
        name: of the track.
        split: "train" or "validation".
        folder: where its files lie.
        num_samples: length at PatchSpec.sample_rate.
        num_clips: whole clips in it.
        kept: by signal, how many clips are active.
        unmixed: clips whose ratio of target to accompaniment could not be set.
        rows: by signal, one (offset, start, active) for every record.
        files: bytes of every file, by name; a signal without records has none.
        statistics: fields of `data_pipeline.folder_check.Statistics`; None for a track with stems, or without an active clip.
    """

    id: int
    name: str
    split: str
    folder: Path
    num_samples: int
    num_clips: int
    kept: dict[str, int]
    unmixed: int
    rows: dict[str, list[tuple[int, int, bool]]]
    files: dict[str, int]
    statistics: dict[str, Any] | None = None


def shard_file(signal: str) -> str:
    """Name of a track's file of records before it is published."""
    return f"{signal}.tfrecord"


def plan(
    directory: Path,
    config: DataConfig,
    fingerprint: str,
    has_stems: bool,
    uses_stems: str | None,
    tracks: list[MadeTrack],
    skipped: dict[str, str],
    say: Callable[[str], None],
) -> None:
    """Writes metadata, index and the plan of renaming into directory/unfinished; prints what was kept.

    Raises DataError where no mixture or no accompaniment is left to train on.
    """
    unfinished = directory / UNFINISHED_FOLDER
    moves: list[tuple[str, str]] = []
    index: dict[str, Any] = {}
    shards: dict[str, list[str]] = {}
    shard_lengths: dict[str, list[int]] = {}
    files: dict[str, int] = {}
    counts: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        for signal in SIGNALS:
            members = [track for track in tracks if track.split == split and signal in track.kept]
            filled = [track for track in members if track.rows.get(signal)]
            name = f"{split}_{signal}"
            stored = sum(len(track.rows[signal]) for track in filled)
            counts[name] = count = _count(members, signal, stored, config.patch)
            share, minutes = f"{count['kept_share']:.1%}", f"{count['kept_s'] / 60:.1f} min"
            say(f"{split} {signal}: kept {count['kept']} of {count['clips']} clips ({share}, {minutes}).")
            if split == "train" and not count["kept"]:
                raise DataError(
                    f"{directory}: none of the {count['clips']} clips of the training split's {signal} was kept "
                    f"(activity_on = {config.activity_on}). Use activity_on = off, or louder or more recordings."
                )
            if not filled:
                continue
            shards[name] = [f"{NAME}-{name}.tfrecord-{number:05d}-of-{len(filled):05d}" for number in range(len(filled))]
            shard_lengths[name] = [len(track.rows[signal]) for track in filled]
            for track, shard in zip(filled, shards[name], strict=True):
                moves.append((str((track.folder / shard_file(signal)).relative_to(directory)), shard))
                files[shard] = track.files[shard_file(signal)]
            index |= {f"{name}/{field}": array for field, array in vars(_index(filled, signal)).items()}

    comparison = None if has_stems else _compare(tracks, config.patch, say)
    with writing(unfinished):
        np.savez(unfinished / INDEX_FILE, **index)
        _write_tfds_metadata(unfinished, config.patch, shards, shard_lengths, files)
        info: dict[str, Any] = {
            "format": FORMAT,
            "fingerprint": fingerprint,
            "config": dataclasses.asdict(config),
            "has_stems": has_stems,
            "uses_stems": uses_stems,
            "bytes": sum(files.values()),
            "counts": counts,
            "comparison": comparison,
            "unmixed_clips": sum(track.unmixed for track in tracks),
            "skipped": skipped,
            "tracks": [
                {
                    "id": track.id,
                    "name": track.name,
                    "split": track.split,
                    "seconds": track.num_samples / config.patch.sample_rate,
                    "clips": track.num_clips,
                    "kept": track.kept,
                }
                for track in tracks
            ],
            "shards": shards,
            "files": files | {INDEX_FILE: (unfinished / INDEX_FILE).stat().st_size},
        }
        _write_json(unfinished / INFO_FILE, info)
        moves += [(f"{UNFINISHED_FOLDER}/{name}", name) for name in _METADATA_FILES]
        _write_json(unfinished / f"{_PLAN_FILE}.new", {"fingerprint": fingerprint, "moves": moves})
        (unfinished / f"{_PLAN_FILE}.new").replace(unfinished / _PLAN_FILE)
    say(f"{directory}: {info['bytes'] / 1e6:.1f} MB in {len(moves) - len(_METADATA_FILES)} files.")


def is_planned(directory: Path, fingerprint: str) -> bool:
    """Whether a plan for this very dataset waits to be carried out, or was interrupted; every file is in its old or new place."""
    try:
        planned = json.loads((directory / UNFINISHED_FOLDER / _PLAN_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    return planned["fingerprint"] == fingerprint and all(
        (directory / source).is_file() or (directory / destination).is_file() for source, destination in planned["moves"]
    )


def publish(directory: Path) -> None:
    """Carries out the plan, from wherever it was interrupted. An older dataset goes first; the new one opens only at the end."""
    unfinished = directory / UNFINISHED_FOLDER
    moves = json.loads((unfinished / _PLAN_FILE).read_text(encoding="utf-8"))["moves"]
    with writing(directory):
        for name in reversed(_METADATA_FILES):
            if (unfinished / name).is_file():  # so the one in its new place is the older dataset's
                (directory / name).unlink(missing_ok=True)
        shards = {destination for _, destination in moves}
        for path in directory.glob(f"{NAME}-*.tfrecord-*"):
            if path.name not in shards:
                path.unlink()
        for source, destination in moves:
            if (directory / source).is_file():
                (directory / source).replace(directory / destination)
    shutil.rmtree(unfinished)


def _count(tracks: list[MadeTrack], signal: str, stored: int, spec: PatchSpec) -> dict[str, Any]:
    clips = sum(track.num_clips for track in tracks)
    kept = sum(track.kept[signal] for track in tracks)
    return {
        "tracks": len(tracks),
        "clips": clips,
        "stored": stored,
        "kept": kept,
        "kept_share": kept / clips if clips else 0.0,
        "kept_s": kept * spec.clip_s,
    }


def _compare(tracks: list[MadeTrack], spec: PatchSpec, say: Callable[[str], None]) -> dict[str, Any]:
    """Compares the two folders, and prints what to beware of."""
    piles: dict[str, dict[str, Statistics]] = {signal: {} for signal in SIGNALS}
    for track in tracks:
        if track.statistics is not None:
            (signal,) = track.kept
            piles[signal][track.name] = Statistics(**track.statistics)
    comparison = compare(piles["mixture"], piles["accompaniment"], spec)
    for warning in comparison["warnings"]:
        say(f"Warning: {warning}")
    if comparison["suspicious"]:
        listed = "\n".join(f"  {name}" for name in comparison["suspicious"])
        say(f"Warning: the target seems to play in these recordings of the folder without it. Listen to them:\n{listed}")
    return comparison


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


def _write_tfds_metadata(
    folder: Path, spec: PatchSpec, shards: dict[str, list[str]], shard_lengths: dict[str, list[int]], files: dict[str, int]
) -> None:
    """Writes features.json and dataset_info.json. None of this needs TensorFlow itself, which stays unimported."""
    import tensorflow_datasets as tfds

    template = tfds.core.ShardedFileTemplate(data_dir=folder, dataset_name=NAME, filetype_suffix="tfrecord")
    splits = [
        tfds.core.SplitInfo(
            name=name,
            shard_lengths=shard_lengths[name],
            num_bytes=sum(files[shard] for shard in names),
            filename_template=template,
        )
        for name, names in shards.items()
    ]
    identity = tfds.core.DatasetIdentity(name=NAME, version=tfds.core.Version("1.0.0"), data_dir=str(folder), module_name="")
    stft = tfds.features.Tensor(shape=spec.patch_shape, dtype=np.dtype(spec.dtype), encoding="bytes")
    info = tfds.core.DatasetInfo(
        builder=identity,
        features=tfds.features.FeaturesDict({"track": np.int32, "start": np.int64, "level": np.float32, "stft": stft}),
        description=(
            "Patches of complex STFT (real, imaginary) of mixtures and accompaniments, made by jaxpu. `start` is the first "
            "sample of the clip, `level` what it was divided by before the transform."
        ),
    )
    info.set_file_format("tfrecord")
    info.set_splits(tfds.core.SplitDict(splits))
    info.write_to_directory(folder)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")
