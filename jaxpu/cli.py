"""The command line: `jaxpu prepare | train | sweep | evaluate | separate | estimate-prior | synthesize | demo`."""

import dataclasses
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import tyro

from data_pipeline.decoders import AudioError
from data_pipeline.records import DataError
from jaxpu import __version__
from jaxpu.cluster import Cluster
from jaxpu.config import Config, ConfigError, config_names, load_config

USAGE = """jaxpu: separate a sound from recordings without ever having that sound alone.

  jaxpu demo                                                   the whole way, on songs that it makes itself
  jaxpu prepare CONFIG --with DIR --without DIR                 two folders of recordings -> patches
  jaxpu prepare CONFIG --musdb18 DIR                            MUSDB18 (.stem.mp4) -> patches
  jaxpu prepare CONFIG --musdb18hq DIR                          MUSDB18-HQ (wav) -> patches
  jaxpu train CONFIG                                            patches -> checkpoints
  jaxpu sweep CONFIG --over class_prior=.4:.9:6 --seeds 3       many runs, a table and a plot
  jaxpu evaluate RUN DATA                                       scores on the test songs of a corpus
  jaxpu separate RUN FILE_OR_FOLDER... -o DIR                   any recording -> target and accompaniment
  jaxpu estimate-prior DATA [CONFIG]                            share of bins without the target in prepared data
  jaxpu synthesize DIR                                          a small multitrack corpus from a seed

CONFIG is a Python file or one of: {configs}.
Every field of it can be set on the command line: jaxpu train baseline --objective.class-prior 0.7
`jaxpu COMMAND --help` (for prepare, train and sweep: `jaxpu train CONFIG --help`) lists everything.
"""


class UsageError(ValueError):
    """A command line that cannot be followed; the message says why."""


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


@dataclasses.dataclass(frozen=True)
class TrainArguments:
    """Patches to checkpoints.  The same command goes on where it stopped.

    Attributes:
        config: of the run.
        data: what `jaxpu prepare` wrote; data/CONFIG by default.
        run: where checkpoints and logs go; runs/CONFIG by default.
        cluster: the processes that train together.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    data: Annotated[Path | None, tyro.conf.arg(name="prepared")] = None
    run: Path | None = None
    cluster: Annotated[Cluster, tyro.conf.arg(name="")] = Cluster()


@dataclasses.dataclass(frozen=True)
class SweepArguments:
    """Many runs that differ in hyperparameters and seeds.  The same command goes on where it stopped.

    Attributes:
        config: of all runs, but for what is swept.
        over: NAME=START:STOP:COUNT or NAME=VALUE,VALUE,... of a number of the objective, or learning_rate.  Given several
            times, all combinations are trained.
        seeds: runs of each combination, with the config's seed and the following ones.
        at_once: runs trained at once; as many as the device's memory holds by default, and one on CPUs.
        data: what `jaxpu prepare` wrote; data/CONFIG by default.
        run: where the runs, the table and the plot go; runs/sweep-CONFIG by default.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    over: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    seeds: int = 1
    at_once: int | None = None
    data: Annotated[Path | None, tyro.conf.arg(name="prepared")] = None
    run: Path | None = None


@dataclasses.dataclass(frozen=True)
class EvaluateArguments:
    """Scores of a model on the test songs of MUSDB18, MUSDB18-HQ or a corpus in their layout.

    Attributes:
        model: run directory.
        corpus: root of the corpus.
        out: where the scores go; RUN/evaluation by default.
        split: test, validation or train.
        full: museval's filtered metrics, with SIR and SAR; about 1000 times slower.
        workers: processes; one per core by default.
        positives: as for `jaxpu separate`.
        cluster: the processes that share the songs.
    """

    model: tyro.conf.Positional[Path]
    corpus: tyro.conf.Positional[Path]
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    split: str = "test"
    full: bool = False
    workers: int | None = None
    positives: Path | None = None
    cluster: Annotated[Cluster, tyro.conf.arg(name="")] = Cluster()


@dataclasses.dataclass(frozen=True)
class SynthesizeArguments:
    """A small multitrack corpus from a seed, in the layout of MUSDB18-HQ.

    Attributes:
        root: where the songs go.
        train: songs to train on.
        test: songs to test on.
        seconds: length of a song.
        sample_rate: in Hz.
        seed: decides the songs.
    """

    root: tyro.conf.Positional[Path]
    train: int = 24
    test: int = 4
    seconds: float = 20.0
    sample_rate: int = 16_000
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class SeparateArguments:
    """Recordings to target and accompaniment, at the rate, channels and length of each recording.

    Attributes:
        model: run directory.
        inputs: files and folders.
        out: where the sounds go.
        format: wav, flac, ogg or mp3; each recording's own by default.
        subtype: sample format, such as PCM_16, PCM_24 or FLOAT.
        positives: folder of recordings without the target; a model trained by `remix` then takes the mean over remixes with four
            of them, in four times the time.
    """

    model: tyro.conf.Positional[Path]
    inputs: tyro.conf.Positional[tuple[Path, ...]]
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    format: str | None = None
    subtype: str | None = None
    positives: Path | None = None


@dataclasses.dataclass(frozen=True)
class DemoArguments:
    """The whole way on songs that it makes itself; about 10 minutes on 2 cores.

    Attributes:
        config: of the data and the run.
        out: folder of all that is written.
        songs: to train on.
        test_songs: to test on.
        seconds: length of a song.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("demo")
    songs: int = 24
    test_songs: int = 4
    seconds: float = 20.0


@dataclasses.dataclass(frozen=True)
class EstimatePriorArguments:
    """The class prior of prepared data: from stems where there are any, and from positive and unlabeled data alone.

    Attributes:
        config: its network, weight exponent, batch size and seed matter; that of the demo by default.
        out: a JSON file for the figures.
        best_bin: also by best-bin estimation, which trains a classifier; some minutes on a CPU.
        steps: that train the classifier.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    best_bin: bool = True
    steps: int = 300


Arguments = TypeVar("Arguments")


def _parse(cls: type[Arguments], command: str, args: Sequence[str], default: Arguments | None = None) -> Arguments:
    # The kind of objective is the config's: its fields are options, not a choice of subcommands.
    missing = tyro.MISSING_NONPROP if default is None else default
    return tyro.cli(cls, prog=f"jaxpu {command}", args=list(args), default=missing, config=(tyro.conf.AvoidSubcommands,))


def _config_argument(command: str, args: Sequence[str]) -> tuple[str, Config, Sequence[str]]:
    if not args or args[0].startswith("-"):
        raise UsageError(f"Say which config: jaxpu {command} CONFIG, a Python file or one of {', '.join(config_names())}.")
    return Path(args[0]).stem, load_config(args[0]), args[1:]


def _prepare(args: Sequence[str]) -> int:
    name, config, rest = _config_argument("prepare", args)
    arguments = _parse(PrepareArguments, f"prepare {name}", rest, PrepareArguments(config))
    from data_pipeline.builder import prepare
    from data_pipeline.tracks import Musdb18, Musdb18HQ, Source, TwoFolders, download_musdb7s

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
    prepare(
        sources[0],
        arguments.config.data,
        out,
        num_workers=arguments.workers,
        beam_options=None if arguments.beam is None else shlex.split(arguments.beam),
        skip_bad=arguments.skip_bad,
    )
    print(f"Next: jaxpu train {args[0]}" + (f" --prepared {out}" if arguments.out else ""))
    return 0


def _train(args: Sequence[str]) -> int:
    name, config, rest = _config_argument("train", args)
    arguments = _parse(TrainArguments, f"train {name}", rest, TrainArguments(config))
    from jaxpu import parallel
    from jaxpu.train import train

    run = arguments.run or Path("runs") / name
    with parallel.joined(arguments.cluster):
        results = train(arguments.config, arguments.data or Path("data") / name, run)
    if parallel.process_index() > 0:
        return 0
    scores = ", ".join(f"{key} {value:.4g}" for key, value in results.items() if isinstance(value, float))
    print(f"{run}: step {results['step']}, {results['stopped']}. {scores}")
    print(f"Next: jaxpu separate {run} RECORDING -o DIR")
    return 0


def _sweep(args: Sequence[str]) -> int:
    name, config, rest = _config_argument("sweep", args)
    arguments = _parse(SweepArguments, f"sweep {name}", rest, SweepArguments(config))
    from jaxpu.sweep import format_table, parse_over, sweep

    over = [parse_over(text) for text in arguments.over]
    if len(dict(over)) < len(over):
        raise UsageError(f"--over is given twice for one name: {', '.join(arguments.over)}. Put all its values into one.")
    run = arguments.run or Path("runs") / f"sweep-{name}"
    data = arguments.data or Path("data") / name
    table = sweep(arguments.config, data, run, dict(over), num_seeds=arguments.seeds, at_once=arguments.at_once)
    print(format_table(table))
    print(f"Table and plot: {run / 'sweep.json'}, {run / 'sweep.png'}. Every folder in {run} is a run.")
    print(f"Next: jaxpu separate {run / table[0]['folder']} RECORDING -o DIR")
    return 0


def _evaluate(args: Sequence[str]) -> int:
    arguments = _parse(EvaluateArguments, "evaluate", args)
    from data_pipeline.tracks import detect_source
    from jaxpu import parallel
    from jaxpu.checkpoints import load_model
    from jaxpu.evaluate import evaluate, format_table
    from jaxpu.partners import load_partners

    out = arguments.out or arguments.model / "evaluation"
    with parallel.joined(arguments.cluster):
        model = load_model(arguments.model)
        table = evaluate(
            model,
            detect_source(arguments.corpus),
            out,
            split=arguments.split,
            full=arguments.full,
            num_workers=arguments.workers,
            partners=None if arguments.positives is None else load_partners(model, arguments.positives),
        )
    if parallel.process_index() > 0:
        return 0
    print(format_table(table))
    print(f"Scores of every song: {out}")
    return 0


def _synthesize(args: Sequence[str]) -> int:
    arguments = _parse(SynthesizeArguments, "synthesize", args)
    from data_pipeline.synthetic import synthesize

    synthesize(
        arguments.root,
        num_train=arguments.train,
        num_test=arguments.test,
        seconds=arguments.seconds,
        sample_rate=arguments.sample_rate,
        seed=arguments.seed,
    )
    print(f"Songs: {arguments.root}")
    return 0


def _separate(args: Sequence[str]) -> int:
    arguments = _parse(SeparateArguments, "separate", args)
    from jaxpu.checkpoints import load_model
    from jaxpu.partners import load_partners
    from jaxpu.separate import separate

    suffix = None if arguments.format is None else "." + arguments.format.lstrip(".").lower()
    model = load_model(arguments.model)
    partners = None if arguments.positives is None else load_partners(model, arguments.positives)
    report = separate(model, arguments.inputs, arguments.out, suffix=suffix, subtype=arguments.subtype, partners=partners)
    for paths in report.written.values():
        for path in paths:
            print(path)
    for message in report.failed.values():
        print(f"jaxpu: {message}", file=sys.stderr)
    return 1 if report.failed else 0


def _estimate_prior(args: Sequence[str]) -> int:
    if not args or (args[0].startswith("-") and args[0] not in ("-h", "--help")):
        raise UsageError("Say which data: jaxpu estimate-prior DATA [CONFIG], a folder that `jaxpu prepare` wrote.")
    from data_pipeline.batches import PatchDataset

    has_config = len(args) > 1 and not args[1].startswith("-")
    config = load_config(args[1] if has_config else "demo")
    rest: Sequence[str] = args
    if not args[0].startswith("-"):
        dataset = PatchDataset.open(args[0])
        config, rest = dataclasses.replace(config, data=dataset.config), args[2 if has_config else 1 :]
    arguments = _parse(EstimatePriorArguments, "estimate-prior DATA", rest, EstimatePriorArguments(config))
    dataset.check(arguments.config.data)
    from jaxpu import prior
    from jaxpu.best_bin import estimate_best_bin

    found = {"log_max": prior.estimate(dataset, arguments.config)}
    if dataset.has_stems:
        found = {"oracle": prior.oracle(dataset, arguments.config), **found}
    if arguments.best_bin:
        found["best_bin"] = estimate_best_bin(dataset, arguments.config, num_steps=arguments.steps)
    print(prior.table(found, dataset, arguments.config))
    if arguments.out is not None:
        prior.write_json(arguments.out, found, dataset, arguments.config)
    return 0


def _demo(args: Sequence[str]) -> int:
    arguments = _parse(DemoArguments, "demo", args, DemoArguments(load_config("demo")))
    from jaxpu.demo import demo

    demo(
        arguments.config,
        arguments.out,
        num_train=arguments.songs,
        num_test=arguments.test_songs,
        seconds=arguments.seconds,
    )
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "prepare": _prepare,
    "train": _train,
    "sweep": _sweep,
    "evaluate": _evaluate,
    "separate": _separate,
    "estimate-prior": _estimate_prior,
    "synthesize": _synthesize,
    "demo": _demo,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; the exit status is 0, or 1 after an error, which is printed in one sentence."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE.format(configs=", ".join(config_names())))
        return 0
    if argv[0] == "--version":
        print(f"jaxpu {__version__}")
        return 0
    command = COMMANDS.get(argv[0])
    if command is None:
        print(f"jaxpu: there is no command {argv[0]!r}; it must be one of {', '.join(COMMANDS)}.", file=sys.stderr)
        return 1
    try:
        return command(argv[1:])
    except Exception as error:
        if not isinstance(error, _expected_errors()):
            raise
        print(f"jaxpu: {error}", file=sys.stderr)
        return 1


def _expected_errors() -> tuple[type[Exception], ...]:
    """The errors whose messages are for the user, of those modules that the command has imported."""
    late = {
        "data_pipeline.synthetic": "CorpusError",
        "jaxpu.checkpoints": "CheckpointError",
        "jaxpu.train": "TrainingError",
        "jaxpu.evaluate": "EvaluationError",
    }
    found = [getattr(sys.modules[module], name) for module, name in late.items() if module in sys.modules]
    return (UsageError, ConfigError, DataError, AudioError, *found)


if __name__ == "__main__":
    sys.exit(main())
