"""Records of one track, in a folder of its own that appears when it is complete."""

import contextlib
import dataclasses
import functools
import json
import secrets
import shutil
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from data_pipeline.config import DataConfig
from data_pipeline.errors import DataError, WriteError, failure
from data_pipeline.files import writing_data
from data_pipeline.patches import PatchMaker
from data_pipeline.publishing import MadeTrack, shard_file
from data_pipeline.recording_statistics import Statistics, StatisticsMeter
from data_pipeline.stored_json import read_json
from data_pipeline.tfrecord import RecordWriter, encode_example
from data_pipeline.tracks import Track

_RESULT_FILE = "result.json"


@dataclasses.dataclass(frozen=True)
class Job:
    """A track to prepare.  `key` is the name of its folder, and changes with everything that its records depend on."""

    id: int
    key: str
    track: Track


@functools.cache
def _patch_maker(config: DataConfig) -> PatchMaker:
    return PatchMaker(config)


def make_track_once(job: Job, config: DataConfig, folder: Path) -> str | None:
    """Like `make_track`, on a cluster, which may request a track again, or from two workers at once."""
    if (folder / job.key).is_dir():
        return None
    try:
        return make_track(job, config, folder)
    except WriteError:
        if (folder / job.key).is_dir():  # The other worker was faster.
            return None
        raise


def make_track(job: Job, config: DataConfig, folder: Path) -> str | None:
    """Make folder/KEY with the records of a track and their description; it appears when it is complete.

    Returns an error message if the recordings cannot be used, for any reason, else None.  Raises WriteError if the disk refuses
    the data.
    """
    # A process number would not do: a process on another machine may have the same.
    temporary = folder / f"{job.key}.{secrets.token_hex(8)}"
    try:
        with writing_data(temporary):
            temporary.mkdir()
        result = _write_records(job, config, temporary)
        with writing_data(temporary):
            (temporary / _RESULT_FILE).write_text(json.dumps(result), encoding="utf-8")
            temporary.replace(folder / job.key)
    except WriteError:
        raise
    except Exception as error:  # Whatever is wrong with one recording, the others are prepared.
        return failure(job.track.name, error)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return None


def _write_records(job: Job, config: DataConfig, folder: Path) -> dict[str, Any]:
    """Write the records of a track; return their description: the fields of `MadeTrack` that are not in the job."""
    scratch = folder / "decoded"
    with writing_data(scratch):
        scratch.mkdir()
    track = _patch_maker(config).track(job.track, scratch)
    rows: dict[str, list[tuple[int, int, bool]]] = {}
    # With stems, positives are the mixtures minus the target: there is nothing to compare, nor in marked passages.
    meter = None if job.track.target else StatisticsMeter(config.patch, len(next(iter(track.starts.values()))))
    with contextlib.ExitStack() as stack:
        writers: dict[str, RecordWriter] = {}
        for patches in track.patches():
            if patches.signal not in writers:
                writers[patches.signal] = stack.enter_context(RecordWriter(folder / shard_file(patches.signal)))
            if meter and not (job.track.passages and patches.signal == "accompaniment"):
                meter.add(patches.stft, patches.levels, patches.active)
            for start, active, level, stft in zip(patches.starts, patches.active, patches.levels, patches.stft, strict=True):
                example = encode_example(track=job.id, start=int(start), level=float(level), stft=stft)
                offset = writers[patches.signal].write(example)
                rows.setdefault(patches.signal, []).append((offset, int(start), bool(active)))
        files = {shard_file(signal): writer.size for signal, writer in writers.items()}
    shutil.rmtree(scratch)
    statistics = meter.result() if meter else None
    return {
        "files": files,
        "rows": rows,
        "num_samples": track.num_samples,
        "clips": {signal: len(starts) for signal, starts in track.starts.items()},
        "marked": bool(job.track.passages),
        "lost_s": track.lost_s,
        "kept": {signal: int(kept.sum()) for signal, kept in track.kept.items()},
        "rms": track.rms,
        "unmixed": track.unmixed,
        "residual": dataclasses.asdict(track.residual) if track.residual else None,
        "statistics": dataclasses.asdict(statistics) if statistics else None,
    }


def read_track(job: Job, folder: Path) -> MadeTrack:
    """Read the description of a finished track from folder/KEY."""
    result = _read_result(folder / job.key)
    if result["statistics"] is not None:
        result["statistics"] = Statistics(**result["statistics"])
    return MadeTrack(job.id, job.track.name, job.track.split, folder / job.key, **result)


def is_finished(folder: Path) -> bool:
    """Whether a folder holds a track with all its files, as far as an interruption or a full disk left it so."""
    try:
        return all((folder / name).is_file() for name in _read_result(folder)["files"])
    except (DataError, FileNotFoundError):
        return False


def _read_result(folder: Path) -> dict[str, Any]:
    """Read the description of a finished track."""
    result: dict[str, Any] = read_json(folder / _RESULT_FILE, _Result, DataError, f"Delete {folder} and rerun the same command.")
    return result


class _Result(TypedDict):
    """Fields of `MadeTrack` that are not in the job."""

    files: dict[str, int]
    rows: dict[str, list[tuple[int, int, bool]]]
    num_samples: int
    clips: dict[str, int]
    marked: bool
    lost_s: float
    kept: dict[str, int]
    rms: NotRequired[dict[str, float]]
    unmixed: int
    statistics: Statistics | None
