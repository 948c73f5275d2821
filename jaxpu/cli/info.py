"""`jaxpu info`."""

import dataclasses
from collections.abc import Sequence

import tyro

from jaxpu.cli.command import Answer, Json, parse

EXAMPLES = """\
  jaxpu info recordings
  jaxpu info runs/recordings --json
"""


@dataclasses.dataclass(frozen=True)
class InfoArguments:
    """What a config, prepared data, a run or an archive of `jaxpu export` is.

    Attributes:
        name: a folder, an archive, a Python file, or the name of a config.
        json: print it as one JSON document.
    """

    name: tyro.conf.Positional[str]
    json: Json = False


def run(args: Sequence[str]) -> Answer:
    """Describes something."""
    arguments = parse(InfoArguments, "info", args, EXAMPLES)
    from jaxpu.artifacts.info import describe, to_text

    document = describe(arguments.name)
    return Answer(to_text(document), document)
