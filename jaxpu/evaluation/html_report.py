"""One HTML page with scores, curves, pictures and sounds of evaluated runs, which needs no other file and no network.

It is made from files in the run directories: `metrics.jsonl`, and `evaluation/` with `scores.json` and `excerpts/`.
"""

import dataclasses
import os
import shlex
import string
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.files import write_text
from data_pipeline.progress import progress_bar
from jaxpu.evaluation import excerpts
from jaxpu.evaluation.baselines import MODEL
from jaxpu.evaluation.html_elements import figure, paragraph, sources, table, table_row
from jaxpu.evaluation.scoring import EvaluationError
from jaxpu.evaluation.table import READING, REPORT_FILE, SCORES_FILE, columns, default_folder, model_in_words, read_scores
from jaxpu.monitoring import plots
from jaxpu.monitoring.run_log import read_log

TEMPLATE = Path(__file__).with_name("html_report.html")
LETTERS = "ABCDEFGHIJ"
"""Names of the runs on the page of a comparison."""

SAME_MIXTURE_DB = 0.01
"""SI-SDRs of the same mixture differ by less than this, whatever machine computed them."""

RESAMPLES = 2000
"""Draws of the bootstrap."""

CAPTIONS = {
    "loss": "Loss. Losses of different objectives cannot be compared.",
    "estimated_error": "Error of the separation of held-out songs, estimated without stems: lower is better, 0 is blank output.",
    "si_sdr_improvement": "SI-SDR improvement on held-out songs.",
    "kept_energy": "Energy that the mask keeps, as a fraction of the input's; dashed, if there are stems: the true target's. "
    "While the line stays below the dotted one, the watchdog considers the output blank; a cross marks a warning.",
    "inactive_share": "Share of the bins that the network classifies as target inactive.",
}
"""Captions of the curves in `jaxpu.monitoring.plots.CURVES`."""


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """An evaluated run.

    Attributes:
        run: run directory.
        folder: output folder of the evaluation.
        label: name in tables and legends.
        scores: contents of `scores.json`.
        log: lines of `metrics.jsonl`; empty if there is none.
    """

    run: Path
    folder: Path
    label: str
    scores: dict[str, Any]
    log: list[dict[str, Any]]

    @property
    def tracks(self) -> dict[str, dict[str, Any]]:
        """The model's scores by track."""
        return self.scores["methods"][MODEL]["tracks"]

    @property
    def excerpts(self) -> dict[str, dict[str, float]]:
        """Positions of the excerpts in their tracks; empty if there are none."""
        return self.scores.get("excerpts", {})

    def summary(self, method: str = MODEL) -> dict[str, float | None]:
        """The scores of a method over all tracks; empty if it was not scored."""
        return self.scores["methods"].get(method, {}).get("summary", {})


def write_report(run_dir: str | os.PathLike[str], evaluation_dir: str | os.PathLike[str], *, progress: bool = True) -> Path:
    """Write `report.html` into the output folder of an evaluation.

    Args:
        run_dir: run directory.
        evaluation_dir: output folder of `jaxpu.evaluation.evaluate.evaluate`.
        progress: show a bar.

    Returns:
        The page's path.

    Raises:
        EvaluationError: the folder holds no scores.
        AudioError: an excerpt is missing or damaged.
    """
    path = Path(evaluation_dir) / REPORT_FILE
    _write([_open(Path(run_dir), Path(evaluation_dir), MODEL)], path, progress)
    return path


def write_comparison(run_dirs: Sequence[str | os.PathLike[str]], path: str | os.PathLike[str], *, progress: bool = True) -> None:
    """Write a page that compares several runs that were evaluated on the same songs.

    Args:
        run_dirs: 2 to 10 run directories, archives or names of starters, each evaluated into its default folder.
        path: of the page.
        progress: show a bar.

    Raises:
        EvaluationError: there are more than ten runs; one is not evaluated; or they differ in target, split or songs.
        AudioError: an excerpt is missing or damaged.
    """
    if len(run_dirs) > len(LETTERS):
        raise EvaluationError(f"{len(run_dirs)} runs are too many for a page; compare at most {len(LETTERS)}.")
    runs = [_open(Path(run), default_folder(Path(run)), letter) for run, letter in zip(run_dirs, LETTERS, strict=False)]
    for run in runs[1:]:
        _check_comparable(runs[0], run)
    _write(runs, Path(path), progress)


def _open(run_dir: Path, evaluation_dir: Path, label: str) -> Evaluated:
    path = evaluation_dir / SCORES_FILE
    try:
        scores = read_scores(path)
    except FileNotFoundError as error:
        if (run_dir / SCORES_FILE).is_file():
            raise EvaluationError(
                f"{run_dir} is the output folder of an evaluation (-o). Give the run itself, evaluated without -o: "
                "`jaxpu evaluate RUN CORPUS --report`."
            ) from error
        raise EvaluationError(
            f"{path} does not exist: the run has not been evaluated. Run "
            f"`jaxpu evaluate {shlex.quote(str(run_dir))} CORPUS --report`."
        ) from error
    return Evaluated(run_dir, evaluation_dir, label, scores, read_log(run_dir))


def _check_comparable(first: Evaluated, other: Evaluated) -> None:
    """Raise EvaluationError if the scores of two runs cannot be compared."""
    remedy = "Evaluate both on the same songs."
    for name in ("target", "split"):
        if first.scores[name] != other.scores[name]:
            raise EvaluationError(
                f"{first.run} and {other.run} cannot be compared: the {name} is {_text(first.scores[name])} in the first "
                f"and {_text(other.scores[name])} in the second. {remedy}"
            )
    differing = sorted(first.tracks.keys() ^ other.tracks.keys())
    if differing:
        raise EvaluationError(
            f"{first.run} and {other.run} cannot be compared: {differing[0]} is scored in only one of them (songs that "
            f"differ: {len(differing)}). {remedy}"
        )
    for name, track in first.tracks.items():
        mixtures = [scores["si_sdr"] - scores["si_sdr_improvement"] for scores in (track, other.tracks[name])]
        if abs(mixtures[0] - mixtures[1]) > SAME_MIXTURE_DB:
            raise EvaluationError(
                f"{first.run} and {other.run} cannot be compared: {name} is not the same song in both: its mixture has an "
                f"SI-SDR of {mixtures[0]:.2f} dB in the first and {mixtures[1]:.2f} dB in the second. {remedy}"
            )


def _write(runs: Sequence[Evaluated], path: Path, progress: bool) -> None:
    target = _text(runs[0].scores["target"])
    title = f"Separation of {target}" if len(runs) == 1 else f"Separation of {target}: {len(runs)} runs"
    names, songs = _with_excerpts(runs), []
    with progress_bar(len(names), "page", "song", show=progress) as bar:
        for number, name in enumerate(names):
            songs.append(_song(runs, name, number))
            bar.update()
    left, bottom, width, height = plots.AXES
    page = string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(title),
        header=_header(runs),
        content="\n".join([_scores(runs), _tracks(runs), _curves(runs), _listening(runs), *songs]),
        axes_left=f"{100 * left:.1f}",
        axes_top=f"{100 * (1 - bottom - height):.1f}",
        axes_width=f"{100 * width:.1f}",
        axes_height=f"{100 * height:.1f}",
    )
    write_text(path, page)


def _header(runs: Sequence[Evaluated]) -> str:
    """The runs, and the songs that they were evaluated on."""
    scores = runs[0].scores
    lines = []
    for run in runs:
        model = run.scores["model"]
        described = f"Run {run.run}" if len(runs) == 1 else f"{run.label}: run {run.run}"
        lines.append(f"{described}, {model_in_words(model)}" if model else f"{described}.")
    lines.append(f"Songs: {len(runs[0].tracks)}, the split {scores['split']} of {scores['source']}.")
    if above := next(filter(None, (run.scores.get("band_above") for run in runs)), None):
        lines.append(above)
        old = [run.label for run in runs if "band_above" not in run.scores]
        if old:
            lines.append(f"{', '.join(old)}: scored by an earlier version, which put nothing there. Evaluate again to compare.")
    lines += [f"Excluded: {name}: {reason}" for name, reason in scores["excluded_tracks"].items()]
    return "\n".join(map(paragraph, lines))


def _scores(runs: Sequence[Evaluated]) -> str:
    """The table of scores: the runs, their differences from the first, and the baselines."""
    shown = columns(all(run.scores["full"] for run in runs))

    def row(label: str, scores: Mapping[str, float | None], sign: str = "", kind: str = "") -> str:
        return table_row(label, [(scores.get(key), f"{sign}{spec}") for key, spec in shown.values()], kind)

    first = runs[0].summary()
    rows = [row(run.label, run.summary()) for run in runs]
    for run in runs[1:]:
        differences = {key: _difference(first.get(key), value) for key, value in run.summary().items()}
        rows.append(row(f"{run.label} − {runs[0].label}", differences, sign="+"))
    for method in runs[0].scores["methods"]:
        # Masks with different STFTs are different baselines.
        baselines = {row(method, run.summary(method), kind="aside") for run in runs}
        if method != MODEL and len(baselines) == 1:
            rows += baselines
    parts = [
        "<section>",
        "<h2>Scores</h2>",
        table(["", *shown], rows, "Scores"),
        *(paragraph(_paired(runs[0], run)) for run in runs[1:]),
    ]
    return "\n".join([*parts, *(paragraph(line, "note") for line in READING), "</section>"])


def _tracks(runs: Sequence[Evaluated]) -> str:
    """Every song: plot and table, from the lowest improvement of the first run to the highest."""
    names = sorted(runs[0].tracks, key=lambda name: runs[0].tracks[name]["si_sdr_improvement"])
    plotted = {run.label: run.tracks for run in runs}
    if len(runs) == 1:
        methods = runs[0].scores["methods"]
        plotted |= {method: scores["tracks"] for method, scores in methods.items() if method != MODEL}
    plot = plots.plot_improvements(
        {label: [tracks[name]["si_sdr_improvement"] for name in names] for label, tracks in plotted.items()}
    )
    kinds = {"SI-SDRi": ("si_sdr_improvement", ".2f"), "SDR": ("sdr_target", ".2f"), "kept": ("kept_energy", ".2f")}
    kinds["blank"] = ("blank_rate", ".0%")
    headings = [kind if len(runs) == 1 else f"{run.label}: {kind}" for run in runs for kind in kinds]
    rows = [
        table_row(f"{number} {name}", [(run.tracks[name][key], spec) for run in runs for key, spec in kinds.values()])
        for number, name in enumerate(names, 1)
    ]
    caption = f"SI-SDR improvement of every song in dB, drawn at {plots.MIN_DB:g} dB if it is lower; the table has the names."
    return "\n".join(
        [
            "<section>",
            "<h2>Songs</h2>",
            figure(plot, "Points: SI-SDR improvement by song", caption, "wide"),
            f"<details{' open' if len(names) <= 10 else ''}><summary>Scores of every song</summary>",
            table(["", *headings], rows, "Scores of every song"),
            "</details>",
            "</section>",
        ]
    )


def _curves(runs: Sequence[Evaluated]) -> str:
    """Learning and watchdog curves, and the watchdog's warnings."""
    pictures = plots.plot_curves({run.label: run.log for run in runs})
    if not pictures:
        return ""
    warnings = [
        f"{run.label}: {line['text']}" if len(runs) > 1 else line["text"]
        for run in runs
        for line in run.log
        if line["kind"] == "warning"
    ]
    figures = [figure(picture, f"Curves: {plots.CURVES[key]}, by step", CAPTIONS[key]) for key, picture in pictures.items()]
    note = paragraph("Lines: training. Points: held-out songs.", "note")
    parts = ["<section>", "<h2>Training</h2>", note, '<div class="grid">', *figures, "</div>", *map(paragraph, warnings)]
    return "\n".join([*parts, "</section>"])


def _with_excerpts(runs: Sequence[Evaluated]) -> list[str]:
    """Songs of which any run has an excerpt: those of most runs first, then from the lowest improvement to the highest."""
    names = {name for run in runs for name in run.excerpts}
    runs_with = {name: sum(name in run.excerpts for run in runs) for name in names}
    return sorted(names, key=lambda name: (-runs_with[name], runs[0].tracks[name]["si_sdr_improvement"]))


def _listening(runs: Sequence[Evaluated]) -> str:
    """The heading of the excerpts, and the runs that have none."""
    silent = [run.run for run in runs if not run.excerpts]
    notes = [paragraph(f"{run} has no excerpts: jaxpu evaluate {run} CORPUS --report writes them.") for run in silent]
    if len(silent) < len(runs):
        notes.append(
            paragraph(
                "The excerpt of each song in which the target is loudest. Switching to another source keeps the playing "
                "position. Mask: white keeps the mixture, black removes it.",
                "note",
            )
        )
    return "\n".join(["<h2>Listen and look</h2>", *notes])


def _song(runs: Sequence[Evaluated], name: str, number: int) -> str:
    """Player and pictures of one song."""
    excerpt, target = next(run.excerpts[name] for run in runs if name in run.excerpts), _text(runs[0].scores["target"])
    # Excerpts from different positions could not be played together.
    having = [run for run in runs if run.excerpts.get(name) == excerpt]
    prefixes, separated = ([""], ", separated") if len(runs) == 1 else ([f"{run.label}: " for run in having], "")
    signals = {prefix: excerpts.read(run.folder, name) for prefix, run in zip(prefixes, having, strict=True)}
    shapes = {waveform.shape for own in signals.values() for waveform in own.values()}
    if len(shapes) > 1:
        raise EvaluationError(
            f"The excerpts of {name} have different sizes, (channels, samples): {sorted(shapes)}. Evaluate the runs again."
        )
    mixture, truth = (next(iter(signals.values()))[signal] for signal in ("mixture", "target"))
    sounds = {"mixture": mixture, f"{target}, true": truth}
    sounds |= {f"{prefix}{target}{separated}": own["estimate"] for prefix, own in signals.items()}
    sounds |= {f"{prefix}accompaniment{separated}": own["mixture"] - own["estimate"] for prefix, own in signals.items()}
    captions = ["mixture", f"{target}, true"]
    captions += [f"{prefix}{what}" for prefix in prefixes for what in (f"{target}{separated}", "mask")]
    rate, start, seconds = int(excerpt["sample_rate"]), excerpt["start_s"], excerpt["seconds"]
    estimates = [own["estimate"].mean(0) for own in signals.values()]
    pictures = plots.spectrograms(mixture.mean(0), truth.mean(0), estimates, rate)
    improvements = ", ".join(
        f"{prefix}{run.tracks[name]['si_sdr_improvement']:.1f} dB" for prefix, run in zip(prefixes, having, strict=True)
    )
    return "\n".join(
        [
            '<article class="song">',
            f"<h3>{escape(name)}</h3>",
            f'<p class="note">{start:.1f} to {start + seconds:.1f} s of the song, at {rate} Hz. '
            f"SI-SDR improvement of the whole song: {improvements}.</p>",
            '<div class="player"><button type="button">Play</button>'
            f'<input type="range" min="0" max="{seconds:.3f}" step="0.001" value="0" aria-label="Position in seconds">'
            "<output>0.0 s</output></div>",
            '<fieldset class="sources"><legend>Listen to</legend>',
            *sources(sounds, rate, number),
            "</fieldset>",
            '<div class="grid">',
            *(
                figure(picture, f"Spectrogram of {name}: {caption}", caption, "spectrogram")
                for picture, caption in zip(pictures, captions, strict=True)
            ),
            "</div>",
            "</article>",
        ]
    )


def _difference(first: float | None, other: float | None) -> float | None:
    return None if first is None or other is None else other - first


def _paired(first: Evaluated, other: Evaluated) -> str:
    """Difference of two runs over the songs, with a bootstrap confidence interval."""
    improvements = np.array([[run.tracks[name]["si_sdr_improvement"] for name in first.tracks] for run in (first, other)])
    differences = improvements[1] - improvements[0]
    interval = ""
    if len(differences) > 1:
        rng = np.random.default_rng(0)
        means = rng.choice(differences, (RESAMPLES, len(differences))).mean(1)
        low, high = np.quantile(means, [0.025, 0.975])
        interval = f" (95 % interval, songs drawn with replacement: {low:+.2f} to {high:+.2f} dB)"
    return (
        f"{other.label} − {first.label}: SI-SDR improvement {differences.mean():+.2f} dB{interval}. {other.label} is better on "
        f"{np.sum(differences > 0)} of {len(differences)} songs."
    )


def _text(value: str | list[str]) -> str:
    return value if isinstance(value, str) else " + ".join(value)
