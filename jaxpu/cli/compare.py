"""`jaxpu compare`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from jaxpu.cli.command import Answer, parse

EXAMPLES = """\
  jaxpu compare runs/demo runs/demo_pu -o compare.html
"""


@dataclasses.dataclass(frozen=True)
class CompareArguments:
    """One page of several runs, evaluated on the same songs: scores, learning curves, and excerpts to switch between.

    Attributes:
        runs: run directories, each evaluated by `jaxpu evaluate RUN DATA --report`.
        out: the page.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("compare.html")


def run(args: Sequence[str]) -> Answer:
    """Writes a page."""
    arguments = parse(CompareArguments, "compare", args, EXAMPLES)
    from jaxpu.evaluation.html_report import write_comparison

    write_comparison(arguments.runs, arguments.out)
    return Answer(f"Look and listen: {arguments.out}")
