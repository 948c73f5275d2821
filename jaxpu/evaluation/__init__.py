"""Evaluation of models on recordings with stems: scores, baselines, excerpts and the HTML report."""
