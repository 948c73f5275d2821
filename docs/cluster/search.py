"""Search hyperparameters on several machines: every worker runs this program, and they share one Optuna study.

    srun --ntasks=8 --gpus-per-task=1 python docs/cluster/search.py CONFIG data/CONFIG runs/search --trials 10

Each worker trains alone on its own devices, for the given number of trials. Copy the program and change what it searches.
"""

import argparse
import dataclasses
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from jaxpu import load_config
from jaxpu.training.loop import ASKED_TO_STOP, TrainingError, train


def main() -> None:
    """Add trials to the study in a folder, or start one; print the best trial so far."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="name of a config, or a Python file")
    parser.add_argument("prepared", type=Path, help="folder that `jaxpu prepare` wrote")
    parser.add_argument("search", type=Path, help="folder of the study and of the runs; all workers must see it")
    parser.add_argument("--trials", type=int, default=10, help="trials of this worker")
    arguments = parser.parse_args()
    config = load_config(arguments.config)

    def objective(trial: optuna.Trial) -> float:
        settings = dataclasses.replace(
            config.train,
            learning_rate=trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True),
            gradient_clip=trial.suggest_float("gradient_clip", 0.1, 10.0, log=True),
        )
        chosen = dataclasses.replace(config, train=settings)
        results = train(chosen, arguments.prepared, arguments.search / f"trial-{trial.number}", progress=False)
        if results["stopped"] == ASKED_TO_STOP:  # By Ctrl-C or the cluster: its score would be that of fewer steps.
            study.stop()
            raise optuna.TrialPruned
        if config.train.select_by == "last":
            return -results["estimated_error"]
        # The score that `select_by` names. Held-out losses can be compared if the objective's hyperparameters are equal, as here.
        return results["best_score"]

    arguments.search.mkdir(parents=True, exist_ok=True)
    # A journal is safe on network file systems; SQLite is not.
    storage = JournalStorage(JournalFileBackend(str(arguments.search / "journal.log")))
    study = optuna.create_study(study_name="jaxpu", storage=storage, direction="maximize", load_if_exists=True)
    study.optimize(objective, n_trials=arguments.trials, catch=TrainingError)
    if not study.get_trials(states=[optuna.trial.TrialState.COMPLETE]):
        raise SystemExit("No trial is complete yet.")
    print(f"Best so far: {study.best_value:.4g} in {arguments.search / f'trial-{study.best_trial.number}'}: {study.best_params}")


if __name__ == "__main__":
    main()
