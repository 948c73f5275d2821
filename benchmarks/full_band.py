"""Compare the U-Net of `recordings` with the demo's patch CNN, trained without stems and with them.

    python benchmarks/full_band.py CORPUS --work DIR

CORPUS has the layout of MUSDB18-HQ.  Two thirds of its training songs are the recordings.  For vocals their marked passages are
target-free, as in benchmarks/marks.py; for `other`, which never rests, the accompaniment of the other songs is.  Supervision has
the stems of the same recordings.  All are scored on the test songs.  The rows go to
benchmarks/results/measured/full-band.json, in place of those of the same networks.  A run that was killed resumes.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from marks import config_of, divided, make_material, mean_and_singles
from run_experiments import training_seconds
from tables import slug

from data_pipeline.files import available_processors, write_text
from data_pipeline.prepare import prepare
from data_pipeline.tracks import Folders, Musdb18HQ, Source
from jaxpu.artifacts.checkpoints import load_model
from jaxpu.config import BootstrapConfig, Config, SupervisedConfig
from jaxpu.config_files import load_config
from jaxpu.evaluation.evaluate import EvaluationOptions, evaluate
from jaxpu.monitoring.run_log import read_log
from jaxpu.training.loop import ASKED_TO_STOP, train

ROOT = Path(__file__).resolve().parent.parent
CNN, U_NET = "patch CNN, mono, 11 kHz", "U-Net, stereo, 44.1 kHz"
Found = dict[tuple[str, str], dict[str, list[tuple[float, float]]]]
"""By network and way, then by target, the score and the seconds of each seed."""

BOOTSTRAP, SUPERVISED = "bootstrap, without stems", "supervised, stems of the same songs"
MARKED_TARGETS = ("vocals",)
"""Targets whose rests are marked; for the others, target-free recordings are the accompaniment of other songs."""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder of recordings, marks, prepared data and runs")
    parser.add_argument("--test", type=Path, help="the songs that score, in the same layout (default: CORPUS)")
    parser.add_argument("--targets", nargs="+", default=["vocals", "other"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", default=[BOOTSTRAP, SUPERVISED], choices=[BOOTSTRAP, SUPERVISED])
    parser.add_argument("--networks", nargs="+", default=[CNN, U_NET], choices=[CNN, U_NET])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "measured" / "full-band.json")
    arguments = parser.parse_args(args)
    for target in arguments.targets:
        make_material(arguments.corpus, target, arguments.work / target)
        make_stems(arguments.corpus, target, arguments.work / target)
    found: Found = {}
    for seed in arguments.seeds:
        for target in arguments.targets:
            for way in arguments.ways:
                for network in arguments.networks:
                    score = run(arguments, target, network, way, seed)
                    print(f"{target}, {network}, {way}, seed {seed}: {score[0]:.2f} dB, {score[1]:.0f} s", flush=True)
                    found.setdefault((network, way), {each: [] for each in arguments.targets})[target].append(score)
                    write_table(arguments, found)


def make_stems(corpus: Path, target: str, work: Path) -> None:
    """Put the recordings' stems below `work`/stems, in the layout of MUSDB18-HQ, and accompaniments in `work`/accompaniments."""
    songs, others = divided(corpus, target)
    for folder in (work / "stems" / "train", work / "accompaniments"):
        folder.mkdir(parents=True, exist_ok=True)
    for song in songs:
        link = work / "stems" / "train" / song.name
        if not link.exists():
            link.symlink_to((corpus / "train" / song.name).resolve())
    for other in others:
        path = work / "accompaniments" / f"{other.name}.wav"
        if not path.exists():
            assert other.accompaniment is not None
            soundfile.write(path, other.accompaniment.read().T, other.accompaniment.sample_rate, "FLOAT")


def config_of_run(target: str, network: str, way: str, seed: int, steps: int) -> Config:
    """The config of benchmarks/marks.py, maybe with the network, patches and shifts of `recordings`, maybe supervised."""
    config, shift = config_of(target, seed, steps, 0.5), 0.0
    if network == U_NET:
        recordings = load_config("recordings")
        assert isinstance(recordings.objective, BootstrapConfig)
        assert isinstance(config.objective, BootstrapConfig)
        data, shift = dataclasses.replace(config.data, patch=recordings.data.patch), recordings.objective.shift_semitones
        objective = dataclasses.replace(config.objective, shift_semitones=shift)
        config = dataclasses.replace(config, data=data, model=recordings.model, objective=objective)
    if way == SUPERVISED:
        supervised = SupervisedConfig(loss="ratio_mask", remix_songs=True, shift_semitones=shift)
        config = dataclasses.replace(config, objective=supervised)
    return config


def run(arguments: argparse.Namespace, target: str, network: str, way: str, seed: int) -> tuple[float, float]:
    """Train once; return the mean SI-SDR improvement over the test songs in dB, and the seconds of training."""
    work, name = arguments.work / target, f"{slug(network)}_{slug(way)}"
    test = arguments.test or arguments.corpus
    scores, run_dir = work / "scores" / f"{name}_{seed}_{test.name}.json", work / "runs" / f"{name}_{seed}"
    if scores.exists():
        improvement, seconds = json.loads(scores.read_text())
        return float(improvement), float(seconds)
    config = config_of_run(target, network, way, seed, arguments.steps)
    if way == SUPERVISED:
        source: Source = Musdb18HQ(work / "stems")
    elif target in MARKED_TARGETS:
        source = Folders(work / "songs", None, work / "labels")
    else:
        source = Folders(work / "songs", work / "accompaniments")
    data = work / "data" / name
    prepare(source, config.data, data)
    if train(config, data, run_dir)["stopped"] == ASKED_TO_STOP:
        sys.exit(f"{network}, {way}, seed {seed}: {ASKED_TO_STOP}.")
    options = EvaluationOptions(num_workers=min(2, available_processors()), progress=False)
    table = evaluate(load_model(run_dir), Musdb18HQ(test), work / "evaluation" / f"{name}_{seed}", options)
    improvements = [score.to_json()["si_sdr_improvement"] for score in table.tracks["model"].values()]
    improvement = float(np.mean([value for value in improvements if value is not None]))
    seconds = training_seconds(read_log(run_dir), config.train.batch_size)
    scores.parent.mkdir(exist_ok=True)
    write_text(scores, json.dumps([improvement, seconds]))
    return improvement, seconds


def write_table(arguments: argparse.Namespace, found: Found) -> None:
    """Write the table of docs/results.md; rows of other networks stay, if they were measured on the same targets and steps."""
    targets = arguments.targets
    rows = []
    for (network, way), cells in found.items():
        improvements = {target: [each[0] for each in cells[target]] for target in targets}
        supervised = found.get((network, SUPERVISED), {target: [] for target in targets})
        shares = []
        for target in targets:
            best = [each[0] for each in supervised[target]]
            comparable = way == BOOTSTRAP and len(best) == len(improvements[target]) > 0
            shares.append(f"{np.mean(improvements[target]) / np.mean(best):.2f}" if comparable else "")
        seconds = [each[1] for target in targets for each in cells[target]]
        singles = [mean_and_singles(improvements[target]) for target in targets]
        rows.append([network, way, *singles, *shares, f"{np.median(seconds):.0f} s"])
    table = {
        "commands": ["python benchmarks/full_band.py CORPUS --work DIR"],
        "machine": (
            "SI-SDR improvement on the test songs in dB, mean and single seeds, and its share of that of the same network with "
            f"stems; {arguments.steps} steps of 6 + 6 clips of 1.5 s. Training: median, one of 2 CPU cores, the other one busy."
        ),
        "columns": ["network", "trained by", *targets, *(f"{target}, share" for target in targets), "training"],
    }
    old = json.loads(arguments.results.read_text(encoding="utf-8")) if arguments.results.exists() else {}
    if all(old.get(key) == table[key] for key in ("machine", "columns")):
        rows += [row for row in old["rows"] if row[0] not in arguments.networks]
    rows.sort(key=lambda row: ([BOOTSTRAP, SUPERVISED].index(row[1]), [CNN, U_NET].index(row[0])))
    write_text(arguments.results, json.dumps({**table, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
