"""Labels as people write them: class folders, and CSVs, each fault of which is named with its line."""

import pytest

from worker.datasets.class_folders import classes_of_paths, paths_in_archive
from worker.datasets.label_table import (
    BadLabels,
    FileLabels,
    has_label_columns,
    is_label_name,
    match_files,
    read_csv,
    warnings_of,
)

HEAD = b"file,label,group\n"


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("COVID/a.png", 1),
        ("set/covid19/1/a.png", 1),
        ("CT_COVID/a.png", 1),
        ("x/Positive/p/a.png", 1),
        ("1/a.png", 1),
        ("non-COVID/a.png", 0),
        ("CT_NonCOVID/a.png", 0),
        ("NonCOVID/1/a.png", 0),  # 1 is a patient here
        ("COVID/0/a.png", 1),
        ("COVID/normal/a.png", 0),  # the nearest folder counts
        ("Healthy/a.png", 0),
        ("negative/deep/er/a.png", 0),
        ("0/a.png", 0),
        ("set\\COVID\\a.png", 1),
        ("COVID.png", None),  # a file's own name tells nothing
        ("10/a.png", None),
        ("covidlike/a.png", None),
        ("a.png", None),
    ],
)
def test_the_class_is_that_of_the_nearest_class_folder(path: str, label: int | None) -> None:
    assert classes_of_paths([path]) == [label]


def test_numbers_are_not_classes_where_words_are() -> None:
    paths = ["set/COVID/a.png", "set/non-COVID/b.png", "set/unlabelled/0/c.png", "set/unlabelled/1/d.png"]
    assert classes_of_paths(paths) == [1, 0, None, None]
    assert classes_of_paths(paths[2:]) == [0, 1]


@pytest.mark.parametrize(
    ("archive", "names", "labels"),
    [
        ("scans", ["COVID/1.png", "normal/2.png", "masks/3.png", "4.png"], [1, 0, None, None]),
        ("covid19", ["COVID/1.png", "normal/2.png", "masks/3.png", "4.png"], [1, 0, None, None]),
        ("normal", ["set\\COVID\\1.png", "2.png"], [1, 0]),
        ("COVID", ["COVID/p5/1.png", "p6/2.png"], [1, 1]),
        ("1", ["COVID/1.png", "2.png"], [1, None]),
        ("1", ["1/1.png", "2/2.png"], [1, 1]),
        ("1", ["0/1.png", "1/2.png", "masks/3.png"], [0, 1, None]),
        ("COVID", ["p1/1.png", "2.png"], [1, 1]),
        ("COVID", ["0/1.png", "1/2.png", "3.png"], [1, 1, 1]),  # the folders number patients
        ("normal/p1", ["0/1.png", "2.png"], [0, 0]),
        ("0", ["p1/1.png", "2.png"], [0, 0]),
        ("set", ["0/1.png", "1/2.png", "3.png"], [0, 1, None]),
    ],
)
def test_name_of_an_archive_is_a_class_unless_folders_in_it_name_both_classes(
    archive: str, names: list[str], labels: list[int | None]
) -> None:
    assert classes_of_paths(paths_in_archive(archive, names)) == labels


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("mark", [b",", b";", b"\t"])
def test_a_csv_is_read_however_a_spreadsheet_saves_it(start: bytes, mark: bytes) -> None:
    text = b'File, Label,Group,split\r\n"a ""b"".png",COVID-19,p1,Train\r\n\r\nx\\c.png,0,p2,val\r\n'
    first, second = read_csv(start + text.replace(b",", mark))
    assert (first.number, first.file, first.labels) == (2, 'a "b".png', FileLabels(1, "p1", "train"))
    assert (second.number, second.file, second.labels) == (4, "x/c.png", FileLabels(0, "p2", "validation"))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "names no file"),
        (HEAD, "names no file"),
        (b"name,class\na.png,1\n", "no column file and label"),
        (b"file,group\na.png,1\n", "no column label"),
        (b"file,label,label,group\na.png,1,0,g\n", "several columns named label; keep the right one"),
        (b"file,label,group,Group \na.png,1,0,g\n", "several columns named group"),
        (b"file,label,patient_id\na.png,1,g\n", "states no group, but has a column patient_id; if it names"),
        (b"file,label,age,Subject No.\na.png,1,40,g\n", "states no group, but has a column subject no"),
        (HEAD + b"a.png,1,g\nb.png,maybe,g\n", r"line 3 .* the label 'maybe' is neither"),
        (HEAD + b"a.png,,g\n", "line 2 .* the label '' is neither"),
        (HEAD + b",1,g\n", "line 2 of the labels file names no file"),
        (HEAD + b"a.png,1\n", "line 2 of the labels file has 2 columns, the first line has 3"),
        (HEAD + b"a.png,1,g\nb,\xe4.png,1,g\n", "not UTF-8 .line 3."),
        (HEAD + b'a.png,1,"g\nb.png,1,g\n', "line 3 of the labels file is broken"),
        (b"file,label,split\na.png,1,exam\n", "line 2 .* the split 'exam' is not train"),
        (b"file,label,split\na.png,1,test\nb.png,0,\n", "line 3 of the labels file has no split, others have"),
        (b"file,label,group\na.png,1,p1\nb.png,1,\nc.png,0,\n", "line 3 of the labels file has no group, others have"),
        (HEAD + b"a.png,\x1b[2J,g\n", r"the label '<U\+001B>\[2J' is neither"),
    ],
)
def test_a_broken_csv_is_refused_with_the_line_and_the_reason(content: bytes, why: str) -> None:
    with pytest.raises(BadLabels, match=why):
        read_csv(content)


@pytest.mark.parametrize(
    "column",
    [
        "participant_id", "pt_id", "Subj", "patient_uid", "patientnum", "patient identifier", "PatientHash", "Patients",
        "pat_id", "PatID", "individual", "individual_id", "person-nr", "anon_patient_id", "sexpatientid", "new pt no",
        "case", "case_no", "group_name", "PID", "MRN", "mrn_hash", "mrn", "hospital mrn", "patient_id_hash",
    ],
)  # fmt: skip
def test_column_that_seems_to_name_patients_is_refused_if_no_line_has_a_group(column: str) -> None:
    for content in (f"file,label,{column}\na.png,1,p\n", f"file,label,group,{column}\na.png,1,,p\nb.png,0, ,q\n"):
        with pytest.raises(BadLabels, match=f"states no group, but has a column {column.lower()};"):
            read_csv(content.encode())
    assert read_csv(f"file,label,group,{column}\na.png,1,g,p\n".encode())[0].labels.group == "g"


@pytest.mark.parametrize(
    "column",
    [
        "PatientAge", "age of patient", "subject_sex", "ImagePositionPatient", "image", "",
        "patient_type", "inpatient", "is_outpatient", "patient_country", "patient_icu", "patient_bmi", "patient_dob",
        "patient_survival", "patient_smoker", "patients_birth_date", "n_patients", "subject_count", "case_type",
        "subjective_quality", "PatientIdentityRemoved", "participant country", "birthdate_patient", "group_size",
        "receipt_no", "format_id", "spid", "id",
    ],
)  # fmt: skip
def test_column_that_describes_patients_is_accepted(column: str) -> None:
    assert read_csv(f"file,label,{column}\na.png,1,x\n".encode())[0].labels == FileLabels(1)


def test_files_match_by_path_or_by_a_unique_path_end() -> None:
    files = ["set/COVID/1.png", "set/non-COVID/1.png", "set/COVID/2.png", "3.png", "unnamed.png"]
    lines = b"COVID/1.png,1,a\n./set/non-COVID/1.png,0,b\n2.png,1,a\n3.png,0,c\n"
    assert match_files(read_csv(HEAD + lines), files) == {
        0: FileLabels(1, "a"),
        1: FileLabels(0, "b"),
        2: FileLabels(1, "a"),
        3: FileLabels(0, "c"),
    }


def test_folders_of_lines_are_ignored_only_if_no_file_has_a_folder() -> None:
    content = HEAD + b"p1/1.png,1,p1\n/home/me/2.png,0,p2\n3.png,0,p3\n"
    lines, files = read_csv(content), ["1.png", "2.png", "3.png"]
    labels = match_files(lines, files)
    assert {index: label.group for index, label in labels.items()} == {0: "p1", 1: "p2", 2: "p3"}
    [warning] = warnings_of(content, lines, files)
    assert warning.startswith("2 lines of the labels file state folders")
    with pytest.raises(BadLabels, match=r"not there: p1/1.png \(line 2\), home/me/2.png \(line 3\)$"):
        match_files(lines, [*files, "x/4.png"])


def test_names_of_files_without_folders_are_certain_if_the_line_names_the_archive() -> None:
    content = HEAD + b"scans/1.png,1,p1\nother/2.png,0,p2\n"
    lines, files, full_names = read_csv(content), ["1.png", "2.png"], ["scans/1.png", "scans/2.png"]
    assert {index: label.group for index, label in match_files(lines, files, full_names).items()} == {0: "p1", 1: "p2"}
    [warning] = warnings_of(content, lines, files, full_names)
    assert warning.startswith("1 line of the labels file state folders")


def test_columns_that_are_not_used_are_named_in_a_warning() -> None:
    content = b"File;Label;group;Age;patient_age;;\na.png;1;g;40;40;;\n"
    lines = read_csv(content)
    assert lines[0].labels == FileLabels(1, "g")
    assert warnings_of(content, lines, ["a.png"]) == ["these columns of the labels file are ignored: age, patient_age"]
    assert read_csv(content.replace(b"group", b"source"))[0].labels == FileLabels(1, source="g")
    assert warnings_of(HEAD + b"x/a.png,1,g\n", lines, ["x/a.png"]) == []


def test_whole_path_goes_before_a_path_end() -> None:
    assert match_files(read_csv(HEAD + b"1.png,1,a\n"), ["x/1.png", "1.png"]) == {1: FileLabels(1, "a")}


def test_composed_and_decomposed_names_are_the_same() -> None:
    line = "ra\u0301ntgen.png,1,a\n".encode()
    assert match_files(read_csv(HEAD + line), ["r\u00e1ntgen.png"]) == {0: FileLabels(1, "a")}


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (b"1.png,1,a\n", "line 2 .*: 1.png may be COVID/1.png and non-COVID/1.png; write more of its path"),
        (b"COVID/1.png,1,a\nCOVID/1.png,0,a\n", "lines 2 and 3 .* give COVID/1.png another label each"),
        (b"COVID/1.png,1,a\n./COVID/1.png,1,b\n", "lines 2 and 3 .* another group each"),
        (b"n1,1,a\nn2,1,a\nn3,1,a\nn4,1,a\nn5,1,a\nn6,1,a\nn7,1,a\n", r"n1 \(line 2\), .*, n5 \(line 6\) and 2 more"),
    ],
)
def test_a_csv_that_does_not_fit_the_files_is_refused(lines: bytes, why: str) -> None:
    with pytest.raises(BadLabels, match=why):
        match_files(read_csv(HEAD + lines), ["COVID/1.png", "non-COVID/1.png"])


def test_repeated_line_is_accepted() -> None:
    assert match_files(read_csv(HEAD + b"a.png,1,g\na.png,1,g\n"), ["a.png"]) == {0: FileLabels(1, "g")}


@pytest.mark.parametrize(
    ("lines", "files", "full_names"),
    [
        (b"train/COVID/1.png,1,p\ntest/COVID/1.png,1,p\n", ["COVID/1.png", "normal/1.png"], ["COVID/1.png"]),
        (b"/a/scans/p/1.png,1,p\n/b/scans/p/1.png,1,p\n", ["p/1.png"], ["scans/p/1.png"]),
        (b"a/1.png,1,p\nb/1.png,1,p\n", ["1.png"], []),
        (b"1.png,1,p\np/1.png,1,p\n", ["p/1.png"], []),
    ],
    ids=["above an archive", "above a folder", "without folders", "end of a path"],
)
def test_two_paths_that_mean_one_file_are_refused(lines: bytes, files: list[str], full_names: list[str]) -> None:
    with pytest.raises(BadLabels, match="lines 2 and 3 of the labels file mean the same file"):
        match_files(read_csv(HEAD + lines), files, full_names)


def test_a_label_file_is_known_by_name_and_columns() -> None:
    assert is_label_name("set/Groups.csv")
    assert not is_label_name("other.csv")
    assert has_label_columns(b"\xef\xbb\xbfLabel;File\n")
    assert has_label_columns(b'\n"file","label","group"\r\n"a.png","1","p"\r\n')
    assert not has_label_columns(b"id,age\n")
    assert not has_label_columns(b"")
