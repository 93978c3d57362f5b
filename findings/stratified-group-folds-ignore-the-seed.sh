#!/usr/bin/env bash
# scikit-learn 1.9.1: StratifiedGroupKFold(shuffle=True) gives the same folds for every random_state, where no two
# patients have equally many slices. In 1.7.2 every seed gives other folds, and these are not stratified at all.
#
# Cross-validation of slices keeps each patient (the group) in one fold and balances the classes. It is repeated with
# other seeds to see how much a score depends on the split. With 1.9.1 all repeats have the same split, so their spread
# says nothing about that. With 1.7.2, before a repair (scikit-learn, pull request 32540), a fold may hold slices of one
# class only. The documentation says that only groups of "approximately the same" class distribution are shuffled. In
# fact the standard deviations of their class counts must be equal, so patients of one class whose counts differ by a
# single slice are never exchanged. Seen, for 60 patients, 20 of them with the disease, of 100 to 159 slices, in 5 folds:
#   1.7.2, 100 seeds: 100 splits, the disease in 0 % to 75 % of the slices of a fold
#   1.9.1, 100 seeds:   1 split, the disease in 33 % of each fold
#   1.9.1, 100 seeds, if each patient has 130 slices: 100 splits
#
# What follows for whoever repeats cross-validation by patient: count the different splits, and the classes of each fold.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat >"$folder/split.py" <<'PYTHON'
import sys

import numpy as np
import sklearn
from sklearn.model_selection import StratifiedGroupKFold

PATIENTS, SEEDS = 60, 100
DISEASE = np.arange(PATIENTS) < 20


def split(counts, **options):
    """Return the folds of the patients, and the shares of the disease in the slices of the folds."""
    patients = np.repeat(np.arange(PATIENTS), counts)
    labels = DISEASE[patients].astype(int)
    parts = [test for _, test in StratifiedGroupKFold(5, **options).split(labels, labels, patients)]
    return frozenset(frozenset(patients[part].tolist()) for part in parts), [labels[part].mean() for part in parts]


def repeat(counts):
    """Return how many splits differ, and the lowest and the highest share of the disease in a fold."""
    splits = [split(counts, shuffle=True, random_state=seed) for seed in range(SEEDS)]
    shares = [share for _, found in splits for share in found]
    return len({folds for folds, _ in splits}), round(100 * min(shares)), round(100 * max(shares))


counts = np.random.default_rng(0).permutation(np.arange(100, 100 + PATIENTS))
differing, equal = repeat(counts), repeat(np.full(PATIENTS, 130))
plain = split(counts)[1]
print(f"{sklearn.__version__}: splits, lowest and highest share in %: {differing}; with equal counts {equal}")
assert 0.3 < min(plain) and max(plain) < 0.37, "not stratified without shuffling"
if sklearn.__version__ == "1.9.1":
    as_stated = differing[0] == 1 and 32 <= differing[1] and differing[2] <= 35 and equal[0] == SEEDS
else:
    as_stated = differing[0] == SEEDS and differing[1] < 10 and differing[2] > 60
sys.exit(0 if as_stated else "changed")
PYTHON

python3 -m venv "$folder/venv"
for version in 1.7.2 1.9.1; do
    "$folder/venv/bin/pip" --quiet --disable-pip-version-check install "scikit-learn==$version" \
        scipy==1.17.1 numpy==2.4.6
    "$folder/venv/bin/python" "$folder/split.py"
done
