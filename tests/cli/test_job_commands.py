"""`ctbatch jobs` and `ctbatch results`: what they print and their exit codes."""

import json
import os
import threading

import pytest

from cli.errors import NotFoundOrDenied
from cli.remote.client import job_path
from tests.cli.conftest import PROXIES

FINDING = {
    "patient": 1, "level": "series", "series": "evil\x1b[2J", "uploads": list("abcd"),
    "verdict": None, "reason": "missing", "score": None,
    "threshold": 0.5, "used": 2, "left_out": {"truncated": 3}, "rule": "top-k-mean", "rule_version": 2, "k": 10,
}  # fmt: skip
ROW = {
    "slice_id": 1,
    "name": "evil\x1b[2J\u202egnp.png",
    "upload": "a.zip",
    "frame": 0,
    "series": "s1",
    "state": "predicted",
    "reason": None,
    "label": "COVID",
    "probability": 0.98765,
}


def test_ls_follows_the_pages(ctbatch, api):
    for number in range(5):
        api.add_job(name=f"scan {number}")
    listed = json.loads(ctbatch("jobs", "ls", "--json", env=api.env).stdout)
    assert [job["name"] for job in listed] == [f"scan {number}" for number in range(5)]
    listed = json.loads(ctbatch("jobs", "ls", "--json", "--limit", 3, env=api.env).stdout)
    assert [job["name"] for job in listed] == ["scan 0", "scan 1", "scan 2"]


def test_ls_asks_for_pages_that_the_server_allows(ctbatch, api):
    for _ in range(3):
        api.add_job()
    assert ctbatch("jobs", "ls", "--limit", 1000, env=api.env).returncode == 0
    assert [path for _, path, _ in api.requests] == ["/api/v1/jobs?limit=200", "/api/v1/jobs?cursor=2&limit=200"]


def test_ls_is_tab_separated_off_a_terminal(ctbatch, api):
    api.add_job("running", received=10, predicted=4, positive=1, rejected=2)["ood"] = 1
    lines = ctbatch("jobs", "ls", env=api.env).stdout.splitlines()
    assert lines[0].split("\t") == ["id", "name", "state", "done", "received", "positive", "ood", "rejected", "created"]
    assert lines[1].split("\t")[:8] == ["job1", "scan.zip", "running", "6", "10", "1", "1", "2"]


def test_name_that_the_output_cannot_hold_is_escaped(fresh_ctbatch, api):
    api.add_job(name="płuca \U0001fac1")
    env = api.env | {"PYTHONIOENCODING": "latin-1"}
    table, listed = fresh_ctbatch("jobs", "ls", env=env), fresh_ctbatch("jobs", "ls", "--json", env=env)
    assert (table.returncode, listed.returncode) == (0, 0), table.stderr + listed.stderr
    assert "\tp\\u0142uca \\U0001fac1\t" in table.stdout
    assert json.loads(listed.stdout)[0]["name"] == "płuca \U0001fac1"


def test_show_prints_the_outcomes_with_their_reasons(ctbatch, api):
    api.add_job("finished", received=10, predicted=8, positive=1, rejected=2)
    shown = ctbatch("jobs", "show", "job1", env=api.env).stdout
    assert "model_note\tdemo: synthetic phantoms, knows nothing about patients" in shown
    assert "out of distribution" not in shown
    assert "rejected\t2\n  truncated\t2\n" in shown


def test_show_counts_slices_out_of_distribution_and_prints_the_notice(ctbatch, api):
    job = api.add_job("finished", received=10, predicted=10, positive=1)
    job |= {"ood": 7, "notice": "These scores mean nothing."}
    shown = ctbatch("jobs", "show", "job1", env=api.env)
    assert "positive\t1\n  out of distribution\t7\n" in shown.stdout
    assert "These scores mean nothing." in shown.stderr


def test_unknown_job_is_exit_code_3(ctbatch, api):
    for command in (["jobs", "show"], ["jobs", "wait"], ["results", "--format", "csv"]):
        result = ctbatch(*command, "nosuch", env=api.env)
        assert result.returncode == 3
        assert result.stderr == (
            "Error: there is no job 'nosuch', or it belongs to somebody else; `ctbatch jobs ls` lists the ids of jobs\n"
        )


@pytest.mark.parametrize(
    "command",
    ["jobs show", "jobs cancel", "jobs retry", "jobs wait", "jobs rm --yes", "results", "results --slices",
     "results --format csv", "findings ls", "findings ls --format json"],
)  # fmt: skip
def test_job_whose_id_is_a_path_is_not_found_and_not_asked_for(ctbatch, api, command):
    result = ctbatch(*command.split(), "../datasets/1", env=api.env)
    assert (result.returncode, api.requests) == (3, [])
    assert "there is no job '../datasets/1'" in result.stderr


@pytest.mark.parametrize("job_id", ["", ".", "..", " ", "a/b", "a?x=1", "a#x", "%61", "a\n", "é"])
def test_id_that_would_change_the_address_is_no_job(job_id):
    with pytest.raises(NotFoundOrDenied):
        job_path(job_id)
    assert job_path("abc234", "/retry") == "/jobs/abc234/retry"


def test_wait_exits_with_the_code_of_the_first_failed_job(ctbatch, api):
    api.add_job("finished", received=1, predicted=1)
    api.add_job("failed")
    api.add_job("cancelled", received=1, cancelled=1)
    result = ctbatch("jobs", "wait", "job1", "job2", "job3", env=api.env)
    assert result.returncode == 1
    assert "job job3 is cancelled, nothing predicted: 1 cancelled" in result.stderr
    assert "job job2 failed: the archive is unreadable" in result.stderr


def test_ls_and_show_report_that_nothing_was_predicted(ctbatch, api):
    api.add_job("finished", received=1, rejected=1)
    assert "\tfinished, nothing predicted\t" in ctbatch("jobs", "ls", env=api.env).stdout
    assert "state\tfinished, nothing predicted\n" in ctbatch("jobs", "show", "job1", env=api.env).stdout


@pytest.mark.parametrize(("options", "code"), [([], 0), (["--strict"], 5)])
def test_strict_wait_exits_5_for_a_rejected_file(ctbatch, api, options, code):
    api.add_job("finished", received=2, predicted=1, rejected=1)
    assert ctbatch("jobs", "wait", "job1", *options, env=api.env).returncode == code


def test_strict_retry_exits_5_for_a_rejected_file(ctbatch, api):
    api.add_job("finished", received=2, predicted=1, rejected=1)
    ended = dict(api.jobs["job1"])
    for options, code in (([], 0), (["--strict"], 5)):
        api.views["job1"] = [dict(ended)]
        assert ctbatch("jobs", "retry", "job1", "--wait", *options, env=api.env).returncode == code
    assert ctbatch("jobs", "retry", "job1", "--strict", env=api.env).returncode == 2


def test_cancel_and_retry(ctbatch, api):
    api.add_job("running")
    assert json.loads(ctbatch("jobs", "cancel", "job1", "--json", env=api.env).stdout)["state"] == "cancelled"
    assert ctbatch("jobs", "retry", "job1", env=api.env).stderr == "queued again: 3; job job1 is queued: scan.zip\n"


def test_rm_deletes_what_it_can_and_exits_with_the_code_of_the_first_that_it_cannot(ctbatch, api):
    for state in ("finished", "running", "failed"):
        api.add_job(state)
    result = ctbatch("jobs", "rm", "job1", "job2", "nosuch", "job3", "--yes", env=api.env)
    assert (result.returncode, list(api.jobs)) == (2, ["job2"])
    assert result.stderr.splitlines() == [
        "job job1 is deleted",
        "Error: job nosuch: there is no job 'nosuch', or it belongs to somebody else; `ctbatch jobs ls` lists the ids"
        " of jobs",
        "job job3 is deleted",
        "Error: job job2: It is conflict.",
    ]
    assert ctbatch("jobs", "rm", "nosuch", "--yes", env=api.env).returncode == 3
    api.add_job("cancelled")
    deleted = ctbatch("jobs", "rm", "job2", "--yes", "--json", env=api.env)
    assert json.loads(deleted.stdout) == {"deleted": ["job2"]}


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 130), ("", 130)], ids=["yes", "no", "nothing"])
def test_rm_asks_first(ctbatch, api, answer, code):
    api.add_job("finished")
    result = ctbatch("jobs", "rm", "job1", stdin=answer, env=api.env)
    assert (result.returncode, len(api.jobs)) == (code, 0 if code == 0 else 1)
    assert "Delete job job1?" in result.stderr


@pytest.mark.slow
def test_a_server_that_stays_away_is_exit_code_4(ctbatch, api):
    api.faults = [503] * 20
    result = ctbatch("jobs", "show", "job1", env=api.env)
    assert (result.returncode, result.stderr.splitlines()[-1]) == (4, "Error: It is passing.")


def test_table_of_results_escapes_names(ctbatch, api):
    api.add_job("finished", received=1, predicted=1)
    api.rows["job1"] = [ROW]
    result = ctbatch("results", "job1", "--state", "predicted", "--sort", "-probability", env=api.env)
    name = result.stdout.splitlines()[1].split("\t")[1]
    assert name == r"evil\x1b[2J\u202egnp.png"
    assert result.stdout.splitlines()[1].split("\t")[-1] == "0.988"
    assert api.requests[-1][1] == "/api/v1/jobs/job1/results?state=predicted&sort=-probability&limit=100"
    assert "Research use only, not for diagnosis." in result.stderr


def test_export_of_an_open_job_is_called_incomplete_on_stderr(ctbatch, api):
    api.add_job("running", received=9, predicted=1)
    result = ctbatch("results", "job1", "--format", "csv", env=api.env)
    assert (result.returncode, result.stderr) == (0, "Incomplete: 1 of 9.\n")
    api.add_job("finished", received=9, predicted=9)
    assert ctbatch("results", "job2", "--format", "csv", env=api.env).stderr == ""


@pytest.mark.parametrize("words", [["results"], ["findings", "ls"], ["findings", "ls", "--format", "csv"]])
def test_findings_of_an_open_job_are_not_available_yet(ctbatch, api, words):
    api.add_job("running", received=9, predicted=1)
    result = ctbatch(*words, "job1", env=api.env)
    assert (result.returncode, result.stdout, result.stderr) == (4, "", "Error: It is not-ended.\n")


def test_results_lead_with_findings(ctbatch, api):
    api.add_job("finished", received=1, predicted=1)
    api.findings["job1"], api.rows["job1"] = [FINDING], [ROW]
    for command in (["results", "job1"], ["findings", "ls", "job1"]):
        result = ctbatch(*command, env=api.env)
        row = dict(zip(*(line.split("\t") for line in result.stdout.splitlines()[:2]), strict=True))
        assert (row["patient"], row["level"], row["verdict"]) == ("1", "series", "no verdict")
        assert row["series"] == r"evil\x1b[2J"
        assert row["left_out"] == "3 truncated"
        assert "top-k-mean" in result.stderr
        assert "Research use only, not for diagnosis." in result.stderr
    ctbatch("findings", "ls", "job1", "--verdict", "none", env=api.env)
    assert api.requests[-1][1].startswith("/api/v1/jobs/job1/findings?verdict=none")
    ctbatch("results", "job1", "--slices", env=api.env)
    assert api.requests[-1][1].startswith("/api/v1/jobs/job1/results")
    assert ctbatch("findings", "ls", "job1", "--json", "--verdict", "none", env=api.env).returncode == 2


@pytest.mark.parametrize("output", [None, "out.csv"])
def test_csv_of_results_is_written_byte_for_byte(ctbatch, api, tmp_path, output):
    api.add_job("finished")
    result = ctbatch("results", "job1", "--format", "csv", *(["-o", output] if output else []), env=api.env)
    assert result.returncode == 0
    expected = "slice_id,name\n1,a.png\n"
    assert result.stdout == ("" if output else expected)
    if output:
        assert (tmp_path / output).read_bytes() == b"slice_id,name\r\n1,a.png\r\n"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["home", output] or not (tmp_path / "home").exists()


def test_parquet_of_results_is_asked_for_and_written(ctbatch, api, tmp_path):
    api.add_job("finished")
    result = ctbatch("results", "job1", "--format", "parquet", "-o", "out.parquet", env=api.env)
    assert result.returncode == 0
    assert api.requests[-1][1].endswith("/jobs/job1/results.parquet")
    assert (tmp_path / "out.parquet").read_bytes() == b"PAR1"


def test_output_that_cannot_be_written_is_reported_in_one_line(ctbatch, api):
    api.add_job("finished")
    result = ctbatch("results", "job1", "--format", "csv", "-o", "no/such/folder.csv", env=api.env)
    assert result.returncode == 4
    assert result.stderr == "Error: cannot write no/such/folder.csv: No such file or directory\n"


@pytest.mark.parametrize(("proxy", "code"), [("to https", 2), ("to sign-in", 2), ("nowhere", 2), ("sign-in page", 4)])
@pytest.mark.parametrize("command", [
    ["jobs", "ls"], ["jobs", "wait", "job1"], ["jobs", "cancel", "job1"], ["results", "job1"],
    ["results", "job1", "--format", "csv", "-o", "out"], ["results", "job1", "--format", "json", "-o", "out"],
    ["results", "job1", "--format", "parquet", "-o", "out"], ["findings", "ls", "job1", "--format", "csv", "-o", "out"],
])  # fmt: skip
def test_answer_of_a_proxy_is_an_error_and_keeps_the_file(ctbatch, api, tmp_path, command, proxy, code):
    api.add_job("finished")
    (tmp_path / "out").write_bytes(b"good")
    api.faults = [proxy]
    result = ctbatch(*command, env=api.env)
    assert result.returncode == code
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert len(api.requests) == 1
    assert (tmp_path / "out").read_bytes() == b"good"


def test_redirect_names_the_address_to_use(ctbatch, api):
    api.faults = ["to https"]
    assert "; set CTBATCH_SERVER to https://ct.example\n" in ctbatch("jobs", "ls", env=api.env).stderr
    api.faults = ["to sign-in"]
    result = ctbatch("jobs", "ls", env=api.env)
    assert PROXIES["to sign-in"][2]["Location"].partition("?")[0] in result.stderr
    assert "set CTBATCH_SERVER to" not in result.stderr


@pytest.mark.parametrize("export", [["results", "--json"], ["findings", "ls", "--json"]])
def test_json_is_exported(ctbatch, api, export):
    api.add_job("finished")
    assert json.loads(ctbatch(*export, "job1", env=api.env).stdout) == {"findings": []}


def test_output_to_a_link_fills_its_target(ctbatch, api, tmp_path):
    api.add_job("finished")
    (tmp_path / "shared").mkdir()
    for target in (tmp_path / "old.csv", tmp_path / "shared" / "new.csv"):
        link = tmp_path / f"link-{target.name}"
        link.symlink_to(target)
        (tmp_path / "old.csv").write_bytes(b"old")
        assert ctbatch("results", "job1", "--format", "csv", "-o", link, env=api.env).returncode == 0
        assert link.readlink() == target
        assert target.read_bytes() == b"slice_id,name\r\n1,a.png\r\n"


def test_output_to_a_named_pipe_is_written_to_its_reader(ctbatch, api, tmp_path):
    api.add_job("finished")
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    assert ctbatch("results", "job1", "--format", "csv", "-o", pipe, env=api.env).returncode == 0
    reader.join(10)
    assert read == [b"slice_id,name\r\n1,a.png\r\n"]
    assert pipe.is_fifo()
