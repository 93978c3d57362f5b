"""`ctbatch tune` and `ctbatch doctor --tune`: what they tune, when, and what they print."""

import json
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from cli.commands.doctor import doctor
from cli.commands.models.tune import tune
from db.models import ModelVersion
from db.settings import Settings
from worker.engines.tuning import Tuning

TUNING = Tuning(streams=2, threads=4, request=8, slices_per_second=90.5)


@pytest.fixture
def tuned(monkeypatch: pytest.MonkeyPatch) -> list[Tuning]:
    """The tunings that were made: each takes no time."""
    made: list[Tuning] = []

    def make() -> tuple[str, Tuning]:
        made.append(TUNING)
        return "openvino-int8", TUNING

    for place in ("cli.local.tuning", "cli.commands.models.tune"):
        monkeypatch.setattr(f"{place}.tune_champion", make)
    monkeypatch.setattr("cli.local.tuning.tunings_of", lambda _: {"openvino-int8": TUNING} if made else {})
    return made


def test_tune_prints_the_tuning_for_people_and_programs(tuned: list[Tuning]) -> None:
    shown, read = CliRunner().invoke(tune), CliRunner().invoke(tune, ["--json"])
    assert shown.stdout.splitlines()[-2] == "openvino-int8: 2 streams, 4 threads, 8 slices a request; 90.5 slices/s"
    assert json.loads(read.stdout) == {"engine": "openvino-int8", **TUNING.model_dump()}
    assert len(tuned) == 2


def test_doctor_tunes_an_engine_once(tuned: list[Tuning], database: Settings, champion: ModelVersion) -> None:
    def looked(*options: str) -> list[SimpleNamespace]:
        result = CliRunner().invoke(doctor, ["--json", *options])
        return [SimpleNamespace(**one) for one in json.loads(result.stdout)]

    assert [one.detail for one in looked() if one.check == "tuning"] != []
    assert tuned == []
    for _ in range(2):
        [finding] = [one for one in looked("--tune") if one.check == "tuning"]
        assert (finding.state, finding.detail.startswith("openvino-int8: 2 streams")) == ("ok", True)
    assert tuned == [TUNING]


def test_engine_that_is_not_openvino_is_not_tuned(database: Settings, champion: ModelVersion) -> None:
    result = CliRunner().invoke(tune)
    assert result.exit_code != 0
    assert "only OpenVINO's can be tuned" in f"{result.output}{result.exception}"
