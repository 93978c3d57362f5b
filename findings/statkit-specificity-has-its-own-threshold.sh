#!/usr/bin/env bash
# statkit 1.1.0 counts a slice whose score equals the threshold twice: as sick in `sensitivity`, and as healthy in
# `specificity`. So both numbers are as high as if such slices were always right. A network that gives 0.5 to each slice
# has a sensitivity of 1 and a specificity of 1 at the default threshold of 0.5, and `youden_j` calls it perfect (1).
# Nothing is said.
#
# `true_positive_rate` compares by ">=", `false_positive_rate` and `false_negative_rate` by ">" (metrics.py). The
# docstring of all five functions says "Classify as positive when probability exceeds threshold". So the rates of found
# and missed patients add up to more than 1. `youden_j_threshold` returns the score of a slice, because scikit-learn's
# `roc_curve` does, where a slice is sick from the threshold on. So whoever takes both rates at this threshold always
# meets the fault. It is small if each score is rare. It is large for the grades of a reader, and it is there for a
# calibration with steps. `bootstrap_score` of such a rate gives an interval around the wrong number.
# `binary_classification_report` hands over labels, and is not affected.
#
# Below, about half of 4000 slices are sick. Seen: the threshold (by `youden_j_threshold`, but 0.5 in the last row),
# then sensitivity, specificity, and Youden's J (their sum less 1) by statkit and by scikit-learn 1.9.1, whose confusion
# matrix and ROC curve agree. The last two columns are found plus missed patients, and the 95 % interval of the
# specificity, both by statkit.
#                     threshold statkit           scikit-learn      sum    interval
#   no two are equal    0.495   0.71 0.70  0.41   0.71 0.70  0.41   1.00   0.68 to 0.72
#   steps of 1/256      0.496   0.70 0.70  0.41   0.70 0.70  0.40   1.00   0.68 to 0.72
#   calibrated          0.527   0.63 0.79  0.42   0.63 0.77  0.40   1.03   0.77 to 0.81
#   grades 1 to 5       0.500   0.79 0.79  0.58   0.79 0.61  0.40   1.19   0.77 to 0.81
#   grades by dice      0.750   0.40 0.79  0.20   0.40 0.60  0.00   1.21   0.78 to 0.81
#   all 0.5             0.500   1.00 1.00  1.00   1.00 0.00  0.00   2.00   1.00 to 1.00
# At a threshold that no slice has as its score, both agree.
#
# What follows for whoever reports such rates: hand over labels (`scores >= threshold`) in place of scores, and check
# that the rates of found and missed patients add up to 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install statkit==1.1.0 scikit-learn==1.9.1 \
    statsmodels==0.15.0 pandas==2.3.3 matplotlib==3.11.2 scipy==1.17.1 numpy==2.4.6

cat >"$folder/rates.py" <<'PYTHON'
import sys

import numpy as np
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import confusion_matrix, roc_curve
from statkit.metrics import false_negative_rate, sensitivity, specificity, youden_j, youden_j_threshold
from statkit.non_parametric import bootstrap_score

SLICES = 4000
random = np.random.default_rng(0)
sick = random.integers(0, 2, SLICES)
raw = 1 / (1 + np.exp(-random.normal(2 * sick - 1, 2)))  # a score without ties
others = random.integers(0, 2, SLICES)
other_scores = 1 / (1 + np.exp(-random.normal(2 * others - 1, 2)))
isotonic = IsotonicRegression(out_of_bounds="clip").fit(other_scores, others)
kinds = {
    "no two are equal": raw,
    "steps of 1/256": np.floor(raw * 256) / 256,
    "calibrated": isotonic.predict(raw),
    "grades 1 to 5": np.clip(np.round(4 * raw), 0, 4) / 4,
    "grades by dice": random.integers(0, 5, SLICES) / 4,
    "all 0.5": np.full(SLICES, 0.5),
}


def by_scikit(scores, threshold):
    """Return sensitivity and specificity of one rule: a slice is called sick from the threshold on."""
    (healthy, alarms), (missed, found) = confusion_matrix(sick, scores >= threshold)
    return found / (found + missed), healthy / (healthy + alarms)


def by_curve(scores, threshold):
    """Return the same two numbers from scikit-learn's ROC curve, which has a point for each threshold."""
    alarms, found, thresholds = roc_curve(sick, scores, drop_intermediate=False)
    point = np.flatnonzero(thresholds == threshold)[0]
    return found[point], 1 - alarms[point]


changed = []
for kind, scores in kinds.items():
    threshold = 0.5 if kind == "all 0.5" else youden_j_threshold(sick, scores)
    stated = sensitivity(sick, scores, threshold), specificity(sick, scores, threshold)
    right = by_scikit(scores, threshold)
    equal = (scores[sick == 0] == threshold).mean()
    missed = false_negative_rate(sick, scores, threshold)
    interval = bootstrap_score(sick, scores, specificity, n_iterations=200, random_state=0, threshold=threshold)
    print(
        f"#   {kind:18} {threshold:6.3f}   {stated[0]:.2f} {stated[1]:.2f} {sum(stated) - 1:5.2f}"
        f"   {right[0]:.2f} {right[1]:.2f} {sum(right) - 1:5.2f}   {stated[0] + missed:.2f}"
        f"   {interval.lower:.2f} to {interval.upper:.2f}"
    )
    holds = {
        "the curve agrees with the counts": np.allclose(right, by_curve(scores, threshold)),
        "the sensitivity is right": np.isclose(stated[0], right[0]),
        "the specificity is too high by the healthy slices at the threshold": np.isclose(stated[1], right[1] + equal),
        "found and missed exceed 1 by the sick slices at the threshold": np.isclose(
            stated[0] + missed, 1 + (scores[sick == 1] == threshold).mean()
        ),
        "a threshold that no slice has is right": np.allclose(
            (sensitivity(sick, scores, threshold - 1e-9), specificity(sick, scores, threshold - 1e-9)), right
        ),
        "the interval is that of the wrong number": interval.lower <= stated[1] <= interval.upper
        and (equal < 0.05 or interval.lower > right[1] + 0.1),
    }
    changed += [(kind, name) for name, holds in holds.items() if not holds]

if not (youden_j(sick, kinds["all 0.5"]) == 1 and sum(by_scikit(kinds["all 0.5"], 0.5)) == 1):
    changed.append("a score that says nothing is perfect")
grades, threshold = kinds["grades 1 to 5"], youden_j_threshold(sick, kinds["grades 1 to 5"])
if not specificity(sick, grades, threshold) - by_scikit(grades, threshold)[1] > 0.1:
    changed.append("grades")
sys.exit(f"changed: {changed}" if changed else 0)
PYTHON

"$folder/venv/bin/python" "$folder/rates.py"
