"""Training: one loop around the pure step.  One script for CPU, GPU and TPU, one device or many."""

import contextlib
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from data_pipeline.dataset import PatchDataset
from data_pipeline.errors import UserError
from data_pipeline.progress import progress_bar
from jaxpu import parallel
from jaxpu.artifacts.checkpoints import RunCheckpoints
from jaxpu.config import Config, ConfigError, uses_stems
from jaxpu.config_files import to_json
from jaxpu.core.objectives import make_objective
from jaxpu.core.step import INIT_STREAM, TrainState, init_state, make_evaluate_step, make_train_step, separation_variables
from jaxpu.estimation.resolve import with_estimates
from jaxpu.monitoring.run_log import RunLog, StopSignal
from jaxpu.monitoring.watchdog import Watchdog

LOG_EVERY = 20
"""Steps between reads of the statistics from the device; reading every step would make the device wait for the host."""

ALL_STEPS_DONE = "all steps done"
ASKED_TO_STOP = "asked to stop; run the same command again to go on"

# Streams of random numbers, folded into the run's key so that they never meet.
_TRAIN, _EVALUATE = INIT_STREAM + 1, INIT_STREAM + 2


class TrainingError(UserError):
    """Training cannot go on; the message names the step and the reason."""


def train(config: Config, data_dir: str | Path, run_dir: str | Path, *, progress: bool = True) -> dict[str, Any]:
    """Trains, or goes on where a run of the same config in `run_dir` stopped.

    Writes `run_dir/config.json`, `run_dir/metrics.jsonl` (one JSON object a line) and `run_dir/checkpoints`; and
    `run_dir/estimates.json` where the config leaves a number of the objective to the data.  Processes that train together
    (`jaxpu.parallel.joined`) share both folders; a signal to one of them stops all.

    Args:
        config: of the run.
        data_dir: what `jaxpu prepare` wrote with the same `config.data`.
        run_dir: made if it does not exist.
        progress: show a bar.

    Returns:
        The last evaluation's results, with `step`, `best_score` and `stopped` (why training ended).

    Raises:
        DataError: when the data were prepared with other settings, or have no stems where the config needs them.
        TrainingError: when a loss is not finite.
        ConfigError: when `run_dir` belongs to another config, the devices cannot share the batch equally, or checkpoints are to
            be selected by scores that the data cannot give, or the processes differ in config or data.
    """
    parallel.check_batch_size(config.train.batch_size)
    dataset = open_data(config, data_dir)
    with open_run(config, dataset, run_dir, progress=progress) as run, StopSignal() as stop_signal:
        return run.train(stop_signal, progress=progress and parallel.process_index() == 0)


def open_data(config: Config, data_dir: str | Path) -> PatchDataset:
    """The data, checked to be what `config` needs; raises as `train` does."""
    dataset = PatchDataset.open(data_dir)
    dataset.check(config.data)
    if config.train.select_by == "si_sdr_improvement" and not dataset.has_stems:
        raise ConfigError(
            f"TrainConfig.select_by is 'si_sdr_improvement', but the data in {data_dir} have no stems to score with. "
            "Use held_out_loss or last."
        )
    return dataset


@contextlib.contextmanager
def open_run(config: Config, dataset: PatchDataset, run_dir: str | Path, *, progress: bool) -> Iterator["Run"]:
    """The run in `run_dir`, made if it does not exist; raises `ConfigError` when the folder belongs to another config."""
    run_dir = Path(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    everywhere = parallel.gather((config, dataset.fingerprint))
    if any(other != everywhere[0] for other in everywhere):
        raise ConfigError("The processes were started with different configs or data. Start all with the same command.")
    _check_config(config, run_dir / "config.json")
    config, estimates = with_estimates(config, dataset, run_dir, progress=progress)
    with RunCheckpoints(run_dir) as checkpoints, RunLog(run_dir) as log:
        yield Run(config, dataset, checkpoints, log, estimates)


class Run:
    """One run: its data and folder, and what is kept of it on the host.  `train` has one of them, `jaxpu.training.sweep` many.

    Attributes:
        train_key: of the training steps, which fold themselves in.
        results: of the last evaluation.
        stopped: why the run is over before its last step; None where it is not.
    """

    def __init__(
        self, config: Config, dataset: PatchDataset, checkpoints: RunCheckpoints, log: RunLog, estimates: dict[str, Any]
    ) -> None:
        self.config = config
        self.dataset = dataset
        self.checkpoints = checkpoints
        self.log = log
        self.watchdog = Watchdog(getattr(config.objective, "class_prior", None))
        self.estimates = estimates
        key = jax.random.key(config.train.seed)
        self.train_key, self.evaluate_key = (jax.random.fold_in(key, stream) for stream in (_TRAIN, _EVALUATE))
        self.results: dict[str, Any] = {}
        self.best_score, self.evaluations_since_best = -math.inf, 0
        self.stopped: str | None = None

    def start(self) -> TrainState:
        """The state to go on from, before the first step or at the last checkpoint."""
        # Resuming: 1. the state before the first step, for its shapes; 2. the last checkpoint, if there is one; 3. the lines of
        # the log after it are dropped; 4. the batches start at its step.  Keys are folded from (seed, step), so nothing else.
        state = init_state(self.config)
        if self.checkpoints.latest_step is not None:
            state, info = self.checkpoints.restore(state)
            self.best_score, self.evaluations_since_best = info["best_score"], info["evaluations_since_best"]
            self.results, self.stopped = info["results"], info.get("stopped")
        self.log.start(int(state.step))
        return state

    def train(self, stop_signal: StopSignal, *, progress: bool) -> dict[str, Any]:
        """Trains on all devices; returns what the function `train` does."""
        settings = self.config.train
        step_function = parallel.over_devices(make_train_step(self.config), donate_state=True)
        evaluate_step = parallel.over_devices(make_evaluate_step(self.config))
        state = parallel.spread(self.start())
        first_step = int(state.step)
        stop = False
        pending: list[dict[str, jax.Array]] = []
        bar = progress_bar(settings.num_steps, "train", "step", show=progress, initial=first_step)
        since, examples = time.perf_counter(), 0
        # A run that was stopped is as finished as one that did all its steps.
        batches = self.train_batches(first_step) if self.stopped is None else ()
        for step, batch in enumerate(batches, first_step + 1):
            state, statistics = step_function(state, batch, self.train_key)
            pending.append(statistics)
            examples += settings.batch_size
            bar.update()
            evaluate_now = step % settings.eval_every == 0 or step == settings.num_steps
            read_now = evaluate_now or len(pending) == LOG_EVERY
            if read_now or parallel.process_count() == 1:
                # Several stop after the same step: they ask each other, but only where they wait for the device anyway.
                stop = parallel.any_process(stop_signal.received)
            if not (read_now or stop):
                continue
            values = [{name: float(value) for name, value in item.items()} for item in jax.device_get(pending)]
            pending = []
            self.note_steps(step, values, clips_per_s=examples / (time.perf_counter() - since))
            since, examples = time.perf_counter(), 0
            if not (evaluate_now or stop) and self.stopped is None:
                continue
            evaluated = jax.device_get([evaluate_step(state, batch, key) for batch, key in self.validation_batches()])
            results = {name: float(np.mean([item[name] for item in evaluated])) for name in evaluated[0]}
            self.note_evaluation(step, state, results)
            bar.set_postfix({name: f"{value:.3g}" for name, value in results.items() if name in ("loss", "si_sdr_improvement")})
            since = time.perf_counter()
            stop = parallel.any_process(stop_signal.received)
            if self.stopped is not None or stop:
                break
        bar.close()
        step = int(state.step)
        asked = stop and step < settings.num_steps
        stopped = self.stopped or (ASKED_TO_STOP if asked else ALL_STEPS_DONE)
        return {**self.results, "step": step, "best_score": self.best_score, "stopped": stopped}

    def note_steps(self, step: int, values: list[dict[str, float]], *, clips_per_s: float) -> None:
        """Logs the mean statistics of the steps up to `step`; the watchdog may set `stopped`.

        Raises:
            TrainingError: when a loss is not finite.
        """
        warnings = self._check(step - len(values), values)
        means = {name: float(np.mean([item[name] for item in values])) for name in values[0]}
        self.log.write("train", step, **means, clips_per_s=clips_per_s)
        for warning in warnings:
            self.log.warn(step, warning)
        if warnings and self.config.train.on_blank == "stop":
            self.stopped = "blank output"

    def note_evaluation(self, step: int, state: TrainState, results: dict[str, float]) -> None:
        """Logs an evaluation and saves a checkpoint; lost patience sets `stopped`."""
        settings = self.config.train
        score = selection_score(settings.select_by, results, step)
        self.evaluations_since_best = 0 if score > self.best_score else self.evaluations_since_best + 1
        self.best_score = max(score, self.best_score)
        self.results = results
        if self.stopped is None and settings.patience and self.evaluations_since_best >= settings.patience:
            self.stopped = f"no better checkpoint in {settings.patience} evaluations"
        self.log.write("evaluate", step, **results)
        info = {
            "step": step,
            "select_by": settings.select_by,
            "score": score,
            "uses_stems": uses_stems(self.config),
            "data_fingerprint": self.dataset.fingerprint,
            "data": {"has_stems": self.dataset.has_stems, "counts": self.dataset.info["counts"]},
            "best_score": self.best_score,
            "evaluations_since_best": self.evaluations_since_best,
            "results": results,
            "stopped": self.stopped,
            "estimates": self.estimates,
            "machine": parallel.describe(),
        }
        self.checkpoints.save(
            step,
            state=state,
            variables=separation_variables(self.config, state),
            score=score,
            config=self.config,
            info=info,
        )

    def train_batches(self, first_step: int) -> Iterator[dict[str, np.ndarray]]:
        """Batches of the steps after `first_step`; they depend on the seed alone."""
        objective = make_objective(self.config.objective)
        return self._batches(
            "train",
            with_target=objective.needs_target,
            num_target_tracks=objective.target_tracks,
            start_step=first_step,
            num_steps=self.config.train.num_steps - first_step,
        )

    def validation_batches(self) -> Iterator[tuple[dict[str, np.ndarray], jax.Array]]:
        """Batches of the validation tracks, drawn from all of them, with keys; the same at every evaluation."""
        one_pass = max(self.dataset.num_clips("validation", "mixture") // self.config.train.batch_size, 1)
        num_batches = min(self.config.train.eval_batches, one_pass)
        batches = self._batches("validation", with_target=self.dataset.has_stems, num_steps=num_batches)
        for number, batch in enumerate(batches):
            yield batch, jax.random.fold_in(self.evaluate_key, number)

    def _batches(
        self,
        split: Literal["train", "validation"],
        *,
        with_target: bool,
        num_target_tracks: int | None = None,
        start_step: int = 0,
        num_steps: int | None = None,
    ) -> Iterator[dict[str, np.ndarray]]:
        settings = self.config.train
        local = settings.batch_size // parallel.process_count()
        index = np.arange(local, dtype=np.int32) + parallel.process_index() * local
        for batch in self.dataset.batches(
            split,
            batch_size=settings.batch_size,
            seed=settings.seed,
            start_step=start_step,
            num_steps=num_steps,
            disjoint_tracks=settings.disjoint_tracks,
            with_target=with_target,
            num_target_tracks=num_target_tracks,
            process_index=parallel.process_index(),
            process_count=parallel.process_count(),
        ):
            yield {name: batch[name] for name in ("unlabeled", "positive", "target") if name in batch} | {"index": index}

    def _check(self, step_before: int, values: list[dict[str, float]]) -> list[str]:
        """Stops on a loss that is not finite, and asks the watchdog."""
        warnings = []
        for step, item in enumerate(values, step_before + 1):
            if not math.isfinite(item["loss"]) or not math.isfinite(item["gradient_norm"]):
                raise TrainingError(
                    f"Step {step}: the loss is {item['loss']}, the norm of its gradient {item['gradient_norm']}. "
                    f"Lower train.learning_rate (now {self.config.train.learning_rate:g}) or set train.gradient_clip. "
                    "The last checkpoint is kept."
                )
            warning = self.watchdog.update(step, item)
            if warning:
                warnings.append(warning)
        return warnings


def selection_score(select_by: str, results: dict[str, float], step: int) -> float:
    """What the best checkpoint has most of."""
    return {
        "held_out_loss": lambda: -results["loss"],
        "si_sdr_improvement": lambda: results["si_sdr_improvement"],
        "last": lambda: float(step),
    }[select_by]()


def _check_config(config: Config, path: Path) -> None:
    """Writes the config of a new run; refuses a run directory that belongs to another config."""
    text = json.dumps(to_json(config), indent=2)
    if path.exists():
        if path.read_text() != text:
            raise ConfigError(
                f"{path} is of a run with another config. Use another folder (--run), or delete {path.parent} to start anew."
            )
    elif parallel.process_index() == 0:
        temporary = path.with_suffix(".tmp")
        temporary.write_text(text)
        temporary.replace(path)
