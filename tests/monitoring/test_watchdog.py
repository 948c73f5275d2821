"""The watchdog speaks once when output goes blank, and not before."""

import math

import pytest

from jaxpu.monitoring.watchdog import LEAST_TARGET_SHARE, PATIENCE_STEPS, WINDOW_STEPS, Watchdog

# A target with 30 % of the energy of the mixtures, which are what the network sees.
LEVELS = {"input_energy": 1.0, "unlabeled_energy": 1.0, "positive_energy": 0.7}

FIRST_WARNING = WINDOW_STEPS + PATIENCE_STEPS - 1
"""The step at which a run that is blank from the start is warned."""


def run(watchdog: Watchdog, steps: int, *, first: int = 1, kept_energy: float, **metrics: float) -> list[tuple[int, str]]:
    """Warnings, with their steps."""
    values = LEVELS | {"kept_energy": kept_energy, "inactive_share": 1 - kept_energy, **metrics}
    spoken = [(step, watchdog.update(step, values)) for step in range(first, first + steps)]
    return [(step, text) for step, text in spoken if text is not None]


def test_silent_on_a_healthy_run() -> None:
    watchdog = Watchdog(class_prior=0.7)
    assert run(watchdog, 5 * WINDOW_STEPS, kept_energy=0.4) == []
    assert run(watchdog, 2 * WINDOW_STEPS, kept_energy=0.25 * 0.3 * 1.01) == []


def test_blank_is_less_than_a_quarter_of_what_the_target_has() -> None:
    assert Watchdog().target_share == LEAST_TARGET_SHARE
    watchdog = Watchdog()
    assert len(run(watchdog, FIRST_WARNING, kept_energy=0.25 * 0.3 * 0.99)) == 1
    assert watchdog.target_share == pytest.approx(0.3)
    # A network that sees the sum of mixtures and positives: the target has less of it.
    remixed = {"input_energy": 1.7}
    assert run(Watchdog(), FIRST_WARNING, kept_energy=0.25 * 0.3 / 1.7 * 1.01, **remixed) == []
    assert len(run(Watchdog(), FIRST_WARNING, kept_energy=0.25 * 0.3 / 1.7 * 0.99, **remixed)) == 1
    # Where every recording is scaled to the same level, the levels say nothing.
    same = {"positive_energy": 1.0}
    assert run(Watchdog(), FIRST_WARNING, kept_energy=0.0101, **same) == []
    assert len(run(Watchdog(), FIRST_WARNING, kept_energy=0.0099, **same)) == 1


def test_a_network_that_keeps_more_and_more_is_left_in_peace_until_it_stops() -> None:
    watchdog = Watchdog()

    def update(step: int, kept_energy: float) -> str | None:
        return watchdog.update(step, LEVELS | {"kept_energy": kept_energy, "inactive_share": 1 - kept_energy})

    # A quarter of 30 % is reached by nobody here.
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


def test_a_run_that_is_late_in_rising_above_the_line_is_left_in_peace() -> None:
    watchdog = Watchdog()
    below, above = 0.25 * 0.3 * 0.9, 0.25 * 0.3 * 2
    assert run(watchdog, WINDOW_STEPS + PATIENCE_STEPS // 2, kept_energy=below) == []
    # After ten of these steps the mean over the window is above the line; then the patience begins anew.
    assert run(watchdog, WINDOW_STEPS, kept_energy=above) == []
    spoken = [step for step, _ in run(watchdog, 1000, kept_energy=below)]
    assert spoken == [91 + PATIENCE_STEPS - 1]


@pytest.mark.parametrize("healthy", [0.1, 0.3, 0.6])
def test_speaks_once_within_200_steps_of_going_blank_and_again_only_after_a_recovery(healthy: float) -> None:
    watchdog = Watchdog(class_prior=0.7)
    run(watchdog, WINDOW_STEPS, kept_energy=healthy)
    # The mean over the window falls below a quarter of 30 % when so many of its steps are blank.
    blank_steps = WINDOW_STEPS - math.ceil(WINDOW_STEPS * 0.075 / healthy) + 1
    spoken = [step for step, _ in run(watchdog, 1000, first=101, kept_energy=0.0)]
    assert spoken == [100 + blank_steps + PATIENCE_STEPS - 1]
    assert spoken[0] <= 300
    assert run(watchdog, 1000, first=1101, kept_energy=0.5) == []
    assert len(run(watchdog, 1000, first=2101, kept_energy=0.0)) == 1


def test_says_what_it_saw_and_names_the_likely_reason() -> None:
    ((step, text),) = run(Watchdog(class_prior=0.7), FIRST_WARNING, kept_energy=0.004, clamped=0.25, inactive_share=0.998)
    assert step == 139
    assert text == (
        "Step 139: the output is blank. Over the last 100 steps the mask kept 0.40% of the energy, "
        "where by the levels of the recordings the target has 30.0%, "
        "and took 99.8% of the bins for target inactive; the clamp acted on 25% of the steps. "
        "The recordings without the target are 1.5 dB quieter than the mixtures. "
        "Likely reason: with a class prior of 0.7, above 1/2, blank output is the best constant answer, "
        "and the sigmoid loss has no gradient there. "
        "Lower the class prior, or use the objective of configs/demo.py, which needs none."
    )


def test_does_not_blame_a_class_prior_that_is_small_or_absent() -> None:
    ((_, small),) = run(Watchdog(class_prior=0.4), FIRST_WARNING, kept_energy=0.0)
    assert "Likely reason" not in small
    assert "Lower the class prior" in small
    ((_, absent),) = run(Watchdog(), FIRST_WARNING, kept_energy=0.0)
    assert "class prior" not in absent
    assert absent.endswith("Check that the recordings without the target are as loud as the accompaniment of the others.")
    ((_, loud),) = run(Watchdog(), FIRST_WARNING, kept_energy=0.0, positive_energy=2.0)
    assert "are 3.0 dB louder than the mixtures. Likely reason: they should be quieter" in loud
