"""`jaxpu info`."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import tyro

from jaxpu.cli.command import Answer, Json, parse

EXAMPLES = """\
  jaxpu info recordings
  jaxpu info runs/recordings --json
"""


@dataclasses.dataclass(frozen=True)
class InfoArguments:
    """Describe a config, prepared data, a run, or an archive written by `jaxpu export`.

    Attributes:
        name: a folder, an archive, a Python file, or the name of a config.
        json: print the description as one JSON document.
    """

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    json: Json = False


def run(args: Sequence[str]) -> Answer:
    """Describe the named thing."""
    arguments = parse(InfoArguments, "info", args, EXAMPLES)
    from jaxpu.artifacts.info import describe, to_text

    document = describe(arguments.name)
    return Answer(to_text(document), document)
