"""Try a network of full size on CPUs: eight devices, a run that is killed, an exported program.

    python benchmarks/full_size.py --work DIR

The config is `musdb18`, with clips of 8 hops, 8 + 8 of them, in float32.  Eight simulated devices train ten steps as one does; a
run that is killed resumes to the bit; the exported program separates as the model does.  The table goes to
benchmarks/results/measured/full-size.json.
"""

import argparse
import dataclasses
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import optax

import jaxpu.core.models.unet
import jaxpu.core.step
from data_pipeline.files import write_text
from jaxpu import load_config, load_model, parallel, separate_waveform
from jaxpu.artifacts.stablehlo import serialize
from jaxpu.config import BootstrapConfig, Config
from jaxpu.core.step import init_state, make_train_step
from jaxpu.training.memory import batch_shapes

ROOT = Path(__file__).resolve().parent.parent
NAME, CLIPS, STEPS, DEVICES, RATE = "musdb18", 8, 10, 8, 0.02
COMMAND = [sys.executable, "-m", "jaxpu"]


def main(args: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of songs, runs and recordings")
    parser.add_argument("--on-eight-devices", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "measured" / "full-size.json")
    arguments = parser.parse_args(args)
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.on_eight_devices:
        print(json.dumps(eight_and_one()))
        return
    state = jax.eval_shape(lambda: init_state(short()))
    rows = [["weights", f"{sum(leaf.size for leaf in jax.tree.leaves(state.params)):,}"]]
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}"}
    program = [sys.executable, __file__, "--work", str(arguments.work), "--on-eight-devices"]
    found = json.loads(subprocess.run(program, env=os.environ | flags, stdout=subprocess.PIPE, check=True).stdout)
    rows += [
        [f"{DEVICES} devices against one, {STEPS} steps with softplus: {name}", f"{value:.1e}"] for name, value in found.items()
    ]
    rows.append(["a killed run, resumed: arrays that differ from an uninterrupted run's", killed_and_resumed(arguments.work)])
    rows.append(["exported program against the model: largest difference", f"{exported(arguments.work):.1e}"])
    table = {
        "commands": ["python benchmarks/full_size.py --work DIR"],
        "machine": f"Config {NAME}, clips of 8 hops, {CLIPS} + {CLIPS} of them, float32; 2 CPU cores.",
        "columns": ["", "measured"],
        "rows": rows,
    }
    write_text(arguments.results, json.dumps(table, indent=1) + "\n")


def short() -> Config:
    """The config with short clips and few of them, in float32."""
    config = load_config(NAME)
    assert isinstance(config.objective, BootstrapConfig)
    patch = dataclasses.replace(config.data.patch, clip_samples=8 * config.data.patch.hop_length)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, patch=patch),
        objective=dataclasses.replace(config.objective, remix_steps=STEPS // 2),
        train=dataclasses.replace(
            config.train, batch_size=CLIPS, num_steps=STEPS, eval_every=STEPS // 2, warmup_steps=0, mixed_precision=False
        ),
    )


def options() -> list[str]:
    """The changes of `short`, as options of the command line."""
    config = short()
    return (
        f"--data.patch.clip-samples {config.data.patch.clip_samples} --objective.remix-steps {STEPS // 2} "
        f"--train.batch-size {CLIPS} --train.num-steps {STEPS} --train.eval-every {STEPS // 2} --train.warmup-steps 0 "
        "--train.no-mixed-precision"
    ).split()


def eight_and_one() -> dict[str, float]:
    """Train a few steps on one device and on all; return relative differences of the losses and of the change of the weights.

    By gradient descent: Adam divides by the size of gradients, which magnifies their rounding.  And with softplus in place of
    ReLU: rounding takes a millionth of the units across ReLU's kink, where a gradient jumps.  In a network of this size that
    changes the gradient by a hundredth, as another order of the clips on one device does, too.
    """
    assert jax.device_count() == DEVICES
    with (
        mock.patch.object(jaxpu.core.step, "make_optimizer", return_value=optax.sgd(RATE)),
        mock.patch.object(jaxpu.core.models.unet.nn, "relu", jax.nn.softplus),
    ):
        return _eight_and_one(short(), jax.random.key(0))


def _eight_and_one(config: Config, key: jax.Array) -> dict[str, float]:
    step = make_train_step(config, parallel.convolution_form())
    one, eight = jax.jit(functools.partial(step, axis_name=None)), parallel.over_devices(step)
    begin = state_one = state_eight = init_state(config)
    losses = []
    for number in range(STEPS):
        batch = noise(config, number)
        state_one, expected = one(state_one, batch, key)
        state_eight, actual = eight(state_eight, batch, key)
        losses.append(abs(float(actual["loss"]) / float(expected["loss"]) - 1))
        print(f"step {number + 1}: loss {float(actual['loss']):.5f}", file=sys.stderr, flush=True)

    def norm(first: Any, second: Any) -> float:
        return float(optax.tree.norm(jax.tree.map(np.subtract, jax.device_get(first), jax.device_get(second))))

    return {
        "loss": max(losses),
        "change of the weights": norm(state_eight.params, state_one.params) / norm(state_one.params, begin.params),
    }


def noise(config: Config, seed: int) -> dict[str, np.ndarray]:
    """A batch of noise, mixtures louder than positives."""
    generator = np.random.default_rng(seed)
    batch = {name: generator.standard_normal(shape.shape, np.float32) for name, shape in batch_shapes(config).items()}
    batch["unlabeled"] *= 2
    return batch | {"index": np.arange(CLIPS, dtype=np.int32)}


def killed_and_resumed(work: Path) -> str:
    """Train twice from the shell, kill the second run after its first checkpoint, resume it; return how many arrays differ."""
    songs, data = work / "songs", work / "data"
    shell("synthesize", songs, "--train", 6, "--test", 1, "--seconds", 6, "--sample-rate", 44_100)
    shell("prepare", NAME, "--musdb18hq", songs, "-o", data, *options()[:2])
    runs = [work / "runs" / name for name in ("straight", "killed")]
    for run in runs:
        shutil.rmtree(run, ignore_errors=True)
    command = ["train", NAME, "--prepared", data, *options(), "--run"]
    shell(*command, runs[0])
    process = subprocess.Popen([*COMMAND, *map(str, command), str(runs[1])])
    while not (runs[1] / "checkpoints" / str(STEPS // 2)).exists():
        time.sleep(0.05)
        assert process.poll() is None, "ended before its first checkpoint"
    process.send_signal(signal.SIGKILL)
    process.wait()
    shell(*command, runs[1])
    first, second = (jax.tree.leaves(load_model(run, which="last").variables) for run in runs)
    differing = sum(not np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    return f"{differing} of {len(first)}"


def exported(work: Path) -> float:
    """Largest difference between the exported program and the model on noise of unit deviation."""
    model = load_model(work / "runs" / "straight", which="last")
    waveform = np.random.default_rng(0).standard_normal((2, 3 * 44_100), np.float32)
    model = dataclasses.replace(model, info={})  # Without the training level: the program leaves levels to its user.
    separate = jax.export.deserialize(bytearray(serialize(model))).call
    return float(np.max(np.abs(np.asarray(separate(waveform[None])[0]) - separate_waveform(model, waveform, 44_100))))


def shell(*arguments: object) -> None:
    """Run a command of jaxpu."""
    subprocess.run([*COMMAND, *map(str, arguments)], check=True)


if __name__ == "__main__":
    main()
