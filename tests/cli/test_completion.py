"""Completion in a real bash."""

import contextlib
import functools
import io
import re
import shlex
import subprocess

import pytest

from jaxpu.cli.__main__ import COMMANDS, main
from jaxpu.config_files import config_names


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("completion") / "jaxpu.bash"
    path.write_text(printed("completion", "bash"))
    return str(path)


@functools.cache
def printed(*args: str) -> str:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        assert main(args) == 0
    return text.getvalue()


def complete(script: str, line: str) -> set[str]:
    """The words that bash offers at the end of a command line; it finds no program, so it starts none."""
    words = line.split(" ")
    program = f"""
        set -eu
        PATH=
        source {shlex.quote(script)}
        COMP_WORDS=({shlex.join(words)})
        COMP_CWORD={len(words) - 1}
        _jaxpu || true
        echo "${{COMPREPLY[@]:-}}"
        complete -p jaxpu >&2
    """
    done = subprocess.run(["bash", "--norc", "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "complete -o default -F _jaxpu jaxpu\n"
    return set(done.stdout.split())


def test_commands_configs_options_and_values(script: str) -> None:
    assert complete(script, "jaxpu ") == set(COMMANDS)
    assert complete(script, "jaxpu e") == {"evaluate", "export", "estimate-prior"}
    assert complete(script, "jaxpu train ") == set(config_names())
    assert complete(script, "jaxpu info demo_p") == {"demo_pnu", "demo_pu"}
    assert complete(script, "jaxpu estimate-prior data s") == {name for name in config_names() if name[0] == "s"}
    assert complete(script, "jaxpu separate run song.wav --f") == {"--format"}
    assert complete(script, "jaxpu export run --format ") == {"jaxpu", "onnx", "stablehlo"}
    assert complete(script, "jaxpu completion ") == {"bash", "zsh"}
    # Options of every kind of objective, though the help shows one.
    of_supervised, of_bootstrap = {"--objective.remix-songs"}, {"--objective.remix-steps"}
    assert complete(script, "jaxpu train demo --objective.re") == of_supervised | of_bootstrap
    assert complete(script, "jaxpu train demo --data.patch.window ") == {"hamming", "hann", "blackman"}
    # A path of the user's own is left to bash, which offers files where it finds no word.
    assert complete(script, "jaxpu separate runs/") == set()
    assert complete(script, "jaxpu prepare recordings --with ") == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_the_help_is_completed(command: str, script: str) -> None:
    in_help = set(re.findall(r"^\W+(?:-[oh][ A-Z]*, )?(--[a-z][a-z0-9.-]*)", printed(command, "--help"), re.MULTILINE))
    assert in_help <= complete(script, f"jaxpu {command} x y --")
    assert "--help" in in_help


def test_zsh_gets_the_same_after_loading_the_completion_of_bash() -> None:
    assert printed("completion", "zsh").splitlines()[1:] == printed("completion", "bash").splitlines()
    assert "bashcompinit" in printed("completion", "zsh").splitlines()[0]
