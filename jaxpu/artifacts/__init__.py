"""Files that outlive a run: checkpoints, archives, exported programs, model cards and their descriptions."""
