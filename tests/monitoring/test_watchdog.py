"""The watchdog warns once when output is blank, and not before."""

import json
import math

import pytest

from jaxpu.monitoring.watchdog import MIN_TARGET_SHARE, PATIENCE_STEPS, WINDOW_STEPS, Watchdog

# A target with 30 % of the energy of the mixtures, which are what the network sees.
LEVELS = {"input_energy": 1.0, "unlabeled_energy": 1.0, "positive_energy": 0.7}

FIRST_WARNING = WINDOW_STEPS + PATIENCE_STEPS - 1
"""The step at which a run that is blank from the start is warned."""


def run(watchdog: Watchdog, steps: int, *, first: int = 1, kept_energy: float, **metrics: float) -> list[tuple[int, str]]:
    """Warnings, with their steps."""
    values = LEVELS | {"kept_energy": kept_energy, "inactive_share": 1 - kept_energy, **metrics}
    spoken = [(step, watchdog.update(step, values)) for step in range(first, first + steps)]
    return [(step, text) for step, text in spoken if text is not None]


def test_the_reason_is_given_where_it_holds() -> None:
    ((step, told),) = run(Watchdog(class_prior=0.7), FIRST_WARNING, kept_energy=0.0)
    assert step == FIRST_WARNING
    assert "Likely reason" not in told, "another surrogate or estimator"
    assert "clamp" not in told
    ((_, told),) = run(Watchdog(class_prior=0.7, blank_is_best=True), FIRST_WARNING, kept_energy=0.0, clamped=1.0)
    assert "with a class prior of 0.7" in told
    assert "the clamp was active in 100% of the steps" in told


def test_interruptions_do_not_delay_the_warning() -> None:
    """A run that is resumed every 30 steps never fills a window of its own."""
    straight, told = Watchdog(), []
    state = Watchdog().to_json()
    for first in range(1, FIRST_WARNING + 60, 30):
        resumed = Watchdog()
        resumed.resume(json.loads(json.dumps(state)))
        told += run(resumed, 30, first=first, kept_energy=0.0)
        state = resumed.to_json()
        assert run(straight, 30, first=first, kept_energy=0.0) == [each for each in told if each[0] >= first]
    assert [step for step, _ in told] == [FIRST_WARNING]


def test_silent_on_a_healthy_run() -> None:
    watchdog = Watchdog(class_prior=0.7)
    assert run(watchdog, 5 * WINDOW_STEPS, kept_energy=0.4) == []
    assert run(watchdog, 2 * WINDOW_STEPS, kept_energy=0.25 * 0.3 * 1.01) == []


def test_blank_means_less_than_a_quarter_of_the_targets_energy() -> None:
    assert Watchdog().target_share == MIN_TARGET_SHARE
    watchdog = Watchdog()
    assert len(run(watchdog, FIRST_WARNING, kept_energy=0.25 * 0.3 * 0.99)) == 1
    assert watchdog.target_share == pytest.approx(0.3)
    # The input is the sum of mixtures and positives: the target's share of it is smaller.
    remixed = {"input_energy": 1.7}
    assert run(Watchdog(), FIRST_WARNING, kept_energy=0.25 * 0.3 / 1.7 * 1.01, **remixed) == []
    assert len(run(Watchdog(), FIRST_WARNING, kept_energy=0.25 * 0.3 / 1.7 * 0.99, **remixed)) == 1
    # Where every recording is scaled to the same level, the levels say nothing.
    same = {"positive_energy": 1.0}
    assert run(Watchdog(), FIRST_WARNING, kept_energy=0.0101, **same) == []
    assert len(run(Watchdog(), FIRST_WARNING, kept_energy=0.0099, **same)) == 1


def test_no_warning_while_the_network_keeps_more_and_more() -> None:
    watchdog = Watchdog()

    def update(step: int, kept_energy: float) -> str | None:
        return watchdog.update(step, LEVELS | {"kept_energy": kept_energy, "inactive_share": 1 - kept_energy})

    # All of these stay below a quarter of 30 %.
    rising = [update(step, 0.005 * 1.01**step) for step in range(1, 251)]
    assert rising == [None] * 250
    stays = [step for step in range(251, 600) if update(step, 0.05) is not None]
    assert len(stays) == 1
    assert stays[0] <= 450


def test_one_blank_batch_is_no_blank_run() -> None:
    watchdog = Watchdog()
    run(watchdog, WINDOW_STEPS, kept_energy=0.3)
    assert run(watchdog, 10, kept_energy=0.0) == []
    assert watchdog.kept_energy == pytest.approx(0.27)


def test_silent_until_the_window_is_full_and_blank_for_a_while() -> None:
    watchdog = Watchdog()
    assert run(watchdog, FIRST_WARNING - 1, kept_energy=0.0) == []
    assert [step for step, _ in run(watchdog, 5, first=FIRST_WARNING, kept_energy=0.0)] == [FIRST_WARNING]


def test_no_warning_for_a_run_that_passes_the_threshold_late() -> None:
    watchdog = Watchdog()
    below, above = 0.25 * 0.3 * 0.9, 0.25 * 0.3 * 2
    assert run(watchdog, WINDOW_STEPS + PATIENCE_STEPS // 2, kept_energy=below) == []
    # After ten of these steps the mean over the window is above the threshold; then the patience starts again.
    assert run(watchdog, WINDOW_STEPS, kept_energy=above) == []
    spoken = [step for step, _ in run(watchdog, 1000, kept_energy=below)]
    assert spoken == [91 + PATIENCE_STEPS - 1]


@pytest.mark.parametrize("healthy", [0.1, 0.3, 0.6])
def test_warns_once_within_200_steps_and_again_only_after_a_recovery(healthy: float) -> None:
    watchdog = Watchdog(class_prior=0.7)
    run(watchdog, WINDOW_STEPS, kept_energy=healthy)
    # The mean over the window falls below a quarter of 30 % when so many of its steps are blank.
    blank_steps = WINDOW_STEPS - math.ceil(WINDOW_STEPS * 0.075 / healthy) + 1
    spoken = [step for step, _ in run(watchdog, 1000, first=101, kept_energy=0.0)]
    assert spoken == [100 + blank_steps + PATIENCE_STEPS - 1]
    assert spoken[0] <= 300
    assert run(watchdog, 1000, first=1101, kept_energy=0.5) == []
    assert len(run(watchdog, 1000, first=2101, kept_energy=0.0)) == 1


def test_warning_gives_the_figures_and_the_likely_reason() -> None:
    ((step, text),) = run(
        Watchdog(class_prior=0.7, blank_is_best=True), FIRST_WARNING, kept_energy=0.004, clamped=0.25, inactive_share=0.998
    )
    assert step == 139
    for figure in ("Step 139", "kept 0.40%", "about 30.0%", "99.8% of the bins", "25% of the steps", "1.5 dB quieter"):
        assert figure in text
    assert "Likely reason: with a class prior of 0.7" in text
    assert "configs/demo.py" in text


def test_does_not_blame_a_class_prior_that_is_small_or_absent() -> None:
    ((_, small),) = run(Watchdog(class_prior=0.4), FIRST_WARNING, kept_energy=0.0)
    assert "Likely reason" not in small
    assert "Lower the class prior" in small
    ((_, absent),) = run(Watchdog(), FIRST_WARNING, kept_energy=0.0)
    assert "class prior" not in absent
    assert "as loud as the accompaniment" in absent
    ((_, loud),) = run(Watchdog(), FIRST_WARNING, kept_energy=0.0, positive_energy=2.0)
    assert "3.0 dB louder than the mixtures. Likely reason: they should be quieter" in loud
    assert "positive_gain_db" in loud
