"""`jaxpu completion`: a script for the shell, from what `--help` says, so that no Python starts at a press of Tab."""

import contextlib
import dataclasses
import io
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import tyro

from jaxpu.cli.command import Answer, parse
from jaxpu.config import Config
from jaxpu.config_files import config_names

EXAMPLES = """\
  jaxpu completion bash > ~/.local/share/bash-completion/completions/jaxpu
  jaxpu completion zsh >> ~/.zshrc
"""

_SCRIPT = """\
# Completion of jaxpu {version}: commands, configs, options and their values; file names elsewhere.
_jaxpu() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} words=
    case "${{COMP_WORDS[1]}} ${{COMP_WORDS[COMP_CWORD - 1]}}" in
{values}
    esac
    if [[ -z $words && $COMP_CWORD == 1 ]]; then
        words="{commands}"
    elif [[ -z $words && $word == -* ]]; then
        case ${{COMP_WORDS[1]}} in
{options}
        esac
    elif [[ -z $words && $COMP_CWORD == 2 ]]; then
        case ${{COMP_WORDS[1]}} in
            {with_config}) words="{configs}" ;;
            completion) words="bash zsh" ;;
        esac
    elif [[ -z $words && $COMP_CWORD == 3 && ${{COMP_WORDS[1]}} == estimate-prior ]]; then
        words="{configs}"
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _jaxpu jaxpu
"""

_BEFORE_IN_ZSH = "autoload -Uz compinit bashcompinit && compinit && bashcompinit\n"


@dataclasses.dataclass(frozen=True)
class CompletionArguments:
    """A script that completes commands, configs and options at a press of Tab.

    Attributes:
        shell: that it is for.
    """

    shell: tyro.conf.Positional[Literal["bash", "zsh"]]


def run(args: Sequence[str], commands: Mapping[str, Callable[[Sequence[str]], Answer]], version: str) -> Answer:
    """Writes the script for all commands."""
    arguments = parse(CompletionArguments, "completion", args, EXAMPLES)
    options: dict[str, list[str]] = {}
    values: dict[str, str] = {}
    for name, command in commands.items():
        help_text = _help(command)
        found = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9.-]*", help_text))
        # The help shows one kind of network and one of objective.
        options[name] = sorted(found | {option for option in _options_of_kinds() if f"{option.split('.')[0]}." in help_text})
        for option, choices in re.findall(r"(--[a-z][a-z0-9.-]*) \{([^\s{}|]+)\}", help_text):
            # Fields of a config mean the same to every command.
            values[f'*" {option}"' if "." in option else f'"{name} {option}"'] = choices.replace("None", "").replace(",", " ")
    script = _SCRIPT.format(
        version=version,
        commands=" ".join(commands),
        configs=" ".join(config_names()),
        with_config="prepare|train|sweep|info",
        options="\n".join(f'            {name}) words="{" ".join(each)}" ;;' for name, each in options.items()),
        values="\n".join(f'        {option}) words="{each}" ;;' for option, each in sorted(values.items()) if each),
    )
    return Answer((_BEFORE_IN_ZSH if arguments.shell == "zsh" else "") + script.rstrip())


def _help(command: Callable[[Sequence[str]], Answer]) -> str:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        command(["--help"])
    return text.getvalue()


def _options_of_kinds() -> set[str]:
    """The options of all dataclasses that may stand in a field of a config."""
    return {
        f"--{name}.{field.name.replace('_', '-')}"
        for name, annotation in typing.get_type_hints(Config).items()
        for kind in typing.get_args(annotation)
        for field in dataclasses.fields(kind)
    }
