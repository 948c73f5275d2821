"""Recordings -> a prepared dataset on disk: TFRecord shards that TensorFlow Datasets opens, with an index for random access.

A dataset is made in `directory/unfinished`, one folder per finished track, and published by renaming files into `directory`,
those that make it openable last. So a kill at any moment leaves a finished dataset, or one that the same command goes on with.
"""

import concurrent.futures
import concurrent.futures.process
import contextlib
import dataclasses
import fcntl
import functools
import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.audio import AudioInfo, resampled_length
from data_pipeline.beam import map_over_beam
from data_pipeline.config import DataConfig, fingerprint
from data_pipeline.dataset import PatchDataset
from data_pipeline.errors import AudioError, DataError, WriteError
from data_pipeline.folder_check import StatisticsMeter
from data_pipeline.layout import FORMAT, SIGNALS, UNFINISHED_FOLDER, read_info
from data_pipeline.patches import PatchMaker
from data_pipeline.progress import progress_bar
from data_pipeline.publishing import MadeTrack, is_planned, plan, publish, shard_file
from data_pipeline.tfrecord import FRAME_BYTES, RecordWriter, encode_example, writing
from data_pipeline.tracks import Source, Track, find_tracks
from data_pipeline.workers import worker_pool

RESERVE_BYTES = 256 << 20
"""What `prepare` leaves free on the disk unless told otherwise."""

_RESULT_FILE = "result.json"
# What a record holds beside the STFT: framing, names of the features, lengths.
_RECORD_OVERHEAD = FRAME_BYTES + 128


@dataclasses.dataclass(frozen=True)
class _Job:
    """A track to prepare. `key` names its folder, and changes with everything that its records depend on."""

    id: int
    key: str
    track: Track


def prepare(
    source: Source,
    config: DataConfig,
    directory: str | os.PathLike[str],
    *,
    num_workers: int | None = None,
    beam_options: Sequence[str] | None = None,
    skip_bad: bool = False,
    progress: bool = True,
    reserve_bytes: int = RESERVE_BYTES,
) -> PatchDataset:
    """Makes a dataset, or opens it where it is there already for the same sources and settings.

    Interrupted, it keeps every finished track, and goes on when it is called again. An older dataset in `directory` stays
    usable until the new one is complete, and is then replaced. Tracks of the test split are left out: they stay audio.

    Args:
        source: where the recordings are.
        config: what to make of them.
        directory: where the dataset will lie; made where it does not exist.
        num_workers: processes; one per CPU by default. 1 works in this process. More are started by `spawn`, so a script that
            calls this needs `if __name__ == "__main__":`.
        beam_options: make the tracks on the workers of an Apache Beam runner instead, which these options describe. All of them
            must see the recordings and `directory` under the same paths.  The files are the same, to the byte.
        skip_bad: leave out recordings that cannot be used, and list them, in place of an error.
        progress: print what is going on, with a bar.
        reserve_bytes: refuse to begin where less than this would be left on the disk.

    Raises:
        AudioError: the source has no recordings.
        DataError: settings need stems that the source lacks; recordings are bad (all are named); nothing is kept; the disk has
            no room; another process is preparing in the same folder; Beam fails.
    """
    directory = Path(directory)
    if beam_options is not None:
        directory, source = directory.absolute(), _absolute(source)
    if not source.has_stems:
        needing = _needing_stems(config)
        if needing:
            raise DataError(f"{needing} needs stems, and two folders have none. Choose another value.")
    say = print if progress else _say_nothing
    found = find_tracks(source, config.target, validation_share=config.validation_share, seed=config.seed)
    tracks = [track for track in found if track.split != "test"]
    jobs, bad = _jobs(tracks, config)
    whole = fingerprint([job.key for job in jobs], sorted(bad))

    info = read_info(directory)
    if info is not None and info["fingerprint"] == whole:
        if info["skipped"] and not skip_bad:
            raise DataError(f"{directory}: was prepared without these recordings:\n{_listed(info['skipped'])}\n{_BAD_REMEDY}")
        say(f"{directory}: already prepared from the same recordings with the same settings.")
        shutil.rmtree(directory / UNFINISHED_FOLDER, ignore_errors=True)  # a kill may have come just before it went
        return PatchDataset.open(directory)

    unfinished = directory / UNFINISHED_FOLDER
    with writing(directory):
        (unfinished / "tracks").mkdir(parents=True, exist_ok=True)
    with _locked(unfinished / "lock"):
        if not is_planned(directory, whole):
            _clean(unfinished, {job.key for job in jobs})
            remaining = [job for job in jobs if not (unfinished / "tracks" / job.key).is_dir()]
            if len(remaining) < len(jobs):
                say(f"{len(jobs) - len(remaining)} of {len(jobs)} tracks are there from an earlier run.")
            headers = _check_headers(remaining, bad)
            remaining = [job for job in remaining if job.id in headers]
            workers = _count_workers(num_workers, len(remaining))
            _check_room(directory, remaining, headers, config, workers, reserve_bytes, say)
            _make_tracks(remaining, config, unfinished / "tracks", workers, beam_options, progress, bad)
            if bad and not skip_bad:
                raise DataError(f"{len(bad)} of {len(tracks)} tracks cannot be used:\n{_listed(bad)}\n{_BAD_REMEDY}")
            if bad:
                say(f"Skipped {len(bad)} tracks:\n{_listed(bad)}")
            made = [_made(job, unfinished / "tracks") for job in jobs if job.track.name not in bad]
            plan(directory, config, whole, source.has_stems, _needing_stems(config), made, bad, say)
        publish(directory)
    return PatchDataset.open(directory)


_BAD_REMEDY = (
    "Finished tracks are kept. Repair or remove these and run the same command again, or leave them out with --skip-bad."
)


def _absolute(source: Source) -> Source:
    """The same source for a worker that runs in another folder."""
    return dataclasses.replace(source, **{name: path.absolute() for name, path in dataclasses.asdict(source).items()})


def _needing_stems(config: DataConfig) -> str | None:
    """The settings that need stems, for messages; None where none does."""
    settings = []
    if config.activity_on == "target":
        settings.append("activity_on = target")
    if config.target_to_accompaniment_db is not None:
        settings.append(f"target_to_accompaniment_db = {config.target_to_accompaniment_db}")
    return " and ".join(settings) or None


def _say_nothing(message: str) -> None:
    del message


def _listed(bad: dict[str, str]) -> str:
    return "\n".join(f"  {message}" for message in bad.values())


def _jobs(tracks: list[Track], config: DataConfig) -> tuple[list[_Job], dict[str, str]]:
    """A job for every track, and by name of the track what is wrong with those whose files are missing."""
    jobs, bad = [], {}
    for number, track in enumerate(tracks):
        try:
            identity = {name: recording.identity() for name, recording in track.recordings().items()}
        except AudioError as error:
            bad[track.name] = str(error)
            continue
        key = fingerprint(FORMAT, dataclasses.asdict(config), number, track.name, track.split, identity)
        jobs.append(_Job(number, key, track))
    return jobs, bad


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keeps other processes out; the system lets go of the lock when this one ends, however it ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f"{path.parent.parent}: another process is preparing data there. Wait for it, or choose another folder."
            ) from error
        except OSError:
            pass  # some network file systems know no locks
        yield


def _clean(unfinished: Path, keys: set[str]) -> None:
    """Removes what killed processes left half-made, and what other sources or settings made."""
    for path in unfinished.iterdir():
        if path.is_dir() and path.name != "tracks":
            shutil.rmtree(path)
        elif path.is_file() and path.name != "lock":
            path.unlink()
    for folder in (unfinished / "tracks").iterdir():
        if folder.name not in keys or any(not (folder / name).is_file() for name in _read_result(folder)["files"]):
            shutil.rmtree(folder)


def _read_result(folder: Path) -> dict[str, Any]:
    """What `_make_track` left about a finished track."""
    return json.loads((folder / _RESULT_FILE).read_text(encoding="utf-8"))


def _check_headers(jobs: list[_Job], bad: dict[str, str]) -> dict[int, AudioInfo]:
    """The header of every track by number of its job. Tracks with bad files are added to `bad` instead."""
    headers = {}
    for job in jobs:
        try:
            headers[job.id] = job.track.check()
        except AudioError as error:
            bad[job.track.name] = str(error)
    return headers


def _count_workers(num_workers: int | None, num_jobs: int) -> int:
    if num_workers is not None and num_workers < 1:
        raise DataError(f"num_workers is {num_workers}; it must be at least 1.")
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(num_workers or available, num_jobs))


def _check_room(
    directory: Path,
    jobs: list[_Job],
    headers: dict[int, AudioInfo],
    config: DataConfig,
    num_workers: int,
    reserve_bytes: int,
    say: Callable[[str], None],
) -> None:
    """Prints what will be written, at most. Raises DataError where the disk has no room for it."""
    spec = config.patch
    record_bytes = math.prod(spec.patch_shape) * np.dtype(spec.dtype).itemsize + _RECORD_OVERHEAD
    num_bytes, decoded_bytes, unknown = 0, [0], 0
    for job in jobs:
        header = headers[job.id]
        if header.num_samples is None:
            unknown += 1
            continue
        num_samples = resampled_length(header.num_samples, header.sample_rate, spec.sample_rate)
        num_signals = sum(name in SIGNALS for name in job.track.recordings())
        num_bytes += num_signals * (num_samples // spec.clip_samples) * record_bytes
        decoded_bytes.append(4 * num_signals * num_samples * spec.num_channels)
    needed = num_bytes + sum(sorted(decoded_bytes)[-num_workers:])
    free = shutil.disk_usage(directory).free
    rest = f", not counting {unknown} whose length only decoding will tell" if unknown else ""
    say(f"Preparing {len(jobs)} tracks: at most {_size(num_bytes)}{rest}. {directory} has {_size(free)} free.")
    if needed + reserve_bytes > free:
        raise DataError(
            f"{directory}: has {_size(free)} free, but the data need up to {_size(needed)} while they are made, and "
            f"{_size(reserve_bytes)} are to stay free. Make room, choose another disk, or prepare less: mono, float16, a lower "
            "sample rate, a larger hop."
        )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.2f} MB"


def _make_tracks(
    jobs: list[_Job],
    config: DataConfig,
    folder: Path,
    num_workers: int,
    beam_options: Sequence[str] | None,
    progress: bool,
    bad: dict[str, str],
) -> None:
    """Makes all tracks; those that cannot be used are added to `bad`."""
    with progress_bar(len(jobs), "prepare", "track", show=progress) as bar:
        if beam_options is None:
            outcomes = _outcomes(jobs, config, folder, num_workers)
        else:
            make = functools.partial(_make_track_once, config=config, folder=folder)
            outcomes = zip(jobs, map_over_beam(make, jobs, beam_options, folder.parent), strict=True)
        for job, error in outcomes:
            if error is not None:
                bad[job.track.name] = error
                bar.write(error)
            bar.update()


def _outcomes(jobs: list[_Job], config: DataConfig, folder: Path, num_workers: int) -> Iterator[tuple[_Job, str | None]]:
    """Makes the tracks and yields each when it is finished, with what is wrong with it."""
    if num_workers == 1:
        for job in jobs:
            yield job, _make_track(job, config, folder)
        return
    try:
        with worker_pool(num_workers) as executor:
            futures = {executor.submit(_make_track, job, config, folder): job for job in jobs}
            for future in concurrent.futures.as_completed(futures):
                yield futures[future], future.result()
    except concurrent.futures.process.BrokenProcessPool as error:
        raise DataError(
            "A worker process died: killed, perhaps for want of memory. Finished tracks are kept: run the same command again, "
            "with fewer workers (--num-workers)."
        ) from error


@functools.cache
def _patch_maker(config: DataConfig) -> PatchMaker:
    return PatchMaker(config)


def _make_track_once(job: _Job, config: DataConfig, folder: Path) -> str | None:
    """`_make_track` for a cluster, which may ask for a track again, or ask two workers for it."""
    if (folder / job.key).is_dir():
        return None
    try:
        return _make_track(job, config, folder)
    except WriteError:
        if (folder / job.key).is_dir():  # The other worker was faster.
            return None
        raise


def _make_track(job: _Job, config: DataConfig, folder: Path) -> str | None:
    """Makes folder/KEY with the records of a track and what there is to know about them; it appears when it is complete.

    Returns what is wrong with the recordings, None where nothing is. Raises WriteError where the disk refuses.
    """
    # Not this process's number: one on another machine may have the same.
    temporary = folder / f"{job.key}.{secrets.token_hex(8)}"
    try:
        with writing(temporary):
            temporary.mkdir()
        result = _write_records(job, config, temporary)
        with writing(temporary):
            (temporary / _RESULT_FILE).write_text(json.dumps(result), encoding="utf-8")
            temporary.replace(folder / job.key)
    except WriteError:
        raise
    except (AudioError, DataError) as error:
        return str(error)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return None


def _write_records(job: _Job, config: DataConfig, folder: Path) -> dict[str, Any]:
    scratch = folder / "decoded"
    with writing(scratch):
        scratch.mkdir()
    track = _patch_maker(config).track(job.track, scratch)
    rows: dict[str, list[tuple[int, int, bool]]] = {}
    files: dict[str, int] = {}
    # Positives of a source with stems are its mixtures less the target: there is nothing to compare.
    meter = None if job.track.target else StatisticsMeter(config.patch, track.num_clips)
    with contextlib.ExitStack() as stack:
        writers: dict[str, RecordWriter] = {}
        for patches in track.patches():
            if patches.signal not in writers:
                writers[patches.signal] = stack.enter_context(RecordWriter(folder / shard_file(patches.signal)))
            if meter:
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
        "rows": rows,  # by signal: offset, start, active
        "num_samples": track.num_samples,
        "num_clips": track.num_clips,
        "kept": {signal: int(kept.sum()) for signal, kept in track.kept.items()},
        "unmixed": track.unmixed,
        "statistics": dataclasses.asdict(statistics) if statistics else None,
    }


def _made(job: _Job, folder: Path) -> MadeTrack:
    return MadeTrack(job.id, job.track.name, job.track.split, folder / job.key, **_read_result(folder / job.key))
