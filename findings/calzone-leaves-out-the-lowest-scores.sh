#!/usr/bin/env bash
# calzone-tool 0.1.0 leaves slices out of its calibration errors (ECE, MCE) and its Hosmer-Lemeshow test. In bins of
# equal width these are the slices with a score of exactly 0, in bins of equal count all that share the lowest score. A
# network that gives 0 to sick slices then looks calibrated. Besides, for a network of several classes, the slope and
# intercept of its Cox analysis are those of class 1, whichever class is asked for. Nothing is said in either case.
#
# calzone comes from DIDSR, the FDA's laboratory for imaging software. `reliability_diagram` puts a score into a bin if
# it is above the lower edge and not above the upper one (utils.py). The lowest edge is 0 or the lowest score, so no bin
# holds it. The ECE is then divided by the number of slices that are left. The documentation divides by "the total
# number of samples" (notebook "ece_mce"), and names no such limit. `cox_regression_analysis` always takes the second
# column of the probabilities (metrics.py). Its docstring says that it converts "based on the specified
# class_to_calculate". `CalibrationMetrics` does not hand the class on, and computes "COX ICI" from the slope of class 1
# and the scores of the class that was asked for. The other metrics are those of that class.
#
# Below, about 30 % of 6000 slices share the lowest score, and a fifth of these is sick. The other scores are true. Many
# equal scores occur, for example, if scores have few digits, or were calibrated in steps. Seen: the lowest score, the
# bins, how many slices they hold, then ECE, MCE and the p-value of Hosmer and Lemeshow by calzone, and with all slices.
# uncertainty-calibration 0.1.4 agrees with the ECE of all slices, for bins of equal width.
#   score bins    slices calzone              all slices
#   0     width   4219   0.015 0.041 0.517    0.066 0.172 0.000
#   0     count   4219   0.014 0.032 0.456    0.066 0.190 0.000
#   1e-9  width   6000   0.066 0.172 0.000    0.066 0.172 0.000
#   1e-9  count   4219   0.014 0.032 0.456    0.066 0.190 0.000
#   0.05  width   6000   0.051 0.126 0.000    0.051 0.126 0.000
#   0.05  count   4219   0.014 0.032 0.456    0.051 0.140 0.000
# Of three classes, the probabilities of class 1 are true, and those of classes 0 and 2 are too extreme. Seen: the
# class; slope, intercept and ICI by `CalibrationMetrics`; the slope by `cox_regression_analysis`; slope, intercept and
# ICI by calzone where the class and the rest are handed over as two columns; and their slope by scikit-learn 1.9.1.
#   0    0.97  0.01 0.004   -0.34   0.50 -0.15 0.084   0.50
#   1    0.97  0.01 0.005    0.97   0.97  0.01 0.005   0.97
#   2    0.97  0.01 0.004   -0.34   0.49 -0.10 0.087   0.49
#
# What follows for whoever measures calibration with calzone: compare the sum of `bin_counts` with the number of slices,
# add 1e-9 to scores of 0 and use bins of equal width, and hand over each class as two columns.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install calzone-tool==0.1.0 uncertainty-calibration==0.1.4 \
    scikit-learn==1.9.1 statsmodels==0.15.0 pandas==2.3.3 matplotlib==3.11.2 scipy==1.17.1 numpy==2.4.6

cat >"$folder/calibration_errors.py" <<'PYTHON'
import sys

import calibration
import numpy as np
from calzone.metrics import CalibrationMetrics, cox_regression_analysis
from calzone.utils import reliability_diagram
from scipy.stats import chi2
from sklearn.linear_model import LogisticRegression

SLICES, BINS = 6000, 10
random = np.random.default_rng(0)


def of_all(scores, sick, quantiles):
    """Return ECE, MCE and the p-value of Hosmer and Lemeshow, where each slice is in a bin."""
    edges = np.quantile(scores, np.arange(1, BINS) / BINS) if quantiles else np.arange(1, BINS) / BINS
    bins = np.searchsorted(edges, scores)
    taken = np.unique(bins)
    count, expected, seen = (np.bincount(bins, w, BINS)[taken] for w in (np.ones(SLICES), scores, sick))
    gaps = np.abs(seen - expected) / count
    expected = np.maximum(expected, 1e-7 * count)  # as calzone does, so that nothing is divided by 0
    chi = ((seen - expected) ** 2 / (expected * (1 - expected / count))).sum()
    return gaps @ count / SLICES, gaps.max(), chi2.sf(chi, len(taken) - 2)


def by_calzone(scores, sick):
    both = np.column_stack((1 - scores, scores))
    wanted = [f"{metric}-{kind}" for kind in "HC" for metric in ("ECE", "MCE", "HL")]
    found = CalibrationMetrics(1, BINS).calculate_metrics(sick, both, wanted)
    rows = [[found[f"ECE-{kind}"], found[f"MCE-{kind}"], found[f"HL-{kind} p-value"]] for kind in "HC"]
    counts = [reliability_diagram(sick, both, BINS, 1, kind)[3].sum() for kind in (False, True)]
    return rows, counts


changed = []
# Three tenths of the slices have the lowest score, and a fifth of these is sick. The other scores are true.
lowest = random.random(SLICES) < 0.3
drawn = random.uniform(0.06, 1, SLICES)
sick = (random.random(SLICES) < np.where(lowest, 0.2, drawn)).astype(int)
for name, score in {"0": 0, "1e-9": 1e-9, "0.05": 0.05}.items():
    scores = np.where(lowest, score, drawn)
    (equal_width, equal_count), counted = by_calzone(scores, sick)
    right = of_all(scores, sick, False), of_all(scores, sick, True)
    second = calibration.get_ece(scores, sick, num_bins=BINS, mode="marginal")
    for kind, found, truth, number in zip(("width", "count"), (equal_width, equal_count), right, counted, strict=True):
        print(
            f"#   {name:5} {kind}   {number}   {found[0]:.3f} {found[1]:.3f} {found[2]:.3f}"
            f"    {truth[0]:.3f} {truth[1]:.3f} {truth[2]:.3f}"
        )
        left_out = kind == "count" or name == "0"
        holds = {
            "slices are left out": number == SLICES - lowest.sum() * left_out,
            "the error is too small, or right": found[0] < truth[0] - 0.02 if left_out else np.allclose(found, truth),
            "the test passes, or not": (found[2] > 0.05) == left_out and truth[2] < 1e-6,
        }
        changed += [(name, kind, what) for what, is_so in holds.items() if not is_so]
    if not np.isclose(second, right[0][0]):
        changed.append((name, "the second library disagrees"))

# Three classes, whose middle one is calibrated. The shares of the other two are too extreme.
logits = random.normal(0, 1.5, (SLICES, 3))
truth = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
label = (truth.cumsum(1) < random.random((SLICES, 1))).sum(1)
first = 1 / (1 + (truth[:, 2] / truth[:, 0]) ** 3)
stated = np.column_stack((first * (1 - truth[:, 1]), truth[:, 1], (1 - first) * (1 - truth[:, 1])))
for number in range(3):
    found = CalibrationMetrics(number).calculate_metrics(label, stated, ["COX"])
    ours = np.clip(stated[:, number], 1e-7, 1 - 1e-7)
    fit = LogisticRegression(C=1e10, tol=1e-8).fit(np.log(ours / (1 - ours))[:, None], label == number)
    alone = CalibrationMetrics(1).calculate_metrics((label == number) * 1, np.column_stack((1 - ours, ours)), ["COX"])
    direct = cox_regression_analysis(label, stated, class_to_calculate=number)[0]
    print(
        f"#   {number}   {found['COX coef']:5.2f} {found['COX intercept']:5.2f} {found['COX ICI']:.3f}   {direct:5.2f}"
        f"   {alone['COX coef']:.2f} {alone['COX intercept']:5.2f} {alone['COX ICI']:.3f}   {fit.coef_[0, 0]:.2f}"
    )
    holds = {
        "scikit-learn agrees with calzone on two classes": np.isclose(fit.coef_[0, 0], alone["COX coef"], atol=0.01),
        "the slope is that of class 1": abs(found["COX coef"] - 1) < 0.06,
        "the true slope": (abs(fit.coef_[0, 0] - 1) < 0.06) if number == 1 else fit.coef_[0, 0] < 0.7,
        "the function itself": direct > 0.9 if number == 1 else direct < 0,
        "the ICI is small": found["COX ICI"] < 0.03 and (alone["COX ICI"] > 0.05 or number == 1),
    }
    changed += [(number, name) for name, is_so in holds.items() if not is_so]
sys.exit(f"changed: {changed}" if changed else 0)
PYTHON

"$folder/venv/bin/python" "$folder/calibration_errors.py"
