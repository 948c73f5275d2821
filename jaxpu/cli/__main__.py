"""The command line: finds the command, and prints its answer or its error."""

import contextlib
import difflib
import errno
import json
import os
import sys
import textwrap
from collections.abc import Sequence

from data_pipeline.errors import UserError, printable
from data_pipeline.stored_json import finite
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
    suggest,
    sweep,
    synthesize,
    train,
)
from jaxpu.cli.command import DONE, FAILED, INTERRUPTED, Command, UsageError, next_line
from jaxpu.config_files import config_names

USAGE = """jaxpu: separate one sound from recordings, without ever having that sound alone.

Separate the vocals of a song with the model that comes with jaxpu:
  jaxpu separate starter song.mp3 -o separated

Train on your own recordings, in which you marked passages without the target sound in Audacity:
  jaxpu prepare recordings --with songs/ --marks labels/
  jaxpu train recordings
  jaxpu separate runs/recordings song.mp3 -o separated

Try training on a small synthetic corpus (2 to 10 minutes on 2 CPU cores):
  jaxpu demo

Commands:
  demo                                     run the full pipeline on a small synthetic corpus
  prepare CONFIG --with DIR --marks PATH   convert recordings with marked passages to training data in data/CONFIG
  prepare CONFIG --with DIR --without DIR  the same with other recordings instead of marks, or beside them
  prepare CONFIG --musdb18 DIR             the same from MUSDB18 (.stem.mp4); --musdb18hq DIR for MUSDB18-HQ (wav)
  prepare CONFIG --stems DIR               the same from songs with stems of any names
  train CONFIG                             train a model on data/CONFIG, with checkpoints in runs/CONFIG
  sweep CONFIG --over NAME=VALUES          train many models that differ in hyperparameters and seeds, and compare them
  evaluate MODEL CORPUS [--report]         score a model on test songs; --report adds a page with curves and players
  compare RUN RUN... -o PAGE               compare evaluated runs on one page
  separate MODEL FILE_OR_FOLDER... -o DIR  separate recordings into target and accompaniment
  suggest MODEL FOLDER -o DIR              suggest passages without the target, as label tracks for --marks
  info NAME                                describe a config, prepared data or a model
  export MODEL... -o FILE.zip              package a trained model, with licence and model card
  estimate-prior DATA [CONFIG]             estimate the class prior: the share of bins without the target
  synthesize DIR                           synthesize a small multitrack corpus
  completion bash|zsh                      print a script that completes commands and options with the Tab key

MODEL is a run (a folder such as runs/recordings), an archive written by `jaxpu export`,
or `starter` (vocals) or `starter-drums`, which come with jaxpu.
CONFIG is a Python file, or the name of a config that comes with jaxpu:
{configs}
Every field of a config can be set on the command line: jaxpu train baseline --objective.class-prior 0.7

`jaxpu COMMAND --help` shows examples and all options; `jaxpu train CONFIG --help` shows them with the values of the config.
`--json` prints one JSON document on standard output, and all other messages on standard error.
Exit status: 0 done; 1 failed, for the reason on standard error; 2 invalid command line or config;
130 interrupted (Ctrl-C, SIGTERM or SIGHUP): run `demo`, `prepare`, `train`, `sweep` or
`synthesize` again to resume.
"""

COMMANDS: dict[str, Command] = {
    "demo": Command(demo.DemoArguments, demo.run),
    "prepare": Command(prepare.PrepareArguments, prepare.run),
    "train": Command(train.TrainArguments, train.run),
    "sweep": Command(sweep.SweepArguments, sweep.run),
    "evaluate": Command(evaluate.EvaluateArguments, evaluate.run),
    "compare": Command(compare.CompareArguments, compare.run),
    "separate": Command(separate.SeparateArguments, separate.run),
    "suggest": Command(suggest.SuggestArguments, suggest.run),
    "info": Command(info.InfoArguments, info.run),
    "export": Command(export.ExportArguments, export.run),
    "estimate-prior": Command(estimate_prior.EstimatePriorArguments, estimate_prior.run),
    "synthesize": Command(synthesize.SynthesizeArguments, synthesize.run),
    "completion": Command(completion.CompletionArguments, lambda args: completion.run(args, COMMANDS)),
}

RESUMABLE = ("demo", "prepare", "train", "sweep", "synthesize")
"""Commands that resume when they are run again."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and print its answer, or its error in one sentence.

    Args:
        argv: words after `jaxpu`; those of this process by default.

    Returns:
        The exit status, see `USAGE`.

    Raises:
        SystemExit: after `--help` (0), and for arguments that do not fit the command (2).
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE.format(configs=textwrap.fill(", ".join(config_names()), 100, initial_indent="  ", subsequent_indent="  ")))
        return DONE
    if argv[0] == "--version":
        print(f"jaxpu {__version__}")
        return DONE
    as_json = "--json" in argv
    try:
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            answer = _command(argv[0]).run(argv[1:])
        text = json.dumps(finite(answer.document), indent=2) if answer.text and as_json else answer.text
        return _print(text, answer.status) if text else answer.status
    except KeyboardInterrupt:
        resume = f" {next_line(*argv)}" if argv[0] in RESUMABLE else ""
        return _say(f"interrupted.{resume}", INTERRUPTED)
    except BrokenPipeError:  # As of `jaxpu prepare ... | head`.
        return _drop_output()
    except OSError as error:  # Most likely about a path that the user gave.
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "Free some space, or choose another folder." if is_full else "Check the path and its permissions."
        return _say(f"{error.filename or argv[0]}: {error.strerror or error}. {remedy}", FAILED)
    except UserError as error:
        return _say(str(error), error.exit_status)


def _print(text: str, status: int) -> int:
    """Print an answer; return the status, or that of a failure."""
    try:
        print(printable(text), flush=True)
    except BrokenPipeError:  # As of `jaxpu info ... | head`.
        return _drop_output()
    except OSError as error:
        return _say(f"standard output: {error.strerror or error}. The command itself is done.", _drop_output())
    return status


def _drop_output() -> int:
    """Drop what standard output does not take: Python would try again, and fail, at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED


def _say(message: str, status: int) -> int:
    with contextlib.suppress(OSError):  # The terminal is gone.
        print(f"jaxpu: {printable(message)}", file=sys.stderr)
    return status


def _command(name: str) -> Command:
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise UsageError(f"There is no command {name!r}.{hint} It must be one of {', '.join(COMMANDS)}.")
    return COMMANDS[name]


if __name__ == "__main__":
    sys.exit(main())
