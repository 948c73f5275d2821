"""Jobs of evaluation's worker processes: baselines and scores of one track.

Worker processes import this module and none that imports JAX: so they start fast and touch no device.
"""

import concurrent.futures
import concurrent.futures.process
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from data_pipeline.config import PatchSpec
from data_pipeline.errors import failure_reason
from data_pipeline.progress import progress_bar
from data_pipeline.residual import Residual, ResidualMeter, song_parts
from data_pipeline.tracks import Track
from data_pipeline.workers import worker_pool
from jaxpu.evaluation import baselines
from jaxpu.evaluation.scoring import EvaluationError, TrackScores, score_track, silent_references

FloatArray = npt.NDArray[np.floating[Any]]
Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Failure:
    """A job that failed, with the reason in words."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Scored:
    """A track that was scored.

    Attributes:
        scores: by method.
        residual: of the track's stems; None where they have no mixture to sum to.
    """

    scores: dict[str, TrackScores]
    residual: Residual | None


def reason_of(error: Exception) -> str:
    """Why a job failed, in words."""
    if isinstance(error, concurrent.futures.process.BrokenProcessPool):
        return "a worker process died: it was killed, perhaps for lack of memory. Use fewer workers (--workers)"
    return failure_reason(error)


def in_workers(
    function: Callable[[Job], Result], jobs: Iterable[Job], *, num_workers: int, num_jobs: int, title: str, progress: bool
) -> Iterator[tuple[Job, Result | Failure]]:
    """Run jobs in worker processes, or in this process if `num_workers` or `num_jobs` is 1.

    Only a few jobs are drawn ahead, since they may hold whole recordings.

    Args:
        function: picklable, of a module without JAX.
        jobs: picklable arguments.
        num_workers: processes, at most.
        num_jobs: length of `jobs`.
        title: stands before the progress bar.
        progress: show it.

    Yields:
        Jobs and their results, in the order in which they finish; a job that raises an exception has a `Failure`.
    """
    num_workers = min(num_workers, num_jobs)
    with progress_bar(num_jobs, title, "track", show=progress) as bar:
        if num_workers <= 1:
            for job in jobs:
                yield job, _attempt(functools.partial(function, job))
                bar.update()
            return
        with worker_pool(num_workers) as pool:
            pending: dict[concurrent.futures.Future[Result | Failure], Job] = {}
            remaining = iter(jobs)
            while True:
                while len(pending) <= num_workers and (drawn := next(remaining, None)) is not None:
                    attempt: Callable[[], Result | Failure] = functools.partial(_attempt, functools.partial(function, drawn))
                    try:
                        pending[pool.submit(attempt)] = drawn
                    except concurrent.futures.process.BrokenProcessPool as error:
                        yield drawn, Failure(reason_of(error))
                        bar.update()
                if not pending:
                    return
                finished, _ = concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in finished:
                    yield pending.pop(future), _attempt(future.result)
                    bar.update()


def _attempt(function: Callable[[], Result]) -> Result | Failure:
    """Run in the process of the job, where an error has its place in the program."""
    try:
        return function()
    except Exception as error:
        return Failure(reason_of(error))


def references(track: Track, target: tuple[str, ...]) -> dict[str, FloatArray]:
    """Target and accompaniment of a track, float32 (channels, samples), as sums of its stems.

    musdb takes the sums too.  Mixture minus target would contain the coding noise of .stem.mp4.
    """
    assert track.accompaniment is not None
    stems = [track.stem(name).read() for name in target]
    return {"target": np.sum(stems, axis=0, dtype=np.float32), "accompaniment": track.accompaniment.read()}


def fixed_mask_sums(track: Track, *, target: tuple[str, ...], patch: PatchSpec) -> npt.NDArray[np.float64]:
    """Sums of `baselines.fixed_mask_sums_of_track` for a training track."""
    assert track.mixture is not None
    reference = references(track, target)
    mixture = reference["target"] + reference["accompaniment"]
    return baselines.fixed_mask_sums_of_track(reference["target"], mixture, track.mixture.sample_rate, patch)


def score_methods(
    job: tuple[Track, FloatArray | Failure],
    *,
    target: tuple[str, ...],
    patch: PatchSpec,
    with_baselines: bool,
    fixed_mask: npt.NDArray[np.float64] | None,
    full: bool,
) -> Scored | str:
    """Score the model and the baselines on one track.

    Args:
        job: the track and the model's estimate of the target, (channels, samples), or the reason why there is none.
        target: names of the stems that make the target.
        patch: gives the STFT of the baselines.
        with_baselines: score them too.
        fixed_mask: (bins,), or None to leave that baseline out.
        full: compute ISR, SIR and SAR too.

    Returns:
        The scores, or the reason why the track has none.

    Raises:
        EvaluationError: an estimate cannot be scored.
    """
    track, estimated_target = job
    if isinstance(estimated_target, Failure):
        raise EvaluationError(estimated_target.reason)
    assert track.mixture is not None
    reference, mixture, rate = references(track, target), track.mixture.read(), track.mixture.sample_rate
    silent = silent_references(reference)
    if silent:
        return f"the {' and the '.join(silent)} is silent throughout"
    estimates = {baselines.MODEL: estimated_target}
    if with_baselines:
        estimates |= baselines.baseline_targets(reference, mixture, rate, patch, fixed_mask)
    scores = {}
    for method, estimate in estimates.items():
        # Doing nothing takes the mixture for both; the other methods divide it.
        accompaniment = mixture if method == baselines.MIXTURE else mixture - estimate
        try:
            scores[method] = score_track(reference, {"target": estimate, "accompaniment": accompaniment}, rate, full=full)
        except ValueError as error:
            raise EvaluationError(f"{track.name}, {method}: {error}") from error
    meter = ResidualMeter(rate, song_parts(track))
    meter.add(mixture, reference["accompaniment"], reference["target"])
    return Scored(scores, meter.result())
