"""Storage, database or broker away in the middle of a job, for longer than every limit: the job ends complete.

OUTAGE_SECONDS=1200 makes an outage of 20 minutes with the default settings. Without it leases and limits are short, and
the outage lasts a dozen leases, four times the limit for a stall, and more tries than an upload or a chunk has.
"""

import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from db.settings import Settings
from tests.builders.servers import PostgresServer, RedisServer, postgres_binaries
from tests.system.conftest import SHORT, Whole
from tests.system.test_kill import SLICES, at_work, check

OUTAGE_SECONDS = float(os.environ.get("OUTAGE_SECONDS", 40))
LIMITS = {name: value for name, value in SHORT.items() if name.endswith("_SECONDS") and "FAKE" not in name}
if "OUTAGE_SECONDS" in os.environ:
    LIMITS = {name: str(Settings.model_fields[name.removeprefix("CTBATCH_").lower()].default) for name in LIMITS}
RESUME_SECONDS = 300.0

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(int(OUTAGE_SECONDS + 2 * RESUME_SECONDS))]


class Parts:
    """The parts that a ctbatch depends on, each of which can be taken away and given back."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        folders = [folder / name for name in ("database", "broker")]
        for path in folders:
            path.mkdir()
        self.database, self.broker = PostgresServer(folders[0], binaries), RedisServer(folders[1])
        self.database.start()
        self.broker.start()
        urls = {"DATABASE_URL": self.database.url + "postgres", "CELERY_BROKER_URL": self.broker.url}
        self.whole = Whole(folder / "home", **urls, **LIMITS)
        self.files = self.whole.home / "files"

    def take_away(self, part: str) -> None:
        """Stop a server, or unmount the storage: an empty folder is left."""
        if part == "storage":
            self.files.rename(self.files.with_name("unmounted"))
            self.files.mkdir()
        else:
            getattr(self, part).stop()

    def give_back(self, part: str) -> None:
        """Start the server again, or mount the storage."""
        if part == "storage":
            shutil.rmtree(self.files)
            self.files.with_name("unmounted").rename(self.files)
        else:
            getattr(self, part).start()


@pytest.fixture
def parts() -> Iterator[Parts]:
    """A ctbatch that runs on servers of its own."""
    binaries = postgres_binaries()
    if binaries is None or shutil.which("redis-server") is None:
        pytest.skip("PostgreSQL or redis-server is not installed")
    with tempfile.TemporaryDirectory(prefix="ctbatch-outage-") as name:
        Path(name).chmod(0o755)  # for the user that PostgreSQL runs as
        parts = Parts(Path(name), binaries)
        try:
            parts.whole.prepare()
            parts.whole.start()
            yield parts
        finally:
            parts.whole.stop()
            parts.broker.stop()
            parts.database.stop()


def test_outage_is_longer_than_every_limit() -> None:
    lease, stall, resend = (float(LIMITS[f"CTBATCH_{name}_SECONDS"]) for name in ("LEASE", "STALL", "RESEND"))
    assert min(OUTAGE_SECONDS / lease, OUTAGE_SECONDS / stall, OUTAGE_SECONDS / resend / 10) > 1


@pytest.mark.parametrize("part", ["storage", "database", "broker"])
def test_job_ends_complete_after_an_outage(
    part: str, parts: Parts, make_archive: Callable[..., bytes], record_property: Any
) -> None:
    whole = parts.whole
    job_id = whole.submit(make_archive(SLICES, seed=zlib.crc32(part.encode())), f"outage-{part}")
    at_work(whole, job_id)
    parts.take_away(part)
    time.sleep(OUTAGE_SECONDS)
    parts.give_back(part)
    back = time.monotonic()
    whole.wait(job_id, RESUME_SECONDS)
    record_property("seconds_to_the_end", round(time.monotonic() - back))
    check(whole, job_id)
