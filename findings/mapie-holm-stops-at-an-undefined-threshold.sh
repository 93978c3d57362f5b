#!/usr/bin/env bash
# MAPIE 1.4.0 to 1.6.0: `BinaryClassificationController`, as it is by default, finds no threshold for a wanted precision
# (PPV) if at the highest threshold that it tries no slice is called diseased. Its thresholds go up to 0.99, so this is
# so for each network whose highest probability is below 0.99. For a wanted NPV it never finds one by default, because
# the lowest threshold is 0, where each slice is called diseased. MAPIE 1.3.0 finds the thresholds in both cases.
#
# Where no slice is called diseased, the precision is not defined. MAPIE then states a risk of 1 in -1 slices, meant to
# rule the threshold out, and scipy's `binom.cdf` gives nan for -1 slices. Since 1.4.0 the default is the procedure of
# Holm. It starts with the smallest p-value and ends at the first one that is too large. MAPIE finds the smallest by
# `numpy.argmin`, which gives the nan, so the procedure ends at once. The documentation says that this method "strictly
# dominates Bonferroni in power", and does not name undefined thresholds. The warning says that no parameter was found
# "to control the risk at the given target and confidence levels", and advises "a larger calibration set or a better
# model or less strict target and confidence levels". What helps is one more slice with a probability of 0.995. With
# two risks, one of them undefined somewhere, it is the same.
#
# Below are 2000 slices whose probabilities are true, from 0 to 0.97. Seen: the thresholds that are found, of the 100
# that are tried by default, or (third column) of those from 0.02 to 0.94. The last column is Holm's procedure by
# statsmodels 0.15.0, of the p-values of MAPIE 1.6.0 with 1 instead of nan. All thresholds stated here do in truth keep
# what is wanted.
#                                1.3.0          1.6.0          1.6.0, 0.02 to 0.94   by statsmodels
#   PPV of 0.8                   0.73 to 0.94   none           0.73 to 0.94          0.73 to 0.94
#   NPV of 0.8                   0.02 to 0.30   none           0.02 to 0.31          0.02 to 0.31
#   PPV of 0.7, sensitivity 0.5  0.54 to 0.65   none           0.54 to 0.65          0.54 to 0.65
#   sensitivity of 0.9           0.00 to 0.25   0.00 to 0.26   0.02 to 0.26          0.00 to 0.26
#   PPV of 0.8, one slice more   0.73 to 0.95   0.73 to 0.95
#
# What follows for whoever chooses a threshold with MAPIE: give `list_predict_params` only thresholds with slices on
# both sides, or set `fwer_method="bonferroni"`, and look for nan in `p_values` before you believe that there is none.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat >"$folder/thresholds.py" <<'PYTHON'
import sys
import warnings
from importlib.metadata import version

import numpy as np
from mapie.risk_control import BinaryClassificationController, negative_predictive_value, precision, recall
from statsmodels.stats.multitest import multipletests

HIGHEST, CONFIDENCE = 0.97, 0.9
ALL = np.linspace(0, 0.99, 100)  # the default
INNER = ALL[2:95]  # with slices on both sides
RISKS = {
    "PPV of 0.8": (precision, 0.8),
    "NPV of 0.8": (negative_predictive_value, 0.8),
    "PPV of 0.7, sensitivity 0.5": ([precision, recall], [0.7, 0.5]),
    "sensitivity of 0.9": (recall, 0.9),
}
new = version("mapie") == "1.6.0"
random = np.random.default_rng(0)
chances = random.uniform(0, HIGHEST, 2000)
labels = (random.random(2000) < chances).astype(int)
changed = []


def find(risk, target, chances=chances, labels=labels, **options):
    """Return the thresholds that MAPIE finds, its p-values, and what it says."""
    controller = BinaryClassificationController(
        lambda given: np.stack([1 - given, given], axis=1),
        risk,
        target,
        confidence_level=CONFIDENCE,
        best_predict_param_choice=recall,
        **options,
    )
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        controller.calibrate(chances, labels)
    return controller.valid_predict_params, np.ravel(controller.p_values), [str(each.message) for each in said]


def in_truth(name, thresholds):
    """Return whether the thresholds keep what is wanted, by what is known of the chances."""
    ppv, npv = (thresholds + HIGHEST) / 2, 1 - thresholds / 2
    sensitivity = 1 - (thresholds / HIGHEST) ** 2
    wanted = {"PPV of 0.8": ppv >= 0.8, "NPV of 0.8": npv >= 0.8, "sensitivity of 0.9": sensitivity >= 0.9}
    return wanted.get(name, (ppv >= 0.7) & (sensitivity >= 0.5)).all()


def words(thresholds):
    return f"{thresholds[0]:.2f} to {thresholds[-1]:.2f}" if len(thresholds) else "none"


for name, (risk, target) in RISKS.items():
    found, p_values, said = find(risk, target)
    if not new:
        print(f"1.3.0, {name}: {words(found)}")
        as_stated = len(found) > 9 and in_truth(name, found) and not said
    else:
        inner = find(risk, target, list_predict_params=INNER)[0]
        bonferroni = find(risk, target, fwer_method="bonferroni")[0]
        holm = ALL[multipletests(np.where(np.isnan(p_values), 1, p_values), 1 - CONFIDENCE, "holm")[0]]
        print(f"1.6.0, {name}: {words(found)}; inner {words(inner)}; ", end="")
        print(f"Bonferroni {words(bonferroni)}; by statsmodels {words(holm)}")
        as_stated = all(len(kept) > 9 and in_truth(name, kept) for kept in (inner, bonferroni, holm))
        as_stated &= set(bonferroni) <= set(holm)
        if name.startswith("sensitivity"):
            as_stated &= not np.isnan(p_values).any() and (found == holm).all() and not said
        else:
            as_stated &= np.isnan(p_values).any() and not len(found) and "No predict parameters" in said[0]
    if not as_stated:
        changed.append(name)

found, p_values, _ = find(precision, 0.8, np.append(chances, 0.995), np.append(labels, 1))
print(f"{version('mapie')}, PPV of 0.8, one slice more: {words(found)}")
if len(found) < 10 or np.isnan(p_values).any():
    changed.append("one slice more")
sys.exit(f"changed: {changed}" if changed else 0)
PYTHON

python3 -m venv "$folder/venv"
for version in 1.3.0 1.6.0; do
    "$folder/venv/bin/pip" --quiet --disable-pip-version-check install "mapie==$version" statsmodels==0.15.0 \
        scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6 pandas==3.1.1
    "$folder/venv/bin/python" "$folder/thresholds.py"
done
