"""Rounding of the target so that target and accompaniment, as they are stored, sum to the mixture."""

import numpy as np


def summable(mixture: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Round `target` so that, in float32, target + (mixture - target) == mixture wherever that is possible.

    A difference of float32 numbers is exact when both are multiples of a step of which neither they nor it exceed 2^24.  So
    every sample is rounded to the spacing of float32 at the largest of mixture, target and accompaniment.

    Args:
        mixture: float32.
        target: float32, of the same shape.
    """
    exact = target.astype(np.float64)
    largest = np.maximum(np.maximum(np.abs(mixture), np.abs(target)), np.abs(mixture - exact))
    step = np.spacing(largest.astype(np.float32)).astype(np.float64)
    return (np.rint(exact / step) * step).astype(np.float32)


def quantized(mixture: np.ndarray, target: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Round and limit mixture and target for an integer format, so that target and accompaniment stay within full scale.

    Args:
        mixture: float32.
        target: float32, of the same shape.
        step: of the format, which holds -1 to 1 - step.

    Returns:
        Mixture and target, float64: the mixture clipped to full scale, the target a multiple of `step`.
    """
    low, high = -1.0, 1.0 - step
    clipped = np.clip(mixture.astype(np.float64), low, high)
    # Multiples of the step, too, so that rounding cannot push the accompaniment beyond full scale.
    least = np.maximum(low, np.ceil((clipped - high) / step) * step)
    most = np.minimum(high, np.floor((clipped - low) / step) * step)
    return clipped, np.clip(np.rint(target / step) * step, least, most)
