"""Scores of several methods on the same tracks: `scores.json`, museval's files, and a table in plain text."""

import dataclasses
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np

from data_pipeline.files import replacing, short_name, write_text, writing
from data_pipeline.residual import Residual, warning
from data_pipeline.stored_json import read_json
from jaxpu.artifacts.records import ScoredModel
from jaxpu.artifacts.starters import resolved
from jaxpu.evaluation.baselines import MODEL
from jaxpu.evaluation.scoring import EvaluationError, TrackScores, nan_median

SCORES_FILE, MUSEVAL_FOLDER, REPORT_FILE = "scores.json", "museval", "report.html"


class SongScores(TypedDict):
    """Scores of one track that are shown; see `jaxpu.evaluation.scoring.TrackScores`."""

    si_sdr: float
    si_sdr_improvement: float
    sdr_target: float | None
    kept_energy: float | None
    blank_rate: float | None


class Method(TypedDict):
    """Scores of the model or a baseline."""

    summary: dict[str, float | None]
    tracks: dict[str, SongScores]


class Excerpt(TypedDict):
    """Position of an excerpt in its track."""

    start_s: float
    seconds: float
    sample_rate: int


class Scores(TypedDict):
    """Content of `scores.json`, as far as reports read it."""

    split: str
    target: list[str] | str
    source: str
    full: bool
    model: ScoredModel
    band_above: NotRequired[str]
    excerpts: NotRequired[dict[str, Excerpt]]
    excluded_tracks: dict[str, str]
    methods: dict[str, Method]


def read_scores(path: Path) -> dict[str, Any]:
    """Read `scores.json`.

    Raises:
        FileNotFoundError: there is no such file.
        EvaluationError: it is damaged, a field is not of its type, or its fields contradict each other.
    """
    remedy = "Evaluate the model again."
    scores: dict[str, Any] = read_json(path, Scores, EvaluationError, remedy)
    tracks = scores["methods"].get(MODEL, {}).get("tracks", {})
    if not tracks:
        raise EvaluationError(f"{path}: methods.{MODEL}.tracks is missing or empty. {remedy}")
    for method, found in scores["methods"].items():
        if found["tracks"].keys() != tracks.keys():
            raise EvaluationError(f"{path}: methods.{method}.tracks has other tracks than methods.{MODEL}. {remedy}")
    for name, excerpt in scores.get("excerpts", {}).items():
        where = f"{path}: excerpts.{name}"
        if name not in tracks or Path(name).name != name or name in ("", ".", ".."):
            raise EvaluationError(f"{where} must be named after a track and its folder. {remedy}")
        if excerpt["start_s"] < 0 or excerpt["seconds"] <= 0 or not 0 < excerpt["sample_rate"] <= 10**6:
            raise EvaluationError(f"{where} is {excerpt}; it must lie in its track, with a sample rate up to 10^6 Hz. {remedy}")
    return scores


READING = (
    "SI-SDR and SI-SDRi, its improvement over the mixture: dB, mean over tracks (med.: median).",
    "SDR: museval's, dB, median over frames, then over tracks. SDR+blank: with the blank frames that museval excludes.",
    "kept: energy of the estimate over the target's, median. blank: share of active frames 40 dB or more below the target.",
    "excluded: share of the frames that museval excludes, because a reference or an estimate is silent in them.",
)
"""Explanations of the table's columns, line by line."""


def default_folder(model: Path) -> Path:
    """Output folder of a model where none is given: inside a run directory, beside an archive, or here for a starter's name."""
    beside = model.is_file() or resolved(model) != model  # A folder of a starter's name would be taken for a run of this name.
    return model.with_name(f"{model.stem}-evaluation") if beside else model / "evaluation"


@dataclasses.dataclass(frozen=True)
class Row:
    """A method's scores over all tracks.

    SDR, ISR, SIR and SAR are medians over tracks of the median over frames, as in SiSEC 2018.

    Attributes:
        method: "model", or the name of a baseline.
        num_tracks: tracks scored.
        scores: medians over the tracks of the numbers of `TrackScores.to_json`, and with the suffix `_mean` their means;
            `kept_energy_min` and `kept_energy_max`; `excluded_share`, of all frames.  NaN where no track has a value.
    """

    method: str
    num_tracks: int
    scores: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Table:
    """The scores of several methods on the same tracks.

    Attributes:
        tracks: scores by method and track, the model first.
        excluded_tracks: reasons, by the track's name.
        failed_tracks: errors of further tracks without scores, by name.
        residuals: of the stems, by track; see `data_pipeline.residual`.
        info: split, target, source, the model's own info, and the positions of the excerpts in their tracks.
        path: of `scores.json`.
    """

    tracks: dict[str, dict[str, TrackScores]]
    excluded_tracks: dict[str, str]
    info: dict[str, Any]
    path: Path
    failed_tracks: dict[str, str] = dataclasses.field(default_factory=dict)
    residuals: dict[str, Residual] = dataclasses.field(default_factory=dict)

    @property
    def rows(self) -> tuple[Row, ...]:
        """One row per method, the model first."""
        return tuple(_row(method, by_track) for method, by_track in self.tracks.items())

    def row(self, method: str) -> Row:
        """The row of a method.  Raises KeyError for one that was not scored."""
        if method not in self.tracks:
            raise KeyError(f"The table has no method {method!r}; it has {', '.join(self.tracks)}.")
        return _row(method, self.tracks[method])

    def write(self) -> None:
        """Write `scores.json`, and beside it museval's file for each method and track, `museval/METHOD/SPLIT/TRACK.json`.

        The page of an earlier evaluation, which shows other scores, is removed.

        Raises WriteError, with the table in words, if the disk refuses them.
        """
        with writing(self.path, f"The scores are not lost:\n{format_table(self)}"):
            self._write()

    def _write(self) -> None:
        methods = {
            row.method: {
                "num_tracks": row.num_tracks,
                "summary": {key: None if math.isnan(value) else value for key, value in row.scores.items()},
                "tracks": {name: scores.to_json() for name, scores in self.tracks[row.method].items()},
            }
            for row in self.rows
        }
        document = {
            **self.info,
            "excluded_tracks": self.excluded_tracks | self.failed_tracks,
            "failed_tracks": list(self.failed_tracks),
            "residual_db": {name: residual.db for name, residual in self.residuals.items()},
            "methods": methods,
        }
        if self.path.exists():  # Else the page is none of jaxpu's.
            self.path.with_name(REPORT_FILE).unlink(missing_ok=True)
        write_text(self.path, json.dumps(document, indent=2, allow_nan=False) + "\n")
        museval, target = self.path.parent / MUSEVAL_FOLDER, "-".join(self.info["target"])
        with replacing(museval) as partial:
            for method, by_track in self.tracks.items():
                for name, scores in by_track.items():
                    path = partial / method.replace(" ", "_") / self.info["split"] / short_name(name, ".json")
                    write_text(path, scores.to_museval_json(name, target))
            # Its files of other songs would be averaged with these; a rename replaces only an empty folder.
            shutil.rmtree(museval, ignore_errors=True)


def _row(method: str, by_track: Mapping[str, TrackScores]) -> Row:
    tracks: Sequence[dict[str, Any]] = [scores.to_json() for scores in by_track.values()]
    scores = {}
    for name in tracks[0]:
        values = np.array([np.nan if track[name] is None else track[name] for track in tracks], np.float64)
        scores[name] = nan_median(values)
        scores[f"{name}_mean"] = float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")
    scores["kept_energy_min"] = min(track["kept_energy"] for track in tracks)
    scores["kept_energy_max"] = max(track["kept_energy"] for track in tracks)
    scores["excluded_share"] = sum(track["excluded_frames"] for track in tracks) / sum(track["num_frames"] for track in tracks)
    return Row(method, len(tracks), scores)


def columns(full: bool) -> dict[str, tuple[str, str]]:
    """Columns of a table: key of `Row.scores` and format, by heading.

    Args:
        full: include ISR, SIR and SAR.
    """
    return {
        "SI-SDR": ("si_sdr_mean", ".2f"),
        "SI-SDRi": ("si_sdr_improvement_mean", ".2f"),
        "SI-SDRi med.": ("si_sdr_improvement", ".2f"),
        "SDR": ("sdr_target", ".2f"),
        "SDR+blank": ("sdr_target_with_blank", ".2f"),
        "SDR accomp.": ("sdr_accompaniment", ".2f"),
        **({name: (f"{name.lower()}_target", ".2f") for name in ("ISR", "SIR", "SAR")} if full else {}),
        "kept": ("kept_energy", ".2f"),
        "blank": ("blank_rate_mean", ".0%"),
        "excluded": ("excluded_share", ".0%"),
    }


def model_in_words(info: Mapping[str, Any]) -> str:
    """Step, selection and use of stems of a model, from its info, as text that ends a sentence."""
    step, select_by = info.get("step", "unknown"), info.get("select_by", "an unknown criterion")
    stems = ", ".join(info["uses_stems"]) or "none" if "uses_stems" in info else "unknown"
    return f"step {step}, selected by {select_by}. Use of stems: {stems}."


def format_table(table: Table) -> str:
    """The table as plain text, with explanations."""
    shown, rows = columns(table.info["full"]), table.rows
    cells = [["", *shown]]
    for row in rows:
        values = [(row.scores[key], spec) for key, spec in shown.values()]
        cells.append([row.method, *("-" if math.isnan(value) else format(value, spec) for value, spec in values)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    ]
    target = " + ".join(table.info["target"])
    lines += ["", f"Target: {target}; {rows[0].num_tracks} tracks of the split {table.info['split']}.", *READING]
    if model := table.info["model"]:
        lines.append(f"Model: {model_in_words(model)}")
    if above := table.info.get("band_above"):
        lines.append(above)
    lines += [f"Excluded: {name}: {reason}" for name, reason in table.excluded_tracks.items()]
    lines += [f"Failed: {name}: {reason}" for name, reason in table.failed_tracks.items()]
    if text := warning(table.residuals):
        lines.append(text)
    return "\n".join(lines)
