"""Rejects DICOM files that are not CT in HU, and CT that is not an axial slice of the chest.

Each rule has a name, by which a setting can turn it off.
"""

import math
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain

from pydicom.dataset import Dataset

from worker.imaging.display_names import display_name
from worker.imaging.formats.dicom_values import is_damaged, items_of, numbers_of, text_of, texts_of
from worker.imaging.rejections import SliceRejected

MIN_AXIAL = 0.8
"""Least part of the slice's normal that runs along the body. The steepest gantry tilt, 30°, leaves 0.87."""

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
_CT = (_CT_IMAGE, _CT_IMAGE + ".1", _CT_IMAGE + ".2")  # CT Image, Enhanced CT, Legacy Converted Enhanced CT
_STANDARD_OBJECT = "1.2.840.10008.5.1.4.1."
_CAPTURE = re.compile(
    r"SCREEN[ _]?(SAVE|SHOT|CAPTURE)|DOSE([ _](REPORT|INFO))?|PROTOCOL|REPORT|CT_SOM\d+ PROT|"
    "VRT|VOLUME[ _]RENDER(ING)?|SURFACE[ _]RENDER(ING)?"
)
_CAPTURE_SERIES = re.compile(r"\s*(patient protocol|dose (report|info))\s*", re.IGNORECASE)
_NOT_AXIAL = ("CORONAL", "SAGITTAL", "OBLIQUE", "CURVED_MPR")
_PROJECTIONS = ("MIP", "MAX_IP", "MAXIMUM", "MINIP", "MIN_IP", "MINIMUM")
_MAPS = (
    *("CBF", "CBV", "RCBF", "RCBV", "MTT", "TTP", "TMAX", "QUANTITY"),
    *("STD_DEVIATION", "SUBTRACTION", "DIVISION", "MULTIPLICATION", "T_TEST", "Z_SCORE"),
    *("MAT_SPECIFIC", "MAT_FRACTIONAL", "MAT_VALUE_BASED", "EFF_ATOMIC_NUM", "ELECTRON_DENSITY"),
)
"""Terms for computed values that are not HU (PS3.3 C.8.16.1.4, C.8.2.1.1.1, C.8.15.2.1.1). `PERFUSION` is not such a
term: perfusion scans name their HU like this too."""
HU_NAMES = (
    "HU",
    "HU_MOD",
    "HOUNSFIELD",
    "HOUNSFIELD UNIT",
    "HOUNSFIELD UNITS",
    "HOUNDSFIELD UNIT",
    "HOUNDSFIELD UNITS",
)
"""Names of HU that files use, in capitals."""
_HU_UNITS = ("HNSF'U", *HU_NAMES)  # also the code of UCUM, in capitals and without brackets
_CHEST = re.compile("CHEST|THORA|LUNG")
_OTHER_PARTS = re.compile(
    "ABDOMEN|ABDOMENPELVIS|ABDPELV|ANKLE|ARM|BRAIN|CALF|CLAVICLE|COCCYX|CSPINE|CTSPINE|EAR|ELBOW|EYE|"
    "FACE|FEMUR|FINGER|FOOT|FOREARM|HAND|HEAD|HEADNECK|HIP|HUMERUS|IAC|JAW|KNEE|LEG|LSPINE|LSSPINE|"
    "MAXILLA|NECK|ORBIT|PELVIS|SELLA|SINUS|SKULL|SPINE|SSPINE|TEETH|THIGH|TLSPINE|TMJ|TOE|WRIST|ZYGOMA"
)
_REGION_CODES = {
    "ABDOMEN": "818981001 113345001 T-D4000",
    "ABDOMENPELVIS": "818982008 416949008 R-FAB57",
    "ANKLE": "70258002 T-15750",
    "ARM": "40983000 53120007 T-D8200 T-D8000",
    "BRAIN": "12738006 T-A0100",
    "CALF": "30021000 T-D9400",
    "CLAVICLE": "51299004 T-12310",
    "COCCYX": "64688005 T-11BF0",
    "CSPINE": "122494005 T-11501",
    "EAR": "117590005 T-AB001",
    "ELBOW": "16953009 T-15430",
    "EYE": "81745001 371398005 T-AA000 T-D0801",
    "FACE": "89545001 91397008 T-D1200 T-11196",
    "FEMUR": "71341001 T-12710",
    "FINGER": "7569003 T-D8800",
    "FOOT": "56459004 T-D9700",
    "FOREARM": "14975008 T-D8500",
    "HAND": "85562004 T-D8700",
    "HEAD": "69536005 T-D1100",
    "HEADNECK": "774007 T-D1000",
    "HIP": "24136001 29836001 T-15710 T-D2500",
    "HUMERUS": "85050009 T-12410",
    "IAC": "361078006 T-AB959",
    "JAW": "661005 T-D1213",
    "KNEE": "72696002 T-D9200",
    "LEG": "61685007 T-D9000",
    "LSPINE": "122496007 T-11503",
    "LSSPINE": "1217253001",
    "MAXILLA": "70925003 T-11170",
    "NECK": "45048000 T-D1600",
    "ORBIT": "363654007 T-D14AE",
    "PELVIS": "816092008 12921003 T-D6000",
    "SELLA": "42575006 T-D1460",
    "SINUS": "2095001 T-22000",
    "SKULL": "89546000 T-11100",
    "SPINE": "421060004 T-D04FF",
    "SSPINE": "54735007 T-11AD0",
    "THIGH": "68367000 T-D9100",
    "TLSPINE": "1217256009",
    "TMJ": "53620006 T-15290",
    "TOE": "29707007 T-D9800",
    "WRIST": "74670003 T-15460",
    "ZYGOMA": "13881006 T-11166",
}
"""The codes of the same parts in SNOMED CT, and in SNOMED RT (PS3.16 annex L, CID 4030)."""

_SNOMED = ("SCT", "SRT", "SNM3")  # coding schemes

_OTHER_REGIONS = {code: part for part, codes in _REGION_CODES.items() for code in codes.split()}
_TRACKING = (
    "(pre[ _-]?)?monitoring|premon|(test|care|timing)[ _-]?bolus|bolus[ _-]?(tracking|track|timing)|"
    "smart[ _-]?prep|sure[ _-]?start|tracker|locator"
)
_SETTING = r"series|scan|bolus|mm|[a-z]{0,3}\d[\w./%-]*"  # such as a kernel (I40f), a thickness (10.0)
_BOLUS = re.compile(rf"\s*({_TRACKING})([\s,()]+({_SETTING}))*[\s,()]*", re.IGNORECASE)
"""A name that a scanner gives to bolus tracking, with nothing but settings after it. In longer texts, the same words
describe a scan, as in "Therapy Monitoring" and "post bolus lung"."""


def check_object(dataset: Dataset, rules: Collection[str]) -> None:
    """Raise SliceRejected if the file is not CT, or if a rule applies to the whole file. The code is its name.

    `capture`: the file is a Secondary Capture of CT. Or ImageType or the series' description names a screen, a report
    or a rendered picture. `not_chest`: BodyPartExamined is another part of the body (PS3.16 annex L). Or
    BodyPartExamined does not name the chest, and each AnatomicRegionSequence is another part. `bolus_tracking`: the
    series' description or ImageType contains a name that scanners give to bolus tracking.
    """
    kinds, description = _kinds(dataset, "ImageType"), text_of(dataset, "SeriesDescription")
    is_capture = text_of(dataset, "SOPClassUID").startswith(_SECONDARY_CAPTURE) and text_of(dataset, "Modality") == "CT"
    is_capture |= any(map(_CAPTURE.fullmatch, kinds)) or bool(_CAPTURE_SERIES.fullmatch(description))
    if "capture" in rules and is_capture:
        raise SliceRejected("capture", "A captured screen or report, not a slice.")
    _check_is_ct(dataset)
    part = re.sub("[^A-Z]", "", text_of(dataset, "BodyPartExamined").upper())
    if "not_chest" in rules and _OTHER_PARTS.fullmatch(part):
        raise SliceRejected("not_chest", f"The body part examined is {display_name(part)}.")
    regions = set() if _CHEST.search(part) else set(_regions(dataset))
    if "not_chest" in rules and regions and regions <= _OTHER_REGIONS.keys():
        raise SliceRejected("not_chest", f"The anatomic region is {_OTHER_REGIONS[min(regions)]}.")
    if "bolus_tracking" in rules and any(map(_BOLUS.fullmatch, (description, *kinds))):
        raise SliceRejected("bolus_tracking", "A slice that times the contrast agent.")


def check_place(dataset: Dataset, kind: Dataset, orientation: Dataset, rules: Collection[str]) -> None:
    """Raise SliceRejected if a rule applies to a frame. The code is the rule's name.

    `localizer`: ImageType or FrameType states a localizer. `capture`: the frame is stated to be a rendered picture.
    `not_axial`: ImageType or FrameType names another plane, or the normal of ImageOrientationPatient is more than 37°
    off the axis of the body.
    """
    kinds = _frame_kinds(dataset, kind)
    if "localizer" in rules and "LOCALIZER" in kinds:
        raise SliceRejected("localizer", "A localiser, not a slice.")
    if "capture" in rules and any(map(_CAPTURE.fullmatch, kinds)):
        raise SliceRejected("capture", "A rendered picture, not a slice.")
    if "not_axial" in rules and (any(plane in kinds for plane in _NOT_AXIAL) or _runs_across(orientation)):
        raise SliceRejected("not_axial", "The slice is not axial.")


def check_values(dataset: Dataset, kind: Dataset, mappings: Iterable[Dataset]) -> None:
    """Raise SliceRejected(`unsupported`) if the values of a frame are stated to be something else than HU.

    There are two cases. ImageType or FrameType names a computed map. Or `mappings` (the items of
    RealWorldValueMappingSequence) state units, but none of these is HU. A unit without a code value is ignored.
    """
    if names := [name for name in _frame_kinds(dataset, kind) if name in _MAPS]:
        raise SliceRejected("unsupported", f"The values are not in Hounsfield units (a map of {names[0]}).")
    codes = [code for mapping in mappings for code in items_of(mapping, "MeasurementUnitsCodeSequence")]
    units = [unit for code in codes if (unit := text_of(code, "CodeValue"))]
    if units and not any(re.sub(r"[\[\]{}]", "", unit).upper() in _HU_UNITS for unit in units):
        raise SliceRejected("unsupported", f"The values are not in Hounsfield units (unit {display_name(units[0])!r}).")


def is_projection(dataset: Dataset, kind: Dataset) -> bool:
    """Return whether a frame is stated to be the maximum or minimum of several slices.

    The last word of a name counts, as in Siemens' "CT_SOM5 MIP".
    """
    return any(name.rpartition(" ")[2] in _PROJECTIONS for name in _frame_kinds(dataset, kind))


def axes_of(orientation: Dataset) -> list[float]:
    """Return the direction cosines of rows and columns, six numbers. Return [] if they are missing or span no plane."""
    try:
        axes = numbers_of(orientation, "ImageOrientationPatient")
    except SliceRejected:
        return []
    return axes if len(axes) == 6 and any(_normal(axes)) else []


def _check_is_ct(dataset: Dataset) -> None:
    sop_class, modality = text_of(dataset, "SOPClassUID"), text_of(dataset, "Modality")
    if not sop_class:
        raise SliceRejected("malformed", "The file does not state its SOP class.")
    if sop_class not in _CT or modality not in ("", "CT"):
        kind = "object" if sop_class.startswith(_STANDARD_OBJECT) else "unknown object"
        raise SliceRejected("not_ct", f"Modality {display_name(modality)[:16]}, {kind} {display_name(sop_class)[:64]}.")


def _regions(dataset: Dataset) -> Iterator[str]:
    """Yield the codes of the anatomic regions of a file: of the whole, of all frames in common, and of each frame.

    A code that is not of SNOMED becomes "". Damaged sequences of regions are ignored.
    """
    groups = (
        *items_of(dataset, "SharedFunctionalGroupsSequence"),
        *items_of(dataset, "PerFrameFunctionalGroupsSequence"),
    )
    for place in (dataset, *(item for group in groups for item in _undamaged(group, "FrameAnatomySequence"))):
        for region in _undamaged(place, "AnatomicRegionSequence"):
            yield text_of(region, "CodeValue") if text_of(region, "CodingSchemeDesignator") in _SNOMED else ""


def _undamaged(dataset: Dataset, keyword: str) -> Sequence[Dataset]:
    """Return the items of a sequence that no pixel depends on, or () if it is damaged."""
    return () if is_damaged(dataset, keyword) else items_of(dataset, keyword)


def _frame_kinds(dataset: Dataset, kind: Dataset) -> list[str]:
    """Return what a frame is, as stated for the file and in its CT Image Frame Type."""
    techniques = (_kinds(place, "VolumeBasedCalculationTechnique") for place in (dataset, kind))
    return [*_kinds(dataset, "ImageType"), *_kinds(kind, "FrameType"), *chain.from_iterable(techniques)]


def _kinds(dataset: Dataset, keyword: str) -> list[str]:
    return [kind.strip().upper() for kind in texts_of(dataset, keyword)]


def _runs_across(orientation: Dataset) -> bool:
    axes = axes_of(orientation)
    if not axes:
        return False
    normal = _normal(axes)
    return abs(normal[2]) < MIN_AXIAL * math.hypot(*normal)


def _normal(axes: Sequence[float]) -> tuple[float, float, float]:
    """Return the cross product of two axes, six numbers. NumPy's function would take twenty times as long."""
    a, b, c, d, e, f = axes
    return b * f - c * e, c * d - a * f, a * e - b * d
