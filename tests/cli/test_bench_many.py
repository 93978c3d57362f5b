"""`ctbatch bench ledger`, `hosts` and `scale`: each on a few slices."""

import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cli.commands.bench import bench
from tests.builders.servers import postgres_binaries

pytestmark = pytest.mark.slow


def measured(*words: str) -> dict[str, Any]:
    result = CliRunner().invoke(bench, [*words, "--even-if-disturbed", "--json"])
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads(result.stdout)
    return report


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark changes the environment of its process."""
    for name, value in (("CTBATCH_HOME", ""), ("DATABASE_URL", ""), ("CTBATCH_ENGINE", "auto")):
        monkeypatch.setenv(name, value)


def test_ledger_states_the_speed_of_each_recording() -> None:
    report = measured("ledger", "--slices", "300", "--processes", "2")
    assert (report["database"], report["slices"]) == ("sqlite", 300)
    assert all(speed > 0 for speed in report["slices_per_second"].values())


@pytest.mark.alone
def test_scale_states_time_memory_and_queries_of_each_size(tmp_path: Path) -> None:
    plot = tmp_path / "scale.png"
    report = measured("scale", "--sizes", "100", "--rows", "300", "--tiny", "--plot", str(plot))
    assert report["jobs"]["100"]["predicted"] == 100
    assert {"web", "ingest", "inference", "decoder"} <= set(report["jobs"]["100"]["peak_mib"])
    assert set(report["query_milliseconds"]) == {"100", "300"}
    assert plot.stat().st_size > 1_000


@pytest.mark.alone
@pytest.mark.skipif(os.getuid() != 0 or shutil.which("ip") is None, reason="hosts are made by root, with iproute2")
@pytest.mark.skipif(find_spec("moto") is None, reason="moto is not installed: pip install 'ctbatch[bench]'")
@pytest.mark.skipif(postgres_binaries() is None, reason="PostgreSQL's server is not installed")
def test_hosts_state_the_speed_of_each_number_of_devices() -> None:
    report = measured("hosts", "--devices", "1,2", "--seconds", "1")
    assert set(report["devices"]) == {"1", "2"}
    for devices in report["devices"].values():
        assert devices["slices"] > 0
        assert devices["slices_per_second"] > 0
        assert set(devices["core_ms_a_slice"]) == {"postgres", "redis", "s3", "ingest", "device"}
