"""Training killed with -9 at random moments: whenever it ends, it ends with the parameters of a run that nobody killed.

python tests/faults/kills.py --kills 50 --seed 0
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from cases import NETWORK, SETTINGS

from jaxpu.artifacts.checkpoints import RunCheckpoints, load_model
from jaxpu.core.step import init_state

# A teacher from step 20 on; ten checkpoints.
STEPS = ["--train.num-steps=120", "--train.eval-every=12", "--train.batch-size=4", "--objective.remix-steps=20"]


def jaxpu(root: Path, *words: str) -> subprocess.Popen[bytes]:
    """Start a command in a folder."""
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return subprocess.Popen([sys.executable, "-m", "jaxpu", *words], cwd=root, env=environment, stderr=subprocess.DEVNULL)


def finished(root: Path, *words: str) -> float:
    """Run a command to its end: seconds."""
    begin = time.monotonic()
    if status := jaxpu(root, *words).wait():
        raise SystemExit(f"jaxpu {' '.join(words)} ended with status {status}.")
    return time.monotonic() - begin


def state_of(run: Path) -> list[np.ndarray]:
    """All arrays of the last checkpoint of a run."""
    config = load_model(run).config
    with RunCheckpoints(run) as checkpoints:
        state = checkpoints.restore(init_state(config))[0]
    return [np.asarray(leaf) for leaf in jax.tree.leaves(jax.device_get(state))]


def main() -> int:
    """Kill and resume until there were as many kills as asked for; compare every run that ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory(prefix="jaxpu-kills-") as folder:
        root = Path(folder)
        finished(root, "synthesize", "corpus", "--train", "6", "--test", "1", "--seconds", "4", "--sample-rate", "8000")
        finished(root, "prepare", "demo", "--musdb18hq", "corpus", *SETTINGS, "--workers", "1")
        train = ("train", "demo", *SETTINGS, *NETWORK, *STEPS, "--run")
        whole_s = finished(root, *train, "straight")
        expected = state_of(root / "straight")
        kills, ends, run = 0, 0, root / "killed"
        while kills < options.kills or run.exists():
            process = jaxpu(root, *train, "killed")
            try:
                # Most moments lie in the training, after some ten seconds of imports and compilation.
                process.wait(timeout=rng.uniform(0.0, 1.2) * whole_s if kills < options.kills else None)
            except subprocess.TimeoutExpired:
                process.kill()
            if process.wait() == -signal.SIGKILL:
                kills += 1
                saved = sorted(int(path.name) for path in (run / "checkpoints").glob("*") if path.name.isdigit())
                print(f"kill {kills}: checkpoints {saved}", flush=True)
                continue
            if process.returncode:
                raise SystemExit(f"After {kills} kills training ended with status {process.returncode}: run it in {root}.")
            for actual, wanted in zip(state_of(run), expected, strict=True):
                np.testing.assert_array_equal(actual, wanted)
            ends += 1
            shutil.rmtree(run)
        print(f"{kills} kills, {ends} runs that ended, each with the {len(expected)} arrays of the run that nobody killed.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
