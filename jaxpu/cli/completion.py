"""`jaxpu completion`: a static script for the shell, made from the commands' dataclasses, so that Tab starts no Python."""

import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import tyro

from jaxpu.cli.command import Answer, Command, Json, parse
from jaxpu.config_files import config_names

EXAMPLES = """\
  jaxpu completion bash > ~/.local/share/bash-completion/completions/jaxpu
  jaxpu completion zsh >> ~/.zshrc
"""

_SCRIPT = """\
# Completion of jaxpu: commands, configs, options and their values; file names elsewhere.
_jaxpu() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} place=${{COMP_WORDS[COMP_CWORD - 1]}} choices=
    [[ $place == -* ]] || place=$COMP_CWORD
    [[ $word == -* ]] && place=options
    case "${{COMP_WORDS[1]}} $place" in
        *" 1") choices="{commands}" ;;
{places}
    esac
    COMPREPLY=($(compgen -W "$choices" -- "$word"))
}}
complete -o default -F _jaxpu jaxpu
"""

_BASH_IN_ZSH = "autoload -Uz compinit bashcompinit && compinit && bashcompinit\n"


@dataclasses.dataclass(frozen=True)
class CompletionArguments:
    """Print a script that completes commands, configs, options and their values with the Tab key.

    Attributes:
        shell: the shell that reads the script.
    """

    shell: tyro.conf.Positional[Literal["bash", "zsh"]]


def run(args: Sequence[str], commands: Mapping[str, Command]) -> Answer:
    """Print the script for all commands."""
    arguments = parse(CompletionArguments, "completion", args, EXAMPLES)
    configs = config_names()
    places: dict[str, Sequence[str]] = dict.fromkeys(("prepare 2", "train 2", "sweep 2", "info 2", "estimate-prior 3"), configs)
    places["completion 2"] = ("bash", "zsh")
    for name, command in commands.items():
        values = dict(_options(command.arguments))
        places[f"{name} options"] = sorted([*values, "--help"])
        places |= {f"{name} {option}": choices for option, choices in values.items() if choices}
    lines = "\n".join(f'        "{place}") choices="{" ".join(words)}" ;;' for place, words in places.items())
    script = _SCRIPT.format(commands=" ".join(commands), places=lines).rstrip()
    return Answer((_BASH_IN_ZSH if arguments.shell == "zsh" else "") + script)


def _options(cls: Any, prefix: str = "") -> Iterator[tuple[str, list[str]]]:
    """The options of a dataclass and of every dataclass that its fields may hold, each with the values to choose from."""
    for field, annotation in typing.get_type_hints(cls, include_extras=True).items():
        kind, *marks = typing.get_args(annotation) if typing.get_origin(annotation) is Annotated else (annotation,)
        name = next((mark.name for mark in marks if getattr(mark, "name", None) is not None), field.replace("_", "-"))
        arms = (kind, *typing.get_args(kind))
        classes = [arm for arm in arms if dataclasses.is_dataclass(arm)]
        for each in classes:
            yield from _options(each, f"{prefix}{name}." if name else prefix)
        if not classes and tyro.conf.Positional not in marks:
            yield f"--{prefix}{name}", [str(value) for arm in arms for value in typing.get_args(arm) if isinstance(value, str)]
            if kind is bool and annotation != Json:
                yield f"--{prefix}no-{name}", []
