"""Score a model on recordings with stems, beside doing nothing, the best fixed mask and the oracle masks.

The output folder gets `scores.json`, museval's file for each method and track (`museval/METHOD/SPLIT/TRACK.json`, which
`museval.MethodStore.add_eval_dir` reads), and, if asked for, excerpts of some tracks (`jaxpu.evaluation.excerpts`).
They are written at the end.  A track that fails costs its own scores alone; an evaluation that is killed starts anew.
"""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipeline import audio
from data_pipeline.config import DataConfig
from data_pipeline.errors import AudioError, UserError, WriteError
from data_pipeline.files import available_processors, check_writable
from data_pipeline.progress import progress_bar
from data_pipeline.residual import Residual
from data_pipeline.stored_json import finite
from data_pipeline.tracks import Folders, Source, StemSource, Track, find_tracks
from jaxpu import parallel
from jaxpu.config_files import load_config
from jaxpu.core import band_above
from jaxpu.core.network import TrainedModel
from jaxpu.evaluation import excerpts, workers
from jaxpu.evaluation.baselines import MODEL, solve_fixed_mask
from jaxpu.evaluation.estimates import Estimates
from jaxpu.evaluation.scoring import EvaluationError, TrackScores
from jaxpu.evaluation.table import MUSEVAL_FOLDER, SCORES_FILE, Row, Table, format_table
from jaxpu.separation.files import separate_waveform

__all__ = [
    "EvaluationError",
    "EvaluationOptions",
    "Row",
    "Table",
    "evaluate",
    "evaluate_estimates",
    "evaluate_separator",
    "format_table",
]

FloatArray = npt.NDArray[np.floating[Any]]
Separator = Callable[[FloatArray, int], FloatArray]
"""From a waveform, float32 (channels, samples), and its rate in Hz to its target, of the same shape."""


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
    """Scope and processes of an evaluation.

    Attributes:
        split: "test", "validation" or "train".
        full: compute ISR, SIR and SAR too, about 1000 times slower.
        num_workers: processes that score; None takes one per available core, 1 scores in this process.
        baselines: score doing nothing, the fixed mask (fitted on the training tracks) and the oracle masks too.
        num_excerpts: tracks to keep an excerpt of, with its estimate, in the output folder; these are separated once more.
        progress: show progress bars.
    """

    split: str = "test"
    full: bool = False
    num_workers: int | None = None
    baselines: bool = True
    num_excerpts: int = 0
    progress: bool = True


def evaluate(
    model: TrainedModel, source: Source, out_dir: str | os.PathLike[str], options: EvaluationOptions = EvaluationOptions()
) -> Table:
    """Score a model on the tracks of a source, at their own rate and channels.

    Processes that work together (`jaxpu.parallel.joined`) share the tracks, and all return the whole table; process 0 writes.

    Args:
        model: from `jaxpu.load_model`.
        source: recordings with stems.
        out_dir: output folder, see the module's docstring; files of an earlier evaluation are replaced.
        options: scope and processes.

    Raises:
        EvaluationError: the source has no stems, or no track of the split can be scored.
        AudioError: the header of a recording cannot be read.  What is damaged behind it is a track that failed; the others are
            scored.
        WriteError: the output folder cannot be written; raised before anything is scored, or with the table in words.
    """

    def estimate(track: Track) -> FloatArray:
        assert track.mixture is not None
        return separate_waveform(model, track.mixture.read(), track.mixture.sample_rate)

    return _evaluate(estimate, model.config.data, source, out_dir, options, model.info)


def evaluate_separator(
    separate: Separator,
    data: DataConfig,
    source: Source,
    out_dir: str | os.PathLike[str],
    options: EvaluationOptions = EvaluationOptions(),
    *,
    info: Mapping[str, Any] | None = None,
) -> Table:
    """Score any separator as `evaluate` scores a model.

    Args:
        separate: runs in this process, one track after the other; an exception is a track that failed.
        data: names the target, the STFT of the baselines and the validation tracks.
        source: recordings with stems.
        out_dir: output folder.
        options: scope and processes.
        info: recorded with the scores, JSON-serialisable.
    """

    def estimate(track: Track) -> FloatArray:
        assert track.mixture is not None
        try:
            return separate(track.mixture.read(), track.mixture.sample_rate)
        except UserError:
            raise
        except Exception as error:  # Of the separator, not of jaxpu.
            raise EvaluationError(f"{type(error).__name__}: {error}") from error

    return _evaluate(estimate, data, source, out_dir, options, info)


def evaluate_estimates(
    folder: str | os.PathLike[str],
    target: tuple[str, ...],
    source: Source,
    out_dir: str | os.PathLike[str],
    options: EvaluationOptions = EvaluationOptions(),
) -> Table:
    """Score the files of any separator as `evaluate` scores a model; the baselines have the STFT of the config `recordings`.

    Args:
        folder: [train|test]/SONG/NAME.wav, or any other format of audio.
        target: see `Estimates`.
        source: recordings with stems.
        out_dir: output folder.
        options: scope and processes.

    Raises:
        EvaluationError: as `evaluate`, and as `Estimates`.  A song without a usable estimate is a track that failed.
    """
    estimates = Estimates(Path(folder), target)
    data = dataclasses.replace(load_config("recordings").data, target=estimates.target)
    return _evaluate(estimates.of, data, source, out_dir, options, None)


def _evaluate(
    estimate: Callable[[Track], FloatArray],
    data: DataConfig,
    source: Source,
    out_dir: str | os.PathLike[str],
    options: EvaluationOptions,
    info: Mapping[str, Any] | None,
) -> Table:
    if isinstance(source, Folders):
        raise EvaluationError(
            "Scores need the target alone, but these folders have no stems. Evaluate on MUSDB18, or on a corpus with its layout."
        )
    options = dataclasses.replace(
        options,
        num_workers=options.num_workers or available_processors(),
        progress=options.progress and parallel.process_index() == 0,
    )
    tracks, training = _tracks(source, data, options.split)
    _check(tracks, training if options.baselines else [], Path(out_dir))
    results = _score(estimate, tracks, training, data, options)
    if not results.scores:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in (results.excluded | results.failed).items())
        raise EvaluationError(f"No track of the split {options.split!r} of {source.root} can be scored ({reasons}).")
    table = Table(
        tracks=results.scores,
        excluded_tracks=results.excluded,
        failed_tracks=results.failed,
        residuals=results.residuals,
        info={
            "split": options.split,
            "target": list(data.target),
            "source": str(source.root),
            "full": options.full,
            "model": finite(info or {}),
            "band_above": "" if info is None else _above_in_words(tracks, data),
            "excerpts": {},
        },
        path=Path(out_dir) / SCORES_FILE,
    )
    parallel.of_first_process(table.write)  # Before the excerpts: whatever happens to those, the scores are there.
    if chosen := excerpts.choose(results.scores[MODEL], options.num_excerpts):
        signals = _signals(estimate, [track for track in tracks if track.name in chosen], data.target, options.progress)
        try:
            written = parallel.of_first_process(lambda: excerpts.write(out_dir, signals))
        except (UserError, OSError) as error:
            raise WriteError(f"{error} The scores are in {table.path}:\n{format_table(table)}") from error
        table = dataclasses.replace(table, info=table.info | {"excerpts": written})
        parallel.of_first_process(table.write)
    return table


def _above_in_words(tracks: Sequence[Track], data: DataConfig) -> str:
    """The rule for what lies above the band of a model, in words; empty if no track has a higher rate than the model."""
    rate = data.patch.sample_rate
    above = any(track.mixture.sample_rate > rate for track in tracks if track.mixture)
    return band_above.in_words(rate) if above else ""


def _check(tracks: Sequence[Track], training: Sequence[Track], out_dir: Path) -> None:
    """Check what would otherwise fail after hours: the headers of all songs, and that the output folder can be written.

    Raises:
        AudioError: songs cannot be read; all are named.
        EvaluationError: the output folder holds somebody else's folders of the names that are written.
        WriteError: the output folder cannot be written.
    """

    def check() -> None:
        bad = []
        for track in {(track.split, track.name): track for track in (*tracks, *training)}.values():
            try:
                track.check(all_stems=True)
            except AudioError as error:
                bad.append(f"  {error}")
        if bad:
            listed = "\n".join(bad)
            raise AudioError(f"Songs that cannot be read:\n{listed}\nRepair these files, or move the songs elsewhere.")
        for folder in (out_dir / MUSEVAL_FOLDER, out_dir / excerpts.FOLDER):  # They will be replaced.
            if folder.exists() and not (out_dir / SCORES_FILE).exists():
                raise EvaluationError(
                    f"{folder}: exists, but {SCORES_FILE} beside it does not, so jaxpu did not write it; it would be replaced. "
                    "Choose another folder (-o), or rename this one."
                )
        check_writable(out_dir, "Choose another folder (-o).")

    parallel.of_first_process(check)


def _tracks(source: StemSource, data: DataConfig, split: str) -> tuple[list[Track], list[Track]]:
    """The tracks to score, and the training tracks that the fixed mask is fitted to."""
    audio.require_ffmpeg()  # museval cannot be imported without it.
    every = find_tracks(source, data.target, validation_share=data.validation_share, seed=data.seed)
    tracks, training = ([track for track in every if track.split == name] for name in (split, "train"))
    if not tracks:
        found = ", ".join(sorted({track.split for track in every}))
        raise EvaluationError(f"{source.root} has no tracks in the split {split!r}; it has {found}. Choose another split.")
    return tracks, training


def _score(
    estimate: Callable[[Track], FloatArray],
    tracks: Sequence[Track],
    training: Sequence[Track],
    data: DataConfig,
    options: EvaluationOptions,
) -> "_Results":
    """Score the tracks, which the processes share."""
    assert options.num_workers is not None
    in_workers = functools.partial(workers.in_workers, num_workers=options.num_workers, progress=options.progress)
    fixed_mask, unfit = None, dict[str, str]()
    if options.baselines and training:
        sums = functools.partial(workers.fixed_mask_sums, target=data.target, patch=data.patch)
        fitted = list(in_workers(sums, training, num_jobs=len(training), title="fixed mask"))
        unfit |= {
            track.name: f"{result.reason} (left out of the fixed mask)"
            for track, result in fitted
            if isinstance(result, workers.Failure)
        }
        sums_of_tracks = [result for _, result in fitted if not isinstance(result, workers.Failure)]
        fixed_mask = solve_fixed_mask(sums_of_tracks) if sums_of_tracks else None

    share = tracks[parallel.process_index() :: parallel.process_count()]

    def jobs() -> Iterator[tuple[Track, FloatArray | workers.Failure]]:
        for track in share:
            try:
                estimated = estimate(track)
            except Exception as error:  # Of one song: the others are scored.
                yield track, workers.Failure(workers.reason_of(error))
            else:
                yield track, estimated

    score = functools.partial(
        workers.score_methods,
        target=data.target,
        patch=data.patch,
        with_baselines=options.baselines,
        fixed_mask=fixed_mask,
        full=options.full,
    )
    finished = in_workers(score, jobs(), num_jobs=len(share), title="evaluate")
    scored = [(track.name, result) for (track, _), result in finished]
    results = _Results(failed=unfit)
    # Sorted, since tracks come in the order in which they finish.
    for name, result in sorted(itertools.chain.from_iterable(parallel.gather(scored)), key=lambda each: each[0]):
        if isinstance(result, str):
            results.excluded[name] = result
        elif isinstance(result, workers.Failure):
            results.failed[name] = result.reason
        else:
            if result.residual is not None:
                results.residuals[name] = result.residual
            for method, track_scores in result.scores.items():
                results.scores.setdefault(method, {})[name] = track_scores
    return results


@dataclasses.dataclass(frozen=True)
class _Results:
    """Results of all tracks.

    Attributes:
        scores: by method and track.
        excluded: by track, the reason for which it has no scores.
        failed: by track, the error for which it has no scores, or no part in the fixed mask.
        residuals: of the stems, by track.
    """

    scores: dict[str, dict[str, TrackScores]] = dataclasses.field(default_factory=dict)
    excluded: dict[str, str] = dataclasses.field(default_factory=dict)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    residuals: dict[str, Residual] = dataclasses.field(default_factory=dict)


def _signals(
    estimate: Callable[[Track], FloatArray], tracks: Sequence[Track], target: tuple[str, ...], progress: bool
) -> Iterator[tuple[str, dict[str, FloatArray], int]]:
    """Name, whole signals and rate of tracks, as `excerpts.write` takes them."""
    with progress_bar(len(tracks), "excerpts", "track", show=progress) as bar:
        for track in tracks:
            assert track.mixture is not None
            mixture, rate = track.mixture.read(), track.mixture.sample_rate
            reference = workers.references(track, target)["target"]
            yield track.name, {"mixture": mixture, "target": reference, "estimate": estimate(track)}, rate
            bar.update()
