"""The table and the plot of a sweep."""

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.files import replacing, write_text
from jaxpu.config import Config, uses_stems
from jaxpu.config_files import to_json
from jaxpu.monitoring.run_log import read_log
from jaxpu.training.grid import Point
from jaxpu.training.loop import ALL_STEPS_DONE, ASKED_TO_STOP
from jaxpu.training.run import selection_score

_NOTE = (
    "Each row is the checkpoint that its run selected, on the validation songs. SI-SDR improvement uses their stems.\n"
    "The held-out loss depends on the objective's hyperparameters: compare it between runs that share them.\n"
    "The estimated error is that of the separation, without stems: lower is better, and 0 is blank output."
)
_NOTE_ON_GAINS = "Here it cannot be compared, either: it is measured with positives at each run's positive_gain_db."


def note(over: Iterable[str]) -> str:
    """The sentences below the table of a sweep over these names."""
    return _NOTE if errors_compare(over) else f"{_NOTE}\n{_NOTE_ON_GAINS}"


def errors_compare(over: Iterable[str]) -> bool:
    """Whether the estimated errors of a sweep over these names can be compared."""
    return "positive_gain_db" not in over


def make_row(point: Point, stopped: str | None, sweep_dir: Path) -> dict[str, Any]:
    """The row of a run, read from its log, which an earlier sweep may have written; without scores if it has none.

    Args:
        point: the run.
        stopped: why it ended; None where this sweep has not reached it.
        sweep_dir: folder of the sweep.
    """
    row: dict[str, Any] = {**point.values, "seed": point.config.train.seed}
    log = read_log(sweep_dir / point.name)
    select_by = point.config.train.select_by
    needed = "si_sdr_improvement" if select_by == "si_sdr_improvement" else "loss"
    evaluations = [line for line in log if line["kind"] == "evaluate" and needed in line]
    if evaluations:
        # Checkpoints of interruptions are not selected while there are others.
        selectable = [line for line in evaluations if not line.get("interruption")] or evaluations[-1:]
        best = max(selectable, key=lambda line: (selection_score(select_by, line, line["step"]), line["step"]))
        row |= {"step": best["step"], "held_out_loss": best["loss"]}
        names = ("estimated_error", "kept_energy", "true_kept_energy", "si_sdr_improvement")
        row |= {name: best[name] for name in names if name in best}
    if stopped is None:
        done = any(line["step"] == point.config.train.num_steps for line in evaluations)
        stopped = ALL_STEPS_DONE if done else ASKED_TO_STOP
    return row | {"stopped": stopped, "folder": point.name}


def write_table(
    table: list[dict[str, Any]], config: Config, over: Mapping[str, Sequence[float]], used: Iterable[str], sweep_dir: Path
) -> None:
    """Write sweep.json and sweep.png, each under a temporary name first; `used` is for what runs used stems."""
    summary = {
        "config": to_json(config),
        "over": {name: list(values) for name, values in over.items()},
        "seeds": sorted({row["seed"] for row in table}),
        "uses_stems": list(dict.fromkeys([*uses_stems(config), *used])),
        "note": note(over),
        "runs": table,
    }
    write_text(sweep_dir / "sweep.json", json.dumps(summary, indent=2))
    with replacing(sweep_dir / "sweep.png") as temporary:
        _plot(table, list(over), temporary)


def format_table(table: list[dict[str, Any]], over: Iterable[str]) -> str:
    """The table as text, with the reasons of runs that did not do all their steps."""
    over = list(over)
    # Seeds and steps in full, swept values as `parse_over` rounds them, scores shorter.
    formats = {"seed": "d", "step": "d"} | dict.fromkeys(over, ".8g")
    headings = [name for name in dict.fromkeys(itertools.chain(*table)) if name not in ("stopped", "folder")]
    cells = [headings]
    cells += [[format(row[name], formats.get(name, ".4g")) if name in row else "-" for name in headings] for row in table]
    reasons = ["", *("" if row["stopped"] == ALL_STEPS_DONE else row["stopped"] for row in table)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join([*(cell.rjust(width) for cell, width in zip(line, widths, strict=True)), reason]).rstrip()
        for line, reason in zip(cells, reasons, strict=True)
    ]
    return "\n".join([*lines, "", note(over)])


def _plot(table: list[dict[str, Any]], swept: list[str], path: Path) -> None:
    """Score and kept energy against the first swept value, a line for each combination of the others: mean and range of seeds."""
    from matplotlib.figure import Figure

    score = "si_sdr_improvement" if any("si_sdr_improvement" in row for row in table) else "estimated_error"
    labels = {
        "si_sdr_improvement": "SI-SDR improvement in dB (validation, uses stems)",
        "estimated_error": "estimated error (validation, no stems)",
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
