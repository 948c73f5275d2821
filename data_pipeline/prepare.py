"""Preparation of a dataset from recordings: TFRecord shards for TensorFlow Datasets, and an index for random access.

Tracks are prepared in `directory/unfinished`, in one folder each, and published by renaming their files into `directory`.  The
files without which the dataset does not open are renamed last, so a kill at any moment leaves a finished dataset, or one that the
same command resumes.
"""

import concurrent.futures
import concurrent.futures.process
import contextlib
import dataclasses
import functools
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.audio import AudioInfo, resampled_length
from data_pipeline.beam import map_over_beam
from data_pipeline.config import DataConfig, config_key, fingerprint
from data_pipeline.dataset import PatchDataset
from data_pipeline.errors import DataError, failure, printable
from data_pipeline.files import LOCK_FILE, available_processors, locked, writing_data
from data_pipeline.held_out import Stretch, choose_stretches
from data_pipeline.layout import FORMAT, SIGNALS, UNFINISHED_FOLDER, read_info
from data_pipeline.marks_check import MarksCheck, check_marks, left_out_marks
from data_pipeline.progress import progress_bar
from data_pipeline.publishing import MadeDataset, MadeTrack, is_planned, plan, publish
from data_pipeline.tfrecord import FRAME_BYTES
from data_pipeline.track_records import Job, is_finished, make_track, make_track_once, read_track
from data_pipeline.tracks import Folders, Source, Track, find_tracks
from data_pipeline.workers import worker_pool

RESERVE_BYTES = 256 << 20
"""Space that `prepare` leaves free on the disk."""

# The outcome of the check of marks, for a resumed preparation.
_MARKS_FILE = "marks_check.json"
# Bytes of a record besides the STFT: framing, names of the features, lengths.
_RECORD_OVERHEAD = FRAME_BYTES + 128
_BAD_REMEDY = "Finished tracks are kept. Repair or remove these and rerun the same command, or leave them out with --skip-bad."


@dataclasses.dataclass(frozen=True)
class _Options:
    """Options of `prepare`."""

    num_workers: int | None
    beam_options: Sequence[str] | None
    skip_bad: bool
    progress: bool

    def say(self, message: str) -> None:
        if self.progress:
            print(printable(message))


@dataclasses.dataclass(frozen=True)
class _Work:
    """Tracks of a dataset.

    Attributes:
        config: settings of the data.
        jobs: one for every track whose files exist.
        bad: error messages of tracks that cannot be used, by name; more are added during the work.
        unfinished: folder for the work.
    """

    config: DataConfig
    jobs: list[Job]
    bad: dict[str, str]
    unfinished: Path

    @property
    def tracks_folder(self) -> Path:
        """Folder of the finished tracks."""
        return self.unfinished / "tracks"


def prepare(
    source: Source,
    config: DataConfig,
    directory: str | os.PathLike[str],
    *,
    num_workers: int | None = None,
    beam_options: Sequence[str] | None = None,
    skip_bad: bool = False,
    marks_check: MarksCheck | None = None,
    progress: bool = True,
) -> PatchDataset:
    """Prepare a dataset, or open it if it exists already for the same sources and settings.

    Finished tracks survive an interruption, and another call resumes.  An older dataset in `directory` stays usable until the new
    one is complete, and is then replaced.  Test tracks are left out: they stay audio.

    Args:
        source: source of the recordings.
        config: settings of the data.
        directory: folder of the dataset; created if it does not exist.
        num_workers: number of processes; by default one per available processor, 1 to work in this process.  Processes start by
            `spawn`, so a calling script needs `if __name__ == "__main__":`.
        beam_options: options of an Apache Beam pipeline, whose workers then prepare the tracks.  All must see the recordings and
            `directory` under the same paths.  The files are the same, to the byte.
        skip_bad: skip recordings that cannot be used, and list them, instead of raising an error.
        marks_check: a model that listens to marked passages; those in which it finds the target are left out, and listed.
        progress: print messages and a progress bar.

    Raises:
        AudioError: the source has no recordings.
        DataError: settings need stems that the source lacks; recordings cannot be used (all are named); no clip is kept; the disk
            has no room; `directory` is that of the recordings; another process is preparing in the same folder; Beam fails; most
            marks are doubtful.
    """
    directory, options = Path(directory), _Options(num_workers, beam_options, skip_bad, progress)
    if beam_options is not None:
        directory, source = directory.absolute(), _absolute(source)
    _check_place(source, directory, options)
    needing_stems = _needing_stems(config)
    if needing_stems and not source.has_stems:
        raise DataError(f"{needing_stems} needs stems, and folders of recordings have none. Choose another value.")
    work = _plan_work(source, config, directory / UNFINISHED_FOLDER, options.say)
    check = marks_check if any(job.track.passages for job in work.jobs) else None
    whole = fingerprint([job.key for job in work.jobs], sorted(work.bad), *([check.model] if check else []))
    _check_own(work.unfinished)
    if _is_prepared(directory, whole, options):
        return PatchDataset.open(directory)
    with writing_data(directory):
        work.tracks_folder.mkdir(parents=True, exist_ok=True)
    busy = DataError(f"{directory}: another process is preparing data there. Wait for it, or choose another folder.")
    with locked(work.unfinished, busy):
        if is_planned(directory, whole):
            info = read_info(work.unfinished) or read_info(directory)  # The file is moved last.
            assert info is not None
            _check_skipped(info, directory, options)
        else:
            plan(directory, _make(source, work, check, whole, options), options.say)
        publish(directory)
    return PatchDataset.open(directory)


def _check_place(source: Source, directory: Path, options: _Options) -> None:
    """Raise DataError if the dataset would lie among its own recordings or marks, or where Beam cannot write."""
    if options.beam_options is not None and set("*?[") & set(str(directory)):
        raise DataError(f"{directory}: Beam takes the characters *, ? and [ for patterns. Choose another folder (-o).")
    for path in vars(source).values():
        if isinstance(path, Path) and path.exists() and directory.exists() and path.samefile(directory):
            raise DataError(
                f"{directory}: the prepared data would lie among the recordings or marks. Choose another folder (-o)."
            )


def _check_own(unfinished: Path) -> None:
    """Raise DataError if the folder in which tracks are made, and which is removed in the end, holds files of somebody else."""
    if not (unfinished / LOCK_FILE).exists() and any(path.is_file() for path in unfinished.rglob("*")):
        raise DataError(
            f"{unfinished}: holds files that jaxpu did not write, and jaxpu works in a folder of this name. Choose another "
            "folder (-o), or rename this one."
        )


def _make(source: Source, work: _Work, check: MarksCheck | None, whole: str, options: _Options) -> MadeDataset:
    """Make the tracks: without doubtful marks, and with something held out."""
    checked = None
    if check is not None and isinstance(source, Folders):
        tracks = [job.track for job in work.jobs]
        places = [mark.where for track in tracks for mark in track.passages]
        checked = check_marks(tracks, check, work.unfinished / _MARKS_FILE, fingerprint(whole, places), options.say)
        # Planned again, for a song that has lost its marks cannot validate them.
        source = dataclasses.replace(source, left_out=left_out_marks(checked))
        work = _plan_work(source, work.config, work.unfinished)
    made = _make_tracks(work, options)
    stretches = choose_stretches(made, work.config)
    if stretches:
        work = _with_stretches(work, stretches, options)
        made = _make_tracks(work, options)
    if work.bad:
        options.say(f"Skipped {len(work.bad)} tracks:\n{_listed(work.bad)}")
    key = fingerprint(whole, [job.key for job in work.jobs]) if stretches or checked else whole
    uses_stems = _needing_stems(work.config)
    return MadeDataset(work.config, key, whole, source.has_stems, uses_stems, made, work.bad, checked)


def _absolute(source: Source) -> Source:
    """Make the paths of a source absolute, for workers with another working directory."""
    paths: dict[str, Any] = {name: path.absolute() for name, path in vars(source).items() if isinstance(path, Path)}
    return dataclasses.replace(source, **paths)


def _needing_stems(config: DataConfig) -> str | None:
    """Describe the settings that need stems; None if there are none."""
    settings = []
    if config.activity_on == "target":
        settings.append("activity_on = target")
    if config.target_to_accompaniment_db is not None:
        settings.append(f"target_to_accompaniment_db = {config.target_to_accompaniment_db}")
    return " and ".join(settings) or None


def _plan_work(source: Source, config: DataConfig, unfinished: Path, say: Callable[[str], None] = lambda line: None) -> _Work:
    """Make a job for every track but those of the test split; tracks with missing files are bad."""
    tracks = find_tracks(source, config.target, validation_share=config.validation_share, seed=config.seed, say=say)
    work = _Work(config, [], {}, unfinished)
    for number, track in enumerate(track for track in tracks if track.split != "test"):
        try:
            work.jobs.append(_job(number, track, config))
        except Exception as error:
            work.bad[track.name] = failure(track.name, error)
    return work


def _job(number: int, track: Track, config: DataConfig) -> Job:
    """The job of a track.  Raises AudioError if a file is missing."""
    identity: dict[str, Any] = {name: recording.identity() for name, recording in track.recordings().items()}
    if track.passages:
        identity["marked"] = [(mark.begin_s, mark.end_s) for mark in track.passages]
    return Job(number, fingerprint(FORMAT, config_key(config), number, track.name, track.split, identity), track)


def _with_stretches(work: _Work, stretches: list[Stretch], options: _Options) -> _Work:
    """Divide tracks into a part to train on and a held-out part, which gets a number after all others."""
    jobs = {job.id: job for job in work.jobs if job.track.name not in work.bad}
    for number, stretch in enumerate(stretches, 1 + max(jobs)):
        track = jobs[stretch.track_id].track
        parts = stretch.parts(track, work.config)
        for each, part in zip((stretch.track_id, number), parts, strict=True):
            jobs[each] = _job(each, part, work.config)
        options.say(
            f"No whole recording is left to validate the {' and the '.join(stretch.signals)}: {parts[1].name} is held out, one "
            f"clip after {parts[0].name}."
        )
    return dataclasses.replace(work, jobs=list(jobs.values()))


def _is_prepared(directory: Path, whole: str, options: _Options) -> bool:
    """Whether the dataset with this fingerprint is finished.  Raises DataError if recordings are missing that must not be."""
    info = read_info(directory)
    if info is None or info.get("source_fingerprint", info["fingerprint"]) != whole:
        if info is not None:
            options.say(f"{directory}: holds data of other recordings or settings, to be replaced. -o DIR would keep them.")
        return False
    if not all(info["counts"][f"validation_{signal}"]["kept"] for signal in SIGNALS):
        return False  # Earlier versions held nothing out of a single recording.
    _check_skipped(info, directory, options)
    options.say(f"{directory}: already prepared from the same recordings with the same settings.")
    unfinished = directory / UNFINISHED_FOLDER
    if unfinished.is_dir():  # A kill came just before its removal, or another process works there.
        with contextlib.suppress(DataError), locked(unfinished, DataError("")):
            shutil.rmtree(unfinished, ignore_errors=True)
    return True


def _check_skipped(info: dict[str, Any], directory: Path, options: _Options) -> None:
    """Print which recordings a finished dataset lacks.  Raises DataError if none may be lacking."""
    if not info["skipped"]:
        return
    skipped = f"{directory}: was prepared without these recordings:\n{_listed(info['skipped'])}\n"
    if not options.skip_bad:
        raise DataError(f"{skipped}{_BAD_REMEDY} If they can be read by now, delete {directory} first.")
    options.say(f"{skipped}If they can be read by now, delete {directory} and rerun the same command.")


def _make_tracks(work: _Work, options: _Options) -> list[MadeTrack]:
    """Make all tracks that are not finished; return all.  Raises DataError if some cannot be used and must not be skipped."""
    num_tracks = len(work.jobs) + len(work.bad)
    _clean(work)
    remaining = [job for job in work.jobs if not (work.tracks_folder / job.key).is_dir()]
    if len(remaining) < len(work.jobs):
        options.say(f"{len(work.jobs) - len(remaining)} of {len(work.jobs)} tracks are finished already.")
    headers = _check_headers(remaining, work.bad)
    remaining = [job for job in remaining if job.id in headers]
    num_workers = _count_workers(options.num_workers, len(remaining))
    _check_room(work, remaining, headers, num_workers, options)
    with progress_bar(len(remaining), "prepare", "track", show=options.progress) as bar:
        for job, error in _outcomes(work, remaining, num_workers, options.beam_options):
            if error is not None:
                work.bad[job.track.name] = error
                bar.write(printable(error))
            bar.update()
    if work.bad and not options.skip_bad:
        raise DataError(f"{len(work.bad)} of {num_tracks} tracks cannot be used:\n{_listed(work.bad)}\n{_BAD_REMEDY}")
    return [read_track(job, work.tracks_folder) for job in work.jobs if job.track.name not in work.bad]


def _listed(bad: dict[str, str]) -> str:
    return "\n".join(f"  {message if name in message else f'{name}: {message}'}" for name, message in bad.items())


def _clean(work: _Work) -> None:
    """Remove incomplete files of killed processes, and tracks made from other sources or with other settings."""
    for path in work.unfinished.iterdir():
        if path.is_dir() and path != work.tracks_folder:
            shutil.rmtree(path)
        elif path.is_file() and path.name not in (LOCK_FILE, _MARKS_FILE):
            path.unlink()
    keys = {job.key for job in work.jobs}
    for folder in work.tracks_folder.iterdir():
        if folder.name not in keys or not is_finished(folder):
            shutil.rmtree(folder)


def _check_headers(jobs: list[Job], bad: dict[str, str]) -> dict[int, AudioInfo]:
    """Read the header of every track, by number of its job.  Tracks with damaged files are added to `bad` instead."""
    headers = {}
    for job in jobs:
        try:
            headers[job.id] = job.track.check()
        except Exception as error:
            bad[job.track.name] = failure(job.track.name, error)
    return headers


def _count_workers(num_workers: int | None, num_jobs: int) -> int:
    if num_workers is not None and num_workers < 1:
        raise DataError(f"num_workers is {num_workers}; it must be at least 1.")
    return max(1, min(num_workers or available_processors(), num_jobs))


def _check_room(work: _Work, jobs: list[Job], headers: dict[int, AudioInfo], num_workers: int, options: _Options) -> None:
    """Print an upper bound of the size of the data.  Raises DataError if the disk has no room for it."""
    spec, directory = work.config.patch, work.unfinished.parent
    record_bytes = math.prod(spec.patch_shape) * np.dtype(spec.dtype).itemsize + _RECORD_OVERHEAD
    num_bytes, decoded_bytes, unknown = 0, [0], 0
    for job in jobs:
        header = headers[job.id]
        if header.num_samples is None:
            unknown += 1
            continue
        num_samples = resampled_length(header.num_samples, header.sample_rate, spec.sample_rate)
        num_signals = 1 if job.track.passages else sum(name in SIGNALS for name in job.track.recordings())
        num_clips = num_signals * (num_samples // spec.clip_samples)
        for mark in job.track.passages:
            passage_s = (num_samples / spec.sample_rate if mark.end_s is None else mark.end_s) - mark.begin_s
            num_clips += math.ceil(max(passage_s, 0) / (work.config.marked_hop * spec.clip_s))
        num_bytes += num_clips * record_bytes
        decoded_bytes.append(4 * num_signals * num_samples * spec.num_channels)
    needed = num_bytes + sum(sorted(decoded_bytes)[-num_workers:])
    free = shutil.disk_usage(directory).free
    uncounted = f", not counting {unknown} whose length only decoding can tell" if unknown else ""
    options.say(f"Preparing {len(jobs)} tracks: at most {_size(num_bytes)}{uncounted}. {directory} has {_size(free)} free.")
    if needed + RESERVE_BYTES > free:
        raise DataError(
            f"{directory}: has {_size(free)} free, but preparation needs up to {_size(needed)}, and {_size(RESERVE_BYTES)} must "
            "stay free. Free some space, choose another disk, or prepare less: mono, float16, a lower sample rate, a larger hop."
        )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.2f} MB"


def _outcomes(
    work: _Work, jobs: list[Job], num_workers: int, beam_options: Sequence[str] | None
) -> Iterator[tuple[Job, str | None]]:
    """Make the tracks; yield each when it is finished, with its error message if it cannot be used."""
    if beam_options is not None:
        make = functools.partial(make_track_once, config=work.config, folder=work.tracks_folder)
        yield from zip(jobs, map_over_beam(make, jobs, beam_options, work.unfinished), strict=True)
    elif num_workers == 1:
        for job in jobs:
            yield job, make_track(job, work.config, work.tracks_folder)
    else:
        try:
            with worker_pool(num_workers) as executor:
                futures = {executor.submit(make_track, job, work.config, work.tracks_folder): job for job in jobs}
                for future in concurrent.futures.as_completed(futures):
                    yield futures[future], future.result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise DataError(
                "A worker process died: it was killed, perhaps for lack of memory. Finished tracks are kept: rerun the same "
                "command with fewer workers (--workers)."
            ) from error
