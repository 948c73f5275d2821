"""`jaxpu compare`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from jaxpu.cli.command import Answer, UsageError, parse

EXAMPLES = """\
  jaxpu compare runs/baseline runs/supervised -o compare.html
"""


@dataclasses.dataclass(frozen=True)
class CompareArguments:
    """Compare several runs on one page: scores, learning curves, and a player that switches between their estimates.

    Attributes:
        runs: run directories, archives or folders of separated files, each evaluated on the same songs with
            `jaxpu evaluate RUN CORPUS --report`.
        out: the HTML file to write.
    """

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN...", help_behavior_hint="(required)")]
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="PAGE")] = Path("compare.html")


def run(args: Sequence[str]) -> Answer:
    """Write the page."""
    arguments = parse(CompareArguments, "compare", args, EXAMPLES)
    from jaxpu.evaluation.html_report import LETTERS, write_comparison

    if not 2 <= len(arguments.runs) <= len(LETTERS):
        given = len(arguments.runs)
        raise UsageError(f"Give 2 to {len(LETTERS)} evaluated runs: jaxpu compare RUN RUN... -o PAGE. These are {given}.")
    write_comparison(arguments.runs, arguments.out)
    return Answer(f"Open {arguments.out} in a browser to look and listen.")
