"""The check of marks before they are used: a model listens, and marks in which it finds the target are left out."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from data_pipeline.errors import DataError
from data_pipeline.files import write_text
from data_pipeline.mark_formats import Mark
from data_pipeline.recordings import Track
from data_pipeline.stored_json import read_json

MAX_DOUBTED = 0.5
"""If a model doubts more than this fraction of the marks, then it and the marks are about different sounds."""


@dataclasses.dataclass(frozen=True)
class Doubt:
    """A mark in which a model finds the target.

    Attributes:
        recording: the marked recording.
        mark: the mark.
        kept: share of the energy that the masks keep in it, relative to the share that they keep in all recordings.
    """

    recording: Path
    mark: Mark
    kept: float


@dataclasses.dataclass(frozen=True)
class MarksCheck:
    """A model that checks marks.

    Attributes:
        model: its name.
        doubtful: finds the marks to leave out, given the marks of each recording.
    """

    model: str
    doubtful: Callable[[Mapping[Path, Sequence[Mark]]], list[Doubt]]


class LeftOut(TypedDict):
    """A mark that was left out: its recording, its times in seconds, where it stands, and `Doubt.kept`."""

    recording: str
    begin_s: float
    end_s: float | None
    where: str
    kept: float


class CheckedMarks(TypedDict):
    """The outcome of a check: the name of the model, the number of marks, and those that were left out."""

    model: str
    num_marks: int
    left_out: list[LeftOut]


class _Record(TypedDict):
    """A finished check of the recordings and marks with this fingerprint."""

    fingerprint: str
    checked: CheckedMarks


def check_marks(
    tracks: Sequence[Track], check: MarksCheck, record: Path, fingerprint: str, say: Callable[[str], None]
) -> CheckedMarks:
    """Check the marks of tracks, or read the outcome where the same check has finished before.

    Args:
        tracks: from one source; those without marks are not listened to.
        check: the model.
        record: file that keeps the outcome, since listening takes long.
        fingerprint: of the recordings, their marks, and the model's name.
        say: gets a line for every mark that is left out.

    Raises:
        DataError: the model doubts most of the marks.
    """
    marks = {track.mixture.parts[0].path: track.passages for track in tracks if track.passages and track.mixture}
    checked = _read(record, fingerprint)
    if checked is None:
        left_out = [
            LeftOut(
                recording=str(doubt.recording),
                begin_s=doubt.mark.begin_s,
                end_s=doubt.mark.end_s,
                where=doubt.mark.where,
                kept=doubt.kept,
            )
            for doubt in check.doubtful(marks)
        ]
        checked = CheckedMarks(model=check.model, num_marks=sum(map(len, marks.values())), left_out=left_out)
        write_text(record, json.dumps(_Record(fingerprint=fingerprint, checked=checked), indent=1))
    lines = [f"  {_line(each)}" for each in checked["left_out"]]
    found = f"{check.model} finds the target in {len(lines)} of {checked['num_marks']} marks"
    if len(lines) > MAX_DOUBTED * checked["num_marks"]:
        raise DataError(
            f"{found}:\n" + "\n".join(lines) + "\nA mark is a passage without the target. If your target is another "
            "sound, name it with --data.target; else correct the marks, or take them as they are (--no-check-marks)."
        )
    if lines:
        say(f"{found}, which are left out:\n" + "\n".join(lines) + "\nListen to them; --no-check-marks takes them as they are.")
    else:
        say(f"{found}.")
    return checked


def _read(record: Path, fingerprint: str) -> CheckedMarks | None:
    try:
        known: _Record = read_json(record, _Record, DataError, "Rerun the same command.")
    except (DataError, FileNotFoundError):  # A damaged record is made again.
        return None
    return known["checked"] if known["fingerprint"] == fingerprint else None


def left_out_marks(checked: CheckedMarks) -> frozenset[Mark]:
    """The marks that are left out."""
    return frozenset(Mark(each["begin_s"], each["end_s"], each["where"]) for each in checked["left_out"])


def _line(left_out: LeftOut) -> str:
    """A mark that was left out, in words."""
    end = "the end" if left_out["end_s"] is None else f"{left_out['end_s']:.1f} s"
    return f"{left_out['where']}: {left_out['begin_s']:.1f} s to {end} of {Path(left_out['recording']).name}"
