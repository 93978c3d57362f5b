#!/usr/bin/env bash
# dcurves 1.1.7: in a decision curve of times to an event, a marker named in `models_to_prob` is turned into the chance
# to survive, and this is taken for the risk. So the patients at the lowest risk are treated first, and a good marker
# looks worse than treating all patients or none. Nothing is said.
#
# `models_to_prob` is documented as "Columns that need to be converted to risk scores from 0 to 1". With `time` and
# `time_to_outcome_col`, dcurves fits a Cox model of lifelines for each such column, and calls its
# `predict_survival_function`. It does not subtract the result from 1 (risks.py, `_calc_surv_risks`). Because Cox finds
# the sign of a marker, a marker turned around gives the same wrong curve. Without times, dcurves fits a logistic
# regression, and is right. It is right too for a column that is a risk already.
#
# Below, 3000 patients have a marker, such as the share of the lung that is affected, and the hazard of their event
# grows with it. 46 % are censored. Seen: the net benefit of treating all patients whose risk until day 10 is at or
# above a threshold. "Marker" is by dcurves from the marker, "risk" by dcurves from 1 - survival of the same Cox model,
# "counted" by the definition, from the true times, which dcurves is not given, and "no times" by dcurves from the
# marker and from whether the event came until day 10. Treating none has a net benefit of 0.
#   threshold   marker     risk   counted   no times   treating all
#   0.1          0.281    0.385     0.389      0.388          0.381
#   0.3          0.019    0.279     0.284      0.283          0.204
#   0.5         -0.306    0.195     0.200      0.201         -0.114
#   0.7         -0.703    0.132     0.135      0.137         -0.856
#
# What follows for whoever draws decision curves of times: compute the risk, 1 - survival, and hand it over as a column.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install dcurves==1.1.7 lifelines==0.30.3 \
    statsmodels==0.15.0 pandas==2.3.3 scipy==1.17.1 numpy==2.4.6

cat >"$folder/curves.py" <<'PYTHON'
import sys

import lifelines
import numpy as np
import pandas
from dcurves import dca

PATIENTS, HORIZON, THRESHOLDS = 3000, 10, [0.1, 0.3, 0.5, 0.7]
random = np.random.default_rng(0)
marker = random.normal(size=PATIENTS)
true_times = random.exponential(20 * np.exp(-1.2 * marker))
until = random.uniform(HORIZON / 2, 3 * HORIZON, PATIENTS)
patients = pandas.DataFrame(
    {
        "marker": marker,
        "days": np.minimum(true_times, until),
        "event": (true_times <= until).astype(int),
        "early": (true_times <= HORIZON).astype(int),
    }
)
cox = lifelines.CoxPHFitter().fit(patients[["days", "event", "marker"]], "days", "event")
patients["risk"] = 1 - cox.predict_survival_function(patients[["marker"]], times=[HORIZON]).to_numpy()[0]
timed = {"time": HORIZON, "time_to_outcome_col": "days"}


def counted(risk, threshold):
    """Return the net benefit by its definition, from the true times."""
    treated = risk >= threshold
    right, wrong = (treated & (true_times <= HORIZON)).mean(), (treated & (true_times > HORIZON)).mean()
    return right - wrong * threshold / (1 - threshold)


def benefits(found, model):
    return found[found.model == model].set_index("threshold").net_benefit.to_numpy()


both = dca(patients, "event", ["marker", "risk"], THRESHOLDS, models_to_prob=["marker"], **timed)
binary = dca(patients, "early", ["marker"], THRESHOLDS, models_to_prob=["marker"])
inverted = dca(patients.assign(marker=1 - patients.risk), "event", ["marker"], THRESHOLDS, **timed)
by_marker, by_risk, of_all = (benefits(both, model) for model in ("marker", "risk", "all"))
truth = np.array([counted(patients.risk, threshold) for threshold in THRESHOLDS])
print(f"censored: {1 - patients.event.mean():.0%}, risk and marker rise together: {cox.params_['marker']:.2f}")
for row in zip(THRESHOLDS, by_marker, by_risk, truth, benefits(binary, "marker"), of_all, strict=True):
    print("#   {:<9} {:8.3f} {:8.3f} {:9.3f} {:10.3f} {:14.3f}".format(*row))

tests = {
    "a risk is right": np.abs(by_risk - truth).max() < 0.02,
    "without times it is right": np.abs(benefits(binary, "marker") - truth).max() < 0.02,
    "a marker is inverted": np.allclose(by_marker, benefits(inverted, "marker"), atol=1e-6),
    "a marker looks worse than all and none": (by_marker[:3] < np.maximum(of_all, 0)[:3] - 0.02).all(),
    "the marker is good": (by_risk > np.maximum(of_all, 0)).all(),
}
other = dca(patients.assign(marker=-marker), "event", ["marker"], THRESHOLDS, models_to_prob=["marker"], **timed)
tests["a marker turned around is as wrong"] = np.allclose(benefits(other, "marker"), by_marker, atol=1e-6)
changed = [name for name, holds in tests.items() if not holds]
sys.exit(f"changed: {changed}" if changed else 0)
PYTHON

"$folder/venv/bin/python" "$folder/curves.py"
