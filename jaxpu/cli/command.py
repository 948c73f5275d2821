"""The frame of a command: its arguments, its answer, and the lines that it suggests."""

import dataclasses
import inspect
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import tyro

from data_pipeline.errors import UserError, printable
from jaxpu.config import Config
from jaxpu.config_files import config_names, load_config

DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130
"""Exit statuses."""

Json = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")]
"""The type of the option `--json`, which `jaxpu.cli.__main__.main` acts on."""

Workers = Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: one per core)")]
"""The type of the option `--workers`."""


class UsageError(UserError):
    """A command line that cannot be followed."""

    exit_status = MISUSED


@dataclasses.dataclass(frozen=True)
class Answer:
    """The result of a command.

    Attributes:
        text: for people; empty where nothing is to be printed, as in all processes of a cluster but the first.
        document: the same for programs, JSON-serialisable; None for commands without `--json`.
        status: exit status.
    """

    text: str = ""
    document: dict[str, Any] | None = None
    status: int = DONE


class Command(NamedTuple):
    """A command of `jaxpu`.

    Attributes:
        arguments: dataclass of its arguments.
        run: function of the words that follow the command's name.
    """

    arguments: type
    run: Callable[[Sequence[str]], Answer]


Arguments = TypeVar("Arguments")


def parse(cls: type[Arguments], command: str, args: Sequence[str], examples: str, default: Arguments | None = None) -> Arguments:
    """Parse the arguments of a command.

    Args:
        cls: dataclass whose docstring is the help.
        command: the words that the user typed after `jaxpu`, for the help.
        args: the words that follow them.
        examples: lines for the end of the help's first part.
        default: values of options that are not given; required where `cls` holds a config.

    Raises:
        SystemExit: with status 0 after `--help`, with status 2 after arguments that are missing, unknown or invalid.
        UsageError: an argument is empty.
    """
    _check_not_empty(args)
    about = (inspect.getdoc(cls) or "").partition("\n\nAttributes:")[0]
    return tyro.cli(
        cls,
        prog=f"jaxpu {command}",
        description=f"{about}\n\nExamples:\n{examples.rstrip()}",
        args=list(args),
        default=tyro.MISSING_NONPROP if default is None else default,
        # The config decides the kinds of network and objective: their fields are options, not a choice of subcommands.
        config=(tyro.conf.AvoidSubcommands,),
    )


def _check_not_empty(args: Sequence[str]) -> None:
    """Raise UsageError for an empty word, which would be the current folder; a field of the config may be an empty text."""
    for before, word in zip(["", *args], args, strict=False):
        option = word if word.startswith("--") and word.endswith("=") else before if word == "" else None
        if option is not None and not (option.startswith("--") and "." in option):
            named = f" ({option.rstrip('=')})" if option.startswith("-") else ""
            raise UsageError(f"An argument is empty{named}, perhaps a variable of the shell that is not set.")


def check_workers(workers: int | None) -> None:
    """Raise UsageError if the value of the option `--workers` is not a number of processes."""
    if workers is not None and workers < 1:
        raise UsageError(f"--workers is {workers}; it must be at least 1.")


def check_folders(*folders: Path) -> None:
    """Raise UsageError if a folder of data or of a run has a path that TensorFlow and Orbax cannot open."""
    for folder in folders:
        path = str(folder.absolute())
        if printable(path) != path:
            raise UsageError(
                f"{folder}: its path is not UTF-8. Recordings may have such names, but not the folders of data and runs: "
                "TensorFlow and Orbax refuse them. Choose another folder."
            )


def wants_help(args: Sequence[str]) -> bool:
    """Whether the first word asks for help."""
    return bool(args) and args[0] in ("-h", "--help")


def config_argument(command: str, args: Sequence[str]) -> tuple[str, str, Config, Sequence[str]]:
    """The name of the config that a command line begins with, the command up to it, its value, and the words after it."""
    if wants_help(args):
        return "CONFIG", f"{command} CONFIG", Config(), args
    if not args or args[0].startswith("-"):
        names = ", ".join(config_names())
        raise UsageError(f"The config is missing: jaxpu {command} CONFIG. Give a Python file, or one of {names}.")
    return Path(args[0]).stem, f"{command} {shlex.quote(args[0])}", load_config(args[0]), args[1:]


def config_options(args: Sequence[str]) -> list[str]:
    """The words of a command line that set fields of the config, such as `--train.num-steps 2000`."""
    chosen, is_field = [], False
    for word in args:
        if word.startswith("--") or word == "-o":
            is_field = "." in word.partition("=")[0]
        if is_field:
            chosen.append(word)
    return chosen


def next_line(*words: str | Path) -> str:
    """The line that suggests a command to run next, quoted for the shell."""
    return f"Next: {shlex.join(['jaxpu', *map(str, words)])}"
