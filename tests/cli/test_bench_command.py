"""`ctbatch bench fitting` trains in its own process and keeps nothing; `real-training` launches a run as asked."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli.benchmarks.training.end_to_end import train_words
from cli.commands.bench import bench
from cli.commands.train import train
from db.database import read_scope
from db.registry import versions
from db.settings import Settings, get_settings
from db.training import runs
from tests.builders.datasets import add_dataset
from training.launch.launch import RunRequest

STAGES = ("head", "last-20", "last-40")
TINY = [
    f"stages.{name}.{key}={value}" for name in STAGES for key, value in (("epochs", 1), ("size", 32), ("copies", 1))
]
Run = Callable[..., Result]


@pytest.fixture
def fitting(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs the command on this test's home, which holds the dataset `site`."""
    add_dataset("site", 48)
    monkeypatch.setenv("CTBATCH_HOME", str(settings.home))
    get_settings.cache_clear()
    yield lambda *words: CliRunner().invoke(bench, ["fitting", *(str(word) for word in words)])
    get_settings.cache_clear()


def test_decoding_states_the_speed_of_each_syntax_beside_its_codec() -> None:
    measured = CliRunner().invoke(bench, ["decoding", "--slices", "1", "--json"])
    report = json.loads(measured.stdout)
    assert report["uncompressed"] > 0
    for name in ("JPEG Lossless", "JPEG-LS", "JPEG 2000", "HTJ2K"):
        assert 0 < report[name]["slices_per_second"] < 2 * report[name]["codec_alone"], name


@pytest.mark.slow
def test_preparing_states_the_processor_time_of_each_part(ctbatch: Callable[..., Any]) -> None:
    report = json.loads(ctbatch("bench", "preparing", "--slices", 2, "--rounds", 1, "--json").stdout)
    for kind in ("PNG of 400 × 300", "JPEG of 512 × 512"):
        assert report[kind]["slices"] == 2
        parts = report[kind]["core_ms_a_slice"]
        assert 0 < parts["receive"] < parts["ingest"] < parts["total"] + 0.01, kind


@pytest.mark.slow
def test_fitting_reports_speed_and_metrics_and_keeps_nothing(
    fitting: Run, settings: Settings, small_network: None
) -> None:
    changed = [word for setting in ("initial=none", "hidden=8", *TINY) for word in ("--set", setting)]
    result = fitting("site", "--preset", "seed", *changed, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert [(stage["name"], stage["size"], stage["epochs"]) for stage in report["stages"]] == [
        (n, 32, 1) for n in STAGES
    ]
    assert all(stage["rate"] > 0 for stage in report["stages"])
    assert report["seconds"] == pytest.approx(sum(stage["seconds"] for stage in report["stages"]), abs=0.2)
    assert 0 <= report["metrics"]["accuracy"] <= 1
    assert report["environment"]["backend"] == "tensorflow"
    assert "last-40: epoch 1 of 1" in result.stderr
    with read_scope() as s:
        assert not runs.list_runs(s)
        assert not versions.list_versions(s)
    assert not list(settings.home.glob("training/*"))


def test_unknown_dataset_and_setting_are_refused(fitting: Run) -> None:
    unknown, odd = fitting("other"), fitting("site", "--set", "ages.0=1")
    assert (unknown.exit_code, odd.exit_code) == (3, 2)
    assert "there is no dataset other" in unknown.output
    assert "'ages' does not exist" in odd.output


def test_fitting_fails_with_a_reason_when_files_are_gone(fitting: Run, settings: Settings) -> None:
    for file in (settings.home / "files").rglob("*"):
        if file.is_file():
            file.unlink()
    result = fitting("site", "--preset", "quick")
    assert result.exit_code == 1
    assert "is gone or damaged" in result.output
    assert not list(settings.home.glob("training/*"))


def test_real_training_passes_every_option_to_train() -> None:
    request = RunRequest(
        dataset="real",
        preset="quick",
        settings=("augment.flip=false", "hidden=8"),
        seed=3,
        allow_leaks=("conflicting-labels",),
        groups_as_given=True,
    )
    options = train.make_context("train", train_words(request)).params
    assert RunRequest(**{name: options[name] for name in RunRequest.model_fields if name in options}) == request


@pytest.mark.slow
def test_engine_that_the_package_has_no_file_for_is_refused_at_once(ctbatch: Callable[..., object]) -> None:
    refused = ctbatch("bench", "pipeline", "--slices", 1, env={"CTBATCH_ENGINE": "openvino-f32"})
    assert refused.returncode == 2, refused.stderr
    assert refused.stderr.splitlines()[-1].startswith("Error: CTBATCH_ENGINE is openvino-f32, but the package demo")


CLAIMS = ("bench", "claims", "--json", "--jobs", 6, "--seconds", 1, "--workers")


@pytest.mark.slow
def test_claims_reports_every_slice_and_no_broken_transaction(ctbatch: Callable[..., Any]) -> None:
    report = json.loads(ctbatch(*CLAIMS, 2).stdout)
    assert report["database"] == "sqlite"
    assert report["jobs"] >= 6
    assert report["slices"] == 2 * report["jobs"]
    assert (report["deadlocks"], report["transactions_broken_off"]) == (0, {})


@pytest.mark.slow
def test_eight_workers_on_postgresql_claim_tiny_jobs_without_a_deadlock(
    ctbatch: Callable[..., Any], postgres_url: str
) -> None:
    report = json.loads(ctbatch(*CLAIMS, 8, "--jobs", 60, "--database", postgres_url).stdout)
    assert report["slices"] == 2 * report["jobs"] >= 120
    assert (report["deadlocks"], report["transactions_broken_off"]) == (0, {})
    refused = ctbatch(*CLAIMS, 2, "--database", postgres_url)
    assert (refused.returncode, "not empty" in refused.stderr) == (2, True)
