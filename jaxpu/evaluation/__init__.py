"""Scores of a model on recordings with stems, beside baselines, and pages that show them."""
