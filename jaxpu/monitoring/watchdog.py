"""Detection of blank output from the statistics of training, without stems."""

import collections
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

WINDOW_STEPS = 100
"""Statistics are averaged over this many steps, since those of single batches vary."""

BLANK_SHARE = 0.25
"""Output is blank if the mask keeps less than this fraction of the energy that the target should have."""

PATIENCE_STEPS = 40
"""Consecutive steps for which it must be blank before the warning: a run may briefly dip below the threshold, or pass it late."""

RISING = 1.25
"""A network that has learnt little yet keeps little.  No warning while it keeps this many times more in the second half of the
window than in the first."""

MIN_TARGET_SHARE = 0.04
"""Minimum assumed for the target's share of the energy, since shares estimated from the levels are uncertain."""


def target_share(unlabeled_energy: float, positive_energy: float, input_energy: float) -> float:
    """Expected share of the target in the input's energy, from the mean energies of mixtures, positives and input."""
    return max((unlabeled_energy - positive_energy) / max(input_energy, 1e-12), MIN_TARGET_SHARE)


@dataclasses.dataclass
class Watchdog:
    """Monitor of a run's statistics that warns when its output is blank.

    The target's energy is estimated without stems, as the energy of the mixtures minus that of the positives.  This assumes that
    the positives are as loud as the accompaniment in the mixtures.

    Attributes:
        class_prior: of the objective, or None if it has none; used only in the explanation.
        blank_is_best: blank output is the best constant output for the objective; likewise.
    """

    class_prior: float | None = None
    blank_is_best: bool = False
    _windows: dict[str, collections.deque[float]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(lambda: collections.deque(maxlen=WINDOW_STEPS))
    )
    # The levels of the data do not change in training, so every step counts.
    _unlabeled_energy: float = 0.0
    _positive_energy: float = 0.0
    _steps: int = 0
    _blank_steps: int = 0  # consecutive

    def update(self, step: int, metrics: dict[str, float]) -> str | None:
        """Add the statistics of one step.

        Args:
            step: the step.
            metrics: with `kept_energy`, `inactive_share`, `input_energy`, `unlabeled_energy` and `positive_energy`, and
                `clamped` if the objective has a clamp.

        Returns:
            A warning after `PATIENCE_STEPS` consecutive steps at which the output, averaged over `WINDOW_STEPS` steps, was blank
            and not rising; None before, and while it stays blank.
        """
        for name in ("kept_energy", "inactive_share", "input_energy", "clamped"):
            self._windows[name].append(metrics.get(name, 0.0))
        self._unlabeled_energy += metrics["unlabeled_energy"]
        self._positive_energy += metrics["positive_energy"]
        self._steps += 1
        if self._steps < WINDOW_STEPS:
            return None
        too_little = self.kept_energy < BLANK_SHARE * self.target_share
        is_blank = too_little and (self._blank_steps > 0 or not self._is_rising())
        self._blank_steps = self._blank_steps + 1 if is_blank else 0
        return self._explain(step) if self._blank_steps == PATIENCE_STEPS else None

    def to_json(self) -> dict[str, Any]:
        """All that it has seen, to resume from; `jaxpu.artifacts.records.WatchdogState` has the types."""
        return {
            "windows": {name: list(window) for name, window in self._windows.items()},
            "unlabeled_energy": self._unlabeled_energy,
            "positive_energy": self._positive_energy,
            "steps": self._steps,
            "blank_steps": self._blank_steps,
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Continue from what `to_json` returned."""
        for name, values in state["windows"].items():
            self._windows[name].extend(values)
        self._unlabeled_energy, self._positive_energy = state["unlabeled_energy"], state["positive_energy"]
        self._steps, self._blank_steps = state["steps"], state["blank_steps"]

    @property
    def kept_energy(self) -> float:
        """Mean fraction of the input's energy that the mask kept over the window."""
        return self._mean("kept_energy")

    @property
    def target_share(self) -> float:
        """Expected share of the target in the input's energy, which the mask should keep."""
        steps = max(self._steps, 1)
        return target_share(self._unlabeled_energy / steps, self._positive_energy / steps, self._mean("input_energy"))

    @property
    def positive_level_db(self) -> float:
        """Level of the positives minus that of the mixtures, in dB."""
        return 10 * math.log10(max(self._positive_energy, 1e-12) / max(self._unlabeled_energy, 1e-12))

    def _is_rising(self) -> bool:
        kept = list(self._windows["kept_energy"])
        half = len(kept) // 2
        return sum(kept[half:]) > RISING * sum(kept[:half])

    def _mean(self, name: str) -> float:
        window = self._windows[name]
        return sum(window) / len(window) if window else 0.0

    def _explain(self, step: int) -> str:
        share = self._mean("clamped")
        clamped = f"; the clamp was active in {share:.0%} of the steps" if share else ""
        side = "louder" if self.positive_level_db > 0 else "quieter"
        message = (
            f"Step {step}: the output is blank. Over the last {WINDOW_STEPS} steps the mask kept {self.kept_energy:.2%} of the "
            f"energy; judging by the recording levels the target accounts for about {self.target_share:.1%}. The network "
            f"classified {self._mean('inactive_share'):.1%} of the bins as target inactive{clamped}. The recordings without the "
            f"target are {abs(self.positive_level_db):.1f} dB {side} than the mixtures."
        )
        if self.class_prior is None:
            if self.positive_level_db > -0.5:
                return message + (
                    " Likely reason: they should be quieter than the mixtures, to which the target adds energy. "
                    "Set the objective's positive_gain_db to estimate, or prepare the data with a common level."
                )
            return message + " Check that they are as loud as the accompaniment in the mixtures."
        if self.blank_is_best:
            message += (
                f" Likely reason: with a class prior of {self.class_prior:g}, above 1/2, blank output is the best constant "
                "output, and the sigmoid loss has no gradient there."
            )
        return message + " Lower the class prior, or use the objective of configs/demo.py, which needs none."
