"""Groups by folders: a patient's, wherever the folder of the class lies; never a wrapper, a class or a part."""

import pytest

from worker.datasets.identity import HeaderGroups
from worker.datasets.patient_groups import folder_groups
from worker.imaging.recipe import SeriesInfo


@pytest.mark.parametrize(
    ("paths", "groups"),
    [
        # below the class, above it, and both
        (["s/COVID/p1/1.png", "s/COVID/p2/1.png", "s/non-COVID/p3/1.png"], ["p1", "p2", "p3"]),
        (["s/p1/COVID/1.png", "s/p2/COVID/1.png", "s/p3/normal/1.png"], ["p1", "p2", "p3"]),
        (["s/north/COVID/p1/1.png", "s/south/normal/p2/1.png"], ["p1", "p2"]),
        (["COVID/p1/1.png", "COVID/p2/1.png", "COVID/p2/2.png"], ["p1", "p2", "p2"]),  # an archive named for its class
        # scans of one patient are one group, and so is one name in both classes
        (["s/COVID/p1/scan1/1.png", "s/COVID/p1/scan2/1.png", "s/normal/p2/1.png"], ["p1", "p1", "p2"]),
        (["s/COVID/p1/1.png", "s/normal/p1/1.png", "s/normal/p2/1.png"], ["p1", "p1", "p2"]),
        (["s/COVID/1/1.png", "s/normal/0/1.png"], ["1", "0"]),
        (["s/COVID/Pat3/1.png", "s/normal/pat3/1.png", "s/normal/p2/1.png"], ["Pat3", "Pat3", "p2"]),
        (["s/COVID/Images/p1/1.png", "s/normal/images/p2/1.png"], ["p1", "p2"]),
        # folders that all share
        (["s/COVID/1.png", "s/non-COVID/1.png"], ["", ""]),
        (["s/set/COVID/1.png", "s/set/non-COVID/1.png"], ["", ""]),
        (["s/./set/COVID/1.png", "s/./set/non-COVID/1.png"], ["", ""]),
        (["s/COVID/images/1.png", "s/non-COVID/images/1.png"], ["", ""]),
        (["s/COVID/images/p1/1.png", "s/non-COVID/images/p2/1.png"], ["p1", "p2"]),
        (["s/set/p1/COVID/images/1.png", "s/set/p2/COVID/images/1.png"], ["p1", "p2"]),
        # parts of a split, and words for classes
        (["s/train/COVID/1.png", "s/val/COVID/1.png", "s/Test/normal/1.png"], ["", "", ""]),
        (["s/train/COVID/p1/1.png", "s/valid/COVID/p2/1.png", "s/test/normal/p1/1.png"], ["p1", "p2", "p1"]),
        (["s/COVID/train/p1/1.png", "s/COVID/test/p2/1.png", "s/normal/test/p3/1.png"], ["p1", "p2", "p3"]),
        (["s/COVID/positive/1.png", "s/normal/negative/1.png"], ["", ""]),
        # some have a folder, some have none
        (["s/COVID/p1/1.png", "s/COVID/2.png", "s/normal/p2/1.png"], ["p1", "", "p2"]),
        (["s/COVID/1.png", "s/normal/p1/1.png", "s/normal/2.png"], ["", "p1", ""]),
        (["COVID/1.png", "p1/COVID/2.png", "p1/normal/1.png"], ["", "p1", "p1"]),
        (["s/images/COVID/p1/1.png", "s/images/COVID/p2/1.png", "s/images/1.png"], ["p1", "p2", ""]),
        (["s/COVID/p1/1.png", "s/COVID/p1/2.png", "s/normal/1.png"], ["p1", "p1", ""]),
        # the only folder in both classes, next to files
        (["s/COVID/images/1.png", "s/normal/images/1.png", "s/COVID/2.png"], ["", "", ""]),
        (["s/COVID/images/p1/1.png", "s/normal/images/p2/1.png", "s/COVID/2.png"], ["p1", "p2", ""]),
        # labels by CSV: no folder of a class, or numbers that are patients
        (["s/images/p1/1.png", "s/images/p2/1.png"], ["p1", "p2"]),
        (["s/0/1.png", "s/1/1.png", "s/2/1.png"], ["0", "1", "2"]),
        (["s/0/1.png", "s/1/1.png"], ["", ""]),
        (["1.png", "2.png"], ["", ""]),
        (["s\\COVID\\p1\\1.png", "s\\normal\\p2\\1.png"], ["p1", "p2"]),
    ],
)
def test_a_folder_is_a_group_where_it_may_be_a_patients(paths: list[str], groups: list[str]) -> None:
    assert folder_groups([(0, path) for path in paths]) == groups


def test_archive_folder_is_not_a_patient_and_a_name_is_one_group_in_all_archives() -> None:
    paths = [(0, "a/set/COVID/1.png"), (0, "a/set/normal/2.png"), (1, "b/COVID/1.png"), (1, "b/normal/2.png")]
    assert folder_groups(paths) == ["", "", "", ""]
    paths = [(0, "COVID/p1/1.png"), (0, "COVID/p2/1.png"), (1, "normal/p2/1.png"), (1, "normal/p3/1.png")]
    assert folder_groups(paths) == ["p1", "p2", "p2", "p3"]


def test_only_folder_of_both_classes_is_not_a_patient_if_another_archive_has_none() -> None:
    flat = [(1, "COVID/3.png"), (1, "normal/4.png")]
    assert folder_groups([(0, "COVID/images/1.png"), (0, "normal/images/2.png"), *flat]) == [""] * 4
    assert folder_groups([(0, "COVID/images/1.png"), (2, "normal/images/2.png"), *flat]) == [""] * 4


def test_patient_of_both_classes_who_has_an_archive_stays_a_group() -> None:
    paths = [(0, "COVID/p1/1.png"), (0, "normal/p1/2.png"), (1, "COVID/p2/3.png"), (1, "normal/p2/4.png")]
    assert folder_groups(paths) == ["p1", "p1", "p2", "p2"]


def test_file_outside_of_class_folders_does_not_make_a_shared_folder_a_patient() -> None:
    paths = [(0, "COVID/images/p1/1.png"), (0, "normal/images/p2/1.png"), (1, "p3/1.png"), (1, "p4/1.png")]
    assert folder_groups(paths) == ["p1", "p2", "p3", "p4"]


def test_largest_patient_does_not_hide_that_others_are_torn_apart() -> None:
    headers = HeaderGroups()
    for patient, slices in enumerate([500, *[50] * 9]):
        facts = SeriesInfo(f"{patient}", f"1.{patient}", "1.2", None, "", None, "1.3", None, birth_date=f"b{patient}")
        for number in range(slices):
            headers.add(f"{patient}", facts, f"{patient}-{3 * number // slices}")
    assert headers.torn() == 9
