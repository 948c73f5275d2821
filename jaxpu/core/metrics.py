"""SDR and scale-invariant SDR: pure functions over the last axis, in decibels.

They take JAX arrays, also traced ones, and NumPy arrays, and compute in the library and precision of their arguments.
"""

from typing import Any

LIMIT_DB = 100.0
"""Scores lie within +-LIMIT_DB: a float32 residual cannot tell a better estimate from a perfect one."""


def sdr(reference: Any, estimate: Any) -> Any:
    """Signal-to-distortion ratio without a filter, 10 log10(|r|^2 / |r - e|^2): the SDR of museval's (v4) BSS eval.

    A silent estimate has exactly 0 dB.

    Args:
        reference: real (..., samples), floating point.
        estimate: the same shape.

    Returns:
        (...) in dB, within +-LIMIT_DB; NaN where the reference is silent, for which the ratio is not defined.

    Raises:
        ValueError: the shapes differ.
    """
    xp = _namespace(reference, estimate)
    return _ratio_db(xp, _energy(xp, reference), _energy(xp, reference - estimate), _energy(xp, reference))


def si_sdr(reference: Any, estimate: Any) -> Any:
    """Scale-invariant SDR: the SDR of the estimate to the reference scaled by least squares (Le Roux et al. 2019).

    Means are not removed.  A silent estimate, and one orthogonal to the reference, has -LIMIT_DB.

    Args:
        reference: real (..., samples), floating point.
        estimate: the same shape.

    Returns:
        (...) in dB, within +-LIMIT_DB; NaN where the reference is silent, for which the ratio is not defined.

    Raises:
        ValueError: the shapes differ.
    """
    xp = _namespace(reference, estimate)
    energy = _energy(xp, reference)
    scale = xp.sum(reference * estimate, axis=-1) / xp.where(energy > 0, energy, 1)
    scaled = scale[..., None] * reference
    return _ratio_db(xp, _energy(xp, scaled), _energy(xp, estimate - scaled), energy)


def _namespace(reference: Any, estimate: Any) -> Any:
    if reference.shape != estimate.shape:
        raise ValueError(f"The reference has shape {reference.shape} and the estimate {estimate.shape}; they must be the same.")
    return estimate.__array_namespace__()


def _energy(xp: Any, signal: Any) -> Any:
    return xp.sum(signal * signal, axis=-1)


def _ratio_db(xp: Any, signal: Any, noise: Any, reference: Any) -> Any:
    """10 log10(signal / noise), clipped; no division and no logarithm ever sees a zero, so that gradients are finite too."""
    known = (signal > 0) & (noise > 0)
    ratio = 10 * xp.log10(xp.where(known, signal, 1) / xp.where(known, noise, 1))
    extreme = xp.where(signal > 0, LIMIT_DB, -LIMIT_DB)
    clipped = xp.clip(xp.where(known, ratio, extreme), -LIMIT_DB, LIMIT_DB)
    return xp.where(reference > 0, clipped, xp.nan)
