"""Receiving: streamed to disk, bounded in memory, and nothing left behind by what was not accepted."""

import gzip
import hashlib
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apiflask import APIFlask
from flask import request
from pydicom.dataset import Dataset
from sqlalchemy import update
from sqlalchemy.orm import Session

from db import database
from db.clock import from_now
from db.database import session_scope
from db.models import Token, User
from db.registry import versions
from db.registry.transfer import MAX_BYTES as MAX_PACKAGE_BYTES
from db.settings import Settings
from db.storage import storage
from tests.builders.files import png, zip_of
from tests.builders.versions import fake_package
from tests.web.actors import Api, Browser
from tests.worker.imaging.builders import dicom
from training.errors import MAX_WEIGHTS_BYTES
from worker.received_files import inspect_received

BOUNDARY = "a-boundary"
MULTIPART = "multipart/form-data"


def stored_files(settings: Settings) -> list[Path]:
    return [path for path in Path(settings.storage).rglob("*") if path.is_file() and path.name != "package.json"]


def part(name: str, content: bytes = b"", filename: str | None = None) -> bytes:
    disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
    return f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + content + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()


def post_raw(api: Api, body: bytes | io.RawIOBase, path: str = "/jobs", **environ: Any) -> Any:
    stream = io.BytesIO(body) if isinstance(body, bytes) else body
    return api.post(
        path,
        input_stream=stream,
        content_type=f"multipart/form-data; boundary={BOUNDARY}",
        environ_overrides=environ,
    )


def test_file_is_stored_under_its_hash(api: Api, settings: Settings) -> None:
    content = zip_of({"1.png": png(1)})
    before = len(stored_files(settings))
    api.submit(("a.zip", content))
    assert storage().read(hashlib.sha256(content).hexdigest()) == content
    assert len(stored_files(settings)) == before + 1


def test_refused_submission_leaves_no_file(api: Api, settings: Settings) -> None:
    before = stored_files(settings)
    answer = api.submit(("good.png", png()), ("bad.zip", zip_of({"1.png": png()})[:-30]))
    assert answer.status_code == 422
    assert stored_files(settings) == before


def test_an_empty_file_among_others_is_taken_and_alone_refused(api: Api) -> None:
    assert api.submit(("good.png", png()), ("empty.png", b"")).status_code == 202
    answer = api.submit(("empty.png", b""), (".DS_Store", b"of the system"))
    assert answer.status_code == 422
    assert answer.get_json()["code"] == "no_images"


@pytest.mark.parametrize(
    ("name", "data"),
    [("broken.dcm", bytes(600_000)), ("cut.nii.gz", gzip.compress(png())[:30])],
    ids=["zeros", "cut"],
)
def test_one_broken_loose_file_does_not_stop_the_others(api: Api, name: str, data: bytes) -> None:
    answer = api.submit(("good.png", png()), (name, data))
    assert (answer.status_code, answer.get_json()["stages"]["total"]) == (202, 2)


@pytest.mark.parametrize(("path", "name"), [("/jobs", "name"), ("/jobs", "priority"), ("/datasets", "groups")])
def test_text_part_that_is_given_twice_is_refused_and_leaves_no_file(
    admin: Api, settings: Settings, path: str, name: str
) -> None:
    before = stored_files(settings)
    answer = post_raw(admin, part("files", png(1), "1.png") + part(name, b"0") + part(name, b"1") + END, path=path)
    assert (answer.status_code, answer.json["type"]) == (422, "urn:ctbatch:problem:invalid")
    assert answer.json["errors"]["form"] == {name: ["Send this part only once."]}
    assert stored_files(settings) == before


@pytest.mark.parametrize("path", ["/jobs", "/datasets"])
def test_different_loose_files_with_the_same_name_are_refused(admin: Api, settings: Settings, path: str) -> None:
    before = stored_files(settings)
    files = [part("name", b"site"), part("files", png(1), "1.png"), part("files", png(2), "1.png")]
    answer = post_raw(admin, b"".join(files) + END, path=path)
    assert (answer.status_code, answer.json["type"]) == (422, "urn:ctbatch:problem:invalid")
    assert "'1.png'" in answer.json["detail"]
    assert list(answer.json["errors"]["form"]) == ["files"]
    assert stored_files(settings) == before


def test_advice_on_files_of_one_name_fits_programs_that_send_from_memory(api: Api) -> None:
    answer = api.submit(("upload", png(1)), ("upload", png(2)))
    [advice] = answer.json["errors"]["form"]["files"]
    assert "'upload'" in answer.json["detail"]
    assert "filename='p1/1.png'" in advice
    assert api.submit(("p1/1.png", png(1)), ("p2/1.png", png(2))).status_code == 202


def named_alike(**facts: Any) -> list[tuple[str, bytes]]:
    files = (dicom(np.full((512, 512), n, np.int16), **({"PatientID": str(n)} | facts)) for n in range(2))
    return [("IM-0001-0001.dcm", file) for file in files]


@pytest.mark.parametrize("implicit", [False, True], ids=["explicit", "implicit"])
def test_dicom_files_that_state_a_patient_and_a_series_may_have_one_name_in_a_job(admin: Api, implicit: bool) -> None:
    files = named_alike(implicit=implicit)
    assert admin.submit(*files).status_code == 202
    parts = [part("name", b"site"), *(part("files", data, name) for name, data in files)]
    assert post_raw(admin, b"".join(parts) + END, path="/datasets").status_code == 422


REFERENCED = Dataset()
REFERENCED.SeriesInstanceUID = "1.2.3"


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize(
    "facts",
    [
        {"SeriesInstanceUID": ""},
        {"SeriesInstanceUID": "REMOVED"},
        {"SeriesInstanceUID": "", "ReferencedSeriesSequence": [REFERENCED]},
        {"PatientID": ""},
    ],
    ids=["no UID", "text", "UID of another series", "no patient"],
)
def test_dicom_files_of_one_name_without_a_patient_or_a_series_are_refused(api: Api, facts: dict[str, Any]) -> None:
    assert api.submit(*named_alike(**facts)).status_code == 422


def test_files_that_can_be_told_apart_are_taken(api: Api) -> None:
    in_folders = (("a/1.png", png(1)), ("b/1.png", png(2)))
    copies = (("1.png", png(3)), ("1.png", png(3)))
    archives = (("p.zip", zip_of({"1.png": png(4)})), ("p.zip", zip_of({"1.png": png(5)})))
    for files in (in_folders, copies, archives):
        assert api.submit(*files).status_code == 202


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("/jobs", part("file", png(2), "2.png")),
        ("/jobs", part("files", png(2))),
        ("/jobs", part("name", b"night", "name.txt")),
        ("/jobs", part("prioriti", b"-5")),
        ("/jobs", part("idempotency_key", b"k")),
        ("/datasets", part("label", b"file,label", "labels.csv")),
        ("/datasets", part("group", b"folders")),
        ("/models/import", part("model", b"x", "model.tar")),
        ("/runs/weights", part("weights", b"x", "weights.h5")),
    ],
)
def test_part_of_an_unknown_name_is_refused_and_leaves_no_file(
    admin: Api, settings: Settings, path: str, wrong: bytes
) -> None:
    before = stored_files(settings)
    answer = post_raw(admin, part("files", png(1), "1.png") + wrong + END, path=path)
    assert (answer.status_code, answer.json["type"]) == (422, "urn:ctbatch:problem:invalid")
    [name] = answer.json["errors"]["form"]
    assert f'name="{name}"'.encode() in wrong
    assert f"'{name}'" in answer.json["detail"]
    assert stored_files(settings) == before


def test_client_that_goes_away_leaves_no_file(api: Api, settings: Settings) -> None:
    before = stored_files(settings)
    sent = part("files", png(1), "1.png") + part("files", png(2), "2.png")[:-300]
    answer = post_raw(api, sent, CONTENT_LENGTH=str(len(sent) + 5000))
    assert (answer.status_code, answer.json["type"]) == (400, "urn:ctbatch:problem:disconnected")
    assert stored_files(settings) == before


def test_malformed_body_is_refused_and_leaves_no_file(api: Api, settings: Settings) -> None:
    before = stored_files(settings)
    body = part("files", png(1), "1.png") + part("files", png(2), "2.png")[:-300]
    answer = post_raw(api, body, CONTENT_LENGTH=str(len(body)))
    assert answer.status_code == 400
    assert stored_files(settings) == before


def test_row_38_a_thousand_parts_are_received_and_one_more_is_not(admin: Api) -> None:
    files = b"".join(part("files", png(i, 4), f"{i}.png") for i in range(10))
    blank = part("jobs", b" ")  # may be repeated
    many = part("name", b"site") + files + blank * 989
    taken = post_raw(admin, many + END, path="/datasets", CONTENT_LENGTH=str(len(many + END)))
    assert taken.status_code == 202
    body = many + blank + END
    assert post_raw(admin, body, path="/datasets", CONTENT_LENGTH=str(len(body))).status_code == 413


@pytest.mark.slow
def test_form_field_of_five_megabytes_is_refused(api: Api) -> None:
    body = part("name", b"x" * 5_000_000) + part("files", png(), "1.png") + END
    answer = post_raw(api, body, CONTENT_LENGTH=str(len(body)))
    assert (answer.status_code, answer.json["type"]) == (413, "urn:ctbatch:problem:too-large")


@pytest.fixture
def low_cap(app: APIFlask, monkeypatch: pytest.MonkeyPatch) -> None:
    """The application takes 100,000 bytes."""
    monkeypatch.setitem(app.config, "MAX_UPLOAD_BYTES", 100_000)


@pytest.mark.usefixtures("low_cap")
def test_body_over_the_cap_is_refused(api: Api) -> None:
    assert api.submit(("big.bin", bytes(200_000))).status_code == 413


@pytest.mark.usefixtures("low_cap")
def test_body_over_the_cap_without_a_length_is_refused_and_leaves_no_file(settings: Settings, api: Api) -> None:
    before = stored_files(settings)
    body = part("files", bytes(200_000), "big.bin") + END
    environ = {"wsgi.input_terminated": True, "CONTENT_LENGTH": ""}
    assert post_raw(api, body, **environ).status_code == 413
    assert stored_files(settings) == before


@pytest.mark.parametrize("path", ["/sign-in", "/api/v1/jobs/aaaaaaaaaaaaaaaa/cancel"])
def test_other_addresses_take_no_large_body(api: Api, path: str) -> None:
    answer = api.client.post(path, data={"name": "x" * 2_000_000}, headers=api.headers)
    assert answer.status_code in (400, 404, 413)
    assert api.client.post("/sign-in", data={"name": "x" * 2_000_000}).status_code == 413


@pytest.mark.parametrize(
    "path",
    [
        "/models/import",
        "/models/1/promote",
        "/datasets/new",
        "/runs/new/weights",
        "/api/v1/models/import",
        "/api/v1/datasets",
        "/api/v1/runs/weights",
    ],
)
def test_body_is_not_read_before_the_role_is_known(anns_browser: Browser, api: Api, path: str) -> None:
    is_api = path.startswith("/api/")
    body = io.BytesIO(bytes(3_000_000))
    answer = (api if is_api else anns_browser).client.post(
        path,
        headers=api.headers if is_api else {},
        input_stream=body,
        content_type="multipart/form-data; boundary=b",
    )
    assert (answer.status_code, body.tell()) == (403, 0)


@pytest.mark.parametrize(
    ("path", "most"), [("models/import", MAX_PACKAGE_BYTES), ("runs/weights", MAX_WEIGHTS_BYTES), ("jobs", None)]
)
def test_each_address_has_its_own_cap(app: APIFlask, settings: Settings, path: str, most: int | None) -> None:
    with app.test_request_context(f"/api/v1/{path}", method="POST"):
        cap = request.max_content_length
    assert cap is not None
    if most is None:
        assert cap == settings.max_upload_bytes
    else:
        assert most < cap < settings.max_upload_bytes


def test_other_addresses_take_no_file(api: Api, settings: Settings) -> None:
    before = stored_files(settings)
    answer = api.client.post("/sign-in", data={"files": (io.BytesIO(png()), "1.png")})
    assert answer.status_code == 400
    assert stored_files(settings) == before


def test_every_operation_that_describes_files_takes_them(admin: Api) -> None:
    paths = admin.get("/openapi.json").json["paths"]
    posts = {path: methods["post"] for path, methods in paths.items() if "post" in methods}
    operations = [path for path, post in posts.items() if MULTIPART in post.get("requestBody", {}).get("content", {})]
    assert operations
    for path in operations:
        answer = admin.client.post(path, data={"files": (io.BytesIO(b"x"), "x.bin")}, headers=admin.headers)
        assert answer.status_code in (202, 422), path


@pytest.mark.parametrize("path", ["/submit", "/datasets/new", "/models/import", "/runs/new/weights"])
def test_forms_with_files_take_them(roots_browser: Browser, path: str) -> None:
    assert roots_browser.post(path, {"files": (io.BytesIO(b"x"), "x.bin")}).status_code in (303, 422)


def test_nobody_stores_anything_before_they_are_known(app: APIFlask, settings: Settings) -> None:
    before = stored_files(settings)
    answer = app.test_client().post("/api/v1/jobs", data={"files": (io.BytesIO(png()), "1.png")})
    assert answer.status_code == 401
    assert stored_files(settings) == before


class SlowBody(io.BytesIO):
    """The body of an upload. While it arrives, `meanwhile` happens."""

    def __init__(self, body: bytes, meanwhile: Callable[[Session], None]) -> None:
        super().__init__(body)
        self._meanwhile: list[Callable[[Session], None]] = [meanwhile]

    def readinto(self, buffer: Any, /) -> int:
        while self._meanwhile:
            with session_scope() as s:
                self._meanwhile.pop()(s)
        return super().readinto(buffer)


def disable(s: Session) -> None:
    s.execute(update(User).values(disabled_at=from_now()))


def revoke(s: Session) -> None:
    s.execute(update(Token).values(revoked_at=from_now()))


def take_the_role(s: Session) -> None:
    s.execute(update(User).values(is_admin=False))


def expire(s: Session) -> None:
    s.execute(update(Token).values(expires_at=from_now(-1)))


ENDINGS = [(disable, 401), (revoke, 401), (take_the_role, 403)]


@pytest.mark.parametrize("path", ["/jobs", "/datasets", "/models/import", "/runs/weights"])
@pytest.mark.parametrize(("meanwhile", "status"), ENDINGS)
def test_nothing_is_kept_of_a_user_who_is_shut_out_during_an_upload(
    admin: Api, settings: Settings, path: str, meanwhile: Callable[[Session], None], status: int
) -> None:
    before = stored_files(settings)
    answer = post_raw(admin, SlowBody(part("files", png(), "1.png") + END, meanwhile), path)
    if (path, status) == ("/jobs", 403):  # others may send jobs, too
        assert answer.status_code == 202
    else:
        assert answer.status_code == status
        assert stored_files(settings) == before


@pytest.mark.parametrize("path", ["/jobs", "/datasets", "/models/import"])
@pytest.mark.parametrize(("meanwhile", "status"), ENDINGS)
def test_nothing_is_made_for_a_user_who_is_shut_out_during_the_inspection(
    admin: Api,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    meanwhile: Callable[[Session], None],
    status: int,
) -> None:
    def inspect(*args: Any, **kwargs: Any) -> Any:
        with session_scope() as s:
            meanwhile(s)
        return inspect_received(*args, **kwargs) if path != "/models/import" else package

    package = versions.store_package(fake_package(tmp_path / "new", "new"))
    monkeypatch.setattr("web.actions.uploads.inspect_received", inspect)
    monkeypatch.setattr("db.registry.transfer.import_package", inspect)
    body = part("files", png(), "COVID/1.png") + (part("name", b"site") if path == "/datasets" else b"") + END
    answer = post_raw(admin, body, path)
    assert answer.status_code == (202 if (path, status) == ("/jobs", 403) else status)


def test_upload_may_take_longer_than_its_token_or_session_is_valid(admin: Api) -> None:
    assert post_raw(admin, SlowBody(part("files", png(), "1.png") + END, expire)).status_code == 202


def test_archive_name_is_only_a_label(api: Api, settings: Settings) -> None:
    job = api.submit(("../../etc/passwd\x00.png", png())).json
    assert job["state"] == "queued"
    names = {path.name for path in stored_files(settings)}
    assert not any("passwd" in name for name in names)


def test_row_45_upload_that_would_take_the_disks_reserve_is_507_before_it_is_received(
    api: Api, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(storage()), "receive", None)
    database.use(settings.model_copy(update={"reserve_bytes": 1 << 60}))
    answer = api.submit(("1.png", png()))
    assert (answer.status_code, answer.json["type"]) == (507, "urn:ctbatch:problem:disk-full")


FULL_DISK = """
import pathlib, sys, zipfile
sys.path.insert(0, {project!r})
home = pathlib.Path({home!r})
files = home / "files"
from tests.builders.versions import add_champion
from tests.conftest import make_settings
from tests.builders.files import png, zip_of
from tests.web.actors import Api, Browser
from db import database, migrate
from db.access import accounts
from db.database import session_scope
settings = make_settings(home, storage_url=str(files))
database.use(settings)
migrate.upgrade()
add_champion(home)
from web.app import create_app
with session_scope() as s:
    ann = accounts.create_user(s, "ann", None)
api = Api(create_app(settings), ann)
answer = api.submit(("big.zip", zip_of({{"a.bin": bytes(range(256)) * 40_000}}, zipfile.ZIP_STORED)))
left = [p for p in (files / "incoming").iterdir()]
print(answer.status_code, answer.json["type"], len(left), api.get("/jobs").json["items"])
print(api.submit(("1.png", png())).status_code)
"""


@pytest.mark.slow
def test_full_disk_is_507_and_queues_nothing(tmp_path: Path) -> None:
    """On a real file system of 2 MiB, mounted in a namespace of its own."""
    home = tmp_path / "home"
    (home / "files").mkdir(parents=True)
    script = tmp_path / "full_disk.py"
    script.write_text(FULL_DISK.format(project=str(Path(__file__).parents[2]), home=str(home)))
    mount = f"mount -t tmpfs -o size=2m none {home}/files && exec {sys.executable} {script}"
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount]
    if subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("this machine lets no one mount a file system in a namespace of their own")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["507 urn:ctbatch:problem:disk-full 0 []", "202"], done.stderr


STREAMED = """
import pathlib, resource, sys
sys.path.insert(0, {project!r})
from tests.builders.versions import add_champion
from tests.conftest import make_settings
from tests.web.actors import Api
from db import database, migrate
from db.access import accounts
from db.database import session_scope
settings = make_settings(pathlib.Path({home!r}))
database.use(settings)
migrate.upgrade()
add_champion(settings.home)
from web.app import create_app
with session_scope() as s:
    ann = accounts.create_user(s, "ann", None)
api = Api(create_app(settings), ann)
from tests.builders.files import png
api.submit(("1.png", png()))

class Body:
    '''300 MB of a part, made as it is read.'''
    def __init__(self):
        self.head = b'--b\\r\\nContent-Disposition: form-data; name="files"; filename="big.bin"\\r\\n\\r\\n'
        self.left = 300_000_000
        self.tail = b"\\r\\n--b--\\r\\n"
        self.length = len(self.head) + self.left + len(self.tail)
    def read(self, size=-1):
        if self.head:
            head, self.head = self.head, b""
            return head
        if self.left:
            size = min(self.left, size if size > 0 else 65536, 65536)
            self.left -= size
            return b"x" * size
        tail, self.tail = self.tail, b""
        return tail

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
body = Body()
environ = {{"CONTENT_LENGTH": str(body.length), "wsgi.input": body}}
environ["CONTENT_TYPE"] = "multipart/form-data; boundary=b"
answer = api.post("/jobs", environ_overrides=environ)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(answer.status_code, after - before)
"""


@pytest.mark.slow
def test_upload_of_300_mb_is_not_held_in_memory(tmp_path: Path) -> None:
    script = tmp_path / "streamed.py"
    script.write_text(STREAMED.format(project=str(Path(__file__).parents[2]), home=str(tmp_path / "home")))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    status, grown = done.stdout.split()
    assert status == "202"
    assert int(grown) < 30_000, "KiB of peak memory that the upload took"
