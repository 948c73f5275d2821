"""A linear rule that tells two sets of recordings apart, and how often it does."""

import numpy as np

_FOLDS = 10
_SHRINKAGE = 0.5


def held_out_scores(recordings: list[np.ndarray], num_first: int) -> np.ndarray:
    """Score recordings by a linear discriminant of their clips with shrunk covariance, in ten-fold cross-validation.

    Args:
        recordings: features, each (clips, features); those of the first set first.
        num_first: number of recordings in the first set.

    Returns:
        float64 (recordings,): mean over the clips; positive for recordings like the first set.
    """
    is_first = np.arange(len(recordings)) < num_first
    fold = np.concatenate([np.arange(num_first), np.arange(len(recordings) - num_first)]) % _FOLDS
    scores = np.empty(len(recordings))
    for held_out in range(_FOLDS):
        seen = [(clips, first) for clips, first, f in zip(recordings, is_first, fold, strict=True) if f != held_out]
        every = np.concatenate([clips for clips, _ in seen])
        centre, deviation = every.mean(0), every.std(0) + 1e-6
        means, covariances = [], []
        for wanted in (False, True):
            members = [(clips - centre) / deviation for clips, first in seen if first == wanted]
            means.append(np.mean([clips.mean(0) for clips in members], axis=0))  # Here long recordings count no more than others.
            covariances.append(np.cov(np.concatenate(members).T))
        covariance = (1 - _SHRINKAGE) * np.mean(covariances, axis=0) + _SHRINKAGE * np.eye(len(centre))
        direction = np.linalg.solve(covariance, means[1] - means[0])
        middle = direction @ (means[0] + means[1]) / 2
        for number in np.flatnonzero(fold == held_out):
            scores[number] = ((recordings[number] - centre) / deviation).mean(0) @ direction - middle
    return scores


def area_under_roc(scores: np.ndarray, num_first: int) -> float:
    """Share of all pairs in which the recording of the first set has the higher score; equal scores count half.

    Args:
        scores: (recordings,), those of the first set first.
        num_first: number of recordings in the first set.
    """
    first, second = scores[:num_first, None], scores[num_first:]
    return float((first > second).mean() + (first == second).mean() / 2)


def standard_error(num_first: int, num_second: int) -> float:
    """Standard error of the area under the ROC curve between two equal sets (Hanley and McNeil 1982, equation 1 at 1/2)."""
    return float(np.sqrt((num_first + num_second + 1) / (12 * num_first * num_second)))
