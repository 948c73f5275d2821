"""The command line: finds the command, prints its answer or its error; the commands are in `jaxpu.cli`."""

import contextlib
import difflib
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from data_pipeline.errors import UserError
from jaxpu import __version__
from jaxpu.cli import (
    compare,
    completion,
    demo,
    estimate_prior,
    evaluate,
    export,
    info,
    prepare,
    separate,
    sweep,
    synthesize,
    train,
)
from jaxpu.cli.command import DONE, FAILED, INTERRUPTED, Answer, UsageError
from jaxpu.config_files import config_names

USAGE = """jaxpu: separate a sound from recordings without ever having that sound alone.

Try it on songs that it makes itself (about 10 minutes on 2 cores):
  jaxpu demo

Your own recordings: some in which the sound plays, and others in which it does not.
  jaxpu prepare recordings --with songs/ --without instrumentals/
  jaxpu train recordings
  jaxpu separate runs/recordings song.mp3 -o separated

Commands:
  demo                                     the whole way on songs that it makes itself
  prepare CONFIG --with DIR --without DIR  two folders of recordings -> patches in data/CONFIG
  prepare CONFIG --musdb18 DIR             MUSDB18 (.stem.mp4) -> patches; --musdb18hq DIR for MUSDB18-HQ (wav)
  train CONFIG                             patches -> checkpoints in runs/CONFIG
  sweep CONFIG --over NAME=VALUES          many runs, a table and a plot
  evaluate MODEL CORPUS [--report]         scores on the test songs of a corpus, and a page to look at and listen to
  compare RUN RUN... -o PAGE               evaluated runs side by side on one page
  separate MODEL FILE_OR_FOLDER... -o DIR  any recording -> target and accompaniment
  info NAME                                what a config, prepared data or a model is
  export RUN -o FILE.zip                   a model to hand on, with licence and card; or a program that needs no jaxpu
  estimate-prior DATA [CONFIG]             share of bins without the target in prepared data
  synthesize DIR                           a small multitrack corpus from a seed
  completion bash|zsh                      completion of all this at a press of Tab

MODEL is a run (a folder such as runs/recordings) or an archive of `jaxpu export`.
CONFIG is a Python file or one of: {configs}.
Every field of it can be set on the command line: jaxpu train baseline --objective.class-prior 0.7

`jaxpu COMMAND --help` shows examples and all options (`jaxpu train CONFIG --help`: with the config's values).
--json prints one JSON document on standard output and all else on standard error.
Exit status: 0 done; 1 something failed, and standard error says what; 2 the command line or a config cannot be followed;
130 interrupted: the same command goes on where it stopped.
"""

COMMANDS: dict[str, Callable[[Sequence[str]], Answer]] = {
    "demo": demo.run,
    "prepare": prepare.run,
    "train": train.run,
    "sweep": sweep.run,
    "evaluate": evaluate.run,
    "compare": compare.run,
    "separate": separate.run,
    "info": info.run,
    "export": export.run,
    "estimate-prior": estimate_prior.run,
    "synthesize": synthesize.run,
    "completion": lambda args: completion.run(args, COMMANDS, __version__),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        The exit status, see `USAGE`.  Errors are printed in one sentence.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE.format(configs=", ".join(config_names())))
        return DONE
    if argv[0] == "--version":
        print(f"jaxpu {__version__}")
        return DONE
    as_json = "--json" in argv
    try:
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            answer = _command(argv[0])(argv[1:])
        if answer.text:
            print(json.dumps(_finite(answer.document), indent=2) if as_json else answer.text, flush=True)
        return answer.status
    except KeyboardInterrupt:
        print("jaxpu: interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # Of `jaxpu info ... | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        # A path that the user gave, most likely.
        print(
            f"jaxpu: {error.filename or argv[0]}: {error.strerror or error}. Check the path and its permissions.", file=sys.stderr
        )
        return FAILED
    except UserError as error:
        print(f"jaxpu: {error}", file=sys.stderr)
        return error.exit_status


def _command(name: str) -> Callable[[Sequence[str]], Answer]:
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise UsageError(f"There is no command {name!r}.{hint} It must be one of {', '.join(COMMANDS)}.")
    return COMMANDS[name]


def _finite(value: Any) -> Any:
    """With None for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    sys.exit(main())
