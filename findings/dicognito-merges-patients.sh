#!/usr/bin/env bash
# dicognito 0.19.0 makes one patient of several: of patients with the same ID from two hospitals, and of all patients
# whose ID is empty. Nothing is said. Its documentation promises: "Objects will remain grouped in their original
# patients, studies, and series."
#
# A Patient ID (0010,0020) is unique within its issuer only (0010,0021, PS3.3 C.2.2). dicognito computes the new ID from
# the old one, without the issuer, and replaces each issuer by "DICOGNITO". So the new ID and the new issuer of the two
# patients are the same. Patient ID may also be empty (type 2, PS3.3 C.7.1.1), if it is unknown. dicognito takes the
# empty text for an ID, and hands out a new one that looks like any other. Accession Number and Study ID are filled in
# the same way, with that same ID. Names, birth dates and UIDs of the patients stay different. With `--id-prefix` the
# number of possible IDs shrinks, because an ID has 12 characters in all. Its help says that collisions get more likely.
# A prefix of 12 characters or more is not refused, and is then the ID of each patient. The types LO and SH would hold
# 64 and 16 characters. The command `dicognito` of this version ends with a TypeError; `python -m dicognito` works.
# Seen, for five patients of one study each: 1001 of hospitals A and B, 2002 of hospital A, and two without an ID:
#   without a prefix, or with 11 characters: 3 patients, of 1, 2 and 2 studies; one accession number for all 5 studies
#   with 14 characters: 2 patients, of 2 and 3 studies, whose IDs are the same; only one has an issuer
# Seen, for 1000 patients of one hospital: 1000 IDs with prefixes of 0 to 8 characters, 699 with 10, 1 with 12
#
# What follows for whoever trains on files of dicognito: group by Study Instance UID, and count the birth dates of each
# patient. Whoever anonymises: put the issuer into the ID first, give each patient an ID, and take a short prefix.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install dicognito==0.19.0 pydicom==3.0.2

cat >"$folder/merge.py" <<'PYTHON'
import shutil
import subprocess
import sys
from pathlib import Path

from dicognito.anonymizer import Anonymizer
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

# patient ID, its issuer, name and birth date; two slices each
PATIENTS = [
    ("1001", "HOSPITAL A", "Doe^Jane", "19600102"),
    ("1001", "HOSPITAL B", "Roe^Mary", "19750505"),
    ("2002", "HOSPITAL A", "Moe^Eva", "19880808"),
    ("", "", "Poe^Ann", "19500103"),
    ("", "", "Low^Sue", "19910203"),
]
# prefix, how many studies each patient has, by ID and issuer, and how many IDs there are
EXPECTED = {"": ([1, 2, 2], 3), "CHEST-CT-26": ([1, 2, 2], 3), "CHEST-CT-2026A": ([2, 3], 1)}
MANY, LEFT = 1000, {0: 1000, 6: 1000, 8: 1000, 10: 699, 12: 1}  # how many IDs are left with a prefix of this length
folder = Path(sys.argv[1])
faults = []


def check(what: str, holds: bool) -> None:
    if not holds:
        faults.append(what)


def slice_of(patient: str, issuer: str, name: str, birth_date: str, study: str) -> Dataset:
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID, image.SOPInstanceUID, image.Modality = CTImageStorage, generate_uid(), "CT"
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.PatientID, image.PatientName, image.PatientBirthDate, image.PatientSex = patient, name, birth_date, "F"
    if issuer:
        image.IssuerOfPatientID = issuer
    image.StudyInstanceUID, image.SeriesInstanceUID = study, study + ".1"
    image.StudyDate, image.StudyTime, image.AccessionNumber, image.StudyID = "20260105", "101500", "", ""
    image.BurnedInAnnotation = "NO"
    return image


def identities(images: list[Dataset]) -> dict[tuple[str, str], set[str]]:
    """Return the studies of each patient: of each pair of ID and issuer."""
    found: dict[tuple[str, str], set[str]] = {}
    for image in images:
        found.setdefault((image.PatientID, image.get("IssuerOfPatientID", "")), set()).add(image.StudyInstanceUID)
    return found


sources = folder / "sources"
sources.mkdir()
for patient in PATIENTS:
    study = generate_uid()[:60]
    for number in range(2):
        image = slice_of(*patient, study)
        image.save_as(sources / f"{image.SOPInstanceUID}.dcm", enforce_file_format=True)
originals = [dcmread(path) for path in sources.iterdir()]
check("source: five patients", len({(image.PatientBirthDate, image.StudyInstanceUID) for image in originals}) == 5)
check("source: three have an ID", sorted(map(len, identities(originals).values())) == [1, 1, 1, 2])
for prefix, (expected, ids) in EXPECTED.items():
    target = folder / "target"
    shutil.rmtree(target, ignore_errors=True)
    command = [sys.executable, "-m", "dicognito", "--seed", "1", "--id-prefix", prefix, "-o", target, sources]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    check(f"{prefix}: a warning", not done.stderr.strip() and "arning" not in done.stdout)
    images = [dcmread(path) for path in target.rglob("*.dcm")]
    found = identities(images)
    for (patient, issuer), studies in sorted(found.items()):
        print(f"prefix {prefix!r}: patient {patient}, issuer {issuer!r}, {len(studies)} studies")
    check(f"{prefix}: studies", sorted(map(len, found.values())) == expected)
    check(f"{prefix}: IDs", len({patient for patient, _ in found}) == ids)
    check(f"{prefix}: issuers", {issuer for _, issuer in found} == {"", "DICOGNITO"})
    filled = {(image.AccessionNumber, image.StudyID) for image in images}
    check(f"{prefix}: accession", filled == {(patient, patient) for patient, issuer in found if not issuer})
    # control: all else keeps the patients apart
    for keyword in ("PatientName", "PatientBirthDate", "StudyInstanceUID", "SOPInstanceUID"):
        count = 10 if keyword == "SOPInstanceUID" else 5
        check(f"{prefix}: {keyword}", len({str(image.get(keyword)) for image in images}) == count)
for length, expected in LEFT.items():
    anonymizer = Anonymizer(id_prefix="CHEST-CT-2026A"[:length], seed="1")
    made = set()
    for number in range(MANY):
        image = slice_of(f"{number:06}", "HOSPITAL A", "Doe^Jane", "19600102", "1.2.3")
        anonymizer.anonymize(image)
        made.add(image.PatientID)
    print(f"prefix of {length} characters: {len(made)} IDs for {MANY} patients")
    check(f"prefix of {length}", len(made) == expected)
command = [Path(sys.executable).with_name("dicognito"), "--help"]
check("the command", "TypeError" in subprocess.run(command, capture_output=True, text=True, check=False).stderr)
print(*faults, sep="\n")
sys.exit("changed" if faults else 0)
PYTHON

"$folder/venv/bin/python" "$folder/merge.py" "$folder"
