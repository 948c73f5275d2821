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
"""


@dataclasses.dataclass(frozen=True)
class SuggestArguments:
    """Suggest marks: passages of recordings in which a trained model finds no target.

    They are written as label tracks of Audacity, one for each recording, the surest passage first. Check them there (File,
    Import, Labels), correct them, and give them to `jaxpu prepare --marks`.

    Attributes:
        model: run directory, or archive written by `jaxpu export`.
        folder: folder of recordings, searched recursively.
        out: folder for the label tracks; those that exist are never replaced.
        json: print the passages and the failures as one JSON document.
    """

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="DIR")]
    json: Json = False


def run(args: Sequence[str]) -> Answer:
    """Suggest marks, and name recordings that fail on standard error."""
    arguments = parse(SuggestArguments, "suggest", args, EXAMPLES)
    from data_pipeline.recording_files import find_recordings
    from jaxpu.artifacts.checkpoints import load_model
    from jaxpu.separation.suggest import suggest

    found = find_recordings(arguments.folder, without=arguments.out)
    recordings = found.require()
    print(printable(found.summary()), file=sys.stderr)
    report = suggest(load_model(arguments.model), recordings, arguments.folder, arguments.out)
    for message in report.failed.values():
        print(f"jaxpu: {printable(message)}", file=sys.stderr)
    total_s = sum(each.end_s - each.begin_s for suggestions in report.written.values() for each in suggestions)
    lines = [*map(str, report.written)]
    lines.append(
        f"{total_s / 60:.1f} min in {len(report.written)} of {len(recordings)} recordings. Check the passages in Audacity before "
        "you use them as --marks."
    )
    document = {
        "written": {str(track): [dataclasses.asdict(each) for each in found] for track, found in report.written.items()},
        "failed": {str(path): message for path, message in report.failed.items()},
    }
    return Answer("\n".join(lines), document, FAILED if report.failed else DONE)
