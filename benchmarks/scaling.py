"""Measure how costs grow with the data and with the devices, and estimate from that what large sets of recordings cost.

    python benchmarks/scaling.py

Recordings of 2, 20 and 200 minutes are prepared and read, songs of 1, 10 and 100 minutes are separated, and a step of
`demo_remix` is divided among 1, 2, 4 and 8 simulated devices and two processes.  The tables go to benchmarks/results/measured:
scaling.json has what was measured, scaling-estimates.json what follows from it.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import noise
import numpy as np
from gpu import batch_of, loaded

from data_pipeline.dataset import PatchDataset
from data_pipeline.files import write_text
from data_pipeline.prepare import prepare
from data_pipeline.tracks import Folders
from jaxpu import parallel
from jaxpu.config.cluster import Cluster
from jaxpu.config_files import load_config
from jaxpu.core.step import init_state, make_train_step

RESULTS = Path(__file__).resolve().parent / "results" / "measured"
CONFIG = "recordings"
TIMES = (1, 10, 100)
MINUTES = 2
STEPS = 5
SETS = (("MUSDB18's training songs, 6.5 h with and 6.5 h without", 13.0, 1), ("1,000 h", 1e3, 8), ("100,000 h", 1e5, 64))
"""Sets of recordings: name, hours, and GPUs that train on them."""

STEP_RECORDS_S = 12_000
"""Records a second of a training step on one NVIDIA H200 (docs/performance.md, "Training on a GPU": 48 records in 4.0 ms)."""

Row = list[str]


def main(args: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files")
    # What this program starts in processes of their own.
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--step", nargs=2, metavar=("HOST:PORT", "PROCESS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(args)
    if arguments.prepare:
        prepare_alone(arguments.prepare)
    elif arguments.step:
        print(seconds_per_step(*arguments.step))
    else:
        with tempfile.TemporaryDirectory() as work:
            measure(Path(work), arguments.results)


def measure(work: Path, results: Path) -> None:
    """Write both tables."""
    costs: dict[str, float] = {}
    rows = []
    for row in itertools.chain(preparing(work, costs), reading(work, costs), separating(work), devices()):
        print(" | ".join(row), flush=True)
        rows.append(row)
    machine = f"{os.cpu_count()} CPU cores, jax {jax.__version__}, config `{CONFIG}`."
    table = {"commands": ["python benchmarks/scaling.py"], "machine": machine, "columns": ["work", "amount", "time", "memory"]}
    write_text(results / "scaling.json", json.dumps(table | {"rows": rows, "costs": costs}, indent=1) + "\n")
    write_text(results / "scaling-estimates.json", json.dumps(estimates(costs), indent=1) + "\n")


def own_program(*options: str, **environment: str) -> tuple[list[str], float, float]:
    """Run this program in a process of its own; return what it printed, its seconds and its peak memory in MB."""
    command = [sys.executable, __file__, *options]
    return _measured(subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True))


def _measured(process: subprocess.Popen[str]) -> tuple[list[str], float, float]:
    begin, memory_kb = time.perf_counter(), 0
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        # Not wait4's figure, which counts what this process had in memory when it forked.
        with contextlib.suppress(OSError, StopIteration):
            lines = status.read_text(encoding="utf-8").splitlines()
            memory_kb = max(memory_kb, next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")))
        time.sleep(0.02)
    if process.returncode:
        raise RuntimeError(f"{process.args!r} failed")
    return process.stdout.read().split() if process.stdout else [], time.perf_counter() - begin, memory_kb / 1e3


def preparing(work: Path, costs: dict[str, float]) -> Iterator[Row]:
    """Recordings with and without the target, a minute each, in one process."""
    for times in TIMES:
        root = work / f"data_{times}"
        for number in range(times):
            noise.recording(root / "with" / f"{number}.wav", 60 * MINUTES / 2, seed=2 * number)
            noise.recording(root / "without" / f"{number}.wav", 60 * MINUTES / 2, seed=2 * number + 1)
        _, seconds, memory_mb = own_program("--prepare", str(root))
        size = sum(path.stat().st_size for path in (root / "data").rglob("*") if path.is_file())
        costs["prepare_s_per_hour"] = seconds / (MINUTES * times / 60)
        costs["bytes_per_hour"] = size / (MINUTES * times / 60)
        yield [
            "preparing, one process",
            f"{MINUTES * times} min, {size / 1e9:.2f} GB written",
            f"{seconds:.1f} s",
            f"{memory_mb:,.0f} MB",
        ]


def prepare_alone(root: Path) -> None:
    """Prepare the recordings below `root`."""
    config = dataclasses.replace(load_config(CONFIG).data, activity_on="off")
    prepare(Folders(root / "with", root / "without"), config, root / "data", num_workers=1, progress=False)


def reading(work: Path, costs: dict[str, float]) -> Iterator[Row]:
    """Opening the data, the first batch, and the following ones."""
    for times in TIMES:
        begin = time.perf_counter()
        dataset = PatchDataset.open(work / f"data_{times}" / "data")
        batches = dataset.batches("train", batch_size=8, seed=0, disjoint_tracks=False, with_target=False)
        next(batches)
        first_s = time.perf_counter() - begin
        next(batches)  # TensorFlow is imported here.
        begin = time.perf_counter()
        for _ in range(100):
            next(batches)
        each_s = (time.perf_counter() - begin) / 100
        stored = sum(len(dataset.index("train", signal).offset) for signal in ("mixture", "accompaniment"))
        arrays = dataclasses.astuple(dataset.index("train", "mixture"))
        costs |= {
            "records_per_s": 16 / each_s,
            "record_bytes": float(np.prod(dataset.spec.patch_shape) * np.dtype(dataset.spec.dtype).itemsize),
            # The index, and the permutation of an epoch with the numbers that it is sorted by.
            "index_bytes": sum(array.dtype.itemsize for array in arrays) + 16.0,
            "records_per_hour": stored / (MINUTES * times / 60),
        }
        time_taken = f"opened and first {first_s:.2f} s, then {1e3 * each_s:.1f} ms"
        yield ["a batch of 8 + 8 clips", f"out of {stored}", time_taken, "-"]


def separating(work: Path) -> Iterator[Row]:
    """Songs from the shell, start included."""
    for times in TIMES:
        song = noise.recording(work / f"song_{times}.wav", 60 * times)
        command = [sys.executable, "-m", "jaxpu", "separate", "starter", str(song), "-o", str(work / "separated" / str(times))]
        _, seconds, memory_mb = _measured(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True))
        yield ["`jaxpu separate starter`, stereo", f"{times} min", f"{seconds:.1f} s", f"{memory_mb:,.0f} MB"]


def devices() -> Iterator[Row]:
    """The same step, divided."""
    for count in (1, 2, 4, 8):
        flags = f"--xla_force_host_platform_device_count={count}"
        (*_, seconds), _, memory_mb = own_program("--step", "", "0", XLA_FLAGS=flags)
        yield [
            "a step of `demo_remix`, 8 + 8 clips",
            f"{count} simulated device{'s' * (count > 1)}",
            f"{float(seconds):.2f} s",
            f"{memory_mb:,.0f} MB",
        ]
    flags = "--xla_force_host_platform_device_count=4"
    command = [sys.executable, __file__, "--step", "localhost:29511"]
    with subprocess.Popen([*command, "1"], env=os.environ | {"XLA_FLAGS": flags}, stdout=subprocess.DEVNULL):
        # gloo prints, too.
        (*_, seconds), _, memory_mb = own_program(*command[2:], "0", XLA_FLAGS=flags)
    yield ["the same", "2 processes with 4 devices each", f"{float(seconds):.2f} s", f"{memory_mb:,.0f} MB each"]


def seconds_per_step(address: str, process: str) -> float:
    """Median time of a step on all devices of this process, or of both that meet at an address."""
    cluster = Cluster(address, 2, int(process)) if address else Cluster()
    with parallel.joined(cluster):
        config = loaded("demo_remix")
        local = config.train.batch_size // parallel.process_count()
        batch: Any = {name: array[:local] for name, array in jax.device_get(batch_of(config)).items()}
        batch["index"] = batch["index"] + local * parallel.process_index()
        step = parallel.over_devices(make_train_step(config, parallel.convolution_form()), donate_state=True)
        state, times = parallel.spread(init_state(config)), []
        for _ in range(STEPS + 1):
            begin = time.perf_counter()
            state, _ = jax.block_until_ready(step(state, batch, jax.random.key(0)))
            times.append(time.perf_counter() - begin)
        return float(np.median(times[1:]))


def estimates(costs: dict[str, float]) -> dict[str, Any]:
    """Estimate the costs of sets of recordings, in proportion to their hours, as the measurements suggest."""
    rows = []
    for name, hours, gpus in SETS:
        records = costs["records_per_hour"] * hours
        rows.append(
            [
                name,
                duration(costs["prepare_s_per_hour"] * hours),
                data_size(costs["bytes_per_hour"] * hours),
                data_size(costs["index_bytes"] * records),
                str(gpus),
                duration(records / (gpus * STEP_RECORDS_S)),
                data_size(STEP_RECORDS_S * gpus * costs["record_bytes"]) + "/s",
            ]
        )
    columns = ["recordings", "preparing, one core", "on disk", "index in memory, per process", "GPUs", "an epoch", "read"]
    machine = (
        f"Estimated from the table above, in proportion to the hours. {STEP_RECORDS_S:,} records a second are the most that one "
        "GPU took so far: the experiments' network, with small records, on an NVIDIA H200."
    )
    return {"commands": ["python benchmarks/scaling.py"], "machine": machine, "columns": columns, "rows": rows}


def duration(seconds: float) -> str:
    """Seconds in a unit that makes them legible."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s"


def data_size(number: float) -> str:
    """Bytes in a unit that makes them legible."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:,.1f} {unit}"
    return f"{number / 1e3:,.0f} kB"


if __name__ == "__main__":
    main()
