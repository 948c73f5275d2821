"""One run on the host: its data and folder, its log and checkpoints, and why it ends."""

import contextlib
import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from data_pipeline.dataset import PatchDataset
from data_pipeline.errors import UserError, require
from data_pipeline.files import locked, writing
from jaxpu import parallel
from jaxpu.artifacts.checkpoints import RunCheckpoints
from jaxpu.config import Config, ConfigError, PUConfig, uses_stems
from jaxpu.config_files import from_json
from jaxpu.core.objectives import make_objective
from jaxpu.core.step import INIT_STREAM, TrainState, init_state, separation_variables
from jaxpu.estimation.resolve import ESTIMATORS, with_estimates
from jaxpu.monitoring.run_log import RunLog
from jaxpu.monitoring.watchdog import Watchdog
from jaxpu.training.initial import initial_state
from jaxpu.training.kept_config import FREE_SPACE, check_config, check_continues, keep_config
from jaxpu.training.settings import warn_of_settings

# Streams of random numbers, folded into the run's key so that they never meet.
_TRAIN, _EVALUATE = INIT_STREAM + 1, INIT_STREAM + 2

_NO_SCORE = -sys.float_info.max
"""The best score before the first; JSON lacks infinity."""

BLANK_OUTPUT = "blank output"
"""Why a run ended that was asked to stop on blank output."""


class TrainingError(UserError):
    """Training cannot continue."""


def open_data(config: Config, data_dir: str | Path) -> PatchDataset:
    """Open prepared data and check that they are what a config needs; warn of repeated clips and settings without effect.

    Raises:
        DataError: they were prepared with other settings, or lack clips or targets for the batches of training or validation.
        ConfigError: checkpoints are to be selected by scores that need stems, and the data have none.
    """
    dataset = PatchDataset.open(data_dir)
    dataset.check(config.data)
    if config.train.select_by == "si_sdr_improvement" and not dataset.has_stems:
        raise ConfigError(
            f"TrainConfig.select_by is 'si_sdr_improvement', but the data in {data_dir} have no stems to score with. "
            "Use estimated_error, held_out_loss or last."
        )
    _check_clips(config, dataset)
    warn_of_settings(config)
    return dataset


def _check_clips(config: Config, dataset: PatchDataset) -> None:
    """Raise DataError if training or validation has no clips for a batch; warn if a batch of training repeats clips."""
    # What is still to be estimated does not change which clips are drawn.
    to_estimate = [name for name in ESTIMATORS if getattr(config.objective, name, None) == "estimate"]
    objective = make_objective(dataclasses.replace(config.objective, **dict.fromkeys(to_estimate, 0.5)))  # type: ignore[arg-type]
    splits: dict[Literal["train", "validation"], bool] = {"train": objective.needs_target, "validation": dataset.has_stems}
    for split, with_target in splits.items():
        clips = dataset.streams(
            split,
            disjoint_tracks=config.train.disjoint_tracks,
            with_target=with_target,
            num_target_tracks=objective.target_tracks if split == "train" else None,
        )
        few = {role: len(rows) for role, rows in clips.items() if len(rows) < config.train.batch_size}
        if few and split == "train" and parallel.process_index() == 0:
            found = " and ".join(f"{number} {role} clips" for role, number in few.items())
            print(
                f"Warning: the training split has {found}, fewer than a batch of {config.train.batch_size}: batches repeat them. "
                "Give more recordings, or a smaller train.batch_size.",
                file=sys.stderr,
            )


@contextlib.contextmanager
def open_run(config: Config, dataset: PatchDataset, run_dir: str | Path, *, progress: bool) -> Iterator["Run"]:
    """Open the run in a folder, which is made if it does not exist, and keep other trainings out of it.

    Raises:
        ConfigError: the folder belongs to another config, the processes differ in config or data, or `patience` has no effect.
        TrainingError: another process trains in the folder.
        WriteError: the disk refuses data.
    """
    run_dir = Path(run_dir)
    if config.train.select_by == "last":  # Not a rule of TrainConfig: models of earlier versions may break it.
        remedy = "0 where select_by is last, which takes every checkpoint for better than the one before; try estimated_error"
        require(config.train.patience == 0, config.train, "patience", remedy)
    parallel.require_device()
    everywhere = parallel.gather((config, dataset.fingerprint))
    if any(other != everywhere[0] for other in everywhere):
        raise ConfigError("The processes were started with different configs or data. Start all with the same command.")
    with locked_run(run_dir):
        parallel.of_first_process(lambda: check_config(config, run_dir / "config.json"))
        with contextlib.ExitStack() as stack:
            with writing(run_dir, FREE_SPACE):
                checkpoints = stack.enter_context(RunCheckpoints(run_dir))
                log = stack.enter_context(RunLog(run_dir))
                first = checkpoints.latest_step is None
                resolved, estimates = with_estimates(config, dataset, run_dir, anew=first, progress=progress)
            keep = functools.partial(keep_config, config, run_dir / "config.json")
            yield Run(resolved, dataset, checkpoints, log, estimates, keep)


@contextlib.contextmanager
def locked_run(run_dir: Path) -> Iterator[None]:
    """Make the folder of a run or a sweep if it does not exist, and lock it: process 0 for all that train together.

    Raises TrainingError, in all of them, if another process has locked it, and WriteError if it cannot be made.
    """
    with contextlib.ExitStack() as stack:

        def lock() -> None:
            busy = TrainingError(
                f"{run_dir}: another process is training in this folder. Wait for it, or choose another folder (--run)."
            )
            with writing(run_dir, "Choose another folder (--run)."):
                run_dir.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(run_dir, busy))

        parallel.of_first_process(lock)
        yield


class Run:
    """One run: its data and folder, and its state on the host.

    Attributes:
        train_key: key of the run; every training step folds its number into it.
        results: of the last evaluation.
        uses_stems: for what it uses stems, in words.
    """

    def __init__(
        self,
        config: Config,
        dataset: PatchDataset,
        checkpoints: RunCheckpoints,
        log: RunLog,
        estimates: dict[str, Any],
        keep_config: Callable[[], None],
    ) -> None:
        self.config = config
        self._dataset = dataset
        self._checkpoints = checkpoints
        self._log = log
        self._watchdog = Watchdog(getattr(config.objective, "class_prior", None), _blank_is_best(config))
        self._estimates = estimates
        self._keep_config = keep_config
        self.uses_stems = uses_stems(config)
        key = jax.random.key(config.train.seed)
        self.train_key, self._evaluate_key = (jax.random.fold_in(key, stream) for stream in (_TRAIN, _EVALUATE))
        self.results: dict[str, Any] = {}
        self._best_score, self._evaluations_since_best = _NO_SCORE, 0

    @property
    def best_score(self) -> float | None:
        """Best score of all evaluations by the config's criterion; None before the first that counts."""
        return None if self._best_score == _NO_SCORE else self._best_score

    def start(self) -> tuple[TrainState, str | None]:
        """The state before the first step or of the last checkpoint, and why the run has ended already, if it has."""
        # Resuming: 1. the state before the first step, for its shapes; 2. the last checkpoint, if there is one; 3. the lines of
        # the log after it are dropped; 4. the batches start at its step.  Keys are folded from (seed, step), so nothing else.
        stopped = None
        if self._checkpoints.latest_step is None:
            state, reasons = initial_state(self.config)
            self.uses_stems += reasons
        else:
            state, record = self._checkpoints.restore(init_state(self.config))
            # The file config.json may be missing.
            check_continues(from_json(record["config"]), self.config, self._log.path.parent)
            info = record["info"]
            same = info["data_fingerprint"] == self._dataset.fingerprint
            if not same and not _same_amounts(info.get("data"), self._dataset.record()):
                raise TrainingError(
                    f"{self._log.path.parent}: its steps so far were trained on other recordings or marks than those in "
                    f"{self._dataset.directory}. Choose another folder (--run)."
                )
            self.uses_stems = info["uses_stems"]
            self._best_score, self._evaluations_since_best = info["best_score"], info["evaluations_since_best"]
            self.results, stopped = info["results"], self._still_stopped(info.get("stopped"))
            if "watchdog" in info:
                self._watchdog.resume(info["watchdog"])
        parallel.of_first_process(self._keep_config)
        with self._logging():
            self._log.start(int(state.step))
        return state, stopped

    def _logging(self) -> contextlib.AbstractContextManager[None]:
        return writing(self._log.path, self._checkpoints.resume_hint)

    def _still_stopped(self, reason: str | None) -> str | None:
        """The reason for which an earlier process ended the run, unless the config no longer asks for that."""
        patience = self.config.train.patience
        if reason == BLANK_OUTPUT:
            return reason if self.config.train.on_blank == "stop" else None
        return reason if reason and patience and self._evaluations_since_best >= patience else None

    def note_steps(self, step: int, values: list[dict[str, float]], speed: Mapping[str, float]) -> str | None:
        """Log the mean statistics of the steps up to `step` and their `speed`, and show the former to the watchdog.

        Returns:
            Why the run has to end; None where it does not.

        Raises:
            TrainingError: a loss is not finite.
            WriteError: the disk refuses the log.
        """
        warnings = self._check(step - len(values), values)
        means = {name: float(np.mean([item[name] for item in values])) for name in values[0]}
        with self._logging():
            self._log.write("train", step, **means, **speed)
            for warning in warnings:
                self._log.warn(step, warning)
        return BLANK_OUTPUT if warnings and self.config.train.on_blank == "stop" else None

    def note_evaluation(
        self, step: int, state: TrainState, results: dict[str, float], stopped: str | None, *, scheduled: bool
    ) -> str | None:
        """Log an evaluation and save a checkpoint.

        Args:
            step: steps done.
            state: after that step.
            results: of the evaluation.
            stopped: reason, known before this evaluation, for which the run has to end; None where there is none.
            scheduled: the run would be evaluated after this step without an interruption, too.  Otherwise the checkpoint is there
                to resume from, and does not count for `train.patience` nor as the best one.

        Returns:
            `stopped`, or that `train.patience` is exhausted.

        Raises:
            TrainingError: the loss or the score is not finite; nothing is saved.
            WriteError: the disk refuses the log or the checkpoint.
        """
        settings = self.config.train
        if settings.select_by == "si_sdr_improvement" and "si_sdr_improvement" not in results:
            raise TrainingError(
                "The target plays in no clip of the validation batches, so that nothing can be scored. Raise train.eval_batches "
                f"(now {settings.eval_batches}), or select checkpoints by another criterion (train.select_by)."
            )
        score = selection_score(settings.select_by, results, step)
        self._check_scores(step, {"loss": results["loss"], settings.select_by: score})
        counts = scheduled or settings.select_by == "last"
        if counts:
            self._evaluations_since_best = 0 if score > self._best_score else self._evaluations_since_best + 1
            self._best_score = max(score, self._best_score)
        self.results = results
        if stopped is None and settings.patience and self._evaluations_since_best >= settings.patience:
            stopped = f"no better checkpoint in {settings.patience} evaluations"
        with self._logging():
            self._log.write("evaluate", step, **results, **({} if counts else {"interruption": True}))
        info = {
            "step": step,
            "select_by": settings.select_by,
            "score": score,
            "uses_stems": self.uses_stems,
            "data_fingerprint": self._dataset.fingerprint,
            "data": self._dataset.record(),
            "best_score": self._best_score,
            "evaluations_since_best": self._evaluations_since_best,
            "results": results,
            "stopped": stopped,
            "watchdog": self._watchdog.to_json(),
            "estimates": self._estimates,
            "machine": parallel.describe(),
        }
        variables = separation_variables(self.config, state)
        rank = score if counts else -math.inf
        self._checkpoints.save(step, state=state, variables=variables, score=rank, config=self.config, info=info)
        return stopped

    def train_batches(self, first_step: int) -> Iterator[dict[str, np.ndarray]]:
        """Batches of the steps after `first_step`, a function of the seed alone."""
        objective = make_objective(self.config.objective)
        return self._batches(
            "train",
            with_target=objective.needs_target,
            num_target_tracks=objective.target_tracks,
            start_step=first_step,
            num_steps=self.config.train.num_steps - first_step,
        )

    def validation_batches(self) -> Iterator[tuple[dict[str, np.ndarray], jax.Array]]:
        """Batches of the validation tracks with keys, the same at every evaluation; `disjoint_tracks` holds here, too."""
        one_pass = max(self._dataset.num_clips("validation", "mixture") // self.config.train.batch_size, 1)
        num_batches = min(self.config.train.eval_batches, one_pass)
        batches = self._batches("validation", with_target=self._dataset.has_stems, num_steps=num_batches)
        for number, batch in enumerate(batches):
            yield batch, jax.random.fold_in(self._evaluate_key, number)

    def _batches(self, split: Literal["train", "validation"], **options: Any) -> Iterator[dict[str, np.ndarray]]:
        """This process's share of batches, as `jaxpu.core.step.decode` takes them; `options` are those of the dataset."""
        settings = self.config.train
        local = settings.batch_size // parallel.process_count()
        index = np.arange(local, dtype=np.int32) + parallel.process_index() * local
        for batch in self._dataset.batches(
            split,
            batch_size=settings.batch_size,
            seed=settings.seed,
            disjoint_tracks=settings.disjoint_tracks,
            process_index=parallel.process_index(),
            process_count=parallel.process_count(),
            **options,
        ):
            names = ("unlabeled", "positive", "target", "marked")
            yield {name: batch[name] for name in names if name in batch} | {"index": index}

    def _check(self, step_before: int, values: list[dict[str, float]]) -> list[str]:
        """Warnings of the watchdog; raises TrainingError where a loss is not finite."""
        warnings = []
        for step, item in enumerate(values, step_before + 1):
            if not math.isfinite(item["loss"]) or not math.isfinite(item["gradient_norm"]):
                raise self._diverged(
                    f"Step {step}: the loss is {item['loss']}, the norm of its gradient {item['gradient_norm']}."
                )
            warning = self._watchdog.update(step, item)
            if warning:
                warnings.append(warning)
        return warnings

    def _check_scores(self, step: int, scores: dict[str, float]) -> None:
        """Raise TrainingError where a number of an evaluation is not finite."""
        if all(map(math.isfinite, scores.values())):
            return
        found = f"Evaluation after step {step}: {', '.join(f'{name} {value}' for name, value in scores.items())}."
        if step == 0:
            raise TrainingError(
                f"{found} Before the first step it is that of train.init_from, {self.config.train.init_from}: give the "
                "objective less extreme numbers, or begin with another model."
            )
        raise self._diverged(found)

    def _diverged(self, where: str) -> TrainingError:
        return TrainingError(
            f"{where} Lower train.learning_rate (now {self.config.train.learning_rate:g}) or set train.gradient_clip. "
            f"{self._checkpoints.kept}."
        )


def _same_amounts(stored: Mapping[str, Any] | None, present: Mapping[str, Any]) -> bool:
    """Whether records of data agree in amounts, levels and clips, as far as both have them: earlier versions stored fewer.

    Then the recordings are taken for the same: copies have other times of change, and so another fingerprint.
    """
    counts, now = (stored or {}).get("counts", {}), present["counts"]
    if (stored or {}).get("clips", present["clips"]) != present["clips"]:
        return False
    return all(counts.get(part, {}).get(key, value) == value for part in now for key, value in now[part].items())


def _blank_is_best(config: Config) -> bool:
    """Whether blank output is the best constant output for the objective: PULSE's, with a class prior above 1/2."""
    objective = config.objective
    if not isinstance(objective, PUConfig) or objective.surrogate != "sigmoid" or objective.estimator == "balanced":
        return False
    return float(objective.class_prior) > 0.5


_WEIGHTS = {"si_sdr_improvement": "audible_clips", "kept_energy": "input_energy", "true_kept_energy": "input_energy"}


def mean_results(batches: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Means of evaluations over batches of one size, arrays of any shape; without scores of a target that plays in no clip.

    Means over clips or bins with a weight are weighted by the sums of these weights, as if all were one batch.
    """
    means = {}
    for name in batches[0]:
        values = np.array([item[name] for item in batches], np.float64)
        weights = np.array([item[_WEIGHTS[name]] for item in batches], np.float64) if name in _WEIGHTS else np.ones_like(values)
        if name != "audible_clips" and (weights.any() or name != "si_sdr_improvement"):
            means[name] = (values * weights).sum(0) / np.maximum(weights.sum(0), 1e-12)
    return means


def selection_score(select_by: str, results: dict[str, float], step: int) -> float:
    """The score that chooses the best checkpoint; higher is better."""
    return {
        "held_out_loss": lambda: -results["loss"],
        "estimated_error": lambda: -results["estimated_error"],
        "si_sdr_improvement": lambda: results["si_sdr_improvement"],
        "last": lambda: float(step),
    }[select_by]()
