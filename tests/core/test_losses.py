"""Losses against formulas written a second time in NumPy, numbers worked out by hand, and finite differences."""

import functools
import math
import typing
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from jaxpu.core import losses
from jaxpu.core.stft import magnitude

pytestmark = pytest.mark.usefixtures("strict_dtypes")

Array = np.ndarray[Any, Any]
LN3 = math.log(3.0)  # sigmoid(LN3) = 3/4

MARGIN_LOSSES: dict[str, Callable[[Array], Array]] = {
    "sigmoid": lambda z: 1 / (1 + np.exp(z)),
    "logistic": lambda z: np.log1p(np.exp(-z)),
}


def reference_pu_loss(
    positive: Array,
    unlabeled: Array,
    w_positive: Array,
    w_unlabeled: Array,
    surrogate: str,
    prior: float,
    beta: float,
    gamma: float,
    estimator: str,
) -> dict[str, float]:
    """Ito & Sugiyama 2023, equations 8 and 9, and Kiryo et al. 2017, algorithm 1, in float64 and in their own order.

    Beside them the absolute value of Hammoudeh & Lowd 2020, and the equal weights of Su et al. 2021.
    """
    loss = MARGIN_LOSSES[surrogate]
    first = prior * np.sum(w_positive * loss(positive)) / positive.size
    bracket = (
        np.sum(w_unlabeled * loss(-unlabeled)) / unlabeled.size - prior * np.sum(w_positive * loss(-positive)) / positive.size
    )
    if estimator == "balanced":
        first, bracket = 0.5 / prior * first, 0.5 / (1 - prior) * bracket
    if estimator == "absolute":
        bound, loss_beyond, acts = first - bracket, first - bracket, bracket < 0
    else:
        bound, loss_beyond, acts = first - beta, -gamma * bracket, estimator != "unbiased" and bracket < -beta
    return {
        "loss": loss_beyond if acts else first + bracket,
        "risk": bound if acts else first + bracket,
        "positive_risk": first,
        "negative_risk": bracket,
        "clamped": float(acts),
    }


def example(seed: int = 0) -> tuple[Array, Array, Array, Array]:
    """Logits and weights of 24 positive and 30 unlabeled bins."""
    rng = np.random.default_rng(seed)
    shapes = ((2, 3, 4), (2, 3, 5))
    positive, unlabeled = (2 * rng.standard_normal(shape) for shape in shapes)
    w_positive, w_unlabeled = (rng.exponential(size=shape) for shape in shapes)
    return positive, unlabeled, w_positive, w_unlabeled


@functools.partial(jax.jit, static_argnames=("surrogate", "estimator"))
def jitted_pu_loss(
    arrays: tuple[jax.Array, ...], prior: jax.Array, beta: jax.Array, gamma: jax.Array, *, surrogate: str, estimator: Any
) -> tuple[losses.PULoss, tuple[jax.Array, ...]]:
    """The loss and its gradient with respect to both logits."""
    positive, unlabeled, w_positive, w_unlabeled = arrays

    def loss(logits: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, losses.PULoss]:
        result = losses.pu_loss(
            logits[0],
            logits[1],
            class_prior=prior,
            positive_weights=w_positive,
            unlabeled_weights=w_unlabeled,
            surrogate=losses.SURROGATES[surrogate],
            estimator=estimator,
            beta=beta,
            gamma=gamma,
        )
        return result.loss, result

    gradients, result = jax.grad(loss, has_aux=True)((positive, unlabeled))
    return result, gradients


def as_float32(*arrays: Array) -> tuple[jax.Array, ...]:
    return tuple(jnp.asarray(array, jnp.float32) for array in arrays)


def central_differences(function: Callable[[Array], float], point: Array) -> Array:
    gradient = np.empty_like(point)
    for index in np.ndindex(point.shape):
        step = np.zeros_like(point)
        step[index] = 1e-5
        gradient[index] = (function(point + step) - function(point - step)) / 2e-5
    return gradient


# (class prior, beta, whether the clamp acts): with these logits the bracket is about 0.3 at prior 0.2 and -0.25 at 0.95.
@pytest.mark.parametrize(
    ("prior", "beta", "acts"), [(0.2, 0.0, False), (0.95, 0.0, True), (0.95, 0.02, True), (0.95, 9.0, False)]
)
@pytest.mark.parametrize("surrogate", losses.SURROGATES)
def test_pu_loss_and_gradient_equal_the_reference(surrogate: str, prior: float, beta: float, acts: bool) -> None:
    positive, unlabeled, w_positive, w_unlabeled = example()
    w_positive = 3 * w_positive
    for estimator in typing.get_args(losses.Estimator):

        def reference(positive: Array = positive, unlabeled: Array = unlabeled, estimator: str = estimator) -> dict[str, float]:
            return reference_pu_loss(positive, unlabeled, w_positive, w_unlabeled, surrogate, prior, beta, 0.3, estimator)

        expected = reference()
        # The absolute value knows no tolerance.
        assert expected["clamped"] == {"unbiased": False, "absolute": prior == 0.95}.get(estimator, acts)
        hyperparameters = as_float32(np.array(prior), np.array(beta), np.array(0.3))
        result, gradients = jitted_pu_loss(
            as_float32(positive, unlabeled, w_positive, w_unlabeled),
            *hyperparameters,
            surrogate=surrogate,
            estimator=estimator,
        )
        for name, value in expected.items():
            np.testing.assert_allclose(getattr(result, name), value, rtol=2e-6, atol=2e-6, err_msg=name)
        by_positive = central_differences(lambda x: reference(positive=x)["loss"], positive)
        by_unlabeled = central_differences(lambda x: reference(unlabeled=x)["loss"], unlabeled)
        np.testing.assert_allclose(gradients[0], by_positive, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(gradients[1], by_unlabeled, rtol=1e-5, atol=1e-6)


# Logits ln 3 of P and -ln 3 of U: l(f) = 1/4 and l(-f) = 3/4 on P, l(-f) = 1/4 on U.
# At prior 0.6 the first term is 0.15, the bracket 0.25 - 0.45 = -0.2.
@pytest.mark.parametrize(
    ("beta", "gamma", "loss", "risk", "clamped"),
    [
        (0.0, 1.0, 0.2, 0.15, 1),
        (0.0, 0.096, 0.0192, 0.15, 1),
        (0.1, 0.5, 0.1, 0.05, 1),
        (0.3, 0.5, -0.05, -0.05, 0),
    ],
)
def test_by_hand_where_the_bracket_is_negative(beta: float, gamma: float, loss: float, risk: float, clamped: int) -> None:
    result = losses.pu_loss(jnp.full((2, 2), LN3), jnp.full(3, -LN3), class_prior=0.6, beta=beta, gamma=gamma)
    np.testing.assert_allclose(result, (loss, risk, 0.15, -0.2, clamped), atol=1e-7)
    unclamped = losses.pu_loss(
        jnp.full((2, 2), LN3), jnp.full(3, -LN3), class_prior=0.6, beta=beta, gamma=gamma, estimator="unbiased"
    )
    np.testing.assert_allclose(unclamped, (-0.05, -0.05, 0.15, -0.2, 0), atol=1e-7)


def test_by_hand_absolute_and_balanced() -> None:
    positive, unlabeled = jnp.full((2, 2), LN3), jnp.full(3, -LN3)
    # 0.15 + |-0.2|, whatever beta and gamma.
    absolute = losses.pu_loss(positive, unlabeled, class_prior=0.6, estimator="absolute", beta=0.3, gamma=0.5)
    np.testing.assert_allclose(absolute, (0.35, 0.35, 0.15, -0.2, 1), atol=1e-7)
    # 1/2 * 1/4 and 1/2 * -0.2 / 0.4 = -0.25: clamped at beta = 0.1, not at 0.3.
    balanced = functools.partial(losses.pu_loss, class_prior=0.6, estimator="balanced", gamma=0.5)
    np.testing.assert_allclose(balanced(positive, unlabeled, beta=0.1), (0.125, 0.025, 0.125, -0.25, 1), atol=1e-7)
    np.testing.assert_allclose(balanced(positive, unlabeled, beta=0.3), (-0.125, -0.125, 0.125, -0.25, 0), atol=1e-7)
    # The bracket is 0.75 - 0.3: both take it as it is, `balanced` as 1/4 + 1/2 * 0.45 / 0.4.
    positive, unlabeled = jnp.zeros(4), jnp.full(2, LN3)
    absolute = losses.pu_loss(positive, unlabeled, class_prior=0.6, estimator="absolute")
    np.testing.assert_allclose(absolute, (0.75, 0.75, 0.3, 0.45, 0), atol=1e-7)
    np.testing.assert_allclose(balanced(positive, unlabeled), (0.8125, 0.8125, 0.25, 0.5625, 0), atol=1e-7)


def test_unknown_estimators_are_refused() -> None:
    estimator: Any = "unbaised"
    with pytest.raises(
        ValueError, match=r"^estimator is 'unbaised'; it must be one of unbiased, non_negative, absolute, balanced"
    ):
        losses.pu_loss(jnp.zeros(1), jnp.zeros(1), class_prior=0.5, estimator=estimator)


def test_by_hand_where_the_bracket_is_positive() -> None:
    # l(f) = 1/2 on P; l(-f) = 3/4 on U; prior 0.4: 0.2 + (0.75 - 0.2).
    result = losses.pu_loss(jnp.zeros(4), jnp.full(2, LN3), class_prior=0.4, gamma=0.5)
    np.testing.assert_allclose(result, (0.75, 0.75, 0.2, 0.55, 0), atol=1e-7)


def test_by_hand_with_weights_divides_by_counts() -> None:
    # Weights 1 and 3 on P, 2 and 6 and 1 on U; logits 0 but for one ln 3 in U: (2/2 + 6 * 3/4 + 1/2) / 3 = 2.
    # prior 0.5: 0.5 * (1/2 + 3/2) / 2 = 0.5; the bracket is 2 - 0.5.
    result = losses.pu_loss(
        jnp.zeros(2),
        jnp.asarray([0.0, LN3, 0.0]),
        class_prior=0.5,
        positive_weights=jnp.asarray([1.0, 3.0]),
        unlabeled_weights=jnp.asarray([2.0, 6.0, 1.0]),
    )
    np.testing.assert_allclose(result, (2.0, 2.0, 0.5, 1.5, 0), atol=1e-6)


def test_by_hand_logistic() -> None:
    # l(ln 3) = ln 4/3 and l(-ln 3) = ln 4; prior 0.5: 0.5 ln 4/3 + (ln 2 - 0.5 ln 4), whose bracket is 0: no clamp.
    result = losses.pu_loss(jnp.full(2, LN3), jnp.zeros(2), class_prior=0.5, surrogate=losses.logistic_loss, beta=1e-6)
    first = 0.5 * math.log(4 / 3)
    np.testing.assert_allclose(result, (first, first, first, 0, 0), atol=2e-7)


def test_the_clamped_step_goes_uphill_in_the_bracket_alone() -> None:
    positive, unlabeled = jnp.full(2, LN3), jnp.full(2, -LN3)

    def loss(positive: jax.Array, unlabeled: jax.Array, gamma: float) -> jax.Array:
        return losses.pu_loss(positive, unlabeled, class_prior=0.6, gamma=gamma).loss

    # sigmoid'(ln 3) = 3/16; the bracket falls with f on P and rises with f on U; each bin is half of its mean.
    by_positive, by_unlabeled = jax.grad(loss, argnums=(0, 1))(positive, unlabeled, 0.5)
    np.testing.assert_allclose(by_positive, np.full(2, 0.5 * 0.6 * 3 / 32), rtol=1e-6)
    np.testing.assert_allclose(by_unlabeled, np.full(2, -0.5 * 3 / 32), rtol=1e-6)
    for gradient in jax.grad(loss, argnums=(0, 1))(positive, unlabeled, 0.0):
        np.testing.assert_array_equal(gradient, 0)


def test_margin_losses() -> None:
    margin = np.linspace(-20, 20, 41)
    for name, reference in MARGIN_LOSSES.items():
        np.testing.assert_allclose(losses.SURROGATES[name](jnp.asarray(margin, jnp.float32)), reference(margin), rtol=1e-6)
    z = jnp.asarray(margin, jnp.float32)
    np.testing.assert_allclose(losses.sigmoid_loss(z) + losses.sigmoid_loss(-z), np.ones(41), rtol=1e-6)


@pytest.mark.parametrize("surrogate", losses.SURROGATES)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_extreme_logits_are_finite(surrogate: str, sign: float) -> None:
    extreme = jnp.asarray([-1e30, -1e4, -100.0, 0.0, 100.0, 1e4, 1e30]) * sign
    ones = jnp.ones(7)
    for prior in (0.1, 0.9):
        hyperparameters = as_float32(np.array(prior), np.array(0.0), np.array(1.0))
        result, gradients = jitted_pu_loss(
            (extreme, extreme, ones, ones), *hyperparameters, surrogate=surrogate, estimator="non_negative"
        )
        assert all(bool(jnp.all(jnp.isfinite(value))) for value in (*result, *gradients))


def test_vmap_over_hyperparameters_equals_a_loop() -> None:
    positive, unlabeled, w_positive, w_unlabeled = example(1)
    arrays = as_float32(positive, unlabeled, 3 * w_positive, w_unlabeled)
    priors, betas, gammas = as_float32(np.linspace(0.1, 0.95, 5), np.array([0, 0, 0.1, 0, 2]), np.linspace(0.1, 1, 5))
    function = functools.partial(jitted_pu_loss, surrogate="sigmoid", estimator="non_negative")
    together = jax.vmap(function, (None, 0, 0, 0))(arrays, priors, betas, gammas)
    alone = [function(arrays, *each) for each in zip(priors, betas, gammas, strict=True)]
    assert {float(result.clamped) for result, _ in alone} == {0.0, 1.0}
    stacked = jax.tree.map(lambda *values: np.stack(values), *alone)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7), together, stacked)


def test_reductions_with_an_axis_name_are_those_of_the_whole_batch() -> None:
    """`vmap` names an axis as pmap does; shards with other signs of the bracket must not be clamped one by one."""
    positive, unlabeled = jnp.asarray([[LN3, LN3], [-LN3, -LN3]]), jnp.asarray([[-LN3, -LN3], [LN3, LN3]])

    def loss(positive: jax.Array, unlabeled: jax.Array, axis_name: str | None = None) -> losses.PULoss:
        return losses.pu_loss(positive, unlabeled, class_prior=0.6, gamma=0.5, axis_name=axis_name)

    # Brackets: -0.2 and 0.75 - 0.15 = 0.6 by themselves, 0.2 together.
    whole = loss(positive, unlabeled)
    np.testing.assert_allclose(whole.negative_risk, 0.2, atol=1e-7)
    sharded = jax.vmap(functools.partial(loss, axis_name="shards"), axis_name="shards")(positive, unlabeled)
    for name in losses.PULoss._fields:
        np.testing.assert_allclose(getattr(sharded, name), np.full(2, getattr(whole, name)), atol=1e-7, err_msg=name)
    one_by_one = jax.vmap(loss)(positive, unlabeled).loss
    assert abs(float(one_by_one.mean()) - float(whole.loss)) > 0.05

    values, weights = jnp.asarray([[1.0, 2.0], [3.0, 4.0]]), jnp.asarray([[1.0, 0.0], [2.0, 1.0]])
    sharded_mean = jax.vmap(functools.partial(losses.weighted_mean, axis_name="shards"), axis_name="shards")(values, weights)
    np.testing.assert_allclose(sharded_mean, np.full(2, 11 / 4), rtol=1e-6)


def test_brier_pu_equals_the_reference() -> None:
    positive, unlabeled, w_positive, w_unlabeled = example(4)

    def reference(positive: Array = positive, unlabeled: Array = unlabeled) -> float:
        of_unlabeled = np.sum(w_unlabeled * scipy.special.expit(unlabeled) ** 2) / unlabeled.size
        return float(of_unlabeled - 2 * 0.3 * np.sum(w_positive * scipy.special.expit(positive)) / positive.size)

    arrays = dict(zip(("positive_weights", "unlabeled_weights"), as_float32(w_positive, w_unlabeled), strict=True))
    function = functools.partial(losses.brier_pu_loss, class_prior=0.3, **arrays)
    value, gradients = jax.value_and_grad(function, argnums=(0, 1))(*as_float32(positive, unlabeled))
    np.testing.assert_allclose(value, reference(), rtol=2e-6, atol=1e-7)
    by_positive = central_differences(lambda x: reference(positive=x), positive)
    np.testing.assert_allclose(gradients[0], by_positive, rtol=1e-5, atol=1e-7)
    by_unlabeled = central_differences(lambda x: reference(unlabeled=x), unlabeled)
    np.testing.assert_allclose(gradients[1], by_unlabeled, rtol=1e-5, atol=1e-7)
    # By hand: (9/16 + 1/16) / 2 - 2 * 0.4 * 3/4.
    by_hand = losses.brier_pu_loss(jnp.full(3, LN3), jnp.asarray([LN3, -LN3]), class_prior=0.4)
    np.testing.assert_allclose(by_hand, 5 / 16 - 0.6, rtol=1e-6)


def test_brier_pu_has_the_posterior_as_its_minimum() -> None:
    """Two kinds of bins: P has 3 of the first and 1 of the second, U 2 of each; pi = 0.4: posteriors 0.6 and 0.2."""
    posterior = np.array([0.6, 0.2])
    logits = jnp.asarray(scipy.special.logit(posterior), jnp.float32)

    def loss(logits: jax.Array) -> jax.Array:
        return losses.brier_pu_loss(logits[jnp.array([0, 0, 0, 1])], logits[jnp.array([0, 0, 1, 1])], class_prior=0.4)

    np.testing.assert_allclose(jax.grad(loss)(logits), np.zeros(2), atol=1e-7)
    np.testing.assert_allclose(loss(logits), -np.mean(posterior**2), rtol=1e-5)


def test_weighted_mean_of_nothing_is_zero() -> None:
    assert float(losses.weighted_mean(jnp.ones(3), jnp.zeros(3))) == 0


def test_signal_approximation_equals_the_reference() -> None:
    rng = np.random.default_rng(2)
    logits, mixture, target = rng.standard_normal((2, 5)), rng.exponential(size=(2, 5)), rng.exponential(size=(2, 5))

    def reference(logits: Array) -> float:
        return float(np.mean((scipy.special.expit(logits) * mixture - target) ** 2))

    value, gradient = jax.value_and_grad(losses.signal_approximation_loss)(*as_float32(logits, mixture, target))
    np.testing.assert_allclose(value, reference(logits), rtol=1e-6)
    np.testing.assert_allclose(gradient, central_differences(reference, logits), rtol=1e-5, atol=1e-7)
    # By hand: (1/2 * 4 - 1)^2 = 1 and (1/2 * 2 - 4)^2 = 9.
    by_hand = losses.signal_approximation_loss(jnp.zeros(2), jnp.asarray([4.0, 2.0]), jnp.asarray([1.0, 4.0]))
    assert float(by_hand) == 5


@pytest.mark.parametrize("minimum_over", ["example", "batch"])
def test_mixit_equals_the_reference(minimum_over: Any) -> None:
    rng = np.random.default_rng(6)
    logits = rng.standard_normal((4, 2, 3, 3))
    mixture, unlabeled, positive = (rng.exponential(size=(4, 2, 3)) for _ in range(3))

    def errors(logits: Array) -> Array:
        """By assignment and example."""
        masked = scipy.special.expit(logits) * mixture[..., None]
        squares = [
            (masked[..., 0] + masked[..., other] - unlabeled) ** 2 + (masked[..., alone] - positive) ** 2
            for other, alone in ((1, 2), (2, 1))
        ]
        return np.mean(squares, axis=(2, 3))

    def reference(logits: Array) -> float:
        return float(errors(logits).min(0).mean() if minimum_over == "example" else errors(logits).mean(1).min())

    assert set(errors(logits).argmin(0)) == {0, 1}
    function = functools.partial(losses.mixit_loss, minimum_over=minimum_over)
    value, gradient = jax.value_and_grad(function)(*as_float32(logits, mixture, unlabeled, positive))
    np.testing.assert_allclose(value, reference(logits), rtol=1e-6)
    np.testing.assert_allclose(gradient, central_differences(reference, logits), rtol=1e-5, atol=1e-7)


def mixit_by_hand(logits: Any, axis_name: str | None = None, *, minimum_over: Any) -> jax.Array:
    """One bin an example, |u + p| = 4, |u| = 3, |p| = 1."""
    sizes = (jnp.full(logits.shape[:-1], size) for size in (4.0, 3.0, 1.0))
    return losses.mixit_loss(logits, *sizes, minimum_over=minimum_over, axis_name=axis_name)


def test_mixit_by_hand() -> None:
    # Masked magnitudes 2, 3 and 1 in the first example: (2 + 3 - 3)^2 + (1 - 1)^2 = 4, or (2 + 1 - 3)^2 + (3 - 1)^2 = 4.
    # 2, 1 and 1 in the second: no error either way.  1, 1 and 2 in the third: 1 + 1, or 0 + 0.  1, 2 and 1 in the last.
    half, quarter = 0.0, -LN3
    first, second, third, last = (
        jnp.asarray([masks], jnp.float32).reshape(1, 1, 1, 3)
        for masks in ((half, LN3, quarter), (half, quarter, quarter), (quarter, quarter, half), (quarter, half, quarter))
    )
    for logits, expected in ((first, 4), (second, 0), (third, 0), (last, 0)):
        np.testing.assert_allclose(mixit_by_hand(logits, minimum_over="example"), expected, atol=1e-6)
    # Together the third and the last need both assignments; one for the batch fits one of them.
    both = jnp.concatenate([third, last])
    np.testing.assert_allclose(mixit_by_hand(both, minimum_over="example"), 0, atol=1e-6)
    np.testing.assert_allclose(mixit_by_hand(both, minimum_over="batch"), 1, rtol=1e-6)
    # The same when each is on a device of its own.
    for minimum_over, expected in (("example", 0), ("batch", 1)):
        function = functools.partial(mixit_by_hand, axis_name="shards", minimum_over=minimum_over)
        np.testing.assert_allclose(jax.vmap(function, axis_name="shards")(both[:, None]), np.full(2, expected), atol=1e-6)


def test_the_masking_loss_by_hand() -> None:
    # Two clips of two channels, one frame and two bins.  The second clip is silent.
    mixture = np.zeros((2, 2, 1, 2), np.complex64)
    target = np.zeros_like(mixture)
    mixture[0, :, 0] = [[1.0, 2j], [1j, 0.0]]
    target[0, :, 0] = [[1.0, 1j], [0.0, 0.0]]
    mask = np.array([[[0.5, 0.75]], [[1.0, 1.0]]], np.float32)
    # |m x - t|^2: 0.25 + 0.25 in the first bin, 0.25 in the second; |t|^2: 2; |x|^2: 6.
    loss = losses.masking_loss(jnp.asarray(mask), jnp.asarray(mixture), jnp.asarray(target))
    np.testing.assert_allclose(loss, (0.75 - 2) / 6 / 2, rtol=1e-6)


def spectra(key: int, scale: jax.Array | float, shape: tuple[int, ...]) -> jax.Array:
    real, imaginary = jax.random.normal(jax.random.key(key), (2, *shape))
    scale = jnp.broadcast_to(scale, shape)
    return jax.lax.complex(scale * real, scale * imaginary)


def test_the_estimated_error_ranks_masks_as_their_true_errors_do() -> None:
    # Target and accompaniment have spectra of their own, so that some masks are better than others.
    shape = (4000, 2, 3, 5)
    target, accompaniment, positive = (
        spectra(key, jnp.asarray(scale), shape)
        for key, scale in enumerate([[2.0, 1.0, 0.5, 0.1, 1.0], [0.3, 1.0, 1.0, 2.0, 0.1], [0.3, 1.0, 1.0, 2.0, 0.1]])
    )
    unlabeled = target + accompaniment
    mixture = unlabeled + positive
    weights = 1 / jnp.sum(jnp.square(magnitude(mixture)), (1, 2))
    for bins in ([1.0] * 5, [0.9, 0.4, 0.1, 0.0, 0.9], [0.1, 0.4, 0.9, 1.0, 0.1], [0.5] * 5):
        mask = jnp.broadcast_to(jnp.asarray(bins), (4000, 3, 5))
        estimate = mask[:, None].astype(jnp.complex64) * mixture
        true = jnp.sum(jnp.square(magnitude(estimate - target)) - jnp.square(magnitude(target)), (1, 2))
        estimated = losses.estimated_error(mask, unlabeled, positive)
        np.testing.assert_allclose(estimated, jnp.mean(true * weights), atol=0.01)
        direct = jnp.sum(
            jnp.square(magnitude(estimate - (unlabeled - positive))) - jnp.square(magnitude(unlabeled - positive)), (1, 2)
        )
        np.testing.assert_allclose(estimated, jnp.mean(direct * weights), atol=1e-5)
    assert losses.estimated_error(jnp.zeros((4000, 3, 5)), unlabeled, positive) == 0


def test_the_estimated_error_of_silent_sums_is_0() -> None:
    silence = jnp.zeros((2, 1, 3, 5), jnp.complex64)
    assert losses.estimated_error(jnp.ones((2, 3, 5)), silence, silence) == 0


def test_cross_entropy_is_that_of_optax() -> None:
    logits, labels = 30 * jax.random.normal(jax.random.key(0), (1000,)), jax.random.uniform(jax.random.key(1), (1000,))
    np.testing.assert_allclose(
        losses.cross_entropy(logits, labels), optax.losses.sigmoid_binary_cross_entropy(logits, labels), rtol=1e-6
    )
