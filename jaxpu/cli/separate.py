"""`jaxpu separate`."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from data_pipeline.errors import AudioError, printable
from jaxpu.cli.command import DONE, FAILED, Answer, Json, UsageError, parse

EXAMPLES = """\
  jaxpu separate starter song.mp3 -o drums --target drums
  jaxpu separate model.zip songs/ more/*.wav -o separated --format flac
"""


@dataclasses.dataclass(frozen=True)
class SeparateArguments:
    """Separate recordings into target and accompaniment, each with the recording's sample rate, channels and length.

    Folders are searched recursively, also through links, for any format that ffmpeg reads; a line for each says what was left
    out.

    Attributes:
        model: run directory, archive written by `jaxpu export`, or `starter` (vocals) or `starter-drums`, which come with jaxpu.
        inputs: recordings, and folders of recordings.
        target: sound to separate; only `starter` has a choice, vocals or drums.
        out: folder for the separated files; inside an input folder it is not searched.
        format: file format: wav, flac, ogg or mp3.
        subtype: sample format, such as PCM_16, PCM_24 or FLOAT.
        shifts: average this many separations, with STFT frames offset by equal fractions of a hop; the time grows in proportion.
        json: print the written files and the failures as one JSON document.
    """

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    inputs: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="FILE_OR_FOLDER...", help_behavior_hint="(required)")
    ]
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="DIR")]
    target: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: that of the model)")] = None
    format: Annotated[
        str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: that of a wav or flac recording, else wav)")
    ] = None
    subtype: Annotated[
        str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: that of each recording, if the format has it)")
    ] = None
    shifts: int = 1
    json: Json = False


def run(args: Sequence[str]) -> Answer:
    """Separate recordings, and name those that fail on standard error."""
    arguments = parse(SeparateArguments, "separate", args, EXAMPLES)
    if not arguments.inputs:
        raise UsageError("Give at least one recording or folder: jaxpu separate MODEL FILE_OR_FOLDER... -o DIR.")
    from jaxpu.artifacts.checkpoints import load_model
    from jaxpu.artifacts.starters import STARTERS, starter_of
    from jaxpu.separation.files import separate
    from jaxpu.separation.options import SeparationOptions
    from jaxpu.separation.overlap_add import check_shifts

    try:
        options = SeparationOptions(suffix=arguments.format, subtype=arguments.subtype, shifts=arguments.shifts)
    except AudioError as error:
        raise UsageError(str(error)) from None
    model = load_model(arguments.model if arguments.target is None else starter_of(arguments.model, arguments.target))
    found = " + ".join(model.config.data.target)
    if arguments.target not in (None, found):
        raise UsageError(
            f"--target is {arguments.target}, and {arguments.model} separates {found}. Leave --target out, or give a model of "
            f"that target; `starter` has {' and '.join(STARTERS)}."
        )
    try:
        check_shifts(model, arguments.shifts)
    except ValueError as error:
        raise UsageError(str(error)) from None
    report = separate(model, arguments.inputs, arguments.out, options)
    for message in report.failed.values():
        print(f"jaxpu: {printable(message)}", file=sys.stderr)
    document = {
        "written": {str(recording): [str(path) for path in paths] for recording, paths in report.written.items()},
        "failed": {str(recording): message for recording, message in report.failed.items()},
    }
    text = "\n".join(str(path) for paths in report.written.values() for path in paths)
    return Answer(text, document, DONE if report.written and not report.failed else FAILED)
