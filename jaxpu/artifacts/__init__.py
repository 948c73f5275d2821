"""Artifacts of training: checkpoints, archives to share, model cards, and descriptions of models, data and configs."""
