"""Losses as pure functions of logits.

Every reduction takes `axis_name`: with it, weighted sums *and counts* are summed over devices before any nonlinearity (a clamp, a
ratio), so that the loss is that of the whole batch.  Without it, the arrays are the whole batch.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

Scalar = jax.Array | float


def sigmoid_loss(margin: jax.Array) -> jax.Array:
    """sigmoid(-z) for a margin z, float32 of any shape: bounded, and l(z) + l(-z) = 1 (Kiryo et al. 2017, section 2)."""
    return jax.nn.sigmoid(-margin)


def logistic_loss(margin: jax.Array) -> jax.Array:
    """log(1 + exp(-z)) for a margin z, float32 of any shape: proper, its minimizer is the posterior's logit."""
    return jax.nn.softplus(-margin)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy of sigmoid(logits) with labels from 0 to 1, elementwise: float32 of any shape."""
    return labels * logistic_loss(logits) + (1 - labels) * logistic_loss(-logits)


SURROGATES: dict[str, Callable[[jax.Array], jax.Array]] = {"sigmoid": sigmoid_loss, "logistic": logistic_loss}


Estimator = Literal["unbiased", "non_negative", "absolute", "balanced"]
"""How `pu_loss` estimates the risk."""


class PULoss(NamedTuple):
    """A PU loss and its parts, float32 scalars.

    Attributes:
        loss: what is differentiated.
        risk: the estimate of the risk; it differs from `loss` where the clamp acts.
        positive_risk: the first term, pi * E_P[w l(f)] unless `balanced`.
        negative_risk: the second term before any correction, the bracket E_U[w l(-f)] - pi * E_P[w l(-f)] unless `balanced`.
        clamped: 1 where the correction of the second term acts, else 0.
    """

    loss: jax.Array
    risk: jax.Array
    positive_risk: jax.Array
    negative_risk: jax.Array
    clamped: jax.Array


def total(values: jax.Array, axis_name: str | None = None) -> jax.Array:
    """Sum over all values of all devices: float32 of any shape to a scalar."""
    own = jnp.sum(values)
    return own if axis_name is None else jax.lax.psum(own, axis_name)


def mean(values: jax.Array, axis_name: str | None = None) -> jax.Array:
    """Mean over all bins of all devices: float32 of any shape to a scalar."""
    return total(values, axis_name) / total(jnp.ones_like(values), axis_name)


def weighted_mean(values: jax.Array, weights: jax.Array, axis_name: str | None = None) -> jax.Array:
    """Sum of weights * values over the sum of weights, both over all devices; 0 where all weights are 0."""
    return total(weights * values, axis_name) / jnp.maximum(total(weights, axis_name), 1e-12)


def pu_loss(
    positive_logits: jax.Array,
    unlabeled_logits: jax.Array,
    *,
    class_prior: Scalar,
    positive_weights: jax.Array | float = 1.0,
    unlabeled_weights: jax.Array | float = 1.0,
    surrogate: Callable[[jax.Array], jax.Array] = sigmoid_loss,
    estimator: Estimator = "non_negative",
    beta: Scalar = 0.0,
    gamma: Scalar = 1.0,
    axis_name: str | None = None,
) -> PULoss:
    r"""Weighted positive-unlabeled loss of Ito & Sugiyama 2023 (equations 8 and 9) with one of four estimators.

    .. math::
        \pi E_P[w\,l(f)] + \big(E_U[w\,l(-f)] - \pi E_P[w\,l(-f)]\big)

    E is a sum over bins divided by their *count*, not by the sum of the weights, as in PULSE.

    - `unbiased`: the formula above.
    - `non_negative` (nnPU): where the bracket falls below -beta the loss becomes -gamma * bracket, whose gradient takes the
      last steps back (Kiryo et al. 2017, algorithm 1).  PULSE's code clamps where the bracket is at most beta; at beta = 0
      they agree.
    - `absolute` (absPU): the bracket's absolute value (Hammoudeh & Lowd 2020); beta and gamma have no effect.
    - `balanced` (ImbPU): both classes weigh 1/2 (Su et al. 2021): E_P[w l(f)] / 2 + bracket / (2 (1 - pi)).  The second term
      is clamped as in `non_negative`: beta and gamma apply to all of it, not to the bracket alone.

    Args:
        positive_logits: float32, any shape; positive logits mean class P (target inactive).
        unlabeled_logits: float32, any shape.
        class_prior: pi, in (0, 1).
        positive_weights: w of the positive bins, shape of `positive_logits`, or one number.
        unlabeled_weights: w of the unlabeled bins, shape of `unlabeled_logits`, or one number.
        surrogate: margin loss l.
        estimator: see above.
        beta: tolerance of the clamp, 0 or more.
        gamma: weight of the step back, in [0, 1].
        axis_name: axis of the devices that share the batch.

    Returns:
        The loss and its parts.

    Raises:
        ValueError: on an unknown estimator.
    """
    positive_risk = class_prior * mean(positive_weights * surrogate(positive_logits), axis_name)
    positive_as_negative = class_prior * mean(positive_weights * surrogate(-positive_logits), axis_name)
    negative_risk = mean(unlabeled_weights * surrogate(-unlabeled_logits), axis_name) - positive_as_negative
    if estimator == "balanced":
        positive_risk, negative_risk = positive_risk / (2 * class_prior), negative_risk / (2 * (1 - class_prior))
    return _corrected(positive_risk, negative_risk, estimator, beta, gamma)


def _corrected(positive_risk: jax.Array, negative_risk: jax.Array, estimator: Estimator, beta: Scalar, gamma: Scalar) -> PULoss:
    """The estimator's correction of a negative second term."""
    if estimator in ("non_negative", "balanced"):
        clamped = negative_risk < -beta
        risk = positive_risk + jnp.maximum(negative_risk, -beta)
        loss = jnp.where(clamped, -gamma * negative_risk, positive_risk + negative_risk)
    elif estimator == "absolute":
        clamped = negative_risk < 0
        risk = loss = positive_risk + jnp.abs(negative_risk)
    elif estimator == "unbiased":
        clamped = jnp.zeros_like(negative_risk)
        risk = loss = positive_risk + negative_risk
    else:
        raise ValueError(f"estimator is {estimator!r}; it must be one of {', '.join(get_args(Estimator))}.")
    return PULoss(loss, risk, positive_risk, negative_risk, clamped.astype(loss.dtype))


def brier_pu_loss(
    positive_logits: jax.Array,
    unlabeled_logits: jax.Array,
    *,
    class_prior: Scalar,
    positive_weights: jax.Array | float = 1.0,
    unlabeled_weights: jax.Array | float = 1.0,
    axis_name: str | None = None,
) -> jax.Array:
    r"""Squared PU loss of the score s = sigmoid(f) for class P, up to a constant.

    .. math::
        E_U[w\,s^2] - 2 \pi E_P[w\,s]

    It is bounded below, so it needs no clamp.  Its minimum over all functions is s = min(1, pi p_P / p_U), the posterior.

    Args:
        positive_logits: float32, any shape; positive logits mean class P (target inactive).
        unlabeled_logits: float32, any shape.
        class_prior: pi, in (0, 1).
        positive_weights: w of the positive bins, shape of `positive_logits`, or one number.
        unlabeled_weights: w of the unlabeled bins, shape of `unlabeled_logits`, or one number.
        axis_name: axis of the devices that share the batch.

    Returns:
        float32 scalar.
    """
    of_unlabeled = mean(unlabeled_weights * jnp.square(jax.nn.sigmoid(unlabeled_logits)), axis_name)
    of_positive = mean(positive_weights * jax.nn.sigmoid(positive_logits), axis_name)
    return of_unlabeled - 2 * class_prior * of_positive


def signal_approximation_loss(
    logits: jax.Array, mixture_magnitude: jax.Array, target_magnitude: jax.Array, *, axis_name: str | None = None
) -> jax.Array:
    """Mean of (sigmoid(logits) * |x| - |t|)^2, `sa_loss` of PULSE (Weninger et al. 2014).

    Args:
        logits: float32, any shape; positive logits keep the target.
        mixture_magnitude: |x|, same shape.
        target_magnitude: |t|, same shape.
        axis_name: axis of the devices that share the batch.

    Returns:
        float32 scalar.
    """
    return mean(jnp.square(jax.nn.sigmoid(logits) * mixture_magnitude - target_magnitude), axis_name)


def mixit_loss(
    logits: jax.Array,
    mixture_magnitude: jax.Array,
    unlabeled_magnitude: jax.Array,
    positive_magnitude: jax.Array,
    *,
    minimum_over: Literal["example", "batch"] = "example",
    axis_name: str | None = None,
) -> jax.Array:
    """Mixture invariant training with masked magnitudes, `MixIT_loss` of PULSE (Wisdom et al. 2020).

    The mixture u + p has three masks.  One of the last two is assigned to p; the other and the first together are assigned to u.
    So the first mask belongs to u in both assignments, and the target, which plays in u alone, has to be in it.  The error of an
    assignment is the squared error of both sums, averaged over bins.

    Args:
        logits: float32 (n, frames, bins, 3).
        mixture_magnitude: |u + p|, float32 (n, frames, bins).
        unlabeled_magnitude: |u|, same shape.
        positive_magnitude: |p|, same shape.
        minimum_over: each `example` has the better assignment of its own (Wisdom et al.), or the whole `batch` has one (PULSE).
        axis_name: axis of the devices that share the batch.

    Returns:
        float32 scalar.
    """
    first, second, third = jnp.moveaxis(jax.nn.sigmoid(logits) * mixture_magnitude[..., None], -1, 0)

    def errors(with_first: jax.Array, alone: jax.Array) -> jax.Array:
        of_unlabeled = jnp.square(first + with_first - unlabeled_magnitude)
        return jnp.mean(of_unlabeled + jnp.square(alone - positive_magnitude), axis=(1, 2))  # (n,)

    one, other = errors(second, third), errors(third, second)
    if minimum_over == "batch":
        return jnp.minimum(mean(one, axis_name), mean(other, axis_name))
    return mean(jnp.minimum(one, other), axis_name)


def masking_loss(mask: jax.Array, mixture: jax.Array, target: jax.Array, *, axis_name: str | None = None) -> jax.Array:
    """Squared error of a masked mixture, in which phase counts: the mean over clips of (|m x - t|^2 - |t|^2) / |x|^2.

    It is 0 for blank output.  Its minimum is the real factor of each bin that brings the mixture closest to the target, the
    phase-sensitive filter (Erdogan et al. 2015, section 2).  The division gives quiet clips the weight of loud ones.

    Args:
        mask: float32 (n, frames, bins), the same for all channels.
        mixture: x, complex64 (n, channels, frames, bins).
        target: t, the same shape.
        axis_name: axis of the devices that share the batch.

    Returns:
        float32 scalar.  A clip without a sound counts as 0.
    """
    energy = jnp.sum(jnp.square(mixture.real) + jnp.square(mixture.imag), 1)  # Over the channels.
    product = jnp.sum(mixture.real * target.real + mixture.imag * target.imag, 1)  # Re(x t*)
    errors = jnp.sum(jnp.square(mask) * energy - 2 * mask * product, (1, 2))
    return mean(errors / jnp.maximum(jnp.sum(energy, (1, 2)), 1e-12), axis_name)


def estimated_error(mask: jax.Array, unlabeled: jax.Array, positive: jax.Array, *, axis_name: str | None = None) -> jax.Array:
    """`masking_loss` of the unknown target in sums x = u + p, up to a number that no mask changes.  No stems.

    With u = t + a, and p exchangeable with a, the mean of u - p for any given x is that of t.  So u - p can stand for t in the
    loss, as one noisy picture stands for a clean one in Noise2Noise (Lehtinen et al. 2018, section 2).

    Args:
        mask: of the sums, float32 (n, frames, bins).
        unlabeled: u, complex64 (n, channels, frames, bins).
        positive: p, the same shape, at the level of the accompaniment in u.
        axis_name: axis of the devices that share the batch.

    Returns:
        float32 scalar: 0 for blank output, and lower is better.
    """
    return masking_loss(mask, unlabeled + positive, unlabeled - positive, axis_name=axis_name)
