"""Intervals and tests for per-item scores, with the right sampling unit: arrays in, numbers out.

The images of one category, and the samples of one image, are not independent: with 50 test categories of 4 images
the sample size is 50. The unit is therefore the category; a data set with few categories (two kinds of digit) is
a sample of items, and there the unit is the item (:func:`sampling_units`).

Training seeds are a second source of variance. Scores of several seeds are averaged per item first, so an interval
answers "would other categories give the same?" for these trained models. It shrinks the noise of the seeds but
does not generalise over them; report the spread between seeds beside it.
"""

from cnd.statistics.convergence import TOLERANCE, Rise, above, changing_places, last_quarter, rise
from cnd.statistics.intervals import Interval, clopper_pearson, mean_interval
from cnd.statistics.multiplicity import benjamini_hochberg, holm
from cnd.statistics.paired import Difference, paired_difference
from cnd.statistics.power import expected_range, identical_rows_band, smallest_detectable_difference
from cnd.statistics.resampling import EXACT_UNITS, bootstrap_interval, sign_flip_p
from cnd.statistics.units import FEWEST_CATEGORIES, sampling_units

__all__ = [
    "EXACT_UNITS",
    "FEWEST_CATEGORIES",
    "TOLERANCE",
    "Difference",
    "Interval",
    "Rise",
    "above",
    "benjamini_hochberg",
    "bootstrap_interval",
    "changing_places",
    "clopper_pearson",
    "expected_range",
    "holm",
    "identical_rows_band",
    "last_quarter",
    "mean_interval",
    "paired_difference",
    "rise",
    "sampling_units",
    "sign_flip_p",
    "smallest_detectable_difference",
]
