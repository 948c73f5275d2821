"""`jaxpu prepare`."""

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from jaxpu.cli.command import Answer, Json, UsageError, config_argument, parse
from jaxpu.config import Config

EXAMPLES = """\
  jaxpu prepare recordings --with songs/ --without instrumentals/
  jaxpu prepare baseline --musdb18 MUSDB18/ -o data/baseline
"""


@dataclasses.dataclass(frozen=True)
class PrepareArguments:
    """Recordings to patches of STFT in TFRecords.  Give one source.

    Attributes:
        config: of the data; only `--data.*` matters here.
        with_target: folder of recordings in which the target plays (any audio, searched recursively).
        without_target: folder of recordings in which it does not play.
        musdb18: root of MUSDB18 (.stem.mp4).
        musdb18hq: root of MUSDB18-HQ (wav).
        download: fetch musdb's 7-second excerpts into --musdb18 first.
        out: where the data go; data/CONFIG by default.
        workers: processes; one per core by default.
        beam: make the tracks on a cluster instead: options of Apache Beam in one word, --beam="--runner=FlinkRunner ...".
        skip_bad: go on past recordings that cannot be used, and list them at the end.
        json: print what the data are as one JSON document.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    with_target: Annotated[Path | None, tyro.conf.arg(name="with")] = None
    without_target: Annotated[Path | None, tyro.conf.arg(name="without")] = None
    musdb18: Path | None = None
    musdb18hq: Path | None = None
    download: bool = False
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    workers: int | None = None
    beam: str | None = None
    skip_bad: bool = False
    json: Json = False


def run(args: Sequence[str]) -> Answer:
    """Prepares data."""
    name, config, rest = config_argument("prepare", args)
    arguments = parse(PrepareArguments, f"prepare {name}", rest, EXAMPLES, PrepareArguments(config))
    from data_pipeline.prepare import prepare
    from data_pipeline.tracks import Musdb18, Musdb18HQ, Source, TwoFolders, download_musdb7s
    from jaxpu.artifacts.info import describe_data

    sources: list[Source] = []
    if arguments.musdb18 is not None:
        if arguments.download:
            download_musdb7s(arguments.musdb18)
        sources.append(Musdb18(arguments.musdb18))
    elif arguments.download:
        raise UsageError("--download needs --musdb18 DIR: the folder that the excerpts go to.")
    if arguments.musdb18hq is not None:
        sources.append(Musdb18HQ(arguments.musdb18hq))
    if arguments.with_target is not None and arguments.without_target is not None:
        sources.append(TwoFolders(arguments.with_target, arguments.without_target))
    elif arguments.with_target is not None or arguments.without_target is not None:
        raise UsageError("--with and --without belong together: recordings with the target, and recordings without it.")
    if len(sources) != 1:
        raise UsageError(
            f"{len(sources)} sources are given. Give one: --with DIR --without DIR, --musdb18 DIR, or --musdb18hq DIR."
        )
    out = arguments.out or Path("data") / name
    dataset = prepare(
        sources[0],
        arguments.config.data,
        out,
        num_workers=arguments.workers,
        beam_options=None if arguments.beam is None else shlex.split(arguments.beam),
        skip_bad=arguments.skip_bad,
    )
    text = f"Next: jaxpu train {args[0]}" + (f" --prepared {out}" if arguments.out else "")
    return Answer(text, describe_data(dataset))
