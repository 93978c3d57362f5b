"""Numbers and words that no process could work with are refused when the settings are read."""

import pytest
from pydantic import ValidationError

from db.settings import Settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CTBATCH_LOG_LEVEL", "loud"),
        ("CTBATCH_WEB_THREADS", "0"),
        ("CTBATCH_WEB_WORKERS", "0"),
        ("CTBATCH_TRASH_DAYS", "-1"),
        ("CTBATCH_TRASH_DAYS", "1000000"),
        ("CTBATCH_ORPHAN_SECONDS", "1e13"),
        ("CTBATCH_LEASE_SECONDS", "10"),  # the heartbeat is every 15 seconds
        ("CTBATCH_HEARTBEAT_SECONDS", "60"),
        ("CTBATCH_STALL_SECONDS", "20"),
        ("CTBATCH_LEASE_SECONDS", "0"),
        ("CTBATCH_HEARTBEAT_SECONDS", "nan"),
        ("CTBATCH_STALL_SECONDS", "-5"),
        ("CTBATCH_RESERVE_BYTES", "-1"),
        ("PORT", "99999999"),
    ],
)
def test_setting_out_of_range_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError):
        Settings()


@pytest.mark.parametrize("name", ["CTBATCH_RESERVE_BYTES", "CTBATCH_DECODERS", "CTBATCH_TRASH_DAYS", "PORT"])
def test_zero_is_a_value_where_it_means_something(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "0")
    Settings()


def test_log_level_may_be_written_in_small_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTBATCH_LOG_LEVEL", "debug")
    assert Settings().log_level == "DEBUG"
