"""`jaxpu suggest`."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from data_pipeline.errors import printable
from jaxpu.cli.command import DONE, FAILED, Answer, Json, parse

EXAMPLES = """\
  jaxpu suggest runs/recordings songs/ -o suggested
  jaxpu suggest runs/recordings songs/ -o suggested --marks labels/
"""


@dataclasses.dataclass(frozen=True)
class SuggestArguments:
    """Suggest marks: passages of recordings in which a trained model finds no target.

    They are written as label tracks of Audacity, one for each recording, the surest passage first. Check them there (File,
    Import, Labels), correct them, and give them to `jaxpu prepare --marks`. With --marks, marks in which the model finds the
    target are named, too: listen to them, and remove those that are wrong.

    Attributes:
        model: run directory, archive written by `jaxpu export`, or `starter` (vocals) or `starter-drums`, which come with jaxpu.
        folder: folder of recordings, searched recursively.
        out: folder for the label tracks; those that exist are never replaced.
        marks: marks to check, as `jaxpu prepare --marks` takes them.
        json: print the passages, the doubtful marks and the failures as one JSON document.
    """

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="DIR")]
    marks: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    json: Json = False


def run(args: Sequence[str]) -> Answer:
    """Suggest marks, and name recordings that fail on standard error."""
    arguments = parse(SuggestArguments, "suggest", args, EXAMPLES)
    from data_pipeline.marks import find_marks
    from data_pipeline.recording_files import find_recordings
    from jaxpu.artifacts.checkpoints import load_model
    from jaxpu.separation.suggest import suggest

    found = find_recordings(arguments.folder, without=arguments.out)
    recordings = found.require()
    print(printable(found.summary()), file=sys.stderr)
    marks = {} if arguments.marks is None else find_marks(arguments.marks, arguments.folder, recordings).passages
    report = suggest(load_model(arguments.model), recordings, arguments.folder, arguments.out, marks=marks)
    for message in report.failed.values():
        print(f"jaxpu: {printable(message)}", file=sys.stderr)
    total_s = sum(each.end_s - each.begin_s for suggestions in report.written.values() for each in suggestions)
    lines = [*map(str, report.written)]
    lines.append(
        f"{total_s / 60:.1f} min in {len(report.written)} of {len(recordings)} recordings. Check the passages in Audacity before "
        "you use them as --marks."
    )
    if arguments.marks is not None:
        lines += [
            f"{doubt.mark.where}: the target may play at {doubt.mark.begin_s:.1f} s of {doubt.recording.name}: the model keeps "
            f"{doubt.kept:.1f} times its usual share of the energy there. Listen to it."
            for doubt in report.doubts
        ]
        num_marks = sum(map(len, marks.values()))
        lines.append(f"{len(report.doubts)} of {num_marks} marks are doubtful.")
    document = {
        "written": {str(track): [dataclasses.asdict(each) for each in found] for track, found in report.written.items()},
        "doubtful_marks": [
            {"recording": str(doubt.recording), **dataclasses.asdict(doubt.mark), "kept": doubt.kept} for doubt in report.doubts
        ],
        "failed": {str(path): message for path, message in report.failed.items()},
    }
    return Answer("\n".join(lines), document, FAILED if report.failed else DONE)
