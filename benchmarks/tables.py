"""The tables of docs/results.md from the JSON files of finished experiments."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from experiments import Experiment, experiments

BEGIN, END = "<!-- Written by make results: begin -->", "<!-- Written by make results: end -->"
RESAMPLES = 2000
NOT_RUN = "not run"

Result = dict[str, Any]


def write_all(results: Path, document: Path) -> None:
    """Replaces what stands between the two marks of the document.

    Raises:
        ValueError: the document has no marks.
    """
    found = read_all(results)
    text = document.read_text()
    if BEGIN not in text or END not in text:
        raise ValueError(f"{document} must have a line {BEGIN!r} and a line {END!r}.")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    temporary = document.with_suffix(".tmp")
    temporary.write_text(
        before + BEGIN + "\n\n" + markdown(found, {path.name for path in results.glob("*.png")}) + "\n" + END + after
    )
    temporary.replace(document)


def read_all(results: Path) -> dict[str, Result]:
    """What the experiments left behind, by their names."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(results.glob("*.json"))}


def markdown(found: dict[str, Result], pictures: set[str]) -> str:
    """All tables, block by block, with those of the pictures that there are."""
    parts = ["### In short", "", summary(found), ""]
    for block, of_block in blocks().items():
        target = of_block[0].target
        # Those of the block itself where it has any: what is scored on other songs is compared on them.
        reference = stronger_supervised(supervised_in(of_block) or supervised_like(of_block[0]), found)
        parts += [f"### {title(block)}", "", table(of_block, found, reference), ""]
        if block == target:
            parts += [baselines(target, found), ""]
            for name, shown in ((f"curves_{target}.png", "Learning curves"), (f"masks_{target}.png", "Masks")):
                if name in pictures:
                    parts += [f"![{shown}, {target}](results/{name})", ""]
    parts += ["### Watchdog", "", watchdog(found.values()), ""]
    return "\n".join(parts)


def summary(found: dict[str, Result]) -> str:
    """Markdown: `bootstrap` beside supervision, one row for each block of one network that has both."""
    lines = ["| | `bootstrap`, no stems | supervised | gap closed | seeds |", "|---|---|---|---|---|"]
    for block, of_block in blocks().items():
        reference = stronger_supervised(supervised_in(of_block), found)
        # The first one is the method as it is, the others are variants of it.
        run = [each for each in of_block if each.method.startswith("bootstrap") and each.name in found]
        ours = [found[each.name] for each in run if each.method == run[0].method]
        if not (ours and reference) or len({each.config.model for each in of_block}) > 1:
            continue
        pair = [scores(results, "si_sdr_improvement") for results in (ours, reference)]
        figures = [*(f"{values.mean():.1f} dB" for values in pair), gap_closed(*pair), f"{len(ours)}, {len(reference)}"]
        lines.append(f"| [{title(block)}](#{anchor(block)}) | " + " | ".join(figures) + " |")
    return "\n".join(lines)


def blocks() -> dict[str, list[Experiment]]:
    """The experiments by their blocks, both in order."""
    found: dict[str, list[Experiment]] = {}
    for experiment in experiments():
        found.setdefault(experiment.block, []).append(experiment)
    return found


def title(block: str) -> str:
    """The heading of a block."""
    return block[0].upper() + block[1:]


def anchor(heading: str) -> str:
    """What GitHub makes of a heading in links."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def supervised_in(of_block: Iterable[Experiment]) -> list[Experiment]:
    """The supervised experiments of a block."""
    return [each for each in of_block if each.method.startswith("supervised")]


def table(of_block: Iterable[Experiment], found: dict[str, Result], reference: list[Result]) -> str:
    """Markdown: one row per method, over its seeds."""
    by_method: dict[str, list[Experiment]] = {}
    for experiment in of_block:
        by_method.setdefault(experiment.method, []).append(experiment)
    lines = [
        "| | seeds | SI-SDR improvement | gap closed | SDR target | SDR accomp. | kept (least to most) | blank | training |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for method, runs in by_method.items():
        results = [found[run.name] for run in runs if run.name in found]
        if not results:
            lines.append(f"| {method} | 0 of {len(runs)} | " + " | ".join([NOT_RUN] * 7) + " |")
            continue
        improvement = scores(results, "si_sdr_improvement")
        kept = scores(results, "kept_energy")
        low, high = interval(improvement, np.mean)
        closed = "-"
        if reference and not method.startswith("supervised"):
            closed = gap_closed(improvement, scores(reference, "si_sdr_improvement"))
        cells = [
            method,
            f"{len(results)} of {len(runs)}",
            f"{improvement.mean():.2f} ({low:.2f} to {high:.2f}; seeds {spread(improvement)})",
            closed,
            *(f"{np.median(scores(results, f'sdr_{source}'), axis=1).mean():.2f}" for source in ("target", "accompaniment")),
            f"{np.median(kept):.2f} ({kept.min():.2f} to {kept.max():.2f})",
            f"{scores(results, 'blank_rate').mean():.0%}",
            training_times(results),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def training_times(results: list[Result]) -> str:
    """Mean seconds of training on each kind of device: runs of different ones cannot be averaged."""
    by_device: dict[str, list[float]] = {}
    for result in results:
        (device,) = re.findall(r"\((\w+)\), \d+ process", result["machine"])  # as jaxpu.parallel.describe writes it
        by_device.setdefault(device, []).append(result["train_s"])
    return ", ".join(f"{device} {np.mean(seconds):.0f} s" for device, seconds in sorted(by_device.items()))


def baselines(target: str, found: dict[str, Result]) -> str:
    """One line of what doing nothing, the fixed mask and the oracle masks reach."""
    result = found.get(f"{target}_remix_0")
    if result is None:
        return f"Baselines: {NOT_RUN}."
    means = {
        method: np.mean([track["si_sdr_improvement"] for track in tracks.values()])
        for method, tracks in result["scores"].items()
        if method != "model"
    }
    return "Baselines, SI-SDR improvement: " + ", ".join(f"{method} {mean:.2f}" for method, mean in means.items()) + "."


def watchdog(results: Iterable[Result]) -> str:
    """How often the watchdog was right, over all runs."""
    runs = [result for result in results if not result["name"].startswith("unheard_")]
    if not runs:
        return f"Watchdog: {NOT_RUN}."
    blank = [is_blank(result["validation"], result["config"]["train"]["num_steps"]) for result in runs]
    warned = [bool(result["warnings"]) for result in runs]
    missed = sum(is_so and not said for is_so, said in zip(blank, warned, strict=True))
    false = sum(said and not is_so for is_so, said in zip(blank, warned, strict=True))
    return (
        f"{len(runs)} runs, of which {sum(blank)} kept less than a quarter of the true energy of the validation clips at an "
        f"evaluation after the first tenth of the steps: {missed} of them without a warning. Of the {len(runs) - sum(blank)} "
        f"others {false} had one. The warnings are those that each run had when it was trained."
    )


def is_blank(validation: list[dict[str, Any]], num_steps: int) -> bool:
    """Whether at an evaluation after the first tenth of the steps the masks keep less than a quarter of the true energy."""
    later = [line for line in validation if line["step"] > num_steps / 10]
    return any(line["kept_energy"] < 0.25 * line["true_kept_energy"] for line in later)


def supervised_like(experiment: Experiment) -> list[Experiment]:
    """The supervised experiments on the same data, with as many steps and clips a step."""
    data, train = experiment.config.data, experiment.config.train
    wanted = data, train.num_steps, train.batch_size
    return [
        each
        for each in experiments()
        if each.method.startswith("supervised")
        and each.songs == "main"
        and (each.config.data, each.config.train.num_steps, each.config.train.batch_size) == wanted
    ]


def stronger_supervised(candidates: Iterable[Experiment], found: dict[str, Result]) -> list[Result]:
    """The runs of the method with the best mean, of those with the most seeds."""
    groups: dict[str, list[Result]] = {}
    for experiment in candidates:
        if experiment.name in found:
            groups.setdefault(experiment.method, []).append(found[experiment.name])
    if not groups:
        return []
    most = max(map(len, groups.values()))
    return max((group for group in groups.values() if len(group) == most), key=lambda g: scores(g, "si_sdr_improvement").mean())


def scores(results: list[Result], key: str) -> np.ndarray:
    """float64 (seeds, songs), of the songs by name; NaN where museval has no frame."""
    names = sorted(results[0]["scores"]["model"])
    rows = [[result["scores"]["model"][name][key] for name in names] for result in results]
    return np.array(rows, np.float64)


def interval(values: np.ndarray, statistic: Callable[[np.ndarray], Any]) -> tuple[float, float]:
    """95 % bootstrap interval: seeds and songs are drawn with replacement.  `values` is (seeds, songs)."""
    rng = np.random.default_rng(0)
    num_seeds, num_songs = values.shape
    drawn = [
        statistic(values[rng.integers(num_seeds, size=num_seeds)][:, rng.integers(num_songs, size=num_songs)])
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def gap_closed(values: np.ndarray, supervised: np.ndarray) -> str:
    """(method - mixture) / (supervised - mixture) in SI-SDR, with its interval; the same songs are drawn for both."""
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(RESAMPLES):
        songs = rng.integers(values.shape[1], size=values.shape[1])
        ours, theirs = (array[rng.integers(len(array), size=len(array))][:, songs].mean() for array in (values, supervised))
        drawn.append(ours / theirs)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{values.mean() / supervised.mean():.2f} ({low:.2f} to {high:.2f})"


def spread(values: np.ndarray) -> str:
    """Standard deviation of the seeds' means."""
    means = values.mean(axis=1)
    return f"± {means.std(ddof=1):.2f}" if len(means) > 1 else "-"
