"""Many runs at once: the train step under vmap over hyperparameters and seeds.

Runs of one seed share data order, initial parameters, dropout and gains, so the outer vmap is over seeds, each with its batch
and key, and the inner one over hyperparameters, which share them.  Hyperparameters are traced values of the state
(`TrainState.hyperparameters`): one program serves all their values.

Each run is the run that `jaxpu train` would do alone, up to the rounding of float32, and so is its folder.  `patience` and
`on_blank` act on each run for itself.  A sweep runs in one process on its first device; other devices stay idle.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.progress import Bar, progress_bar
from jaxpu import parallel
from jaxpu.config import Config, ConfigError, uses_stems
from jaxpu.config_files import to_json
from jaxpu.core.objectives import make_objective, traced_fields
from jaxpu.core.step import TrainState, init_state, make_evaluate_step, make_train_step
from jaxpu.estimation.resolve import with_estimates
from jaxpu.monitoring.run_log import StopSignal
from jaxpu.training.loop import ALL_STEPS_DONE, ASKED_TO_STOP, LOG_EVERY, Run, TrainingError, open_data, open_run, selection_score

MEMORY_SHARE = 0.8
"""Of the device's memory; the rest is for evaluation, batches on their way and fragments."""

NOTE = (
    "Each row is the checkpoint that its run selected, on the validation songs. SI-SDR improvement uses their stems.\n"
    "The held-out loss depends on the objective's hyperparameters: compare it between runs that share them."
)


class Point(NamedTuple):
    """One run of a sweep: the swept values by name, and what they make of the config."""

    values: dict[str, float]
    config: Config

    @property
    def name(self) -> str:
        """Name of the run's folder, such as `class_prior=0.6,seed=0`."""
        return ",".join(f"{name}={value!r}" for name, value in [*self.values.items(), ("seed", self.config.train.seed)])


def parse_over(text: str) -> tuple[str, tuple[float, ...]]:
    """`class_prior=.4:.9:6` (start, stop and count, both ends included) or `gamma=0,.1,1` to name and values.

    Raises:
        ConfigError: on anything else.
    """
    name, _, values = text.partition("=")
    with contextlib.suppress(ValueError), np.errstate(invalid="ignore"):
        if ":" in values:
            start, stop, count = values.split(":")
            # Rounded, so that .4:.9:6 has the .6 that a user would type.
            numbers = tuple(float(f"{value:.8g}") for value in np.linspace(float(start), float(stop), int(count)))
        else:
            numbers = tuple(float(value) for value in values.split(","))
        if numbers and all(map(math.isfinite, numbers)):
            return name.replace("-", "_"), numbers
    raise ConfigError(f"--over is {text!r}; it must be NAME=START:STOP:COUNT or NAME=VALUE,VALUE,...")


def make_grid(config: Config, over: Mapping[str, Sequence[float]], num_seeds: int) -> list[list[Point]]:
    """All runs of a sweep: one row for each seed, one column for each combination of values.

    Raises:
        ConfigError: when a name cannot be swept, or the config refuses a value.
    """
    traced = traced_fields(config.objective)
    for name in over:
        if name not in (*traced, "learning_rate"):
            kind = type(config.objective).__name__
            raise ConfigError(f"{name} cannot be swept with {kind}; it must be one of {', '.join([*traced, 'learning_rate'])}.")
    if not over:
        raise ConfigError(f"Say what to sweep: --over NAME=START:STOP:COUNT, one of {', '.join([*traced, 'learning_rate'])}.")
    if num_seeds < 1:
        raise ConfigError(f"--seeds is {num_seeds}; it must be 1 or more.")

    def point(values: dict[str, float], seed: int) -> Point:
        base: Any = config.objective
        objective = dataclasses.replace(base, **{name: values[name] for name in traced if name in values})
        rate = values.get("learning_rate", config.train.learning_rate)
        train = dataclasses.replace(config.train, learning_rate=rate, seed=seed)
        return Point(values, dataclasses.replace(config, objective=objective, train=train))

    # Without duplicates: one folder each.
    combinations = [dict(zip(over, values, strict=True)) for values in itertools.product(*map(dict.fromkeys, over.values()))]
    return [[point(values, config.train.seed + number) for values in combinations] for number in range(num_seeds)]


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
    """Trains every combination of the values with every seed, or goes on where the same sweep stopped.

    Writes a folder for each run, as `jaxpu.training.loop.train` does, `estimates.json` where the config leaves a number that
    is not swept to the data, and `sweep.json` and `sweep.png` at the end.  SIGTERM and SIGINT
    save what is being trained, and end the sweep with the table of what there is.  Further
    values or seeds may be given later: runs that are finished are not done again.  A run whose loss is not finite is listed
    with the reason, and does not end the others.

    Args:
        config: of all runs, but for what is swept.
        data_dir: what `jaxpu prepare` wrote with the same `config.data`.
        sweep_dir: made if it does not exist.
        over: values by name: a hyperparameter of the objective, or `learning_rate`.
        num_seeds: the seeds are `config.train.seed` and the following.
        at_once: runs trained at once; by default as many as the device's memory holds, and on CPUs one.
        progress: show a bar.

    Returns:
        The table: for each run the swept values, `seed`, `step`, `held_out_loss`, `kept_energy`, where there are stems
        `true_kept_energy` and `si_sdr_improvement` in dB, `stopped` and `folder`.  The scores are those of the selected
        checkpoint on the validation tracks; they are absent where a run has none.

    Raises:
        ConfigError: when a name cannot be swept, a value is refused, or a run's folder belongs to another config.
        DataError: as `jaxpu.training.loop.train`.
    """
    if parallel.process_count() > 1:
        raise ConfigError("A sweep runs in one process. Give each process a sweep of its own, with other values or seeds.")
    if at_once is not None and at_once < 1:
        raise ConfigError(f"--at-once is {at_once}; it must be 1 or more.")
    grid = make_grid(config, over, num_seeds)
    dataset = open_data(config, data_dir)
    sweep_dir = Path(sweep_dir)
    sweep_dir.mkdir(parents=True, exist_ok=True)
    # What is swept needs no estimate, and what is estimated is the same number in all runs.
    base, _ = with_estimates(grid[0][0].config, dataset, sweep_dir, progress=progress)
    grid = make_grid(base, over, num_seeds)
    train_step, evaluate_step = make_group_steps(base)
    groups = _groups(grid, at_once or _number_that_fits(train_step, base))
    stopped: dict[str, str] = {}
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
                bar = stack.enter_context(progress_bar(config.train.num_steps, label, "step", show=progress))
                reasons = _train_group(runs, train_step, evaluate_step, stop_signal, bar)
            stopped |= {point.name: reason for point, reason in zip(itertools.chain(*group), reasons, strict=True)}
    table = [_row(point, stopped.get(point.name), sweep_dir) for row in grid for point in row]
    _write(table, config, over, sweep_dir)
    return table


def make_group_steps(config: Config) -> tuple[Any, Any]:
    """The steps of many runs at once, jitted, on one device.

    Returns:
        Train step: (states (seeds, points, ...), active bool (seeds, points), batches (seeds, ...), keys (seeds,)) to the next
        states and statistics (seeds, points); runs that are not active stay as they are.  Evaluate step: the same without
        `active`, to results (seeds, points).
    """
    train_step, evaluate_step = make_train_step(config), make_evaluate_step(config)

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
    limit = parallel.memory_limit_bytes()
    if limit is None:
        return 1
    patch = config.data.patch
    patches = jax.ShapeDtypeStruct((1, config.train.batch_size, *patch.patch_shape), jnp.dtype(patch.dtype))
    signals = ("unlabeled", "positive", "target") if make_objective(config.objective).needs_target else ("unlabeled", "positive")
    batch = dict.fromkeys(signals, patches) | {"index": jax.ShapeDtypeStruct((1, config.train.batch_size), jnp.int32)}
    state = jax.eval_shape(lambda: jax.tree.map(lambda leaf: leaf[None, None], _with_learning_rate(init_state(config), config)))
    keys = jax.eval_shape(lambda: jax.random.key(0)[None])
    memory = train_step.lower(state, jax.ShapeDtypeStruct((1, 1), jnp.bool), batch, keys).compile().memory_analysis()
    needed = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    return max(1, int(MEMORY_SHARE * limit / needed))


def _groups(grid: list[list[Point]], at_once: int) -> list[list[list[Point]]]:
    """Rectangles of the grid of at most `at_once` runs: whole rows where they fit, else parts of one, as equal as can be."""
    rows, columns = len(grid), len(grid[0])
    row_parts = np.array_split(np.arange(rows), math.ceil(rows / max(at_once // columns, 1)))
    column_parts = np.array_split(np.arange(columns), math.ceil(columns / at_once))
    return [[[grid[row][column] for column in some] for row in these] for these in row_parts for some in column_parts]


def _with_learning_rate(state: TrainState, config: Config) -> TrainState:
    rate = jnp.float32(config.train.learning_rate)
    return dataclasses.replace(state, hyperparameters=state.hyperparameters | {"learning_rate": rate})


def _without_learning_rate(state: TrainState) -> TrainState:
    """As `jaxpu train` keeps it."""
    kept = {name: value for name, value in state.hyperparameters.items() if name != "learning_rate"}
    return dataclasses.replace(state, hyperparameters=kept)


def _stack_batches(batches: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}


def _train_group(
    runs: list[list[Run]],
    train_step: Callable[..., Any],
    evaluate_step: Callable[..., Any],
    stop_signal: StopSignal,
    bar: Bar,
) -> list[str]:
    """Trains the runs of a rectangle, one row for each seed, together to their ends; returns why each stopped, row by row."""
    settings = runs[0][0].config.train
    shape = (len(runs), len(runs[0]))
    flat = list(itertools.chain(*runs))
    states = [_with_learning_rate(run.start(), run.config) for run in flat]
    # A process that is killed while it saves leaves some runs a checkpoint ahead of others: those wait.
    done = [int(state.step) for state in states]
    first_step = min((step for run, step in zip(flat, done, strict=True) if run.stopped is None), default=settings.num_steps)
    bar.update(first_step)
    state = jax.tree.map(lambda *leaves: jnp.stack(leaves).reshape(*shape, *leaves[0].shape), *states)
    del states
    keys = jnp.stack([row[0].train_key for row in runs])
    pending: list[dict[str, jax.Array]] = []
    since = time.perf_counter()
    for step, batches in enumerate(zip(*(row[0].train_batches(first_step) for row in runs), strict=True), first_step + 1):
        active = [run.stopped is None and before < step for run, before in zip(flat, done, strict=True)]
        state, statistics = train_step(state, np.reshape(active, shape), _stack_batches(batches), keys)
        pending.append(statistics)
        bar.update()
        evaluate_now = step % settings.eval_every == 0 or step == settings.num_steps or stop_signal.received
        if len(pending) < LOG_EVERY and not evaluate_now:
            continue
        values = [{name: value.ravel().tolist() for name, value in item.items()} for item in jax.device_get(pending)]
        clips_per_s = settings.batch_size * len(pending) / (time.perf_counter() - since)
        pending = []
        due = []
        for number in np.flatnonzero(active):
            run = flat[number]
            own = [{name: value[number] for name, value in item.items()} for item in values[done[number] - step :]]
            try:
                run.note_steps(step, own, clips_per_s=clips_per_s)
            except TrainingError as error:
                run.stopped = str(error)
                continue
            if evaluate_now or run.stopped is not None:
                due.append(number)
        if due:
            results = _evaluate(runs, state, evaluate_step)
            host_state = _without_learning_rate(jax.device_get(state))
            for number in due:
                place = np.unravel_index(number, shape)
                own_state = jax.tree.map(lambda leaf, place=place: jnp.asarray(leaf[place]), host_state)
                flat[number].note_evaluation(step, own_state, {name: float(value[place]) for name, value in results.items()})
                done[number] = step
        since = time.perf_counter()
        if stop_signal.received or all(run.stopped is not None for run in flat):
            break
    over = [run.stopped or (ALL_STEPS_DONE if step == settings.num_steps else None) for run, step in zip(flat, done, strict=True)]
    return [reason or ASKED_TO_STOP for reason in over]


def _evaluate(runs: list[list[Run]], state: TrainState, evaluate_step: Callable[..., Any]) -> dict[str, np.ndarray]:
    """Mean results of all runs, (seeds, points), over the validation batches of their seeds."""
    results = []
    for rows in zip(*(row[0].validation_batches() for row in runs), strict=True):
        batches, keys = zip(*rows, strict=True)
        results.append(evaluate_step(state, _stack_batches(batches), jnp.stack(keys)))
    values = jax.device_get(results)
    return {name: np.asarray(np.mean([item[name] for item in values], 0)) for name in values[0]}


def _row(point: Point, stopped: str | None, sweep_dir: Path) -> dict[str, Any]:
    """The line of the table of a run, read from its log; without scores where the sweep has not come to it."""
    row: dict[str, Any] = {**point.values, "seed": point.config.train.seed}
    log = (sweep_dir / point.name / "metrics.jsonl").read_text() if stopped is not None else ""
    evaluations = [line for line in map(json.loads, log.splitlines()) if line["kind"] == "evaluate"]
    if evaluations:
        select_by = point.config.train.select_by
        best = max(evaluations, key=lambda line: (selection_score(select_by, line, line["step"]), line["step"]))
        row |= {"step": best["step"], "held_out_loss": best["loss"]}
        row |= {name: best[name] for name in ("kept_energy", "true_kept_energy", "si_sdr_improvement") if name in best}
    return row | {"stopped": stopped or ASKED_TO_STOP, "folder": point.name}


def _write(table: list[dict[str, Any]], config: Config, over: Mapping[str, Sequence[float]], sweep_dir: Path) -> None:
    """Writes sweep.json and sweep.png, each under a temporary name first."""
    summary = {
        "config": to_json(config),
        "over": {name: list(values) for name, values in over.items()},
        "seeds": sorted({row["seed"] for row in table}),
        "uses_stems": uses_stems(config),
        "note": NOTE,
        "runs": table,
    }
    temporary = sweep_dir / "sweep.tmp"
    temporary.write_text(json.dumps(summary, indent=2))
    temporary.replace(sweep_dir / "sweep.json")
    temporary = sweep_dir / "sweep.tmp.png"
    _plot(table, list(over), temporary)
    temporary.replace(sweep_dir / "sweep.png")


def format_table(table: list[dict[str, Any]]) -> str:
    """The table as text, with the reasons of runs that did not do all their steps."""
    headings = [name for name in dict.fromkeys(itertools.chain(*table)) if name not in ("stopped", "folder")]
    cells = [headings] + [[f"{row[name]:.4g}" if name in row else "-" for name in headings] for row in table]
    reasons = ["", *("" if row["stopped"] == ALL_STEPS_DONE else row["stopped"] for row in table)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join([*(cell.rjust(width) for cell, width in zip(line, widths, strict=True)), reason]).rstrip()
        for line, reason in zip(cells, reasons, strict=True)
    ]
    return "\n".join([*lines, "", NOTE])


def _plot(table: list[dict[str, Any]], swept: list[str], path: Path) -> None:
    """Score and kept energy against the first swept value, a line for each combination of the others: mean and range of seeds."""
    from matplotlib.figure import Figure

    score = "si_sdr_improvement" if any("si_sdr_improvement" in row for row in table) else "held_out_loss"
    labels = {
        "si_sdr_improvement": "SI-SDR improvement in dB (validation, uses stems)",
        "held_out_loss": "held-out loss (of each objective)",
        "kept_energy": "share of the energy that the mask keeps",
    }
    figure = Figure(figsize=(10, 4), layout="constrained")
    first, *others = swept
    for axes, name in zip(figure.subplots(1, 2), (score, "kept_energy"), strict=True):
        lines: dict[tuple[float, ...], dict[float, list[float]]] = {}
        for row in table:
            if math.isfinite(row.get(name, math.nan)):
                lines.setdefault(tuple(row[other] for other in others), {}).setdefault(row[first], []).append(row[name])
        for combination, points in sorted(lines.items()):
            x = sorted(points)
            label = ", ".join(f"{other} {value:g}" for other, value in zip(others, combination, strict=True))
            axes.plot(x, [np.mean(points[value]) for value in x], "o-", label=label)
            axes.fill_between(x, [min(points[value]) for value in x], [max(points[value]) for value in x], alpha=0.2)
        if first == "learning_rate":
            axes.set_xscale("log")
        axes.set(xlabel=first, ylabel=labels[name])
        if others and lines:
            axes.legend()
    num_seeds = len({row["seed"] for row in table})
    figure.suptitle("Mean and range of the seeds" if num_seeds > 1 else "One seed")
    figure.savefig(path, dpi=100)
