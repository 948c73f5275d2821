"""Time what users wait for, beside the best peer.

    python benchmarks/speed.py [--only PART ...]

The parts are `steps`, `training`, `separation`, `reading`, `preparing`, `starting` and `evaluation`.  The two sides of a
comparison take turns (A B A B), and medians count.  torch is a peer where it is installed; `make bench` installs it.  Each part
writes its rows to benchmarks/results/measured/speed.json, in place of those of an earlier time.
"""

import argparse
import dataclasses
import functools
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import librosa
import noise
import numpy as np
import optax
import soundfile
from gpu import compiled_step, loaded, torch_training_step

from data_pipeline.config import DataConfig, PatchSpec
from data_pipeline.files import write_text
from data_pipeline.prepare import prepare
from data_pipeline.tfrecord import read_record
from data_pipeline.tracks import Folders, Source
from jaxpu.artifacts.checkpoints import TrainedModel, load_model
from jaxpu.config import Config
from jaxpu.config_files import load_config
from jaxpu.core.network import make_network
from jaxpu.core.objectives import make_objective
from jaxpu.core.step import RECALIBRATE_EVERY, init_state, separation_variables
from jaxpu.evaluation.evaluate import EvaluationOptions, evaluate_estimates
from jaxpu.monitoring.run_log import read_log
from jaxpu.parallel import convolution_form
from jaxpu.separation.files import separate_file

RESULTS = Path(__file__).resolve().parent / "results" / "measured" / "speed.json"
COMMAND = [sys.executable, "-m", "jaxpu"]
ROUNDS = 5
SONG_S = 210
SCORED_SONGS, SCORED_S = 50, 240

Row = list[str]


def main(args: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args(args)
    for part in arguments.only:
        rows = []
        with tempfile.TemporaryDirectory() as work:
            for row in PARTS[part](Path(work)):
                print(" | ".join(row), flush=True)
                rows.append(row)
        write_part(arguments.results, part, rows)


def write_part(path: Path, part: str, rows: list[Row]) -> None:
    """Put the rows of a part into the table."""
    parts = json.loads(path.read_text(encoding="utf-8"))["parts"] if path.exists() else {}
    parts[part] = rows
    table = {
        "commands": ["make bench"],
        "machine": f"{os.cpu_count()} CPU cores, jax {jax.__version__}. Medians of {ROUNDS}, of training 3, in turn with peers.",
        "columns": ["work", "jaxpu", "peer", "which peer"],
        "rows": [row for name in PARTS for row in parts.get(name, [])],
        "parts": parts,
    }
    write_text(path, json.dumps(table, indent=1) + "\n")


def medians(*sides: Callable[[], object]) -> list[float]:
    """Median seconds of each side.  The sides take turns, after one round that does not count."""
    times: list[list[float]] = [[] for _ in sides]
    for number in range(ROUNDS + 1):
        for side, own in zip(sides, times, strict=True):
            begin = time.perf_counter()
            side()
            if number:
                own.append(time.perf_counter() - begin)
    return [float(np.median(own)) for own in times]


def steps(work: Path) -> Iterator[Row]:
    """Training steps, and networks beside torch."""
    del work
    for name in ("baseline", "demo_supervised", "demo_remix", "demo", "recordings"):
        step, arguments = compiled_step(loaded(name))
        (seconds,) = medians(functools.partial(a_few_steps, step, *arguments))
        clips = loaded(name).train.batch_size
        yield [f"a training step of `{name}`, {clips} + {clips} clips", f"{1e3 * seconds / RECALIBRATE_EVERY:.0f} ms", "-", "-"]
    # Last: after torch's steps of `baseline` in NCHW everything else takes longer.
    for name, clips in (("baseline", 16), ("demo_supervised", 8)):
        sides: list[Callable[[], object]] = [network_alone(loaded(name), clips)]
        if importlib.util.find_spec("torch"):
            sides += [torch_training_step(loaded(name), clips, channels_last=last) for last in (True, False)]
        ours, *theirs = (f"{1e3 * seconds:.0f} ms" for seconds in medians(*sides))
        yield [f"the network of `{name}`, a loss and Adam, {clips} clips", ours, "; ".join(theirs), "torch: channels_last; NCHW"]


def network_alone(config: Config, clips: int) -> Callable[[], object]:
    """The work that torch is timed with: the network, the error of its mask, the gradient and Adam."""
    objective = make_objective(config.objective)
    network = make_network(config, objective.num_outputs, convolution=convolution_form())
    state, patch = init_state(config), config.data.patch
    mixture, target = jax.random.uniform(jax.random.key(0), (2, clips, 1, patch.frames, patch.bins))
    optimizer, keys = optax.adam(1e-3), jax.random.split(jax.random.key(1), clips)
    others = {"batch_stats": state.batch_stats} if state.batch_stats else {}

    def error(params: Any, stft: jax.Array) -> tuple[jax.Array, Any]:
        logits, changed = network.apply({"params": params, **others}, stft, keys, train=True, mutable=["batch_stats"])
        return jnp.abs(jax.nn.sigmoid(logits[..., 0]) * mixture[:, 0] - target[:, 0]).mean(), changed

    @jax.jit
    def step(params: Any, opt_state: Any, stft: jax.Array) -> Any:
        gradients, changed = jax.grad(error, has_aux=True)(params, stft)
        updates, opt_state = optimizer.update(gradients, opt_state)
        return optax.apply_updates(params, updates), opt_state, changed

    arguments = state.params, optimizer.init(state.params), mixture.astype(jnp.complex64)
    return lambda: jax.block_until_ready(step(*arguments))


def a_few_steps(step: Callable[..., Any], state: Any, batch: Any, key: jax.Array) -> None:
    """As many steps as there are from one recalibration of batch normalization to the next."""
    for _ in range(RECALIBRATE_EVERY):
        state, _ = step(state, batch, key)
    jax.block_until_ready(state)


def separation(work: Path) -> Iterator[Row]:
    """A song from file to files."""
    song = noise.recording(work / "song.wav", SONG_S)
    demo = loaded("demo")
    untrained = TrainedModel(demo, jax.device_get(separation_variables(demo, init_state(demo))), {})
    for name, model in (("`starter`, at 44.1 kHz", load_model("starter")), ("the network of `demo`, at 16 kHz", untrained)):
        (seconds,) = medians(functools.partial(separate_file, model, song, work / "separated"))
        yield [f"separating a stereo song with {name}", f"{SONG_S / seconds:.0f} times real time", "-", "-"]


def reading(work: Path) -> Iterator[Row]:
    """Batches in random order."""
    for name in ("demo", "recordings"):
        config = dataclasses.replace(load_config(name).data, activity_on="off", validation_share=0.1)
        dataset = prepare(noise.corpus(work / "songs", 20, 30), config, work / name, progress=False)
        index = dataset.index("train", "mixture")
        rows = np.random.default_rng(0).integers(len(index.offset), size=2048)

        def batches(dataset: Any = dataset, num_steps: int = len(rows) // 32) -> None:
            for _ in dataset.batches(
                "train", batch_size=16, seed=0, num_steps=num_steps, disjoint_tracks=False, with_target=False
            ):
                pass

        def bare(dataset: Any = dataset, index: Any = index, rows: np.ndarray = rows) -> None:
            for row in rows:
                read_record(dataset.shard_path("train", "mixture", index.shard[row]), int(index.offset[row]))

        ours, theirs = (f"{len(rows) / seconds:,.0f} records/s" for seconds in medians(batches, bare))
        megabytes = np.prod(dataset.spec.patch_shape) * np.dtype(dataset.spec.dtype).itemsize / 1e6
        yield [f"reading batches, records of {megabytes:.2f} MB", ours, theirs, "reading and checking the records in one thread"]


def preparing(work: Path) -> Iterator[Row]:
    """Songs and recordings in one process."""
    config = DataConfig(patch=PatchSpec())
    spec = config.patch
    # The second of each is for validation: of a single one, a stretch would be held out, and be made twice.
    song = noise.corpus(work / "corpus", 1, SONG_S)
    for name in ("bass", "drums", "mixture", "other", "vocals"):
        noise.recording(work / "corpus" / "train" / "Short" / f"{name}.wav", 2, seed=1)
    noise.recording(work / "with" / "long.wav", SONG_S, channels=1)
    for number, path in enumerate(("with/short.wav", "without/0.wav", "without/1.wav"), 1):
        noise.recording(work / path, 2, channels=1, seed=number)
    signal = soundfile.read(work / "with" / "long.wav", dtype="float32")[0]

    def transform(number: int) -> None:
        for _ in range(number):
            librosa.stft(signal, n_fft=spec.n_fft, hop_length=spec.hop_length, win_length=spec.win_length, window=spec.window)

    def prepared(source: Source) -> None:
        # A folder of its own: to remove an earlier one takes a tenth of the time.
        prepare(source, config, Path(tempfile.mkdtemp(dir=work)) / "data", num_workers=1, progress=False)

    folders = Folders(work / "with", work / "without")
    for source, number, name in ((song, 2, "a stereo song with stems"), (folders, 1, "a mono recording")):
        ours, theirs = medians(functools.partial(prepared, source), functools.partial(transform, number))
        peer = f"librosa.stft of {number} signal{'s' * (number > 1)}, in memory"
        yield [f"preparing {name} of {SONG_S} s", f"{ours:.2f} s", f"{theirs:.2f} s", peer]


def starting(work: Path) -> Iterator[Row]:
    """Whole processes."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(work / "compiled")}
    song = noise.recording(work / "song.wav", SONG_S)
    data = prepare(noise.corpus(work / "songs", 4, 30), load_config("demo").data, work / "data", progress=False).directory
    commands = {
        "`jaxpu --help`": [*COMMAND, "--help"],
        "`from jaxpu import load_model, separate_waveform`": [
            sys.executable,
            "-c",
            "from jaxpu import load_model, separate_waveform",
        ],
        f"`jaxpu separate starter`, a stereo song of {SONG_S} s": [
            *COMMAND,
            "separate",
            "starter",
            str(song),
            "-o",
            str(work / "out"),
        ],
    }
    run = functools.partial(subprocess.run, env=environment, check=True, capture_output=True)
    for name, seconds in zip(commands, medians(*(functools.partial(run, each) for each in commands.values())), strict=True):
        yield [name, f"{seconds:.2f} s", "-", "-"]
    waited = [until_compilation(data, work / f"run_{number}", environment) for number in range(ROUNDS)]
    yield ["`jaxpu train demo`, until its first step begins to compile", f"{np.median(waited):.2f} s", "-", "-"]


def until_compilation(data: Path, run: Path, environment: dict[str, str]) -> float:
    """Seconds from the start of `jaxpu train` to its line before the first step."""
    begin = time.perf_counter()
    command = [*COMMAND, "train", "demo", "--prepared", str(data), "--run", str(run)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("Compiling"):
                seconds = time.perf_counter() - begin
                process.kill()
                return seconds
    raise RuntimeError("jaxpu train ended before its first step")


def training(work: Path) -> Iterator[Row]:
    """`jaxpu train` with the huge pages that it asks for, and without."""
    for name in ("demo_supervised", "rendered_songs"):
        songs = noise.corpus(work / "songs", 8, 30)
        data = prepare(songs, load_config(name).data, work / name, progress=False).directory
        runs = [(setting, work / f"{name}_{setting}_{number}") for number in range(3) for setting in (1, 0)]
        found = {run: milliseconds_of_a_step(name, data, run, setting) for setting, run in runs}
        ours, theirs = (f"{np.median([found[run] for each, run in runs if each == setting]):.0f} ms" for setting in (1, 0))
        yield [f"`jaxpu train {name}`, a step of 8 clips", ours, theirs, "without huge pages"]


def milliseconds_of_a_step(name: str, data: Path, run: Path, hugetlb: int) -> float:
    """Median over the lines of a run's log, but for the first, in which programs are loaded."""
    command = [*COMMAND, "train", name, "--prepared", str(data), "--run", str(run), "--train.batch-size", "8"]
    steps = ["--train.num-steps", "100", "--train.eval-every", "100", "--train.eval-batches", "1"]
    environment = os.environ | {"GLIBC_TUNABLES": f"glibc.malloc.hugetlb={hugetlb}"}
    subprocess.run([*command, *steps], env=environment, check=True, capture_output=True)
    rates = [line["clips_per_s"] for line in read_log(run) if line["kind"] == "train"]
    return 8000 / float(np.median(rates[1:]))


def evaluation(work: Path) -> Iterator[Row]:
    """SDR and SI-SDR of estimates on disk."""
    source = noise.corpus(work / "corpus", SCORED_SONGS, SCORED_S, split="test")
    for song in (work / "corpus" / "test").iterdir():
        (work / "estimates" / song.name).mkdir(parents=True)
        os.link(song / "vocals.wav", work / "estimates" / song.name / "vocals.wav")
    begin = time.perf_counter()
    options = EvaluationOptions(baselines=False, progress=False)
    evaluate_estimates(work / "estimates", (), source, work / "scores", options)
    yield [f"scoring {SCORED_SONGS} songs of {SCORED_S} s, SDR alone", f"{time.perf_counter() - begin:.0f} s (once)", "-", "-"]


PARTS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "steps": steps,
    "training": training,
    "separation": separation,
    "reading": reading,
    "preparing": preparing,
    "starting": starting,
    "evaluation": evaluation,
}


if __name__ == "__main__":
    main()
