"""Tracks to scores: a model beside doing nothing, the best fixed mask and the oracle masks.

Written to the output folder: `scores.json`, and for each method museval's file per track,
`museval/METHOD/SPLIT/TRACK.json`, which `museval.MethodStore.add_eval_dir` reads.  And, if asked for, passages of some tracks
(`jaxpu.evaluation.excerpts`).
"""

import concurrent.futures
import dataclasses
import functools
import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from data_pipeline import audio
from data_pipeline.config import DataConfig, PatchSpec
from data_pipeline.errors import UserError
from data_pipeline.progress import progress_bar
from data_pipeline.tracks import Source, Track, TwoFolders, find_tracks
from data_pipeline.workers import worker_pool
from jaxpu.evaluation import baselines as comparisons
from jaxpu.evaluation import excerpts
from jaxpu.evaluation.scoring import TrackScores, nan_median, score_track, silent_references

if TYPE_CHECKING:
    from jaxpu.core.network import TrainedModel

FloatArray = npt.NDArray[np.floating[Any]]
Separator = Callable[[FloatArray, int], FloatArray]
"""From a waveform, float32 (channels, samples), and its rate in Hz to the target in it, of the same shape."""

Job = TypeVar("Job")
Result = TypeVar("Result")

MODEL = "model"
SCORES_FILE = "scores.json"


READING = (
    "SI-SDR and SI-SDRi, its improvement over the mixture: dB, mean over the tracks (med.: median).",
    "SDR: museval's, dB, median over frames, then over tracks. SDR+blank: with the blank frames that museval leaves out.",
    "kept: energy of the estimate over the target's, median. blank: share of active frames 40 dB or more under the target.",
    "excluded: share of the frames that museval leaves out, since a reference or an estimate is silent in them.",
)
"""What the columns of the table are, a sentence or two a line."""


class EvaluationError(UserError):
    """Nothing can be evaluated or compared; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A method's scores over all tracks.

    SDR, ISR, SIR and SAR are medians over tracks of the median over frames, as in SiSEC 2018.

    Attributes:
        method: "model", or the name of a baseline.
        num_tracks: tracks scored.
        scores: the numbers of `TrackScores.to_json` by median over the tracks, and with the suffix `_mean` by mean;
            `kept_energy_min` and `kept_energy_max`; `excluded_share`, of all frames.  NaN where there is nothing to take.
    """

    method: str
    num_tracks: int
    scores: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Table:
    """The scores of several methods on the same tracks.

    Attributes:
        rows: one per method, the model first.
        tracks: the scores behind them by method and track.
        excluded_tracks: why, by the track's name.
        info: split, target, source, what the model says of itself, and where in their tracks the excerpts begin.
        path: of `scores.json`.
    """

    rows: tuple[Row, ...]
    tracks: dict[str, dict[str, TrackScores]]
    excluded_tracks: dict[str, str]
    info: dict[str, Any]
    path: Path

    def row(self, method: str) -> Row:
        """The row of that method."""
        for row in self.rows:
            if row.method == method:
                return row
        raise KeyError(f"The table has no method {method!r}; it has {', '.join(row.method for row in self.rows)}.")


def default_folder(model: Path) -> Path:
    """Where the scores of a model go unless told otherwise: into the run, or beside the file of an archive."""
    return model.with_name(f"{model.stem}-evaluation") if model.is_file() else model / "evaluation"


def evaluate(
    model: "TrainedModel",
    source: Source,
    out_dir: str | os.PathLike[str],
    *,
    split: str = "test",
    full: bool = False,
    num_workers: int | None = None,
    baselines: bool = True,
    num_excerpts: int = 0,
    progress: bool = True,
) -> Table:
    """Scores a model on the tracks of a source, at their own rate and channels.

    Processes that work together (`jaxpu.parallel.joined`) share the tracks, and all return the whole table; process 0 writes.

    Args:
        model: what `jaxpu.load_model` returns.
        source: recordings with stems.
        out_dir: see the module's docstring; files of an earlier evaluation are replaced.
        split: "test", "validation" or "train".
        full: take ISR, SIR and SAR too, about 1000 times slower.
        num_workers: processes that score; None takes one per available core, 1 works in this process.
        baselines: score doing nothing, the fixed mask (fitted on the training tracks) and the oracle masks too.
        num_excerpts: tracks to keep a passage of, with its estimate, in `out_dir`; they are separated once more.
        progress: show progress bars.

    Raises:
        EvaluationError: the source has no stems, or no track of the split can be scored.
        AudioError: a recording cannot be read.
    """
    from jaxpu.separation.files import separate_waveform

    return evaluate_separator(
        functools.partial(separate_waveform, model),
        model.config.data,
        source,
        out_dir,
        info=model.info,
        split=split,
        full=full,
        num_workers=num_workers,
        baselines=baselines,
        num_excerpts=num_excerpts,
        progress=progress,
    )


def evaluate_separator(
    separate: Separator,
    data: DataConfig,
    source: Source,
    out_dir: str | os.PathLike[str],
    *,
    info: Mapping[str, Any] | None = None,
    split: str = "test",
    full: bool = False,
    num_workers: int | None = None,
    baselines: bool = True,
    num_excerpts: int = 0,
    progress: bool = True,
) -> Table:
    """`evaluate` for anything that separates.

    Args:
        separate: runs in this process, one track after the other.
        data: names the target, the STFT of the baselines and the validation tracks.
        source: as in `evaluate`.
        out_dir: as in `evaluate`.
        info: recorded with the scores, JSON-serialisable.
        split: as in `evaluate`.
        full: as in `evaluate`.
        num_workers: as in `evaluate`.
        baselines: as in `evaluate`.
        num_excerpts: as in `evaluate`.
        progress: as in `evaluate`.
    """
    from jaxpu import parallel

    if isinstance(source, TwoFolders):
        raise EvaluationError("Scores need the target by itself, but two folders have no stems. Evaluate on MUSDB18 or its like.")
    audio.require_ffmpeg()  # museval cannot be imported without it.
    every = find_tracks(source, data.target, validation_share=data.validation_share, seed=data.seed)
    tracks = [track for track in every if track.split == split]
    if not tracks:
        found = ", ".join(sorted({track.split for track in every}))
        raise EvaluationError(f"{source.root} has no tracks in the split {split!r}; it has {found}. Choose another split.")
    training = [track for track in every if track.split == "train"]
    share = tracks[parallel.process_index() :: parallel.process_count()]
    progress = progress and parallel.process_index() == 0
    num_workers = num_workers or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)

    mask = None
    if baselines and training:
        fit = functools.partial(_mask_sums, target=data.target, patch=data.patch)
        results = _map(fit, training, num_workers, len(training), "fixed mask", progress)
        mask = comparisons.solve_fixed_mask(sums for _, sums in results)

    def jobs() -> Iterator[tuple[Track, FloatArray]]:
        for track in share:
            assert track.mixture is not None
            yield track, separate(track.mixture.read(), track.mixture.sample_rate)

    score = functools.partial(
        _score_methods, target=data.target, patch=data.patch, baselines=baselines, fixed_mask=mask, full=full
    )
    scores: dict[str, dict[str, TrackScores]] = {}
    excluded: dict[str, str] = {}
    mine = [(track.name, result) for (track, _), result in _map(score, jobs(), num_workers, len(share), "evaluate", progress)]
    for name, result in itertools.chain.from_iterable(parallel.gather(mine)):
        if isinstance(result, str):
            excluded[name] = result
        else:
            for method, track_scores in result.items():
                scores.setdefault(method, {})[name] = track_scores
    if not scores:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in excluded.items())
        raise EvaluationError(f"No track of the split {split!r} of {source.root} can be scored ({reasons}).")
    # Tracks come back in the order in which they were finished.
    scores = {method: dict(sorted(by_track.items())) for method, by_track in scores.items()}

    def sounds(chosen: list[str]) -> Iterator[tuple[str, dict[str, FloatArray], int]]:
        with progress_bar(len(chosen), "excerpts", "track", show=progress) as bar:
            for track in tracks:
                if track.name in chosen:
                    assert track.mixture is not None
                    mixture, rate = track.mixture.read(), track.mixture.sample_rate
                    target = _references(track, data.target)["target"]
                    yield track.name, {"mixture": mixture, "target": target, "estimate": separate(mixture, rate)}, rate
                    bar.update()

    chosen = excerpts.choose(scores[MODEL], num_excerpts)
    described = {"split": split, "target": list(data.target), "source": str(source.root), "full": full, "model": dict(info or {})}
    described["excerpts"] = parallel.of_first_process(lambda: excerpts.write(out_dir, sounds(chosen))) if chosen else {}
    table = Table(
        rows=tuple(_row(method, by_track) for method, by_track in scores.items()),
        tracks=scores,
        excluded_tracks=dict(sorted(excluded.items())),
        info=described,
        path=Path(out_dir) / SCORES_FILE,
    )
    if parallel.process_index() == 0:
        _write(table, split)
    return table


def columns(full: bool) -> dict[str, tuple[str, str]]:
    """The columns of a table: by their headings, the key of `Row.scores` and the format.

    Args:
        full: with ISR, SIR and SAR.
    """
    return {
        "SI-SDR": ("si_sdr_mean", ".2f"),
        "SI-SDRi": ("si_sdr_improvement_mean", ".2f"),
        "SI-SDRi med.": ("si_sdr_improvement", ".2f"),
        "SDR": ("sdr_target", ".2f"),
        "SDR+blank": ("sdr_target_with_blank", ".2f"),
        "SDR accomp.": ("sdr_accompaniment", ".2f"),
        **({name: (f"{name.lower()}_target", ".2f") for name in ("ISR", "SIR", "SAR")} if full else {}),
        "kept": ("kept_energy", ".2f"),
        "blank": ("blank_rate_mean", ".0%"),
        "excluded": ("excluded_share", ".0%"),
    }


def format_table(table: Table) -> str:
    """The table as plain text."""
    shown = columns(table.info["full"])
    cells = [["", *shown]]
    for row in table.rows:
        values = [(row.scores[key], spec) for key, spec in shown.values()]
        cells.append([row.method, *("-" if math.isnan(value) else format(value, spec) for value, spec in values)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    ]
    target, num_tracks = " + ".join(table.info["target"]), table.rows[0].num_tracks
    lines += [
        "",
        f"Target: {target}; {num_tracks} tracks of the split {table.info['split']}.",
        *READING,
    ]
    if model := table.info["model"]:
        stems = ", ".join(model["uses_stems"]) or "none"
        lines.append(f"Model: step {model['step']}, selected by {model['select_by']}. Use of stems: {stems}.")
    lines += [f"Left out: {name}: {reason}" for name, reason in table.excluded_tracks.items()]
    return "\n".join(lines)


def _references(track: Track, target: tuple[str, ...]) -> dict[str, FloatArray]:
    """The sums of the stems, as musdb takes them; not the mixture's difference, which has the coding noise of .stem.mp4."""
    assert track.accompaniment is not None
    stems = [track.stem(name).read() for name in target]
    return {"target": np.sum(stems, axis=0, dtype=np.float32), "accompaniment": track.accompaniment.read()}


def _mask_sums(track: Track, *, target: tuple[str, ...], patch: PatchSpec) -> npt.NDArray[np.float64]:
    reference = _references(track, target)
    assert track.mixture is not None
    mixture = reference["target"] + reference["accompaniment"]
    return comparisons.fixed_mask_sums_of_track(reference["target"], mixture, track.mixture.sample_rate, patch)


def _score_methods(
    job: tuple[Track, FloatArray],
    *,
    target: tuple[str, ...],
    patch: PatchSpec,
    baselines: bool,
    fixed_mask: npt.NDArray[np.float64] | None,
    full: bool,
) -> dict[str, TrackScores] | str:
    """The scores of all methods, or why the track cannot be scored."""
    track, estimated_target = job
    assert track.mixture is not None
    reference, mixture, rate = _references(track, target), track.mixture.read(), track.mixture.sample_rate
    silent = silent_references(reference)
    if silent:
        return f"the {' and the '.join(silent)} is silent all through"
    estimates = {MODEL: estimated_target}
    if baselines:
        estimates |= comparisons.baseline_targets(reference, mixture, rate, patch, fixed_mask)
    scores = {}
    for method, estimate in estimates.items():
        # Doing nothing takes the mixture for both; all others share it out.
        accompaniment = mixture if method == comparisons.MIXTURE else mixture - estimate
        try:
            scores[method] = score_track(reference, {"target": estimate, "accompaniment": accompaniment}, rate, full=full)
        except ValueError as error:
            raise EvaluationError(f"{track.name}, {method}: {error}") from error
    return scores


def _map(
    function: Callable[[Job], Result], jobs: Iterable[Job], num_workers: int, num_jobs: int, title: str, progress: bool
) -> Iterator[tuple[Job, Result]]:
    """Jobs and their results, in any order; at most a few jobs are drawn ahead, since they may hold whole recordings."""
    with progress_bar(num_jobs, title, "track", show=progress) as bar:
        if min(num_workers, num_jobs) <= 1:
            for job in jobs:
                yield job, function(job)
                bar.update()
            return
        with worker_pool(min(num_workers, num_jobs)) as pool:  # Its processes import no JAX and touch no device.
            pending: dict[concurrent.futures.Future[Result], Job] = {}
            remaining = iter(jobs)
            while True:
                while len(pending) <= num_workers and (drawn := next(remaining, None)) is not None:
                    pending[pool.submit(function, drawn)] = drawn
                if not pending:
                    return
                finished, _ = concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in finished:
                    yield pending.pop(future), future.result()
                    bar.update()


def _row(method: str, by_track: Mapping[str, TrackScores]) -> Row:
    tracks: Sequence[dict[str, Any]] = [scores.to_json() for scores in by_track.values()]
    scores = {}
    for name in tracks[0]:
        values = np.array([np.nan if track[name] is None else track[name] for track in tracks], np.float64)
        scores[name] = nan_median(values)
        scores[f"{name}_mean"] = float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")
    scores["kept_energy_min"] = min(track["kept_energy"] for track in tracks)
    scores["kept_energy_max"] = max(track["kept_energy"] for track in tracks)
    scores["excluded_share"] = sum(track["excluded_frames"] for track in tracks) / sum(track["num_frames"] for track in tracks)
    return Row(method, len(tracks), scores)


def _write(table: Table, split: str) -> None:
    target = "-".join(table.info["target"])
    for method, by_track in table.tracks.items():
        for name, scores in by_track.items():
            path = table.path.parent / "museval" / method.replace(" ", "_") / split / f"{name}.json"
            write_text(path, scores.to_museval_json(name, target))
    methods = {
        row.method: {
            "num_tracks": row.num_tracks,
            "summary": {key: None if math.isnan(value) else value for key, value in row.scores.items()},
            "tracks": {name: scores.to_json() for name, scores in table.tracks[row.method].items()},
        }
        for row in table.rows
    }
    document = {**table.info, "excluded_tracks": table.excluded_tracks, "methods": methods}
    write_text(table.path, json.dumps(document, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Under a temporary name first: a file that is there is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
