"""Intervals and tests for per-item scores, with the right sampling unit: arrays in, numbers out.

The images of one category, and the samples of one image, are not independent: with 50 test categories of 4 images
the sample size is 50. The unit is therefore the category; a data set with few categories (two kinds of digit) is
a sample of items, and there the unit is the item (:func:`sampling_units`).

Training seeds are a second source of chance. :func:`mean_interval` and :func:`paired_difference` average them per item
first: they answer "would other categories give the same for *these trained models*?". A claim about a method needs
:func:`crossed_mean`, whose limits and p-value hold for other items and other seeds, and a :func:`verdict` from it.
"""

from cnd.statistics.convergence import TOLERANCE, Rise, above, changing_places, last_quarter, rise
from cnd.statistics.crossed import Components, CrossedMean, Error, crossed_mean, variance_components
from cnd.statistics.intervals import Interval, clopper_pearson, mean_interval
from cnd.statistics.multiplicity import benjamini_hochberg, holm
from cnd.statistics.paired import Difference, paired_difference
from cnd.statistics.permutation import PermutationTest, permutation_test
from cnd.statistics.power import detectable_effect, expected_range, identical_rows_band
from cnd.statistics.resampling import EXACT_UNITS, bootstrap_interval, sign_flip_p
from cnd.statistics.retraining import interquartile_mean, probability_of_improvement
from cnd.statistics.units import FEWEST_CATEGORIES, sampling_units
from cnd.statistics.verdicts import Needed, Verdict, equivalence_p, needed, verdict

__all__ = [
    "EXACT_UNITS",
    "FEWEST_CATEGORIES",
    "TOLERANCE",
    "Components",
    "CrossedMean",
    "Difference",
    "Error",
    "Interval",
    "Needed",
    "PermutationTest",
    "Rise",
    "Verdict",
    "above",
    "benjamini_hochberg",
    "bootstrap_interval",
    "changing_places",
    "clopper_pearson",
    "crossed_mean",
    "detectable_effect",
    "equivalence_p",
    "expected_range",
    "holm",
    "identical_rows_band",
    "interquartile_mean",
    "last_quarter",
    "mean_interval",
    "needed",
    "paired_difference",
    "permutation_test",
    "probability_of_improvement",
    "rise",
    "sampling_units",
    "sign_flip_p",
    "variance_components",
    "verdict",
]
