"""Training: one loop around the pure step, for one run on all devices and for many runs at once.

The loop sees a `Program`, which holds the state of its runs on the devices; the runs themselves (`jaxpu.training.run`) live on
the host.  One script for CPU, GPU and TPU, one device or many.
"""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax

from data_pipeline.progress import Bar, progress_bar
from jaxpu import parallel
from jaxpu.config import Config
from jaxpu.config.networks import ConvolutionForm
from jaxpu.core.step import TrainState, make_evaluate_step, make_train_step
from jaxpu.monitoring.run_log import StopSignal
from jaxpu.training.memory import enough_memory
from jaxpu.training.pace import Pace
from jaxpu.training.run import Run, TrainingError, mean_results, open_data, open_run

LOG_EVERY = 20
"""Steps between reads of the statistics from the device; reading every step would make the device wait for the host."""

ALL_STEPS_DONE = "all steps done"
ASKED_TO_STOP = "stopped on request; rerun the same command to resume"


class Program(Protocol):
    """Runs that are trained together, and their state on the devices.

    Attributes:
        runs: on the host.
        done: for each run, the steps that its last checkpoint has.
        stopped: for each run, why an earlier process ended it; None where none did.
    """

    runs: list[Run]
    done: list[int]
    stopped: list[str | None]

    def batches(self, first_step: int) -> Iterator[Any]:
        """Batches of the steps after `first_step`."""

    def step(self, batch: Any, active: Sequence[bool]) -> Any:
        """Dispatch one step of the active runs; its statistics stay on the device."""

    def fetch(self, statistics: list[Any]) -> list[list[dict[str, float]]]:
        """Statistics of several steps, for each run one dictionary a step."""

    def evaluate(self) -> list[dict[str, float]]:
        """Mean results of every run over its validation batches."""

    def state(self, number: int) -> TrainState:
        """The state of a run."""


def train(config: Config, data_dir: str | Path, run_dir: str | Path, *, progress: bool = True) -> dict[str, Any]:
    """Train a model; rerunning the same command resumes it, and with more steps continues it if the learning rate is constant.

    Writes `run_dir/config.json`, `run_dir/metrics.jsonl` (one JSON object a line) and `run_dir/checkpoints`; and
    `run_dir/estimates.json` where the config leaves a number of the objective to the data.  Processes that train together
    (`jaxpu.parallel.joined`) share both folders; a signal to one of them stops all.

    Args:
        config: run configuration.
        data_dir: prepared data, written by `jaxpu prepare` with the same `config.data`.
        run_dir: made if it does not exist.
        progress: show a bar.

    Returns:
        The last evaluation's results, with `step`, `best_score` (None if the run was stopped before its first evaluation) and
        `stopped` (why training ended).

    Raises:
        DataError: the data were prepared with other settings, or have no stems or no clips where the config needs them.
        TrainingError: a loss is not finite, another process trains in `run_dir`, or the device has too little memory.
        WriteError: the disk refuses data; the last checkpoint is kept.
        ConfigError: `run_dir` belongs to another config, the devices cannot share the batch equally, checkpoints are to be
            selected by scores that the data cannot give, or the processes differ in config or data.
    """
    parallel.check_batch_size(config.train.batch_size)
    dataset = open_data(config, data_dir)
    progress = progress and parallel.process_index() == 0
    with open_run(config, dataset, run_dir, progress=progress) as run, StopSignal() as stop_signal:
        program = OneRun(run)
        to_do = program.stopped == [None] and program.done[0] < config.train.num_steps
        if progress and to_do:
            announce_compilation()
        bar = progress_bar(config.train.num_steps, "train", "step", show=progress, initial=program.done[0])
        with enough_memory(config, parallel.device_count()), bar as shown:
            (stopped,) = train_together(program, stop_signal, shown)
        return {**run.results, "step": program.done[0], "best_score": run.best_score, "stopped": stopped}


def announce_compilation() -> None:
    """Say what the user waits for before the first step of a program, and what would make all steps faster."""
    sentences = "Compiling the training step, about 30 s the first time.", parallel.advice()
    print(*filter(None, sentences), sep="\n", file=sys.stderr, flush=True)


def train_together(program: Program, stop_signal: StopSignal, bar: Bar, *, keep_going: bool = False) -> list[str]:
    """Train the runs of a program to their ends.

    Args:
        program: its `done` is kept up to date.
        stop_signal: request to stop; the runs are saved first.
        bar: counts steps.
        keep_going: a run whose loss is not finite ends alone, instead of raising TrainingError.

    Returns:
        Why each run ended.
    """
    runs, done, stopped = program.runs, program.done, list(program.stopped)
    settings = runs[0].config.train
    # A process that is killed while it saves leaves some runs a checkpoint ahead of others: those wait.
    first_step = min((steps for steps, reason in zip(done, stopped, strict=True) if reason is None), default=settings.num_steps)
    bar.update(first_step - bar.n)
    _evaluate_initial_models(program, bar, stopped, keep_going)
    stop, pending, pace = False, list[Any](), Pace()
    batches = program.batches(first_step) if first_step < settings.num_steps else iter(())
    for step, batch in enumerate(pace.timed(batches, pending), first_step + 1):
        active = [reason is None and steps < step for steps, reason in zip(done, stopped, strict=True)]
        pending.append(program.step(batch, active))
        bar.update()
        evaluate_now = step % settings.eval_every == 0 or step == settings.num_steps
        read_now = evaluate_now or len(pending) == LOG_EVERY
        if read_now or parallel.process_count() == 1:
            # Several stop after the same step: they ask each other, but only where they wait for the device anyway.
            stop = parallel.any_process(stop_signal.received)
        if not (read_now or stop):
            continue
        values = program.fetch(pending)
        speed, due = pace.read(len(pending), settings.batch_size), list[int]()
        pending.clear()
        for number, is_active in enumerate(active):
            if not is_active:
                continue
            own = values[number][done[number] - step :]  # A run that was ahead has done some of these steps before.
            with _ending_alone(stopped, number, keep_going):
                stopped[number] = runs[number].note_steps(step, own, speed)
                if evaluate_now or stop or stopped[number] is not None:
                    due.append(number)
        if due:
            results = _evaluated(program, bar, speed)
            for number in due:
                with _ending_alone(stopped, number, keep_going):
                    scheduled = evaluate_now or stopped[number] is not None
                    stopped[number] = runs[number].note_evaluation(
                        step, program.state(number), results[number], stopped[number], scheduled=scheduled
                    )
                    done[number] = step
            stop = parallel.any_process(stop_signal.received)
        pace.restart()
        if stop or None not in stopped:
            break
    ends = [ALL_STEPS_DONE if steps == settings.num_steps else ASKED_TO_STOP for steps in done]
    return [reason or end for reason, end in zip(stopped, ends, strict=True)]


@contextlib.contextmanager
def _ending_alone(stopped: list[str | None], number: int, keep_going: bool) -> Iterator[None]:
    """Note the TrainingError of a run as the reason why it ended; raise it unless the others keep going."""
    try:
        yield
    except TrainingError as error:
        if not keep_going:
            raise
        stopped[number] = str(error)


def _evaluate_initial_models(program: Program, bar: Bar, stopped: list[str | None], keep_going: bool) -> None:
    """Evaluate the models that runs start from, as step 0, so that checkpoints can be compared with them."""
    starting = [number for number, run in enumerate(program.runs) if run.config.train.init_from and not run.results]
    if starting:
        results = _evaluated(program, bar, {})
        for number in starting:
            with _ending_alone(stopped, number, keep_going):
                program.runs[number].note_evaluation(0, program.state(number), results[number], None, scheduled=True)


def _evaluated(program: Program, bar: Bar, speed: Mapping[str, float]) -> list[dict[str, float]]:
    """Results of every run; those of a single one are shown on the bar, beside the share of time spent waiting for data."""
    results = program.evaluate()
    if len(results) == 1:
        shown = ("loss", "estimated_error", "si_sdr_improvement", "data_wait")
        bar.set_postfix({name: f"{value:.3g}" for name, value in {**results[0], **speed}.items() if name in shown})
    return results


@functools.lru_cache(maxsize=4)
def _steps_on_all_devices(config: Config, form: ConvolutionForm) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The training step and the evaluation step; cached, so that a process compiles once for a run that it resumes."""
    step, evaluate = make_train_step(config, form), make_evaluate_step(config, form)
    return parallel.over_devices(step, donate_state=True), parallel.over_devices(evaluate)


class OneRun:
    """One run on all devices of all processes, through `jaxpu.parallel.over_devices`; see `Program`."""

    def __init__(self, run: Run) -> None:
        # No program depends on the seed.
        config = dataclasses.replace(run.config, train=dataclasses.replace(run.config.train, seed=0))
        self._step, self._evaluate = _steps_on_all_devices(config, parallel.convolution_form())
        state, stopped = run.start()
        self.runs, self.done, self.stopped = [run], [int(state.step)], [stopped]
        self._state = parallel.spread(state)

    def batches(self, first_step: int) -> Iterator[Any]:
        """See `Program`."""
        return self.runs[0].train_batches(first_step)

    def step(self, batch: Any, active: Sequence[bool]) -> Any:
        """See `Program`."""
        del active
        self._state, statistics = self._step(self._state, batch, self.runs[0].train_key)
        return statistics

    def fetch(self, statistics: list[Any]) -> list[list[dict[str, float]]]:
        """See `Program`."""
        return [[{name: float(value) for name, value in item.items()} for item in jax.device_get(statistics)]]

    def evaluate(self) -> list[dict[str, float]]:
        """See `Program`."""
        batches = self.runs[0].validation_batches()
        evaluated = jax.device_get([self._evaluate(self._state, batch, key) for batch, key in batches])
        return [{name: float(value) for name, value in mean_results(evaluated).items()}]

    def state(self, number: int) -> TrainState:
        """See `Program`."""
        del number
        return self._state
