"""What all commands share: their answer, and how their arguments are read."""

import dataclasses
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from data_pipeline.errors import UserError
from jaxpu.config import Config
from jaxpu.config_files import config_names, load_config

DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130
"""Exit statuses."""

Json = Annotated[bool, tyro.conf.FlagCreatePairsOff]
"""The type of the option `--json`, which `jaxpu.cli.__main__.main` acts on."""


class UsageError(UserError):
    """A command line that cannot be followed."""

    exit_status = MISUSED


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a command has to say when it is done.

    Attributes:
        text: for people; nothing is printed where it is empty, as of processes other than the first that work together.
        document: the same for programs, JSON-serialisable; None of commands without `--json`.
        status: the exit status.
    """

    text: str = ""
    document: dict[str, Any] | None = None
    status: int = DONE


Arguments = TypeVar("Arguments")


def parse(cls: type[Arguments], command: str, args: Sequence[str], examples: str, default: Arguments | None = None) -> Arguments:
    """The arguments of a command.

    Args:
        cls: a dataclass, whose docstring is the help.
        command: what the user typed after `jaxpu`, for the help.
        args: what follows it.
        examples: lines for the end of the help.
        default: values of options that are not given; required where `cls` holds a config.

    Raises:
        SystemExit: after `--help` and after options that do not exist or fit.
    """
    about = (inspect.getdoc(cls) or "").partition("\n\nAttributes:")[0]
    return tyro.cli(
        cls,
        prog=f"jaxpu {command}",
        description=f"{about}\n\nExamples:\n{examples.rstrip()}",
        args=list(args),
        default=tyro.MISSING_NONPROP if default is None else default,
        # The kind of objective is the config's: its fields are options, not a choice of subcommands.
        config=(tyro.conf.AvoidSubcommands,),
    )


def wants_help(args: Sequence[str]) -> bool:
    """Whether help is asked for before anything else is named."""
    return bool(args) and args[0] in ("-h", "--help")


def config_argument(command: str, args: Sequence[str]) -> tuple[str, Config, Sequence[str]]:
    """Name and value of the config that a command line begins with, and the rest of it."""
    if wants_help(args):
        return "CONFIG", Config(), args
    if not args or args[0].startswith("-"):
        raise UsageError(f"Say which config: jaxpu {command} CONFIG, a Python file or one of {', '.join(config_names())}.")
    return Path(args[0]).stem, load_config(args[0]), args[1:]
