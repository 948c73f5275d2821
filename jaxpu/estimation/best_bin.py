"""Best-bin estimation of the class prior, by a classifier between positive and unlabeled bins.

Garg et al. 2021, "Mixture proportion estimation and PU learning: a modern approach" (arXiv 2111.00980), algorithm 1.  If
positive bins are like the inactive ones of mixtures ("selected completely at random"), then of the bins that score above a
threshold the unlabeled ones hold at least pi times the share that the positive ones hold, and just that where no active bin
scores so high.  So pi is the least ratio of the two shares, taken where its upper confidence bound is the lowest.

On music the premise does not hold: inactive bins of a mixture have the target around them, and positives come from passages
without any.  A network sees that, and the estimate becomes the share of passages that look like positive recordings, which
is too low: 0.30 instead of 0.68 on synthetic songs (docs/results.md).  With a network that can tell nothing apart it is 1.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.dataset import PatchDataset, Split
from data_pipeline.progress import progress_bar
from jaxpu import parallel
from jaxpu.config import BrierPUConfig, Config, TrainConfig
from jaxpu.core.models import make_model
from jaxpu.core.step import decode, init_state, make_train_step, separation_variables
from jaxpu.estimation.class_prior import Shares, from_tracks, in_order, weight_exponent
from jaxpu.estimation.histograms import num_held, third_octaves, weights

CLASSIFIER_STEPS = 300
"""Steps that train the classifier."""

# Scores are logits; those beyond the range count as its ends.
_LOGIT_RANGE, _NUM_SCORES = 8.0, 800


def best_bin(
    unlabeled: np.ndarray,
    positive: np.ndarray,
    num_unlabeled: float,
    num_positive: float,
    *,
    delta: float = 0.1,
    gamma: float = 0.01,
) -> np.ndarray:
    r"""The mixture proportion by best-bin estimation (Garg et al. 2021, algorithm 1).

    .. math::
        \hat\pi = \frac{q_U(\hat c)}{q_P(\hat c)}, \quad \hat c = \arg\min_c \frac{q_U(c)}{q_P(c)} +
        \frac{1 + \gamma}{q_P(c)} \left(\sqrt{\frac{\log(4 / \delta)}{2 n_U}} + \sqrt{\frac{\log(4 / \delta)}{2 n_P}}\right)

    with q(c) the share of scores of at least c.

    Args:
        unlabeled: float (..., scores), histogram of the scores of unlabeled bins, the lowest score first.
        positive: the same of positive bins.
        num_unlabeled: n_U, independent observations.
        num_positive: n_P.
        delta: the bound holds with probability 1 - delta.
        gamma: of the bound.

    Returns:
        float64 (...), in [0, 1]; 1 where there are no positive bins.
    """
    tails = [np.cumsum(histogram[..., ::-1], axis=-1, dtype=np.float64) for histogram in (unlabeled, positive)]
    with np.errstate(divide="ignore", invalid="ignore"):
        above, positive_above = (tail / tail[..., -1:] for tail in tails)
        ratio = above / positive_above
        slack = sum(math.sqrt(math.log(4 / delta) / (2 * number)) for number in (num_unlabeled, num_positive))
        bound = ratio + (1 + gamma) * slack / positive_above
    best = np.argmin(np.where(np.isfinite(bound), bound, np.inf), axis=-1)
    chosen = np.take_along_axis(ratio, best[..., None], -1)[..., 0]
    return np.minimum(np.nan_to_num(chosen, nan=1.0, posinf=1.0), 1.0)


def estimate_best_bin(
    dataset: PatchDataset, config: Config, *, num_steps: int = CLASSIFIER_STEPS, progress: bool = True
) -> Shares:
    """The shares by best-bin estimation within octaves, from the validation tracks.

    The classifier is the config's network, trained on the training tracks by `brier_pu` with a class prior of 1/2.  The
    minimiser of that is min(1, p_P / (2 p_U)), in proportion to the ratio of the densities as long as the prior is above 1/2,
    and in its order always.  A frame counts as one observation of an octave: its bins are alike.

    Args:
        dataset: the prepared data.
        config: its `model`, batch size, seed, `disjoint_tracks` and the objective's weight exponent matter.
        num_steps: that train the classifier.
        progress: show a bar.

    Raises:
        DataError: there are no validation tracks.
    """
    exponent = weight_exponent(config)
    batch_size = config.train.batch_size
    settings = TrainConfig(
        num_steps=num_steps,
        batch_size=batch_size,
        learning_rate=4e-3,
        schedule="cosine",
        warmup_steps=min(20, num_steps - 1),
        gradient_clip=1.0,
        ema_decay=0.99,
        disjoint_tracks=config.train.disjoint_tracks,
        seed=config.train.seed,
    )
    classifier = dataclasses.replace(
        config,
        data=dataset.config,
        objective=BrierPUConfig(class_prior=0.5, weight_exponent=exponent),
        train=settings,
    )
    num_held_out = max(num_held(dataset, "validation", settings.disjoint_tracks) // batch_size, 1)
    held_out = _batches(dataset, classifier, "validation", num_held_out)
    first = next(held_out)  # where there is none, this fails before the training and not after it
    state = init_state(classifier)
    step = parallel.over_devices(make_train_step(classifier), donate_state=True)
    key = jax.random.key(settings.seed)
    bar = progress_bar(num_steps, "best bin", "step", show=progress and parallel.process_index() == 0)
    for batch in _batches(dataset, classifier, "train", num_steps):
        state, _ = step(state, {name: batch[name] for name in ("unlabeled", "positive", "index")}, key)
        bar.update()
    bar.close()

    model = make_model(classifier.model, classifier.data.patch, num_outputs=1, dtype=jnp.float32)

    def score(state: Any, batch: dict[str, jax.Array], key: jax.Array, axis_name: str) -> dict[str, jax.Array]:
        del key
        decoded = decode(batch)
        found = {"unlabeled_track": batch["unlabeled_track"], "positive_track": batch["positive_track"]}
        for role in ("unlabeled", "positive"):
            stft = getattr(decoded, role)
            variables = separation_variables(classifier, state)
            logits = cast(jax.Array, model.apply(variables, stft, decoded.example_index, train=False))[..., 0]
            # One row for each clip, whatever its channels, as the tracks have.
            found[role] = jnp.stack([logits, jnp.abs(stft)]).reshape(2, batch[role].shape[0], -1, stft.shape[-1]).swapaxes(0, 1)
        return {name: jax.lax.all_gather(value, axis_name, tiled=True) for name, value in found.items()}

    band_of_bin, octave_of_band = third_octaves(dataset.spec)
    octave = octave_of_band[band_of_bin]
    histograms: dict[str, dict[int, np.ndarray]] = {"unlabeled": {}, "positive": {}}
    score_step = parallel.over_devices(score)
    for batch in itertools.chain([first], held_out):
        scores = jax.device_get(score_step(state, batch, key))
        for role, tracks in histograms.items():
            for (logits, magnitudes), track in zip(scores[role], scores[f"{role}_track"].tolist(), strict=True):
                tracks[track] = tracks.get(track, 0) + _histograms(logits, weights(magnitudes, exponent), octave)
    unlabeled, positive = (np.stack(list(tracks.values())) for tracks in histograms.values())

    def shares(chosen: np.ndarray, chosen_positive: np.ndarray) -> np.ndarray:
        of_unlabeled, of_positive = unlabeled[chosen].sum(0), positive[chosen_positive].sum(0)  # (2, octaves, scores)
        frames = [each[0].sum() / dataset.spec.bins for each in (of_unlabeled, of_positive)]
        proportions = best_bin(of_unlabeled, of_positive, *frames)
        totals = of_unlabeled.sum(-1)
        sums = np.stack([proportions * totals, totals], -1)  # (2, octaves, 2)
        mean_weights = [each[1].sum() / each[0].sum() for each in (of_unlabeled, of_positive)]
        return in_order(sums[1], sums[0], np.arange(len(totals[0])), mean_weights[0] / mean_weights[1])

    return from_tracks(shares, len(unlabeled), len(positive), settings.seed)


def _histograms(logits: np.ndarray, weight: np.ndarray, octave: np.ndarray) -> np.ndarray:
    """Of the scores in every octave, unweighted and weighted: float32 (frames, bins) twice to float64 (2, octaves, scores)."""
    num_octaves = octave.max() + 1
    place = np.floor((logits + _LOGIT_RANGE) * (_NUM_SCORES / (2 * _LOGIT_RANGE))).astype(np.int64)
    cells = (np.clip(place, 0, _NUM_SCORES - 1) + _NUM_SCORES * octave).ravel()
    size = num_octaves * _NUM_SCORES
    found = [np.bincount(cells, minlength=size), np.bincount(cells, weight.ravel(), size)]
    return np.stack(found).reshape(2, num_octaves, _NUM_SCORES).astype(np.float64)


def _batches(dataset: PatchDataset, config: Config, split: Split, num_steps: int) -> Iterator[dict[str, np.ndarray]]:
    settings = config.train
    local = settings.batch_size // parallel.process_count()
    index = np.arange(local, dtype=np.int32) + parallel.process_index() * local
    for batch in dataset.batches(
        split,
        batch_size=settings.batch_size,
        seed=settings.seed,
        num_steps=num_steps,
        disjoint_tracks=settings.disjoint_tracks,
        with_target=False,
        process_index=parallel.process_index(),
        process_count=parallel.process_count(),
    ):
        yield {name: values for name, values in batch.items() if not name.endswith("_level")} | {"index": index}
