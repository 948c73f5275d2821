"""`jaxpu separate`."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from jaxpu.cli.command import DONE, FAILED, Answer, Json, parse

EXAMPLES = """\
  jaxpu separate runs/recordings song.mp3 -o separated
  jaxpu separate model.zip songs/ more/*.wav -o separated --format flac
"""


@dataclasses.dataclass(frozen=True)
class SeparateArguments:
    """Recordings to target and accompaniment, at the rate, channels and length of each recording.

    Attributes:
        model: run directory, or an archive of `jaxpu export`.
        inputs: files and folders.
        out: where the sounds go.
        format: wav, flac, ogg or mp3; each recording's own by default.
        subtype: sample format, such as PCM_16, PCM_24 or FLOAT.
        json: print which files were written and what failed as one JSON document.
    """

    model: tyro.conf.Positional[Path]
    inputs: tyro.conf.Positional[tuple[Path, ...]]
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    format: str | None = None
    subtype: str | None = None
    json: Json = False


def run(args: Sequence[str]) -> Answer:
    """Separates recordings; those that cannot be are named on standard error."""
    arguments = parse(SeparateArguments, "separate", args, EXAMPLES)
    from jaxpu.artifacts.checkpoints import load_model
    from jaxpu.separation.files import separate

    suffix = None if arguments.format is None else "." + arguments.format.lstrip(".").lower()
    model = load_model(arguments.model)
    report = separate(model, arguments.inputs, arguments.out, suffix=suffix, subtype=arguments.subtype)
    for message in report.failed.values():
        print(f"jaxpu: {message}", file=sys.stderr)
    document = {
        "written": {str(recording): [str(path) for path in paths] for recording, paths in report.written.items()},
        "failed": {str(recording): message for recording, message in report.failed.items()},
    }
    text = "\n".join(str(path) for paths in report.written.values() for path in paths)
    return Answer(text, document, FAILED if report.failed else DONE)
