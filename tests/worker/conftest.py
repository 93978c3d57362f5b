"""Archives made for tests, and jobs of them in the database in use."""

from collections.abc import Callable
from pathlib import Path

import pytest

from db.database import read_scope, session_scope
from db.ledger import jobs
from db.ledger.job_view import JobView, job_view
from db.models import Job, User
from db.storage import storage
from tests.builders.files import png, tar_of, write_zip
from worker.imaging.archives.archive import Limits, inspect_archive

Submit = Callable[..., Job]


@pytest.fixture
def submit(tmp_path: Path) -> Submit:
    """Receives files as the web does and creates their job."""

    def act(owner: User, entries: dict[str, bytes], kind: str = "zip", **values: object) -> Job:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.{kind}"
        if kind == "zip":
            write_zip(path, entries)
        else:
            path.write_bytes(tar_of(entries, "w:gz"))
        found = inspect_archive(path, path.name, Limits())
        receiver = storage().receive()
        receiver.write(path.read_bytes())
        received = receiver.close()
        file = jobs.ReceivedFile(path.name, received.sha256, received.size, found.kind, found.entries)
        with session_scope() as s:
            return jobs.create_job(s, owner=owner, files=[file], **values)[0]  # type: ignore[arg-type]

    return act


@pytest.fixture
def view() -> Callable[[Job], JobView]:
    """The job as it stands."""

    def act(job: Job) -> JobView:
        with read_scope() as s:
            return job_view(s, s.get_one(Job, job.id))

    return act


@pytest.fixture
def slices() -> Callable[..., dict[str, bytes]]:
    """Entries of an archive: this many PNGs in a folder, each of its own pixels."""
    return lambda count, start=0, folder="s": {f"{folder}/{n:05}.png": png(n) for n in range(start, start + count)}
