"""The rule of convergence on simulated curves: false alarms where they are flat, power where they rise."""

from __future__ import annotations

import numpy as np
import pytest

from cnd import statistics

CATEGORIES, EACH = 15, 4
UNITS = np.repeat(np.arange(CATEGORIES), EACH)


def scores(rng: np.random.Generator, *levels: float, change: float = 0.15) -> list[np.ndarray]:
    """Near-binary scores of the same items at checkpoints of these mean levels; some items flip in between."""
    ease = np.clip(rng.normal(levels[0], 0.3, CATEGORIES), 0, 1)[UNITS]
    base = rng.random(len(UNITS)) < ease
    found = []
    for level in levels:
        flipped = np.where(rng.random(len(UNITS)) < change, rng.random(len(UNITS)) < ease, base)
        risen = rng.random(len(UNITS)) < (level - levels[0]) / (1 - levels[0])
        found.append((flipped | risen).astype(float))
    return found


def test_rise_is_the_mean_difference_with_the_error_of_the_category_means() -> None:
    before, after = scores(np.random.default_rng(0), 0.4, 0.6)
    found = statistics.rise(before, after, UNITS)
    means = (after - before).reshape(CATEGORIES, EACH).mean(1)
    assert found.estimate == pytest.approx(means.mean())
    assert found.standard_error == pytest.approx(means.std(ddof=1) / np.sqrt(CATEGORIES))
    assert found.n_units == CATEGORIES


def test_flat_noisy_curves_are_rarely_called_rising() -> None:
    rng = np.random.default_rng(1)
    alarms = [statistics.rise(*scores(rng, 0.5, 0.5), UNITS).still_rising for _ in range(2000)]
    assert 0.01 < np.mean(alarms) < 0.07


# what 60 items can show: with 15 % of them drawn anew at each checkpoint, and with 3 %, as averaged weights have it
@pytest.mark.parametrize(
    ("gain", "change", "least", "most"),
    [
        (0.05, 0.15, 0.1, 0.4), (0.1, 0.15, 0.45, 0.75), (0.2, 0.15, 0.85, 1.0),
        (0.05, 0.03, 0.3, 0.8), (0.1, 0.03, 0.75, 1.0), (0.2, 0.03, 0.97, 1.0),
    ],
)  # fmt: skip
def test_rising_curves_are_found(gain: float, change: float, least: float, most: float) -> None:
    rng = np.random.default_rng(2)
    found = [statistics.rise(*scores(rng, 0.5, 0.5 + gain, change=change), UNITS).still_rising for _ in range(500)]
    assert least <= np.mean(found) <= most


def test_a_rise_within_the_tolerance_is_none_however_certain() -> None:
    before = np.linspace(0.2, 0.8, len(UNITS))
    rng = np.random.default_rng(3)
    after = before + 0.015 + rng.normal(0, 0.001, len(UNITS))
    assert not statistics.rise(before, after, UNITS).still_rising
    assert statistics.rise(before, after, UNITS, tolerance=0.01).still_rising
    assert not statistics.rise(after, before, UNITS).still_rising  # a fall is no rise
    assert statistics.rise(before, before + 0.1, UNITS).still_rising  # without any noise


def test_a_single_unit_tells_no_noise_so_only_the_tolerance_counts() -> None:
    assert statistics.rise([0.1, 0.2], [0.2, 0.3], [0, 0]).still_rising
    assert not statistics.rise([0.1, 0.2], [0.11, 0.21], [0, 0]).still_rising


def test_other_items_are_refused() -> None:
    with pytest.raises(ValueError, match="same items"):
        statistics.rise([0.1, 0.2], [0.1], [0, 1])
    with pytest.raises(ValueError):
        statistics.rise([0.1, np.nan], [0.1, 0.2], [0, 1])


def test_the_last_quarter() -> None:
    assert statistics.last_quarter([8, 16, 24, 32]) == (24, 32)
    # 200, 400, 600 and 800 steps of at most 16 of 1,140 items
    assert statistics.last_quarter([3184, 6360, 9536, 12712]) == (9536, 12712)
    assert statistics.last_quarter(range(1, 9)) == (6, 8)
    assert statistics.last_quarter([10, 20, 30, 40, 50]) == (30, 50)  # no checkpoint at three quarters: the one before
    assert statistics.last_quarter([32]) is None


def test_equally_good_rows_rarely_change_places() -> None:
    """Of 16 near-equal rows many swap by chance; hardly ever is one of them marked."""
    rng, marked, swapped = np.random.default_rng(4), [], []
    for _ in range(60):
        curves = [scores(rng, 0.5, 0.5) for _ in range(16)]
        before, after = (np.stack([curve[at] for curve in curves]) for at in (0, 1))
        marked.append(statistics.changing_places(before, after, UNITS).any())
        swapped.append((np.argsort(before.mean(1)) != np.argsort(after.mean(1))).any())
    assert np.mean(swapped) == 1 and np.mean(marked) < 0.1


def test_a_row_that_overtakes_another_is_found_with_it() -> None:
    rng = np.random.default_rng(5)
    steady, late, far = (scores(rng, 0.6, 0.6, change=0.05), scores(rng, 0.4, 0.9), scores(rng, 0.05, 0.05))
    rows = [steady, late, far]
    before, after = (np.stack([row[at] for row in rows]) for at in (0, 1))
    assert list(statistics.changing_places(before, after, UNITS)) == [True, True, False]
    assert not statistics.changing_places(before[:1], after[:1], UNITS).any()
