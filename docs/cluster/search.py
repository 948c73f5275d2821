"""A search over machines: every worker runs this program, and Optuna's storage shares the study between them.

    srun --ntasks=8 --gpus-per-task=1 python docs/cluster/search.py CONFIG data/CONFIG runs/search --trials 10

Each worker trains by itself, on its own devices, and does that many trials.  Copy it and change what is searched.
"""

import argparse
import dataclasses
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from jaxpu.config_files import load_config
from jaxpu.training.loop import TrainingError, train


def main() -> None:
    """Adds trials to the study in a folder, or begins one; prints the best so far."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="name or Python file")
    parser.add_argument("prepared", type=Path, help="what `jaxpu prepare` wrote")
    parser.add_argument("search", type=Path, help="folder of the study and of the runs, which all workers see")
    parser.add_argument("--trials", type=int, default=10, help="of this worker")
    arguments = parser.parse_args()
    config = load_config(arguments.config)

    def objective(trial: optuna.Trial) -> float:
        settings = dataclasses.replace(config.train, learning_rate=trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True))
        model = dataclasses.replace(config.model, dropout_rate=trial.suggest_float("dropout_rate", 0.0, 0.4))
        chosen = dataclasses.replace(config, train=settings, model=model)
        results = train(chosen, arguments.prepared, arguments.search / f"trial-{trial.number}", progress=False)
        # By `select_by`.  A held-out loss compares runs that share the hyperparameters of the objective, as these do.
        return results["best_score"]

    arguments.search.mkdir(parents=True, exist_ok=True)
    # A journal is safe on network file systems; SQLite is not.
    storage = JournalStorage(JournalFileBackend(str(arguments.search / "journal.log")))
    study = optuna.create_study(study_name="jaxpu", storage=storage, direction="maximize", load_if_exists=True)
    study.optimize(objective, n_trials=arguments.trials, catch=TrainingError)
    print(f"Best so far: {study.best_value:.4g} in {arguments.search / f'trial-{study.best_trial.number}'}: {study.best_params}")


if __name__ == "__main__":
    main()
