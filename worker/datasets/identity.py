"""Checks whether DICOM headers keep patients apart.

Some anonymisers give each file a patient of its own. Others give all patients the same ID.
"""

from collections import Counter, defaultdict

from db.datasets.slices import EACH_SLICE
from db.models.documents import Identity
from worker.imaging.recipe import SeriesInfo

ONE_FOR_ALL = "one_patient_for_all"

_FEW = 4  # with fewer slices, no problem is reported
_ALONE = 0.9  # if this share of the slices is alone in its group, headers seem to name a patient for each slice
_MOST = 0.5  # if the largest group has this share of the slices, headers may give all patients one ID …
_MANY = 3  # … if this group also has this many studies or folders (2 if it is the only group)


class HeaderGroups:
    """Counts slices by the group that their DICOM header states."""

    def __init__(self) -> None:
        self._slices: Counter[str] = Counter()
        self._studies: dict[str, set[str]] = defaultdict(set)
        self._births: dict[str, set[str]] = defaultdict(set)
        self._folders: dict[str, set[str]] = defaultdict(set)

    def add(self, group: str, series: SeriesInfo, folder: str) -> None:
        """Count a slice. `folder`: the group that the slice's folders name, or ""."""
        self._slices[group] += 1
        self._studies[group].add(series.study_uid)
        self._births[group].update([series.birth_date] if series.birth_date else [])
        self._folders[group].update([folder] if folder else [])

    def identity(self) -> Identity:
        """Return the counts, and the problem that they show, if any."""
        if not self._slices:
            return Identity()
        largest, slices = self._slices.most_common(1)[0]
        return Identity(
            slices=self._slices.total(),
            groups=len(self._slices),
            largest=slices,
            largest_studies=len(self._studies[largest]),
            folders=len(set().union(*self._folders.values())),
            several_births=sum(len(births) > 1 for births in self._births.values()),
            problem=self._problem(largest),
        )

    def torn(self) -> int:
        """Return how many patients have slices in several groups that folders or a CSV name.

        `add` gets these groups as `folder`. A patient ID with several birth dates does not count, nor one that stands
        for all patients. Return 0 if nearly each slice is a patient.
        """
        problem = self.identity().problem
        if problem == EACH_SLICE:
            return 0
        unsure = {patient for patient, births in self._births.items() if len(births) > 1}
        if problem == ONE_FOR_ALL:
            unsure.add(self._slices.most_common(1)[0][0])
        return sum(len(groups) > 1 for patient, groups in self._folders.items() if patient not in unsure)

    def _problem(self, largest: str) -> str | None:
        slices, groups = self._slices.total(), len(self._slices)
        if slices < _FEW:
            return None
        if sum(count == 1 for count in self._slices.values()) >= _ALONE * slices:
            return EACH_SLICE
        scans = max(len(self._studies[largest]), len(self._folders[largest]))
        if self._slices[largest] >= _MOST * slices and scans >= (2 if groups == 1 else _MANY):
            return ONE_FOR_ALL
        return None


def warning_of_torn(patients: int) -> str | None:
    """Return a sentence about patients whose slices are in several groups, or None if there are none."""
    if not patients:
        return None
    return (
        f"by their headers, {patients} {'patient has' if patients == 1 else 'patients have'} slices in several groups:"
        " slices of one patient may be in several parts of a split, and metrics may be too good. Give all slices of a"
        " patient the same group in the CSV or the same folder, or leave the groups to the headers"
    )


def warning_of(identity: Identity) -> str | None:
    """Return a sentence that says what is wrong and what to do. Return None if headers keep patients apart."""
    if identity.problem is None and not identity.several_births:
        return None
    if identity.problem is None:
        count = identity.several_births
        what = (
            f"{count} {'patient ID has' if count == 1 else 'patient IDs have'} several birth dates: different patients"
            " may count as one"
        )
    elif identity.problem == EACH_SLICE:
        what = (
            f"by their headers, {identity.slices} DICOM slices are of {identity.groups} patients, nearly one a slice:"
            " slices of one patient may be in several parts of a split, and metrics may be too good"
        )
    else:
        what = (
            f"one patient ID stands for {identity.largest} of {identity.slices} DICOM slices, from"
            f" {identity.largest_studies} studies: a split cannot keep its patients apart"
        )
    if identity.folders > 1:
        return f"{what}. Their folders name {identity.folders} groups: make the dataset with groups by folder"
    return f"{what}. Send a CSV with the column group, or a folder for each patient"
