"""Many runs at once: the training step under vmap over hyperparameters and seeds.

Runs of one seed share data order, initial parameters, dropout and gains: the outer vmap is over seeds, each with its batch and
key, and the inner one over hyperparameters.  Hyperparameters are traced values of the state (`TrainState.hyperparameters`), so
one program serves all their values.

Each run is the run that `jaxpu train` would do alone, up to the rounding of float32, and so is its folder.  `patience` and
`on_blank` act on each run alone.  A sweep runs in one process on its first device; other devices stay idle.
"""

import contextlib
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.dataset import PatchDataset
from data_pipeline.files import writing
from data_pipeline.progress import progress_bar
from jaxpu import parallel
from jaxpu.config import Config, ConfigError
from jaxpu.config.networks import ConvolutionForm
from jaxpu.core.step import TrainState, init_state, make_evaluate_step, make_train_step
from jaxpu.estimation.resolve import have_another_basis, with_estimates
from jaxpu.monitoring.run_log import StopSignal
from jaxpu.training.grid import Point, make_grid, rectangles
from jaxpu.training.kept_config import FREE_SPACE
from jaxpu.training.loop import announce_compilation, train_together
from jaxpu.training.memory import batch_shapes, enough_memory, steps_that_fit
from jaxpu.training.run import Run, locked_run, mean_results, open_data, open_run
from jaxpu.training.sweep_table import make_row, write_table


def sweep(
    config: Config,
    data_dir: str | Path,
    sweep_dir: str | Path,
    over: Mapping[str, Sequence[float]],
    *,
    num_seeds: int = 1,
    at_once: int | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Train every combination of the values with every seed; rerunning the same sweep resumes it.

    Writes a folder for each run, as `jaxpu.training.loop.train` does; `estimates.json` if the config leaves a number that is not
    swept to the data; and at the end `sweep.json` and `sweep.png`.  SIGTERM, SIGINT and SIGHUP save the runs in training, and end
    the sweep with the table of the results so far.  Values and seeds may be added later: finished runs are not repeated.  A
    run whose loss is not finite is listed with the reason, and does not end the others.

    Args:
        config: configuration that all runs share, apart from the swept values.
        data_dir: prepared data, written by `jaxpu prepare` with the same `config.data`.
        sweep_dir: made if it does not exist.
        over: values by name: a hyperparameter of the objective, or `learning_rate`.
        num_seeds: the seeds are `config.train.seed` and the following.
        at_once: runs trained at once; by default as many as the device's memory holds, and on CPUs one.
        progress: show a bar.

    Returns:
        The table: for each run the swept values, `seed`, `step`, `held_out_loss`, `estimated_error`, `kept_energy`, where there
        are stems `true_kept_energy` and `si_sdr_improvement` in dB, `stopped` and `folder`.  The scores are those of the selected
        checkpoint on the validation tracks; they are absent where a run has none.

    Raises:
        ConfigError: when a name cannot be swept, a value is refused, or a run's folder belongs to another config.
        DataError: as `jaxpu.training.loop.train`.
        TrainingError: another process trains in the folder of the sweep or of a run, or the device has too little memory.
        WriteError: the disk refuses data; what was trained is kept.
    """
    if parallel.process_count() > 1:
        raise ConfigError("A sweep runs in one process. Give each process a sweep of its own, with other values or seeds.")
    if at_once is not None and at_once < 1:
        raise ConfigError(f"--at-once is {at_once}; it must be 1 or more.")
    grid = make_grid(config, over, num_seeds)
    dataset = open_data(config, data_dir)
    sweep_dir = Path(sweep_dir)
    with locked_run(sweep_dir):
        # A swept value needs no estimate; an estimate is the same number in all runs.
        anew = have_another_basis(sweep_dir, dataset, grid[0][0].config)
        with writing(sweep_dir, FREE_SPACE):
            base, _ = with_estimates(grid[0][0].config, dataset, sweep_dir, anew=anew, progress=progress)
        grid = make_grid(base, over, num_seeds)
        steps = make_group_steps(base, parallel.convolution_form())
        groups = rectangles(grid, at_once or _number_that_fits(steps[0], base))
        stopped, used = _train_groups(groups, dataset, sweep_dir, steps, progress)
        table = [make_row(point, stopped.get(point.name), sweep_dir) for row in grid for point in row]
        with writing(sweep_dir, FREE_SPACE):
            write_table(table, config, over, used, sweep_dir)
    return table


def _train_groups(
    groups: list[list[list[Point]]], dataset: PatchDataset, sweep_dir: Path, steps: tuple[Any, Any], progress: bool
) -> tuple[dict[str, str], list[str]]:
    """Train one group after the other until asked to stop; returns by name why each run ended, and for what runs used stems."""
    stopped: dict[str, str] = {}
    used: list[str] = []
    if progress:
        announce_compilation()
    with StopSignal() as stop_signal:
        for number, group in enumerate(groups, 1):
            if stop_signal.received:
                break
            with contextlib.ExitStack() as stack:
                runs = [
                    [
                        stack.enter_context(open_run(point.config, dataset, sweep_dir / point.name, progress=False))
                        for point in row
                    ]
                    for row in group
                ]
                label = f"group {number} of {len(groups)}, runs: {sum(map(len, group))}"
                config = group[0][0].config
                bar = stack.enter_context(progress_bar(config.train.num_steps, label, "step", show=progress))
                stack.enter_context(enough_memory(config, 1, sum(map(len, group))))
                program = ManyRuns(runs, steps)
                used += [reason for run in program.runs for reason in run.uses_stems]
                reasons = train_together(program, stop_signal, bar, keep_going=True)
            stopped |= {point.name: reason for point, reason in zip(itertools.chain(*group), reasons, strict=True)}
    return stopped, used


@functools.lru_cache(maxsize=2)
def make_group_steps(config: Config, convolution: ConvolutionForm = "xla") -> tuple[Any, Any]:
    """The steps of many runs at once, jitted, on one device; cached, so that a process compiles once for a sweep that it resumes.

    Returns:
        Train step: (states (seeds, points, ...), active bool (seeds, points), batches (seeds, ...), keys (seeds,)) to the next
        states and statistics (seeds, points); runs that are not active stay as they are.  Evaluate step: the same without
        `active`, to results (seeds, points).
    """
    train_step, evaluate_step = make_train_step(config, convolution), make_evaluate_step(config, convolution)

    def step(state: TrainState, active: jax.Array, batch: Any, key: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        next_state, statistics = train_step(state, batch, key)
        return jax.tree.map(functools.partial(jnp.where, active), next_state, state), statistics

    over_runs = jax.vmap(jax.vmap(step, (0, 0, None, None)))
    return jax.jit(over_runs, donate_argnums=0), jax.jit(jax.vmap(jax.vmap(evaluate_step, (0, None, None))))


def _number_that_fits(train_step: Any, config: Config) -> int:
    """Runs that the device's memory holds at once; 1 where the backend does not say how much it has, as on CPUs.

    The kernels differ from run to run, so that vmap makes grouped convolutions, which are slow on CPUs: a step of configs/demo.py
    took 6.5 s a run with 4 runs under vmap, and 0.6 s a run one at a time (2 busy cores, jax 0.10.2).  A loop inside the
    program (`jax.lax.map`) was no better: 6.3 s or more.
    """
    state = jax.eval_shape(lambda: jax.tree.map(lambda leaf: leaf[None, None], init_state(config)))
    keys = jax.eval_shape(lambda: jax.random.key(0)[None])
    active = jax.ShapeDtypeStruct((1, 1), jnp.bool)
    return max(1, int(steps_that_fit(train_step, state, active, batch_shapes(config, (1,)), keys) or 1))


class ManyRuns:
    """A rectangle of runs, one row for each seed, under vmap on one device; see `jaxpu.training.loop.Program`."""

    def __init__(self, runs: list[list[Run]], steps: tuple[Any, Any]) -> None:
        self._step, self._evaluate = steps
        self._first_of_row = [row[0] for row in runs]
        self._shape = (len(runs), len(runs[0]))
        self.runs = list(itertools.chain(*runs))
        started = [run.start() for run in self.runs]
        self.done = [int(state.step) for state, _ in started]
        self.stopped = [stopped for _, stopped in started]
        self._state = jax.tree.map(
            lambda *leaves: jnp.stack(leaves).reshape(*self._shape, *leaves[0].shape), *(state for state, _ in started)
        )
        self._keys = jnp.stack([run.train_key for run in self._first_of_row])

    def batches(self, first_step: int) -> Iterator[Any]:
        """See `Program`."""
        return map(_stack_batches, zip(*(run.train_batches(first_step) for run in self._first_of_row), strict=True))

    def step(self, batch: Any, active: Sequence[bool]) -> Any:
        """See `Program`."""
        self._state, statistics = self._step(self._state, np.reshape(active, self._shape), batch, self._keys)
        return statistics

    def fetch(self, statistics: list[Any]) -> list[list[dict[str, float]]]:
        """See `Program`."""
        steps = [{name: value.ravel().tolist() for name, value in item.items()} for item in jax.device_get(statistics)]
        return [[{name: value[number] for name, value in item.items()} for item in steps] for number in range(len(self.runs))]

    def evaluate(self) -> list[dict[str, float]]:
        """See `Program`."""
        results = []
        for rows in zip(*(run.validation_batches() for run in self._first_of_row), strict=True):
            batches, keys = zip(*rows, strict=True)
            results.append(self._evaluate(self._state, _stack_batches(batches), jnp.stack(keys)))
        values = jax.device_get(results)
        # Each run by itself: its target may play in no clip, while that of another seed does.
        return [_results_of(values, number) for number in range(len(self.runs))]

    def state(self, number: int) -> TrainState:
        """See `Program`."""
        place = np.unravel_index(number, self._shape)
        return jax.tree.map(lambda leaf: leaf[place], self._state)


def _results_of(batches: Sequence[Mapping[str, Any]], number: int) -> dict[str, float]:
    """Mean results of one of many runs."""
    own = [{name: value.ravel()[number] for name, value in batch.items()} for batch in batches]
    return {name: float(value) for name, value in mean_results(own).items()}


def _stack_batches(batches: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
