"""The submit page in a real browser: choosing and dropping files and folders."""

import base64
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from db import database
from db.database import read_scope
from db.models import Job, Upload
from db.settings import Settings
from db.storage import storage
from tests.builders.files import png, tar_of, zip_of


def test_submit_by_choosing_a_file(signed_in: Any, tmp_path: Path) -> None:
    archive = tmp_path / "scan.zip"
    archive.write_bytes(zip_of({"1.png": png(1), "2.png": png(2)}))
    signed_in.goto("/submit")
    signed_in.set_input_files("#files", [archive])
    assert "1 file" in signed_in.locator("#chosen-sum").inner_text()
    signed_in.get_by_label("Name").fill("by hand")
    signed_in.get_by_role("button", name="Submit").click()
    signed_in.wait_for_url("**/jobs/*")
    assert signed_in.get_by_role("heading", name="by hand").is_visible()
    assert signed_in.locator(".state").first.inner_text() == "queued"


@pytest.mark.slow
def test_submit_by_dropping(signed_in: Any) -> None:
    signed_in.goto("/submit")
    signed_in.evaluate(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(30)], "dropped.png"));
            document.getElementById("drop").dispatchEvent(
                new DragEvent("drop", {bubbles: true, cancelable: true, dataTransfer: data}));
        }"""
    )
    signed_in.locator("#chosen li").wait_for()
    assert "dropped.png" in signed_in.locator("#chosen").inner_text()


def drop_folder(page: Any, name: str, count: int, modified: int = 1) -> None:
    """Drop a folder with a folder of pictures of 30 bytes, by stand-ins for the entries of a file system."""
    page.evaluate(
        """([name, count, modified]) => {
            const file = new File([new Uint8Array(30)], "picture", {lastModified: modified});
            const entry = (_, n) => ({isFile: true, name: `${n}.bmp`, file: (done) => done(file)});
            const entries = Array.from({length: count}, entry);
            const reader = (some) => ({readEntries: (done) => done(some.splice(-100))});
            const folder = (name, some) => ({name, createReader: () => reader(some)});
            const event = new Event("drop", {bubbles: true, cancelable: true});
            const item = {webkitGetAsEntry: () => folder(name, [folder("ct", entries)])};
            document.dispatchEvent(Object.assign(event, {dataTransfer: {items: [item], files: []}}));
        }""",
        [name, count, modified],
    )


def chosen_files(page: Any, count: int) -> list[str]:
    page.locator("#chosen-sum", has_text=f"{count} files").wait_for()
    return page.locator("#chosen li bdi").all_inner_texts()


@pytest.mark.slow
def test_folders_of_one_name_stay_apart_and_files_that_were_chosen_are_left_out(signed_in: Any) -> None:
    signed_in.goto("/submit")
    drop_folder(signed_in, "scan", 2)
    chosen_files(signed_in, 2)
    drop_folder(signed_in, "scan", 2, modified=2)
    expected = ["scan/ct/0.bmp", "scan/ct/1.bmp", "scan (2)/ct/0.bmp", "scan (2)/ct/1.bmp"]
    assert chosen_files(signed_in, 4) == expected
    drop_folder(signed_in, "scan", 3)
    assert chosen_files(signed_in, 5) == [*expected, "scan/ct/2.bmp"]
    assert "left out 2 that were chosen before" in signed_in.locator("#chosen-sum").inner_text()


def drop_texts(page: Any, name: str, texts: dict[str, str]) -> None:
    """Drop a folder of files of one time, by stand-ins for the entries of a file system."""
    page.evaluate(
        """([name, texts]) => {
            const entry = ([name, text]) => {
                const file = new File([text], name, {lastModified: 1});
                return {isFile: true, name, file: (done) => done(file)};
            };
            const some = Object.entries(texts).map(entry);
            const folder = {name, createReader: () => ({readEntries: (done) => done(some.splice(-100))})};
            const items = [{webkitGetAsEntry: () => folder}];
            const event = new Event("drop", {bubbles: true, cancelable: true});
            document.dispatchEvent(Object.assign(event, {dataTransfer: {items, files: []}}));
        }""",
        [name, texts],
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("second", "chosen", "left_out"),
    [
        ({"README": "r", "2.png": "b"}, ["CT/1.png", "CT/README", "CT (2)/2.png", "CT (2)/README"], 0),
        ({"README": "r", "1.png": "b"}, ["CT/1.png", "CT/README", "CT (2)/1.png", "CT (2)/README"], 0),
        ({"README": "r", "1.png": "a", "2.png": "b"}, ["CT/1.png", "CT/README", "CT/2.png"], 2),
    ],
)
def test_folders_that_share_files_are_one_only_if_one_holds_the_other(
    signed_in: Any, second: dict[str, str], chosen: list[str], left_out: int
) -> None:
    signed_in.goto("/submit")
    drop_texts(signed_in, "CT", {"README": "r", "1.png": "a"})
    chosen_files(signed_in, 2)
    drop_texts(signed_in, "CT", second)
    assert chosen_files(signed_in, len(chosen)) == chosen
    assert (f"left out {left_out}" in signed_in.locator("#chosen-sum").inner_text()) is bool(left_out)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "numbered"),
    [("scan.zip", "scan (2).zip"), ("CT.1.tar.gz", "CT.1 (2).tar.gz"), ("IM1", "IM1 (2)"), (".h", ".h (2)")],
)
def test_files_of_one_name_are_left_out_only_if_their_bytes_are_the_same(
    signed_in: Any, tmp_path: Path, name: str, numbered: str
) -> None:
    paths = [tmp_path / folder / name for folder in ("first", "second")]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(path.parent.name[:5].encode())
        os.utime(path, (1000, 1000))
    signed_in.goto("/submit")
    for path in paths:
        signed_in.set_input_files("#files", [path])
    assert chosen_files(signed_in, 2) == [name, numbered]
    signed_in.set_input_files("#files", [paths[1]])
    signed_in.get_by_text("left out 1 that was chosen before").wait_for()
    assert chosen_files(signed_in, 2) == [name, numbered]


@pytest.mark.slow
def test_file_that_is_chosen_again_replaces_the_one_that_changed(signed_in: Any, tmp_path: Path) -> None:
    archive, other = tmp_path / "scan.zip", tmp_path / "other.zip"
    for path in (archive, other):
        path.write_bytes(zip_of({"1.png": png(1)}))
    signed_in.goto("/submit")
    signed_in.set_input_files("#files", [archive, other])
    archive.write_bytes(zip_of({"1.png": png(1), "2.png": png(2)}))
    signed_in.set_input_files("#files", [archive])
    signed_in.locator("#chosen li bdi").nth(1).get_by_text("scan.zip").wait_for()
    assert chosen_files(signed_in, 2) == ["other.zip", "scan.zip"]
    assert not signed_in.locator("#problem").is_visible()
    _, uploads = send(signed_in)
    assert storage().local_path(uploads["scan.zip"].sha256).read_bytes() == archive.read_bytes()


@pytest.mark.slow
def test_folder_that_is_chosen_again_names_its_files_that_are_gone(signed_in: Any, tmp_path: Path) -> None:
    folder = tmp_path / "scan"
    folder.mkdir()
    for n in range(4):
        (folder / f"{n}.png").write_bytes(png(n))
    signed_in.goto("/submit")
    signed_in.set_input_files("#folder", folder)
    chosen_files(signed_in, 4)
    (folder / "0.png").write_bytes(png(0) + b"longer")
    for n in (1, 2):
        (folder / f"{n}.png").unlink()
    signed_in.set_input_files("#folder", folder)
    problem = signed_in.get_by_role("alert")
    problem.get_by_text("scan/1.png changed since it was chosen, or cannot be read").wait_for()
    assert "1 more" in problem.inner_text()
    assert chosen_files(signed_in, 2) == ["scan/3.png", "scan/0.png"]


def hold_reading(page: Any, after: int) -> None:
    """Let the page read so many pieces of files, and the next ones only after `go()`. `reads` counts all of them."""
    page.evaluate(
        """(after) => {
            const read = Blob.prototype.arrayBuffer;
            const held = new Promise((done) => { window.go = done; });
            window.reads = 0;
            Blob.prototype.arrayBuffer = async function () {
                window.reads += 1;
                if (window.reads > after) await held;
                return read.call(this);
            };
        }""",
        after,
    )


@pytest.mark.slow
def test_submit_and_remove_wait_until_files_are_compared(signed_in: Any, tmp_path: Path) -> None:
    archive = tmp_path / "1.zip"
    archive.write_bytes(zip_of({"1.png": png(1)}))
    signed_in.goto("/submit")
    signed_in.set_input_files("#files", [archive])
    hold_reading(signed_in, after=1)  # whether the first file can still be read
    signed_in.set_input_files("#files", [archive])
    signed_in.get_by_text("Comparing with the files that were chosen before").wait_for()
    assert signed_in.locator("#send").is_disabled()
    assert signed_in.get_by_label("Remove 1.zip").is_disabled()
    signed_in.evaluate("go()")
    signed_in.get_by_text("left out 1 that was chosen before").wait_for()
    assert signed_in.locator("#send").is_enabled()
    signed_in.get_by_label("Remove 1.zip").click()
    assert signed_in.locator("#chosen li").count() == 0


@pytest.mark.slow
def test_submit_waits_until_a_dropped_folder_is_read(signed_in: Any) -> None:
    signed_in.goto("/submit")
    choose_pictures(signed_in, ["1.png"])
    signed_in.evaluate(
        """() => {
            const read = (done) => { window.go = () => done(new File(["x"], "2.png")); };
            const event = new Event("drop", {bubbles: true, cancelable: true});
            const item = {webkitGetAsEntry: () => ({isFile: true, name: "2.png", file: read})};
            document.dispatchEvent(Object.assign(event, {dataTransfer: {items: [item], files: []}}));
        }"""
    )
    assert signed_in.locator("#send").is_disabled()
    assert signed_in.locator("#chosen-sum").inner_text() == "Adding files"
    signed_in.evaluate("go()")
    assert chosen_files(signed_in, 2) == ["1.png", "2.png"]
    assert signed_in.locator("#send").is_enabled()


@pytest.mark.slow
def test_comparing_a_large_file_shows_how_far_it_is(signed_in: Any, tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}" / "scan.nii" for n in range(2)]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(bytes((9 << 20) - 1) + path.parent.name.encode())  # only the last byte differs
        os.utime(path, (1000, 1000))
    signed_in.goto("/submit")
    signed_in.set_input_files("#files", [paths[0]])
    hold_reading(signed_in, after=3)  # a byte of the first file, and a piece of both
    signed_in.set_input_files("#files", [paths[1]])
    signed_in.get_by_text("chosen before: 4.0 MiB of 9.0 MiB").wait_for()
    signed_in.evaluate("go()")
    assert chosen_files(signed_in, 2) == ["scan.nii", "scan (2).nii"]


@pytest.mark.slow
def test_small_files_are_read_together_to_be_compared(signed_in: Any) -> None:
    signed_in.goto("/submit")
    texts = {f"{n}": f"{n}" for n in range(250)}
    drop_texts(signed_in, "scan", texts)
    chosen_files(signed_in, 250)
    hold_reading(signed_in, after=7)
    drop_texts(signed_in, "scan", texts)
    signed_in.get_by_text("left out 250 that were chosen before").wait_for()
    assert signed_in.evaluate("reads") == 7  # first a byte of each file, then a hundred files at a time


@pytest.mark.slow
def test_folder_of_very_many_files_is_dropped(signed_in: Any) -> None:
    signed_in.goto("/submit")
    drop_folder(signed_in, "scan", 150_000)
    assert len(chosen_files(signed_in, 150_000)) == 8


def choose_pictures(page: Any, names: list[str]) -> None:
    """Choose small pictures of these names in the file dialog."""
    picture = base64.b64encode(png(1)).decode()
    page.evaluate(
        """([picture, names]) => {
            const data = new DataTransfer();
            const bytes = Uint8Array.from(atob(picture), (one) => one.charCodeAt(0));
            for (const name of names) data.items.add(new File([bytes], name));
            const input = document.getElementById("files");
            input.files = data.files;
            input.dispatchEvent(new Event("change", {bubbles: true}));
        }""",
        [picture, names],
    )


def send(page: Any) -> tuple[str, dict[str, Upload]]:
    """Submit what is chosen. Return the name of the job, and its uploads by file name, in order."""
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**/jobs/*")
    with read_scope() as s:
        uploads = s.scalars(select(Upload).order_by(Upload.position)).all()
        return s.scalars(select(Job.name)).one(), {upload.filename: upload for upload in uploads}


def members(upload: Upload) -> dict[str, bytes]:
    """The files in a TAR that was sent, by name, in order."""
    with tarfile.open(storage().local_path(upload.sha256)) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]


@pytest.mark.slow
def test_many_files_are_sent_as_one_archive(signed_in: Any) -> None:
    signed_in.goto("/submit")
    names = [f"{n}{'ä' * 90 if n == 1 else ''}.png" for n in range(20)]
    choose_pictures(signed_in, names[::-1])
    name, uploads = send(signed_in)
    assert (name, list(uploads)) == ("0.png and 19 more", ["files.tar"])
    assert list(members(uploads["files.tar"]).items()) == [(name, png(1)) for name in names]


@pytest.mark.slow
def test_few_files_are_sent_as_they_are_and_sorted(signed_in: Any) -> None:
    signed_in.goto("/submit")
    choose_pictures(signed_in, ["10.png", "2.png", "b.png", "a.png"])
    name, uploads = send(signed_in)
    assert (name, list(uploads)) == ("2.png and 3 more", ["2.png", "10.png", "a.png", "b.png"])


@pytest.mark.slow
@pytest.mark.parametrize("count", [3, 30])
def test_job_of_a_folder_has_its_name_and_its_order(signed_in: Any, count: int) -> None:
    signed_in.goto("/submit")
    drop_texts(signed_in, "CT of May", {f"IM{n}": f"{n}" for n in reversed(range(count))})
    chosen_files(signed_in, count)
    name, uploads = send(signed_in)
    assert name == "CT of May"
    expected = [f"CT of May/IM{n}" for n in range(count)]
    assert expected == list(uploads if count == 3 else members(uploads["CT of May.tar"]))


@pytest.mark.slow
@pytest.mark.parametrize(("archive_name", "packed"), [("0.zip", "files.tar"), ("files.tar", "files-packed.tar")])
def test_archives_beside_many_files_stay_as_they_are(
    archive_name: str, packed: str, signed_in: Any, tmp_path: Path
) -> None:
    archive = tmp_path / archive_name
    archive.write_bytes(zip_of({"1.png": png(1)}) if archive_name.endswith("zip") else tar_of({"1.png": png(1)}))
    signed_in.goto("/submit")
    signed_in.set_input_files("#files", [archive])
    choose_pictures(signed_in, [f"{n}.png" for n in range(25)])
    name, uploads = send(signed_in)
    assert (name, list(uploads)) == (f"{archive_name} and 25 more", [packed, archive_name])
    assert len(members(uploads[packed])) == 25
    assert storage().local_path(uploads[archive_name].sha256).read_bytes() == archive.read_bytes()


@pytest.mark.slow
def test_more_archives_than_a_form_takes_are_sent_as_one(signed_in: Any) -> None:
    signed_in.goto("/submit")
    choose_pictures(signed_in, [f"{n}.zip" for n in range(991)])
    _, uploads = send(signed_in)
    assert list(uploads) == ["files.tar"]
    assert len(members(uploads["files.tar"])) == 991


@pytest.mark.slow
def test_more_bytes_than_may_be_sent_are_not_sent(signed_in: Any, settings: Settings, tmp_path: Path) -> None:
    database.use(settings.model_copy(update={"max_upload_bytes": 1000}))
    for name, size in (("large", 900), ("small", 200)):
        (tmp_path / f"{name}.png").write_bytes(bytes(size))
    signed_in.goto("/submit")
    signed_in.set_input_files("#files", [tmp_path / "large.png", tmp_path / "small.png"])
    signed_in.get_by_role("alert").get_by_text("At most 1000 bytes can be sent at once.").wait_for()
    assert signed_in.locator("#send").is_disabled()
    signed_in.get_by_label("Remove large.png").click()
    assert signed_in.locator("#send").is_enabled()


@pytest.mark.slow
def test_more_files_than_an_archive_may_hold_are_not_sent(signed_in: Any, settings: Settings) -> None:
    database.use(settings.model_copy(update={"max_entries": 20}))
    signed_in.goto("/submit")
    choose_pictures(signed_in, [f"{n}.png" for n in range(21)])
    signed_in.get_by_role("alert").get_by_text("At most 20 files can be sent at once.").wait_for()
    assert signed_in.locator("#send").is_disabled()
    signed_in.get_by_label("Remove 0.png").click()
    assert not signed_in.locator("#problem").is_visible()
    _, uploads = send(signed_in)
    assert len(members(uploads["files.tar"])) == 20
