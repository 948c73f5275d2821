"""The tables of README.md and docs/, from the JSON files of finished experiments.

A table stands in a document between two marks, `<!-- results/NAME: begin -->` and `<!-- results/NAME: end -->`; README's has no
NAME.  NAME is one of `SUMMARIES`, the name of a block of experiments (`slug`), or that of a file in benchmarks/results/measured,
which holds a table that was measured by other commands, with these commands and the machine.
"""

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from experiments import SEEDS, TARGETS, Experiment, experiments, file_name

from data_pipeline.files import write_text

MARK = re.compile(r"<!-- results(?P<name>/[\w-]+|): begin -->\n.*?<!-- results(?P=name): end -->", re.DOTALL)
ANY_MARK = re.compile(r"<!-- results[^>]*: (?:begin|end) -->")
RESAMPLES = 2000
NO_RESULTS = "No experiment of this table has been run."
COLUMNS = (
    "method",
    "seeds",
    "SI-SDR improvement, dB (95 % interval; seeds ± deviation)",
    "share of the gap (95 % interval)",
    "SDR target, dB",
    "SDR accompaniment, dB",
    "energy kept (least to most)",
    "blank",
    "training",
)

Result = dict[str, Any]


class Row(NamedTuple):
    """A row of a table: runs of one method that differ by their seeds, and the supervised runs that they are compared with."""

    label: str
    results: list[Result]
    reference: list[Result]


def write_all(results: Path, documents: Iterable[Path]) -> None:
    """Write the tables of all documents that have marks.

    Raises:
        ValueError: a mark has no other end, or there is no table of that name.
    """
    found = read_all(results)
    tables = all_tables(found, results / "measured")

    def filled(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in tables:
            raise ValueError(f"There is no table 'results{name}'. Tables: {', '.join(f'results{known}' for known in tables)}.")
        return f"<!-- results{name}: begin -->\n\n{tables[name]()}\n\n<!-- results{name}: end -->"

    for document in documents:
        text = document.read_text(encoding="utf-8")
        if leftover := ANY_MARK.search(MARK.sub("", text)):
            raise ValueError(f"{document}: the mark {leftover[0]} has no other end.")
        written = MARK.sub(filled, text)
        if written != text:
            write_text(document, written)


def read_all(results: Path) -> dict[str, Result]:
    """The finished experiments, by name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))}


def all_tables(found: dict[str, Result], measured: Path) -> Mapping[str, Callable[[], str]]:
    """A function for each table that makes its Markdown, by what follows `results` in the table's marks."""
    tables = {name: functools.partial(summary, found) for name, summary in SUMMARIES.items()}
    tables |= {f"/{slug(block)}": functools.partial(block_table, block, found) for block in blocks()}
    return tables | {f"/{path.stem}": functools.partial(measured_table, path) for path in sorted(measured.glob("*.json"))}


def block_table(block: str, found: dict[str, Result]) -> str:
    """Markdown: the methods of one block; with the baselines, where the block compares all methods on a target."""
    text = table(rows(blocks()[block], found))
    return f"{text}\n\n{baselines(block, found)}" if block in TARGETS else text


def blocks() -> dict[str, list[Experiment]]:
    """The experiments by block, both in order."""
    found: dict[str, list[Experiment]] = {}
    for experiment in experiments():
        found.setdefault(experiment.block, []).append(experiment)
    return found


def slug(block: str) -> str:
    """Name of a block in marks."""
    return re.sub(r"\W+", "-", block.lower())


def anchor(heading: str) -> str:
    """The end of a link to a heading, as GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def rows(of_block: list[Experiment], found: dict[str, Result], *, pu: bool = False) -> list[Row]:
    """The rows of one block, in order; the rows of PULSE's risk have a table of their own, where the block compares a target."""
    # Where a block has supervised runs they are the reference: other songs or networks are compared on themselves.
    reference = stronger_supervised(supervised_in(of_block) or supervised_like(of_block[0]), found)
    by_method: dict[str, list[Result]] = {}
    for experiment in of_block:
        is_pu = experiment.method.startswith("pu, ") and experiment.block in TARGETS
        if experiment.name in found and is_pu == pu:
            by_method.setdefault(experiment.method, []).append(found[experiment.name])
    return [Row(method, results, reference) for method, results in by_method.items()]


def table(chosen: list[Row]) -> str:
    """Markdown: one line per row."""
    if not chosen:
        return NO_RESULTS
    lines = []
    for row in chosen:
        improvement, kept = scores(row.results, "si_sdr_improvement"), scores(row.results, "kept_energy")
        low, high = interval(improvement)
        deviation = f"; ± {improvement.mean(axis=1).std(ddof=1):.2f}" if len(row.results) > 1 else ""
        compared = row.reference and not row.results[0]["method"].startswith("supervised")
        lines.append(
            [
                row.label,
                str(len(row.results)),
                f"{improvement.mean():.2f} ({low:.2f} to {high:.2f}{deviation})",
                gap_closed(improvement, scores(row.reference, "si_sdr_improvement")) if compared else "-",
                *(f"{np.median(scores(row.results, key), axis=1).mean():.2f}" for key in ("sdr_target", "sdr_accompaniment")),
                f"{np.median(kept):.2f} ({kept.min():.2f} to {kept.max():.2f})",
                f"{scores(row.results, 'blank_rate').mean():.0%}",
                training_times(row.results),
            ]
        )
    return markdown(COLUMNS, lines)


def markdown(columns: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    head = list(columns)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines))


def measured_table(path: Path) -> str:
    """Markdown of a table that was measured by other commands: the commands, the table, and on which machine."""
    measured = json.loads(path.read_text(encoding="utf-8"))
    commands = "\n".join(f"    {command}" for command in measured["commands"])
    return "\n\n".join(part for part in (commands, markdown(measured["columns"], measured["rows"]), measured["machine"]) if part)


def training_times(results: list[Result]) -> str:
    """Mean seconds of training on each kind of device: runs of different ones cannot be averaged."""
    by_device: dict[str, list[float]] = {}
    for result in results:
        (device,) = re.findall(r"\((\w+)\), \d+ process", result["machine"])  # as jaxpu.parallel.describe writes it
        by_device.setdefault(device, []).append(result["train_s"])
    return ", ".join(f"{device} {np.mean(seconds):.0f} s" for device, seconds in sorted(by_device.items()))


def baselines(target: str, found: dict[str, Result]) -> str:
    """One line with the scores of the unprocessed mixture, the best fixed mask and the oracle masks."""
    result = found.get(file_name(target, "remix", 0))
    if result is None:
        return NO_RESULTS
    means = {
        method: np.mean([track["si_sdr_improvement"] for track in tracks.values()])
        for method, tracks in result["scores"].items()
        if method != "model"
    }
    return "Baselines, SI-SDR improvement in dB: " + ", ".join(f"{method} {mean:.2f}" for method, mean in means.items()) + "."


def readme(found: dict[str, Result]) -> str:
    """The table of README: one row per target."""
    lines = []
    for target in ("drums", "vocals", "bass", "other"):
        if pair := compared_means(blocks()[target], found):
            ours, theirs = pair
            lines.append([target, f"{ours.mean():.1f} dB", f"{theirs.mean():.1f} dB", f"{ours.mean() / theirs.mean():.2f}"])
    return markdown(("target", "without stems", "supervised", "share of the gap"), lines)


def in_short(found: dict[str, Result]) -> str:
    """`bootstrap` beside supervision: one row for each block of one network that has both."""
    lines = []
    for block, of_block in blocks().items():
        pair = compared_means(of_block, found)
        if pair and len({each.config.model for each in of_block}) == 1:
            link = f"[{block}](#{anchor(block)})"
            means = [f"{values.mean():.1f} dB" for values in pair]
            lines.append([link, *means, gap_closed(*pair), ", ".join(str(len(values)) for values in pair)])
    return markdown(("experiment", "without stems", "supervised", "share of the gap (95 % interval)", "seeds"), lines)


def compared_means(of_block: list[Experiment], found: dict[str, Result]) -> tuple[np.ndarray, np.ndarray] | None:
    """SI-SDR improvements, (seeds, songs), of `bootstrap` and of the stronger supervised method of a block that has both."""
    runs = [each for each in of_block if each.method.startswith("bootstrap") and each.name in found]
    # The first bootstrap of a block is the method itself, the others are variants of it.
    ours = [found[each.name] for each in runs if each.method == runs[0].method]
    reference = stronger_supervised(supervised_in(of_block), found)
    if not (ours and reference):
        return None
    return scores(ours, "si_sdr_improvement"), scores(reference, "si_sdr_improvement")


def pulse(found: dict[str, Result]) -> str:
    """PULSE's risk on the four targets."""
    chosen = [(target, row) for target in TARGETS for row in rows(blocks()[target], found, pu=True)]
    return table([row._replace(label=f"{target}, {row.label}") for target, row in chosen])


def rounds(found: dict[str, Result]) -> str:
    """A teacher that stays fixed for a round: an option that was removed, whose results are kept."""
    block = blocks()["vocals, 6 + 6 clips"]
    chosen = [row for row in rows(block, found) if row.label.startswith("bootstrap")]
    reference = stronger_supervised(supervised_in(block), found)
    for method in ("bootstrap, one round", "bootstrap, three rounds"):
        names = [file_name("vocals", method, seed) for seed in SEEDS]
        chosen.append(Row(method, [found[name] for name in names if name in found], reference))
    return table([row for row in chosen if row.results])


def watchdog(found: dict[str, Result]) -> str:
    """How often the watchdog was right, over all runs."""
    runs = [result for result in found.values() if not result["name"].startswith("unheard_")]
    blank = [is_blank(result["validation"], result["config"]["train"]["num_steps"]) for result in runs]
    warned = [bool(result["warnings"]) for result in runs]
    verdicts = list(zip(blank, warned, strict=True))
    counts = [len(runs), *(verdicts.count(verdict) for verdict in ((True, True), (True, False), (False, True)))]
    columns = ("runs", "below a quarter, warned", "below a quarter, not warned", "above a quarter, warned")
    return markdown(columns, [[str(count) for count in counts]])


SUMMARIES: dict[str, Callable[[dict[str, Result]], str]] = {
    "": readme,
    "/in-short": in_short,
    "/pulse": pulse,
    "/rounds": rounds,
    "/watchdog": watchdog,
}


def is_blank(validation: list[dict[str, Any]], num_steps: int) -> bool:
    """Whether at an evaluation after the first tenth of the steps the masks keep less than a quarter of the true energy."""
    later = [line for line in validation if line["step"] > num_steps / 10]
    return any(line["kept_energy"] < 0.25 * line["true_kept_energy"] for line in later)


def supervised_in(of_block: Iterable[Experiment]) -> list[Experiment]:
    """The supervised experiments of a block."""
    return [each for each in of_block if each.method.startswith("supervised")]


def supervised_like(experiment: Experiment) -> list[Experiment]:
    """The supervised experiments on the same data, with as many steps and clips a step."""

    def setting(each: Experiment) -> tuple[Any, ...]:
        return each.songs, each.config.data, each.config.train.num_steps, each.config.train.batch_size

    return [each for each in supervised_in(experiments()) if setting(each) == ("main", *setting(experiment)[1:])]


def stronger_supervised(candidates: Iterable[Experiment], found: dict[str, Result]) -> list[Result]:
    """The runs of the method with the best mean, of those with the most seeds."""
    groups: dict[str, list[Result]] = {}
    for experiment in candidates:
        if experiment.name in found:
            groups.setdefault(experiment.method, []).append(found[experiment.name])
    most = max(map(len, groups.values()), default=0)
    longest = [group for group in groups.values() if len(group) == most]
    return max(longest, key=lambda group: scores(group, "si_sdr_improvement").mean(), default=[])


def scores(results: list[Result], key: str) -> np.ndarray:
    """float64 (seeds, songs), of the songs by name; NaN where museval has no frame."""
    names = sorted(results[0]["scores"]["model"])
    return np.array([[result["scores"]["model"][name][key] for name in names] for result in results], np.float64)


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of (seeds, songs): both are drawn with replacement."""
    seeds, songs = draws(*values.shape)
    low, high = np.quantile(drawn_means(values, seeds, songs), [0.025, 0.975])
    return float(low), float(high)


def gap_closed(values: np.ndarray, supervised: np.ndarray) -> str:
    """(method - mixture) / (supervised - mixture) in SI-SDR, with its interval; the same songs are drawn for both."""
    songs, ours, theirs = draws(values.shape[1], len(values), len(supervised))
    ratios = drawn_means(values, ours, songs) / drawn_means(supervised, theirs, songs)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return f"{values.mean() / supervised.mean():.2f} ({low:.2f} to {high:.2f})"


@functools.cache
def draws(*sizes: int) -> tuple[np.ndarray, ...]:
    """Indices drawn with replacement, the same on every call: for each size an array (RESAMPLES, size)."""
    rng = np.random.default_rng(0)
    drawn = [[rng.integers(size, size=size) for size in sizes] for _ in range(RESAMPLES)]
    return tuple(np.array(indices) for indices in zip(*drawn, strict=True))


def drawn_means(values: np.ndarray, seeds: np.ndarray, songs: np.ndarray) -> np.ndarray:
    """Mean of each resample of (seeds, songs): (RESAMPLES,)."""
    return values[seeds[:, :, None], songs[:, None, :]].mean(axis=(1, 2))
