"""Remix learning and its two extensions, `bootstrap` and `pnu`.  A positive logit means class P, *target inactive*.

Which bins of g1 u + g2 p does the positive p dominate?  If p is exchangeable with the accompaniment hidden in u, then where
accompaniment dominates, p is the louder of the two with probability c = 1/2 (the label frequency of Elkan & Noto 2008).  So the
odds that p dominates a bin are r / (1 - r) = s c / (1 - c), with s the posterior of "target inactive" in u.  The network predicts
s = sigmoid(f), the label is compared with r, and the mask is 1 - s.  docs/methods.md has the derivation.
"""

import functools

import jax
import jax.numpy as jnp

from jaxpu.config import BootstrapConfig, PNUConfig, RemixConfig
from jaxpu.core import losses
from jaxpu.core.objectives.augment import fold_in_each, with_gains, with_shifts
from jaxpu.core.objectives.base import (
    Batch,
    Hyperparameters,
    Loss,
    Network,
    Objective,
    bin_weights,
    initial_hyperparameters,
    keep_negative,
    mask_statistics,
    phase_sensitive_mask,
    ratio_mask,
)
from jaxpu.core.objectives.teacher import init_teacher, teach
from jaxpu.core.stft import magnitude


def remix(config: RemixConfig) -> Objective:
    """Remix learning: mixtures with a positive added (see the module)."""
    loss = functools.partial(remix_loss, labels=config.labels)
    return Objective(initial_hyperparameters(config), loss, keep_negative, level=level)


def bootstrap(config: BootstrapConfig) -> Objective:
    """Remix learning of mixtures, and of the pseudo-targets that a teacher separates from them.

    Held-out tracks have no teacher: there the loss is that of `remix`, which does not move as the teacher gets better.
    """

    def loss(network: Network, batch: Batch, key: jax.Array, hyperparameters: Hyperparameters, axis_name: str | None) -> Loss:
        if batch.pseudo_target is None:
            return remix_loss(network, batch, key, hyperparameters, axis_name, labels=config.labels)
        draws = jax.vmap(jax.random.uniform)(fold_in_each(jax.random.fold_in(key, 1), batch.example_index))  # (n,)
        chosen = jnp.where(draws >= hyperparameters["mixture_share"], batch.pseudo_target.exists, 0.0)
        signal = jnp.where(chosen[:, None, None, None] > 0, batch.pseudo_target.estimate, batch.unlabeled)
        gain_db = hyperparameters["gain_db"] + chosen * (hyperparameters["taught_gain_db"] - hyperparameters["gain_db"])
        return remix_loss(
            network,
            batch._replace(unlabeled=signal),
            key,
            hyperparameters | {"gain_db": gain_db},
            axis_name,
            labels=config.labels,
            target_alone=chosen,
        )

    prepare = functools.partial(teach, first_step=config.remix_steps)
    hyperparameters = initial_hyperparameters(config)
    return Objective(hyperparameters, loss, keep_negative, level=level, init_state=init_teacher, prepare=prepare)


def pnu(config: PNUConfig) -> Objective:
    """Remix learning of all mixtures beside supervised learning of a few targets, both with positives of other songs added.

    A convex combination of a supervised and a PU risk, as in PNU learning (Sakai et al. 2017).  Checkpoints are compared by the
    loss of `remix` alone.
    """

    def loss(network: Network, batch: Batch, key: jax.Array, hyperparameters: Hyperparameters, axis_name: str | None) -> Loss:
        assert batch.target is not None
        of_mixtures = remix_loss(network, batch, key, hyperparameters, axis_name, labels=config.labels)
        of_targets = remix_loss(
            network,
            batch._replace(unlabeled=batch.target),
            jax.random.fold_in(key, 1),
            hyperparameters,
            axis_name,
            labels=config.labels,
            target_alone=jnp.ones(batch.example_index.shape),
        )
        weight = hyperparameters["supervised_weight"]
        value = weight * of_targets.loss + (1 - weight) * of_mixtures.loss
        return Loss(value, of_mixtures.risk, of_mixtures.metrics | {"supervised_loss": of_targets.loss})

    return Objective(
        initial_hyperparameters(config),
        loss,
        keep_negative,
        level=level,
        needs_target=True,
        target_tracks=config.stem_tracks,
    )


def level(batch: Batch, hyperparameters: Hyperparameters) -> Batch:
    """Bring positives to the level of the accompaniment that is hidden in the mixtures; marked passages have it already."""
    gain = 10 ** (hyperparameters["positive_gain_db"] / 20)
    if batch.marked is not None:
        gain = jnp.where(batch.marked[:, None, None, None], 1.0, gain)
    return batch._replace(positive=batch.positive * gain.astype(batch.positive.dtype))


def remix_loss(
    network: Network,
    batch: Batch,
    key: jax.Array,
    hyperparameters: Hyperparameters,
    axis_name: str | None,
    *,
    labels: str,
    target_alone: jax.Array | None = None,
) -> Loss:
    """Binary cross-entropy with the logit log_sigmoid(f) + log(c / (1 - c)), weighted by magnitude.

    Where the first signal is a target without accompaniment, all accompaniment of the sum is the positive's: r = s, and the logit
    is f.

    Args:
        network: see `Network`.
        batch: `unlabeled` is the first signal, `positive` is added to it.
        key: random key of the step; gains and shifts are drawn from it.
        hyperparameters: `gain_db` may be float32 (n,).
        axis_name: axis of the devices that share the batch.
        labels: see `RemixConfig`.
        target_alone: float32 (n,), 1 where the first signal is a target without accompaniment, else 0; None: nowhere.
    """
    index = batch.example_index
    first, positive = with_gains(batch.unlabeled, batch.positive, index, key, hyperparameters["gain_db"])
    first, positive = with_shifts(first, positive, index, key, hyperparameters["shift_semitones"])
    remixed = first + positive
    logits = network(remixed, 2 * index)
    frequency = hyperparameters["label_frequency"]
    positive_dominates = jax.nn.log_sigmoid(logits[..., 0]) + jnp.log(frequency) - jnp.log1p(-frequency)
    if target_alone is not None:
        positive_dominates = jnp.where(target_alone[:, None, None] > 0, logits[..., 0], positive_dominates)
    wanted = _labels(positive, first, labels)
    weights = bin_weights(remixed, hyperparameters["weight_exponent"])
    value = losses.weighted_mean(losses.cross_entropy(positive_dominates, wanted), weights, axis_name)
    metrics = {"label_share": losses.weighted_mean(wanted, weights, axis_name)}
    return Loss(value, value, metrics | mask_statistics(keep_negative(logits), remixed, axis_name))


def _labels(positive: jax.Array, other: jax.Array, kind: str) -> jax.Array:
    """Labels of bins, float32: 1 where the positive is alone, and 1/2 on average where both have the same distribution."""
    if kind == "binary":
        return (magnitude(positive) > magnitude(other)).astype(jnp.float32)
    return ratio_mask(positive, other) if kind == "ratio" else phase_sensitive_mask(positive, other)
