"""Blank-output detection from the training statistics."""

import collections
import dataclasses

WINDOW_STEPS = 100
"""Statistics are averaged over this many steps, since those of one batch swing."""

BLANK_KEPT_ENERGY = 0.01
"""Output is called blank where the mask keeps less than this share of the input's energy (-20 dB)."""


@dataclasses.dataclass
class Watchdog:
    """Follows the statistics of a run and says in words when its output goes blank.

    Attributes:
        class_prior: of the objective, or None where it has none; only used in the explanation.
    """

    class_prior: float | None = None
    _kept_energy: collections.deque[float] = dataclasses.field(default_factory=lambda: collections.deque(maxlen=WINDOW_STEPS))
    _inactive_share: collections.deque[float] = dataclasses.field(default_factory=lambda: collections.deque(maxlen=WINDOW_STEPS))
    _clamped: collections.deque[float] = dataclasses.field(default_factory=lambda: collections.deque(maxlen=WINDOW_STEPS))
    _blank: bool = False

    def update(self, step: int, metrics: dict[str, float]) -> str | None:
        """Takes the statistics of one step.

        Args:
            step: the step.
            metrics: with `kept_energy` and `inactive_share`, and `clamped` where the objective has a clamp.

        Returns:
            A warning when the output has gone blank over the last `WINDOW_STEPS` steps; None before, and while it stays blank.
        """
        self._kept_energy.append(metrics["kept_energy"])
        self._inactive_share.append(metrics["inactive_share"])
        self._clamped.append(metrics.get("clamped", 0.0))
        if len(self._kept_energy) < WINDOW_STEPS:
            return None
        was_blank, self._blank = self._blank, self.kept_energy < BLANK_KEPT_ENERGY
        return self._explain(step) if self._blank and not was_blank else None

    @property
    def kept_energy(self) -> float:
        """Mean share of the input's energy that the mask kept over the window."""
        return _mean(self._kept_energy)

    @property
    def inactive_share(self) -> float:
        """Mean share of bins that the mask took for target inactive over the window."""
        return _mean(self._inactive_share)

    @property
    def clamped_share(self) -> float:
        """Share of the steps of the window on which the non-negative clamp acted."""
        return _mean(self._clamped)

    def _explain(self, step: int) -> str:
        message = (
            f"Step {step}: the output is blank. Over the last {WINDOW_STEPS} steps the mask kept {self.kept_energy:.2%} of the "
            f"energy and took {self.inactive_share:.1%} of the bins for target inactive; the clamp acted on "
            f"{self.clamped_share:.0%} of the steps."
        )
        if self.class_prior is None:
            return message + " Check that the recordings without the target are as loud as the accompaniment of the others."
        if self.class_prior > 0.5:
            message += (
                f" Likely reason: with a class prior of {self.class_prior:g}, above 1/2, blank output is the best constant "
                "answer, and the sigmoid loss has no gradient there."
            )
        return message + " Lower the class prior, or use the objective of configs/demo.py, which needs none."


def _mean(values: collections.deque[float]) -> float:
    return sum(values) / len(values) if values else 0.0
