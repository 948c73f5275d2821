"""Replay the logs of trained runs through the watchdog, and count how often it would have been right.

    python benchmarks/watchdog.py RUNS      RUNS: folder of finished runs on data with stems

A line of a log holds means over some steps; the watchdog gets them once for each of these steps.  The warnings in the results of
the experiments are those of the watchdog at the time of training.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tables import is_blank

from jaxpu.monitoring.run_log import read_log
from jaxpu.monitoring.watchdog import Watchdog


def main(args: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder of runs")
    counts = {"hit": 0, "missed": 0, "false": 0, "silent": 0}
    for folder in sorted(parser.parse_args(args).runs.iterdir()):
        lines = read_log(folder)
        num_steps = json.loads((folder / "config.json").read_text(encoding="utf-8"))["train"]["num_steps"]
        validation = [line for line in lines if line["kind"] == "evaluate"]
        if not validation or validation[-1]["step"] < num_steps or "true_kept_energy" not in validation[-1]:
            continue
        step = warned_at(lines)
        blank = is_blank(validation, num_steps)
        verdict = ("hit" if blank else "false") if step else ("missed" if blank else "silent")
        counts[verdict] += 1
        if verdict != "silent":
            kept = " ".join(f"{line['kept_energy'] / line['true_kept_energy']:.2f}" for line in validation)
            print(f"{verdict}: {folder.name}{f', step {step}' if step else ''}; energy kept / true energy: {kept}")
    print(f"{sum(counts.values())} runs: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()))


def warned_at(lines: list[dict[str, Any]]) -> int | None:
    """Step of the first warning that the watchdog gives for a log, or None."""
    watchdog, step = Watchdog(), 0
    for line in lines:
        if line["kind"] == "train":
            while step < line["step"]:
                step += 1
                if watchdog.update(step, line):
                    return step
    return None


if __name__ == "__main__":
    main()
