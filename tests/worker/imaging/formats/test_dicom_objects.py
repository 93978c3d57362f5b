"""CT that is not an axial slice of the chest is set apart by a rule of its own, which a setting turns off."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from db.reasons import SET_APART
from tests.conftest import make_settings
from tests.worker.imaging.builders import ct_dataset, dataset_bytes, dicom, grey
from worker.imaging.formats.decode import DecodeLimits, decode
from worker.imaging.rejections import SliceRejected

LIMITS = DecodeLimits()


def regions(*codes: str, scheme: str = "SCT") -> list[Dataset]:
    """Anatomic regions, by their codes."""
    return [item(CodeValue=code, CodingSchemeDesignator=scheme, CodeMeaning="a part") for code in codes]


def groups(*anatomies: list[Dataset]) -> list[Dataset]:
    """Functional groups that state an anatomy each."""
    return [item(FrameAnatomySequence=[item(AnatomicRegionSequence=anatomy)]) for anatomy in anatomies]


def item(**values: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


ROWS: list[tuple[str, dict[str, Any]]] = [
    ("localizer", {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
    ("localizer", {"ImageType": ["DERIVED", "SECONDARY", "localizer", "X"]}),
    ("not_axial", {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}),  # coronal
    ("not_axial", {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}),  # sagittal, as a scout that does not say so
    ("not_axial", {"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED", "CORONAL"]}),
    ("capture", {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}),
    ("capture", {"ImageType": ["DERIVED", "SECONDARY", "DOSE_INFO"]}),
    ("capture", {"ImageType": ["DERIVED", "SECONDARY", "SCREENSAVE"]}),
    ("capture", {"ImageType": ["DERIVED", "SECONDARY", "OTHER", "CT_SOM5 PROT"]}),
    ("capture", {"ImageType": ["DERIVED", "SECONDARY", "OTHER", "CT_SOM7 PROT"]}),
    ("capture", {"ImageType": ["DERIVED", "SECONDARY", "VRT"]}),
    ("capture", {"VolumeBasedCalculationTechnique": "VOLUME_RENDER"}),
    ("capture", {"SeriesDescription": "Patient Protocol"}),
    ("capture", {"SeriesDescription": "Dose Report"}),
    ("not_axial", {"VolumeBasedCalculationTechnique": "CURVED_MPR"}),
    ("not_chest", {"BodyPartExamined": "HEAD"}),
    ("not_chest", {"BodyPartExamined": "Abdomen Pelvis"}),
    ("not_chest", {"AnatomicRegionSequence": regions("T-D1100")}),
    ("not_chest", {"AnatomicRegionSequence": regions("69536005", "45048000")}),
    ("not_chest", {"AnatomicRegionSequence": regions("T-D1100", scheme="SRT"), "BodyPartExamined": "SOMETHING"}),
    ("not_chest", {"SharedFunctionalGroupsSequence": groups(regions("818981001"))}),
    ("not_chest", {"PerFrameFunctionalGroupsSequence": groups(regions("12738006"), regions("12738006"))}),
    ("bolus_tracking", {"SeriesDescription": "PreMonitoring  I40f  10.0"}),
    ("bolus_tracking", {"SeriesDescription": "Monitoring  10.0  Br40 (3)"}),
    ("bolus_tracking", {"SeriesDescription": "TestBolus 10.0 B30f"}),
    ("bolus_tracking", {"SeriesDescription": "CareBolus"}),
    ("bolus_tracking", {"SeriesDescription": "SMART PREP SERIES"}),
    ("bolus_tracking", {"SeriesDescription": "SmartPrep Series"}),
    ("bolus_tracking", {"SeriesDescription": "SureStart"}),
    ("bolus_tracking", {"SeriesDescription": "SURE Start 5.0 mm FC18"}),
    ("bolus_tracking", {"SeriesDescription": "Tracker, 10mm"}),
    ("bolus_tracking", {"SeriesDescription": "Locator"}),
    ("bolus_tracking", {"SeriesDescription": "Bolus Tracking"}),
]


def code(data: bytes, limits: DecodeLimits = LIMITS) -> str:
    try:
        decode(data, limits)
    except SliceRejected as rejected:
        return rejected.code
    return ""


@pytest.mark.parametrize(("rule", "changes"), ROWS)
def test_rule_sets_a_file_apart_and_can_be_turned_off(rule: str, changes: dict[str, Any]) -> None:
    assert code(dicom(**changes)) == rule
    others = tuple(other for other in SET_APART if other != rule)
    assert code(dicom(**changes), replace(LIMITS, set_apart=others)) == ""


def test_secondary_capture_of_ct_is_a_capture() -> None:
    assert code(dicom(SOPClassUID="1.2.840.10008.5.1.4.1.1.7")) == "capture"
    assert code(dicom(SOPClassUID="1.2.840.10008.5.1.4.1.1.7", Modality="OT")) == "not_ct"
    assert code(dicom(SOPClassUID="1.2.840.10008.5.1.4.1.1.7"), replace(LIMITS, set_apart=())) == "not_ct"


def test_other_object_is_not_ct_whatever_part_it_shows() -> None:
    assert code(dicom(SOPClassUID="1.2.840.10008.5.1.4.1.1.4", Modality="MR", BodyPartExamined="BRAIN")) == "not_ct"


def mapping(unit: str) -> Dataset:
    return item(MeasurementUnitsCodeSequence=[item(CodeValue=unit, CodingSchemeDesignator="UCUM", CodeMeaning="unit")])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ImageType": ["DERIVED", "PRIMARY", "PERFUSION", "RCBF"]}, "unsupported"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "MAT_SPECIFIC"]}, "unsupported"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "STD_DEVIATION"]}, "unsupported"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "PERFUSION", "NONE"]}, ""),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "VMI"]}, ""),
        ({"RealWorldValueMappingSequence": [mapping("ml/100ml/s")]}, "unsupported"),
        ({"RealWorldValueMappingSequence": [mapping("1")]}, "unsupported"),
        ({"RealWorldValueMappingSequence": [mapping(""), mapping("ml/100ml/s")]}, "unsupported"),
        *(
            ({"RealWorldValueMappingSequence": [mapping(unit)]}, "")
            for unit in ("[hnsf'U]", "[HNSF'U]", "hnsf'U", "HU", "Hounsfield", "{Hounsfield units}", "")
        ),
        ({"RealWorldValueMappingSequence": [mapping("mg/ml"), mapping("[hnsf'U]")]}, ""),
        ({"RealWorldValueMappingSequence": [item(LUTLabel="no unit")]}, ""),
        (
            {"SharedFunctionalGroupsSequence": [item(RealWorldValueMappingSequence=[mapping("ml/100ml/s")])]},
            "unsupported",
        ),
        (
            {"SharedFunctionalGroupsSequence": [item(CTImageFrameTypeSequence=[item(FrameType=["DERIVED", "MTT"])])]},
            "unsupported",
        ),
    ],
    ids=str,
)
def test_map_of_other_values_than_hounsfield_units_is_unsupported(changes: dict[str, Any], expected: str) -> None:
    assert code(dicom(**changes)) == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"ImageOrientationPatient": [1, 0, 0, 0, 0.866, -0.5]},  # a gantry tilt of 30°
        {"ImageOrientationPatient": [-1, 0, 0, 0, -1, 0]},  # lying face down
        {"ImageOrientationPatient": None},
        {"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "AVERAGE"]},
        {"BodyPartExamined": "CHEST"},
        {"BodyPartExamined": "CHEST_TO_PELVIS"},
        {"BodyPartExamined": "Thorax"},
        {"BodyPartExamined": ""},
        {"AnatomicRegionSequence": regions("816094009")},
        {"AnatomicRegionSequence": regions("unknown")},
        {"AnatomicRegionSequence": regions("661005", scheme="99LOCAL")},
        {"AnatomicRegionSequence": regions("T-D1600", scheme="SRT"), "BodyPartExamined": "CHEST"},
        {"AnatomicRegionSequence": regions("T-D4000", scheme="SRT"), "BodyPartExamined": "Thorax"},
        {"PerFrameFunctionalGroupsSequence": groups(regions("816094009"), regions("818981001"))},
        {"SeriesDescription": "Thorax Patient Protocol 2"},
        {"SeriesDescription": "Thorax Monitor 1.0"},
        {"SeriesDescription": "Chest monitoring 1.0"},
        {"SeriesDescription": "COVID Therapy Monitoring"},
        {"SeriesDescription": "Monitoring COVID-19 1.0"},
        {"SeriesDescription": "Monitoring Thorax 1.0 Br60"},
        {"SeriesDescription": "Thorax bolus 1.25 LUNG"},
        {"SeriesDescription": "Thorax Bolus Tracking 1.0 Br60"},
        {"SeriesDescription": "PE BOLUS THORAX 1.0 I31f"},
        {"SeriesDescription": "post bolus lung"},
        {"SeriesDescription": "Chest SureStart 1.0 LUNG"},
    ],
    ids=str,
)
def test_axial_slice_of_the_chest_is_read(changes: dict[str, Any]) -> None:
    assert code(dicom(**changes)) == ""


@pytest.mark.parametrize(
    "keyword",
    ["AnatomicRegionSequence", "RealWorldValueMappingSequence", "SharedFunctionalGroupsSequence",
     "PerFrameFunctionalGroupsSequence", "PlanePositionSequence", "CTImageFrameTypeSequence"],
)  # fmt: skip
def test_text_in_place_of_a_sequence_states_nothing(keyword: str) -> None:
    dataset = ct_dataset(grey().astype(np.int16) * 8)
    dataset[keyword] = DataElement(tag_for_keyword(keyword) or 0, "LO", "REMOVED")
    assert code(dataset_bytes(dataset)) == ""


def test_setting_names_rules_and_refuses_others(tmp_path: Path) -> None:
    assert make_settings(tmp_path).set_apart == tuple(SET_APART)
    assert make_settings(tmp_path, set_apart="localizer, capture").set_apart == ("localizer", "capture")
    assert make_settings(tmp_path, set_apart="").set_apart == ()
    with pytest.raises(ValidationError, match="unknown rule coronal; choose from: localizer"):
        make_settings(tmp_path, set_apart="coronal")
