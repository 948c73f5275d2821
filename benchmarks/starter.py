"""Score the models that come with jaxpu on songs with stems that they were not trained on.

    python benchmarks/starter.py --songs NAME=CORPUS ... --work DIR

A CORPUS has the layout of MUSDB18-HQ; its test songs in which the target plays are scored.  The table goes to
benchmarks/results/measured/starter.json.
"""

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tables import slug

from data_pipeline.files import available_processors, write_text
from data_pipeline.tracks import Musdb18HQ
from jaxpu.artifacts.checkpoints import load_model
from jaxpu.artifacts.starters import STARTERS
from jaxpu.evaluation.evaluate import EvaluationOptions, evaluate

RESULTS = Path(__file__).resolve().parent / "results" / "measured" / "starter.json"
IDEAL = "oracle ratio mask"


def main(args: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", nargs="+", required=True, metavar="NAME=CORPUS")
    parser.add_argument(
        "--models", nargs="+", default=list(STARTERS.values()), help="run directories, archives or names of starters"
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of the scores")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args(args)
    corpora = dict(each.split("=", 1) for each in arguments.songs)
    rows = []
    for model, (name, corpus) in itertools.product(arguments.models, corpora.items()):
        options = EvaluationOptions(num_workers=min(2, available_processors()), progress=False)
        folder = arguments.work / slug(f"{model} {name}")
        table = evaluate(load_model(model), Musdb18HQ(Path(corpus)), folder, options)
        scores = {method: [score.to_json() for score in table.tracks[method].values()] for method in ("model", IDEAL)}
        rows.append([f"`{model}`", name, *row(scores)])
        print(" | ".join(rows[-1]), flush=True)
    table_of_results = {
        "commands": ["python benchmarks/starter.py --songs NAME=CORPUS ... --work DIR"],
        "machine": "In dB. SI-SDR improvement: mean over songs. SDR of museval: median over songs of the median over seconds.",
        "columns": ["model", "songs", "number", "SI-SDR improvement", "worst song", "SDR", "SDR of the ideal ratio mask"],
        "rows": rows,
    }
    write_text(arguments.results, json.dumps(table_of_results, indent=1) + "\n")


def row(scores: dict[str, list[dict[str, float | None]]]) -> list[str]:
    """Cells of one row: songs with the target, improvement with the worst song, SDR, and that of the ideal mask."""
    improvements = _known(scores["model"], "si_sdr_improvement")
    sdr = [float(np.median(_known(scores[method], "sdr_target"))) for method in ("model", IDEAL)]
    return [str(len(improvements)), *(f"{value:.1f}" for value in (np.mean(improvements), min(improvements), *sdr))]


def _known(scores: list[dict[str, float | None]], name: str) -> list[float]:
    return [value for score in scores if (value := score[name]) is not None]


if __name__ == "__main__":
    main()
