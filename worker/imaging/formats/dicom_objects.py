"""Rejects CT files that are not axial slices of the chest. A setting can turn off each of the named rules."""

import re
from collections.abc import Collection

import numpy as np
from pydicom.dataset import Dataset

from worker.imaging.display_names import display_name
from worker.imaging.formats.dicom_values import numbers_of, text_of, texts_of
from worker.imaging.rejections import SliceRejected

MIN_AXIAL = 0.8
"""Least part of the slice's normal that runs along the body. The steepest gantry tilt, 30°, leaves 0.87."""

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_CAPTURES = ("SCREEN SAVE", "SCREENSHOT", "SCREEN CAPTURE", "DOSE", "DOSE REPORT", "DOSE_INFO", "PROTOCOL", "REPORT")
_NOT_AXIAL = ("CORONAL", "SAGITTAL", "OBLIQUE")
_OTHER_PARTS = re.compile(
    "ABDOMEN|ABDOMENPELVIS|ABDPELV|ANKLE|ARM|BRAIN|CALF|CLAVICLE|COCCYX|CSPINE|CTSPINE|EAR|ELBOW|EYE|"
    "FACE|FEMUR|FINGER|FOOT|FOREARM|HAND|HEAD|HEADNECK|HIP|HUMERUS|IAC|JAW|KNEE|LEG|LSPINE|LSSPINE|"
    "MAXILLA|NECK|ORBIT|PELVIS|SELLA|SINUS|SKULL|SPINE|SSPINE|TEETH|THIGH|TLSPINE|TMJ|TOE|WRIST|ZYGOMA"
)
_TRACKING = (
    "(pre[ _-]?)?monitoring|premon|(test|care|timing)[ _-]?bolus|bolus[ _-]?(tracking|track|timing)|"
    "smart[ _-]?prep|sure[ _-]?start|tracker|locator"
)
_SETTING = r"series|scan|bolus|mm|[a-z]{0,3}\d[\w./%-]*"  # such as a kernel (I40f), a thickness (10.0)
_BOLUS = re.compile(rf"\s*({_TRACKING})([\s,()]+({_SETTING}))*[\s,()]*", re.IGNORECASE)
"""A name that a scanner gives to bolus tracking, with nothing but settings after it. In longer texts, the same words
describe a scan, as in "Therapy Monitoring" and "post bolus lung"."""


def check_object(dataset: Dataset, rules: Collection[str]) -> None:
    """Raise SliceRejected, with the name of the rule, if a rule applies to the whole file.

    `capture`: Secondary Capture of CT, or ImageType names a screen or a report. `not_chest`: BodyPartExamined is
    another part of the body (PS3.16 annex L). `bolus_tracking`: the series' description or ImageType is a scanner's
    name for it.
    """
    kinds = _kinds(dataset, "ImageType")
    is_capture = text_of(dataset, "SOPClassUID").startswith(_SECONDARY_CAPTURE) and text_of(dataset, "Modality") == "CT"
    if "capture" in rules and (is_capture or any(kind in _CAPTURES for kind in kinds)):
        raise SliceRejected("capture", "A captured screen or report, not a slice.")
    part = re.sub("[^A-Z]", "", text_of(dataset, "BodyPartExamined").upper())
    if "not_chest" in rules and _OTHER_PARTS.fullmatch(part):
        raise SliceRejected("not_chest", f"The body part examined is {display_name(part)}.")
    described = (text_of(dataset, "SeriesDescription"), *kinds)
    if "bolus_tracking" in rules and any(map(_BOLUS.fullmatch, described)):
        raise SliceRejected("bolus_tracking", "A slice that times the contrast agent.")


def check_place(dataset: Dataset, kind: Dataset, orientation: Dataset, rules: Collection[str]) -> None:
    """Raise SliceRejected, with the name of the rule, if a rule applies to a frame.

    `localizer`: ImageType or FrameType says so. `not_axial`: one of these two names another plane, or the normal of
    ImageOrientationPatient points more across the body than along it.
    """
    kinds = [*_kinds(dataset, "ImageType"), *_kinds(kind, "FrameType")]
    if "localizer" in rules and "LOCALIZER" in kinds:
        raise SliceRejected("localizer", "A localiser, not a slice.")
    if "not_axial" in rules and (any(plane in kinds for plane in _NOT_AXIAL) or _runs_across(orientation)):
        raise SliceRejected("not_axial", "The slice is not axial.")


def _kinds(dataset: Dataset, keyword: str) -> list[str]:
    return [kind.strip().upper() for kind in texts_of(dataset, keyword)]


def _runs_across(orientation: Dataset) -> bool:
    try:
        axes = numbers_of(orientation, "ImageOrientationPatient")
    except SliceRejected:
        return False
    if len(axes) != 6:
        return False
    normal = np.cross(axes[:3], axes[3:])
    length = float(np.linalg.norm(normal))
    return length > 0 and abs(float(normal[2])) < MIN_AXIAL * length
