"""`jaxpu prepare`."""

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from jaxpu.cli.command import (
    Answer,
    Json,
    UsageError,
    Workers,
    check_folders,
    check_workers,
    config_argument,
    config_options,
    next_line,
    parse,
)
from jaxpu.config import Config

EXAMPLES = """\
  jaxpu prepare recordings --with songs/ --marks labels/
  jaxpu prepare two_folders --with songs/ --without instrumentals/
  jaxpu prepare baseline --musdb18 MUSDB18/ -o data/baseline
"""


@dataclasses.dataclass(frozen=True)
class PrepareArguments:
    """Convert recordings to training data: STFT patches in TFRecord files.

    Give one source: `--with` and `--marks`, `--without` or both; `--stems`; `--musdb18`; or `--musdb18hq`. Folders are searched
    recursively, also through links, for any format that ffmpeg reads; a line for each says what was left out.

    Marks are passages without the target: label tracks of Audacity with the names of the recordings (SONG.txt), UltraStar
    karaoke songs, or one CSV table with the columns file, begin and end.

    Attributes:
        config: configuration; this command uses the fields `--data.*` alone.
        with_target: folder of recordings in which the target plays, among other sounds.
        marks: file or folder with marked passages of the recordings of --with; it may be the folder of --with itself.
        without_target: folder of other recordings, in which the target does not play.
        stems: root folder of songs with stems of any names, [train|test]/SONG/NAME.wav; the target is one or more of the names.
        musdb18: root folder of MUSDB18 (.stem.mp4).
        musdb18hq: root folder of MUSDB18-HQ (wav).
        download: first download musdb's 7-second excerpts to the folder --musdb18.
        out: folder for the prepared data.
        workers: number of processes.
        beam: prepare on a cluster with Apache Beam; its options in quotes, such as --beam="--runner=FlinkRunner".
        skip_bad: skip recordings that cannot be read, and list them at the end.
        check_marks: for the targets vocals and drums, let `starter` or `starter-drums` listen to the marks first, and leave out
            those in which it finds the target. They are listed.
        json: print a description of the data as one JSON document.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    with_target: Annotated[Path | None, tyro.conf.arg(name="with", metavar="DIR", help_behavior_hint="")] = None
    marks: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    without_target: Annotated[Path | None, tyro.conf.arg(name="without", metavar="DIR", help_behavior_hint="")] = None
    stems: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    musdb18: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    musdb18hq: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    download: bool = False
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="DIR", help_behavior_hint="(default: data/CONFIG)")] = None
    workers: Workers = None
    beam: Annotated[str | None, tyro.conf.arg(metavar="OPTIONS", help_behavior_hint="(default: none)")] = None
    skip_bad: bool = False
    check_marks: bool = True
    json: Json = False


def run(args: Sequence[str]) -> Answer:
    """Prepare data."""
    name, command, config, rest = config_argument("prepare", args)
    arguments = parse(PrepareArguments, command, rest, EXAMPLES, PrepareArguments(config))
    check_workers(arguments.workers)
    from data_pipeline.prepare import prepare
    from data_pipeline.tracks import Folders, Musdb18, Musdb18HQ, Source, Stems, download_musdb7s
    from jaxpu.artifacts.info import describe_data

    if arguments.download and arguments.musdb18 is None:
        raise UsageError("--download needs --musdb18 DIR, the folder for the excerpts.")
    free = arguments.marks or arguments.without_target
    if (arguments.with_target is None) != (free is None):
        raise UsageError(
            "Give --with DIR, recordings with the target, and target-free material: --marks PATH, passages of the same "
            "recordings, --without DIR, other recordings, or both."
        )
    sources: list[Source] = []
    if arguments.musdb18 is not None:
        sources.append(Musdb18(arguments.musdb18))
    if arguments.stems is not None:
        sources.append(Stems(arguments.stems))
    if arguments.musdb18hq is not None:
        sources.append(Musdb18HQ(arguments.musdb18hq))
    if arguments.with_target is not None:
        sources.append(Folders(arguments.with_target, arguments.without_target, arguments.marks))
    if len(sources) != 1:
        raise UsageError(
            f"The command line has {len(sources)} sources. Give one: --with DIR and --marks PATH or --without DIR, "
            "--stems DIR, --musdb18 DIR, or --musdb18hq DIR."
        )
    out = arguments.out or Path("data") / name
    check_folders(out)
    if arguments.download and arguments.musdb18 is not None:
        download_musdb7s(arguments.musdb18)
    check = None
    if arguments.marks and arguments.check_marks:
        from jaxpu.training.starter_check import starter_check  # Imports JAX.

        check = starter_check(arguments.config.data.target)
    try:
        beam_options = None if arguments.beam is None else shlex.split(arguments.beam)
    except ValueError as error:
        raise UsageError(f"--beam is {arguments.beam!r}: {error}. Close the quotation.") from None
    dataset = prepare(
        sources[0],
        arguments.config.data,
        out,
        num_workers=arguments.workers,
        beam_options=beam_options,
        skip_bad=arguments.skip_bad,
        marks_check=check,
    )
    moved = ["--prepared", str(out)] if arguments.out else []
    return Answer(next_line("train", args[0], *config_options(rest), *moved), describe_data(dataset))
