"""Formats of marks, as text: Audacity label tracks, UltraStar karaoke notes, and CSV.

A mark is a passage in which the target does not play.  Audacity's are the labels themselves, UltraStar's the rests between notes;
a CSV table lists the passages of many recordings.
"""

import csv
import dataclasses
import re
from collections.abc import Iterable, Iterator
from typing import Literal

from data_pipeline.errors import DataError, shown

MIN_REST_S = 3.0
"""Shortest rest between sung notes that is a mark.  Shorter ones are breaths, with the reverberation of the last note."""

REST_MARGIN_S = 0.7
"""Margin between a mark and the notes around it, since notes follow the voice only roughly."""

# Longer lines are no rows of a table.
_MAX_ROW = 10_000

Format = Literal["Audacity labels", "UltraStar notes", "CSV"]


@dataclasses.dataclass(frozen=True)
class Mark:
    """A marked passage.

    Attributes:
        begin_s: in seconds from the start of the recording.
        end_s: in seconds; None for the end of the recording.
        where: file, and line where it stands in one, for errors.
    """

    begin_s: float
    end_s: float | None
    where: str = ""


@dataclasses.dataclass(frozen=True)
class MarkedRecording:
    """Marks of one recording.

    Attributes:
        recording: the name that the file gives for the recording; None if it gives none.
        marks: in the order of the file.
        line: number of the line with that name.
    """

    recording: str | None
    marks: list[Mark]
    line: int = 1


def decode_text(data: bytes) -> str:
    """Decode a text file: UTF-8 or UTF-16 with or without byte-order mark, else Windows' Western code page, as old songs have."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    if b"\0" in data[:2]:  # Every second byte of Latin letters and digits.
        return data.decode("utf-16-be" if data[0] == 0 else "utf-16-le", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def format_of(text: str) -> Format | None:
    """Tell the format of a file by its content; None if it holds no marks.

    Half of the lines of a label track or a table are enough, so that reading it names those that are wrong.
    """
    lines = [line.strip() for line in _lines(text) if line.strip()]
    if any(re.match(r"#(BPM|TITLE|ARTIST|MP3|AUDIO|GAP)\s*:", line, re.IGNORECASE) for line in lines[:50]):
        return "UltraStar notes"
    lines = [line for line in lines if not line.startswith("\\")]
    if not lines:
        return None
    if 2 * sum(map(_is_label, lines)) >= len(lines):
        return "Audacity labels"
    rows = [_row(line) for line in lines]
    return "CSV" if _is_header(rows[0]) or 2 * sum(map(_is_passage, rows)) >= len(rows) else None


def read_marks(text: str, where: str) -> list[MarkedRecording]:
    """Read the marks of a file.

    Args:
        text: content of the file.
        where: name of the file, for errors.

    Raises:
        DataError: it is of none of the formats, or a line cannot be read; the error names file and line.
    """
    kind = format_of(text)
    if kind == "Audacity labels":
        return [MarkedRecording(None, list(_labels(text, where)))]
    if kind == "UltraStar notes":
        return [_rests(text, where)]
    if kind == "CSV":
        return _table(text, where)
    raise DataError(
        f"{where}: is neither an Audacity label track (begin, end and text, separated by tabs), a CSV table with the columns "
        "file, begin and end, nor an UltraStar song (#BPM, #GAP and notes)."
    )


def _lines(text: str) -> list[str]:
    """Lines, as editors number them; `str.splitlines` knows more separators, which may stand in names."""
    return re.split("\r\n|\n|\r", text)


def _labels(text: str, where: str) -> Iterator[Mark]:
    """Passages of an Audacity label track: begin, end and text between tabs; lines with frequencies begin with a backslash."""
    for number, line in enumerate(_lines(text), 1):
        if not line.strip() or line.startswith("\\"):
            continue
        fields = line.split("\t")
        if len(fields) < 2 or not all(map(_is_number, fields[:2])):
            raise DataError(
                f"{where}, line {number}: is {shown(line)}; it must be begin, end and text, separated by tabs, in seconds."
            )
        yield _checked(_number(fields[0]), _number(fields[1]), number, where)


def _table(text: str, where: str) -> list[MarkedRecording]:
    """Passages of a CSV table with the columns file, begin, end; a first line with these names is skipped."""
    found: dict[str, MarkedRecording] = {}
    rows = [(number, line, fields) for number, line in enumerate(_lines(text), 1) if any(fields := _row(line))]
    num_columns = len(rows.pop(0)[2]) if rows[0][2][0].casefold() == "file" else 3
    for number, line, fields in rows:
        if not _is_passage(fields) or not fields[0]:
            raise DataError(
                f"{where}, line {number}: is {shown(line)}; it must be file, begin, end, with times in seconds or as "
                "[hours:]minutes:seconds."
            )
        if _has_decimal_commas(line, fields, num_columns):
            raise DataError(
                f"{where}, line {number}: is {shown(line)}, with more numbers than begin and end. Write decimal points, or "
                "separate the columns by semicolons."
            )
        passage = _checked(_seconds(fields[1]), _seconds(fields[2]), number, where)
        found.setdefault(fields[0], MarkedRecording(fields[0], [], number)).marks.append(passage)
    return list(found.values())


def _row(line: str) -> list[str]:
    """Fields of a line, separated by tabs, by semicolons (where the comma is the decimal point), or by commas."""
    if len(line) > _MAX_ROW:
        return []
    rows = [[field.strip() for field in next(csv.reader([line], delimiter=each), [])] for each in "\t;,"]
    # A name or a note may contain the other separators.
    return next((row for row in rows if _is_header(row) or _is_passage(row)), max(rows, key=len))


def _is_label(line: str) -> bool:
    fields = line.split("\t")
    return len(fields) >= 2 and all(_is_number(field) or _is_time(field) for field in fields[:2])


def _is_header(fields: list[str]) -> bool:
    return [field.casefold() for field in fields[:3]] == ["file", "begin", "end"]


def _is_passage(fields: list[str]) -> bool:
    return len(fields) >= 3 and all(map(_is_time, fields[1:3]))


def _has_decimal_commas(line: str, fields: list[str], num_columns: int) -> bool:
    """Whether commas seem to separate the decimals of a row's numbers as well as its columns."""
    numbers = [field for field in fields[1:] if field]
    return not set("\t;") & set(line) and len(numbers) >= num_columns and all(map(str.isdigit, numbers))


def _rests(text: str, where: str) -> MarkedRecording:
    """Rests of an UltraStar song, of all its voices together.

    Notes are `TYPE beat length pitch text`; a beat lasts 15 / BPM seconds, counted from the GAP in ms.  With RELATIVE, beats
    count from the last line break, which gives its distance.  A second voice begins with `P2` and counts from the start.
    """
    tags: dict[str, str] = {}
    notes: list[tuple[int, int]] = []
    offset = 0
    for number, line in enumerate(_lines(text), 1):
        line = line.strip()
        if tag := re.match(r"#(\w+)\s*:(.*)", line):
            tags[tag[1].upper()] = tag[2].strip()
        elif re.match(r"P\s*\d", line):
            offset = 0
        elif re.match(r"B\s", line):
            raise DataError(f"{where}, line {number}: the tempo changes ({shown(line)}). Mark the passages as Audacity labels.")
        elif line[:1] in ("-", ":", "*", "F", "R", "G"):
            numbers = re.match(r"[-:*FRG]\s*(-?\d+)(?:\s+(-?\d+))?", line)
            if numbers is None or (line[0] != "-" and numbers[2] is None):
                raise DataError(f"{where}, line {number}: is {shown(line)}; a note has a type, a beat, a length and a pitch.")
            if line[0] != "-":
                notes.append((offset + int(numbers[1]), offset + int(numbers[1]) + int(numbers[2])))
            elif tags.get("RELATIVE", "").upper() == "YES":
                offset += int(numbers[2] or numbers[1])
        elif line.upper() == "E":
            offset = 0
    bpm = tags.get("BPM", "")
    if not _is_number(bpm) or _number(bpm) <= 0:
        raise DataError(f"{where}: #BPM is {shown(bpm)}; it must be a positive number.")
    if not _is_number(tags.get("GAP") or "0"):
        raise DataError(f"{where}: #GAP is {shown(tags['GAP'])}; it must be a number of milliseconds.")
    if not notes:
        raise DataError(f"{where}: has no notes, so nothing tells when the target does not play.")
    gap_s, beat_s = _number(tags.get("GAP") or "0") / 1000, 15 / _number(bpm)
    passages, end_s = [], None
    for begin, end in sorted(notes):
        begin_s = gap_s + begin * beat_s
        passages += _rest(end_s, begin_s, where)
        end_s = max(end_s or 0.0, gap_s + end * beat_s)
    return MarkedRecording(tags.get("AUDIO") or tags.get("MP3"), [*passages, *_rest(end_s, None, where)])


def merged(marks: Iterable[Mark]) -> list[Mark]:
    """Marks in order; those that overlap or touch are one."""
    found: list[Mark] = []
    for mark in sorted(marks, key=lambda each: each.begin_s):
        last = found[-1] if found else None
        if last is not None and (last.end_s is None or mark.begin_s <= last.end_s):
            ends = (last.end_s, mark.end_s)
            found[-1] = dataclasses.replace(last, end_s=None if None in ends else max(end for end in ends if end is not None))
        else:
            found.append(mark)
    return found


def _rest(begin_s: float | None, end_s: float | None, where: str) -> list[Mark]:
    """The mark between two notes, if they are far enough apart; None for the start or the end of the recording."""
    if end_s is not None and end_s - (begin_s or 0.0) < MIN_REST_S:
        return []
    begin = 0.0 if begin_s is None else max(begin_s + REST_MARGIN_S, 0.0)
    return [Mark(begin, None if end_s is None else end_s - REST_MARGIN_S, where)]


def _checked(begin_s: float, end_s: float, number: int, where: str) -> Mark:
    if not 0 <= begin_s < end_s:
        point = " Remove it, or in Audacity select the passage before you press Ctrl+B." if begin_s == end_s else ""
        raise DataError(
            f"{where}, line {number}: goes from {begin_s:g} s to {end_s:g} s; a passage begins at 0 s or later and ends later."
            + point
        )
    return Mark(begin_s, end_s, f"{where}, line {number}")


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\s*[-+]?\d+([.,]\d*)?\s*", text) is not None


def _number(text: str) -> float:
    return float(text.strip().replace(",", "."))


def _is_time(text: str) -> bool:
    return re.fullmatch(r"\s*(\d+:)?(\d+:)?\d+([.,]\d*)?\s*", text) is not None


def _seconds(text: str) -> float:
    """Seconds of a time such as 83.5, 1:23.5 or 0:01:23,5."""
    seconds = 0.0
    for part in text.split(":"):
        seconds = 60 * seconds + _number(part)
    return seconds
