"""`ctbatch submit`: what is sent for files, archives and folders, and what becomes of a lost answer."""

import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli.errors import UsageError
from cli.files.parts import FilePart, TarPart, gather, gather_below
from tests.cli.conftest import clean_environment, job_view


@pytest.fixture
def folder(tmp_path):
    scans = tmp_path / "scans"
    (scans / "b").mkdir(parents=True)
    (scans / "b" / "2.png").write_bytes(b"two" * 1000)
    (scans / "a.png").write_bytes(b"one")
    (scans / ".hidden").write_bytes(b"not to be sent")
    (scans / "more.zip").write_bytes(b"PK")
    return scans


def test_a_file_is_sent_as_it_is(ctbatch, api, tmp_path):
    scan = tmp_path / "scan.zip"
    scan.write_bytes(os.urandom(3_000_000))
    result = ctbatch("submit", scan, "--name", "night scans", "--priority", 5, env=api.env)
    assert (result.returncode, result.stdout) == (0, "job1\n")
    assert api.uploads == [[("scan.zip", scan.read_bytes())]]
    assert api.fields == [{"name": "night scans", "priority": "5"}]


def test_a_folder_is_sent_as_a_tar_beside_its_archives(ctbatch, api, folder, untar):
    result = ctbatch("submit", folder, env=api.env)
    assert result.returncode == 0, result.stderr
    (tar_name, tar), archive = api.uploads[0]
    assert tar_name == "scans.tar"
    assert list(untar(tar).items()) == [("scans/a.png", b"one"), ("scans/b/2.png", b"two" * 1000)]
    assert archive == ("scans/more.zip", b"PK")


def test_what_is_left_out_of_a_folder_is_named(ctbatch, api, folder):
    (folder / ".old").mkdir()
    (folder / ".old" / "1.png").write_bytes(b"one")
    (folder / "b" / "back").symlink_to(folder)
    result = ctbatch("submit", folder, env=api.env)
    assert result.returncode == 0, result.stderr
    assert result.stderr.splitlines()[0] == (
        "did not follow 1 link to a folder (scans/b/back), left out 1 hidden folder (scans/.old), "
        "left out 1 hidden or unusable file (scans/.hidden)"
    )


def test_paths_with_the_same_name_are_told_apart_by_the_folders_above_them(ctbatch, api, tmp_path, untar):
    for patient in ("ann", "bob"):
        (tmp_path / patient / "scan").mkdir(parents=True)
        (tmp_path / patient / "scan" / "1.png").write_bytes(patient.encode())
        (tmp_path / patient / "7.png").write_bytes(patient.encode())
    assert ctbatch("submit", *tmp_path.glob("*/scan"), *tmp_path.glob("*/7.png"), env=api.env).returncode == 0
    sent = dict(api.uploads[0])
    assert set(sent) == {"ann/scan.tar", "bob/scan.tar", "ann/7.png", "bob/7.png"}
    assert untar(sent["bob/scan.tar"]) == {"bob/scan/1.png": b"bob"}
    assert ctbatch("submit", tmp_path / "ann" / "scan" / "..", env=api.env).returncode == 0
    assert [name for name, _ in api.uploads[1]] == ["ann.tar"]


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["p1/1.png", "p1/2.png"], ["1.png", "2.png"]),
        (["p1/1.png", "p1/2.png", "p2/3.png"], ["p1/1.png", "p1/2.png", "p2/3.png"]),
        (["p1/ct/1.png", "p2/ct/2.png"], ["p1/ct/1.png", "p2/ct/2.png"]),
        (["p1/1.png", "p2/2.zip", "p3/3.zip"], ["1.png", "2.zip", "3.zip"]),
    ],
)
def test_loose_files_of_several_folders_keep_their_folders(tmp_path, given, names):
    for name in given:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    parts, _ = gather([tmp_path / name for name in given])
    assert sorted(part.filename for part in parts) == names


@pytest.mark.parametrize("gather_paths", [gather, gather_below])
def test_tar_of_a_folder_has_another_name_than_an_archive_beside_it(tmp_path, gather_paths):
    (tmp_path / "p1").mkdir()
    (tmp_path / "p1" / "1.png").write_bytes(b"one")
    (tmp_path / "p1.tar").write_bytes(b"tar")
    parts, _ = gather_paths([tmp_path / "p1", tmp_path / "p1.tar"])
    assert {part.filename: type(part) for part in parts} == {"p1-packed.tar": TarPart, "p1.tar": FilePart}


def test_tar_of_loose_files_has_another_name_than_that_of_a_folder(tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "1.png").write_bytes(b"one")
    loose = [tmp_path / f"{number}.png" for number in range(70)]
    for path in loose:
        path.touch()
    parts, _ = gather([*loose, tmp_path / "files"])
    assert [part.filename for part in parts] == ["files.tar", "files-packed.tar"]


@pytest.mark.parametrize("gather_paths", [gather, gather_below])
def test_path_that_is_not_a_file_is_refused_before_it_is_read(tmp_path, gather_paths):
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/null"), tmp_path / "pipe"):
        with pytest.raises(UsageError, match="is not a file"):
            gather_paths([path])


@pytest.mark.parametrize("gather_paths", [gather, gather_below])
def test_path_that_is_given_twice_is_sent_once(tmp_path, gather_paths):
    (tmp_path / "p1").mkdir()
    (tmp_path / "p1" / "1.png").write_bytes(b"one")
    (tmp_path / "a.zip").write_bytes(b"PK")
    parts, _ = gather_paths([Path(f"{tmp_path}/{name}") for name in ("p1", "a.zip", "a.zip", "p1/../p1")])
    assert [part.filename for part in parts] == ["p1.tar", "a.zip"]


def test_parts_of_a_dataset_state_the_folder_that_holds_them(tmp_path):
    for name in ("COVID", "non-COVID"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(name.encode())
        (tmp_path / name / "more.zip").write_bytes(b"PK")
    parts, _ = gather_below([tmp_path / "COVID", tmp_path / "non-COVID"])
    assert sorted((part.filename, part.given) for part in parts) == [
        ("COVID.tar", 0),
        ("COVID/more.zip", 0),
        ("non-COVID.tar", 1),
        ("non-COVID/more.zip", 1),
    ]


def test_tar_of_a_folder_does_not_depend_on_file_times(ctbatch, api, folder):
    ctbatch("submit", folder, env=api.env)
    for path in folder.rglob("*"):
        os.utime(path, (1, 1))
    ctbatch("submit", folder, env=api.env)
    assert api.uploads[0] == api.uploads[1]


def test_many_loose_files_go_as_one_tar(ctbatch, api, tmp_path, untar):
    names = [f"{number:03}.png" for number in range(70)]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    assert ctbatch("submit", *(tmp_path / name for name in names), env=api.env).returncode == 0
    [(tar_name, tar)] = api.uploads[0]
    assert tar_name == "files.tar"
    assert list(untar(tar)) == names


def test_names_that_are_not_ascii_or_not_utf8_arrive(ctbatch, api, tmp_path, untar):
    long = "ä" * 100 + ".png"
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / long).write_bytes(b"1")
    (tmp_path / "d" / os.fsdecode(b"\xff.png")).write_bytes(b"2")
    loose = ['quo"te.png', "back\\slash.png", os.fsdecode(b"\xfe.png")]
    for name in loose:
        (tmp_path / name).write_bytes(b"3")
    assert ctbatch("submit", tmp_path / "d", *(tmp_path / name for name in loose), env=api.env).returncode == 0
    (_, tar), *others = api.uploads[0]
    assert list(untar(tar)) == [f"d/{long}", os.fsdecode(b"d/\xff.png")]
    assert others == [('quo"te.png', b"3"), ("back\\slash.png", b"3"), ("<U+DCFE>.png", b"3")]


def test_a_lost_answer_makes_no_second_job(ctbatch, api, folder):
    api.faults = ["drop"]
    result = ctbatch("submit", folder, "--json", env=api.env)
    assert result.returncode == 0, result.stderr
    assert len(api.bodies) == 1
    assert list(api.jobs) == ["job1"]
    assert json.loads(result.stdout)["id"] == "job1"


def test_files_are_sent_again_as_they_were(ctbatch, api, folder):
    api.faults = ["drop"]
    api.forgets_keys = True
    assert ctbatch("submit", folder, env=api.env).returncode == 0
    assert len(api.bodies) == 2
    assert api.bodies[0] == api.bodies[1]
    assert api.uploads[0] == api.uploads[1]
    assert list(api.jobs) == ["job1"]


def test_same_idempotency_key_gives_the_same_job(ctbatch, api, folder):
    for options in ([], [], ["--idempotency-key", "k"], ["--idempotency-key", "k"]):
        assert ctbatch("submit", folder, *options, env=api.env).returncode == 0
    assert len(api.jobs) == 3


def test_passing_failures_of_the_server_are_retried(ctbatch, api, folder):
    api.faults = [503, 502]
    assert ctbatch("submit", folder, env=api.env).returncode == 0
    assert [status for method, _, status in api.requests if method == "POST"] == [503, 502, 202]


def test_wrong_token_is_reported_before_files_are_sent(ctbatch, api, folder):
    result = ctbatch("submit", folder, env=api.env | {"CTBATCH_TOKEN": "ctb_wrong"})
    assert result.returncode == 3
    assert result.stderr.splitlines()[-1] == "Error: It is not-signed-in."
    assert api.uploads == []


def test_a_refusal_is_one_line_and_exit_code_2(ctbatch, api, folder):
    api.faults = [422]
    result = ctbatch("submit", folder, env=api.env)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == "Error: It is passing. (limit: Ask for less.)"


def test_submit_says_with_which_key_to_send_again(ctbatch, api, folder):
    api.faults = ["sign-in page"]
    result = ctbatch("submit", folder, "--idempotency-key", "key'1", env=api.env)
    assert result.returncode == 4
    assert shlex.split(result.stderr.splitlines()[-2])[-2:] == ["--idempotency-key", "key'1"]


def test_submit_shows_no_key_if_surely_nothing_was_queued(ctbatch, api, folder):
    api.faults = ["no-model-version"]
    result = ctbatch("submit", folder, "--idempotency-key", "k", env=api.env)
    assert result.returncode == 4
    assert "--idempotency-key" not in result.stderr
    assert "It is no-model-version." in result.stderr


def test_interrupted_submit_says_with_which_key_to_send_again(api, folder):
    api.faults = [503] * 20
    command = [sys.executable, "-m", "cli", "submit", folder, "--idempotency-key", "k"]
    env = clean_environment() | api.env
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env, text=True) as process:
        while "POST" not in [method for method, _, _ in api.requests]:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "repeat the command with --idempotency-key k\n" in errors


def test_submit_shows_the_key_that_it_made(ctbatch, api, folder):
    api.faults = ["sign-in page"]
    result = ctbatch("submit", folder, env=api.env)
    key = result.stderr.splitlines()[-2].rpartition(" ")[2]
    api.faults = []
    assert ctbatch("submit", folder, "--idempotency-key", key, env=api.env).returncode == 0


@pytest.mark.parametrize(
    "env",
    [
        {"CTBATCH_SERVER": "http://host:port"},
        {"CTBATCH_SERVER": "http://"},
        {"CTBATCH_SERVER": "http://host:99999"},
        {"CTBATCH_TOKEN": "\u201cctb_secret\u201d"},
        {"CTBATCH_TOKEN": "ctb_secret\nctb_secret"},
        {"CTBATCH_TOKEN": "", "CTBATCH_TOKEN_FILE": "token"},
    ],
)
def test_wrong_setting_is_a_usage_error_without_the_token(ctbatch, api, tmp_path, env):
    (tmp_path / "token").write_bytes(b"\xffctb_secret")
    result = ctbatch("jobs", "ls", env=api.env | env)
    assert result.returncode == 2
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert "ctb_secret" not in result.stderr


@pytest.mark.parametrize("key", ["M\u00e4rz-3", "two words", "", "k" * 256])
def test_key_that_no_server_takes_is_a_usage_error(ctbatch, api, folder, key):
    result = ctbatch("submit", folder, "--idempotency-key", key, env=api.env)
    assert result.returncode == 2
    assert "--idempotency-key" in result.stderr
    assert api.requests == []


def test_no_server_is_exit_code_4(ctbatch, folder, tmp_path):
    result = ctbatch("submit", folder)
    assert result.returncode == 4
    assert result.stderr.startswith(f"Error: no `ctbatch up` runs in {tmp_path / 'home'}")


def test_a_server_without_a_token_is_a_usage_error(ctbatch, api, folder):
    result = ctbatch("submit", folder, env={"CTBATCH_SERVER": api.url})
    assert result.returncode == 2
    assert "CTBATCH_TOKEN" in result.stderr


def test_token_is_read_from_a_file(ctbatch, api, folder, tmp_path):
    (tmp_path / "token").write_text(api.env["CTBATCH_TOKEN"] + "\n")
    env = {"CTBATCH_SERVER": api.url, "CTBATCH_TOKEN_FILE": str(tmp_path / "token")}
    assert ctbatch("submit", folder, env=env).returncode == 0


def test_running_up_is_found_by_its_file_and_its_lock(ctbatch, api, folder, tmp_path):
    run_dir = tmp_path / "home" / "run"
    run_dir.mkdir(parents=True)
    # After a power cut, some other process may have the process id of the file, as here.
    local = {"url": api.url, "token": api.env["CTBATCH_TOKEN"], "pid": os.getpid(), "broker": ""}
    (run_dir / "local.json").write_text(json.dumps(local))
    assert ctbatch("submit", folder).returncode == 4
    (run_dir / "up.lock").touch()
    assert ctbatch("submit", folder).returncode == 4
    with (run_dir / "up.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert ctbatch("submit", folder).returncode == 0


def test_an_empty_folder_is_a_usage_error(ctbatch, api, tmp_path):
    (tmp_path / "empty").mkdir()
    result = ctbatch("submit", tmp_path / "empty", env=api.env)
    assert result.returncode == 2
    assert "nothing to send" in result.stderr


def test_missing_path_is_a_usage_error(ctbatch, api):
    result = ctbatch("submit", "nowhere.zip", env=api.env)
    assert result.returncode == 2
    assert "nowhere.zip" in result.stderr
    assert "Traceback" not in result.stderr


PARTLY = {"received": 3, "predicted": 2, "rejected": 1}


@pytest.mark.parametrize(
    ("state", "counts", "options", "code"),
    [
        ("finished", PARTLY, [], 0),
        ("finished", PARTLY, ["--strict"], 5),
        ("finished", {"received": 2, "predicted": 2}, ["--strict"], 0),
        ("finished", {"received": 1, "rejected": 1}, [], 5),
        ("finished", {}, [], 5),
        ("finished", {"received": 3, "predicted": 2, "quarantined": 1}, [], 5),
        ("cancelled", {"received": 3, "cancelled": 3}, [], 5),
        ("cancelled", {"received": 3, "predicted": 3}, [], 5),
        ("failed", {}, ["--strict"], 1),
        ("failed", PARTLY, [], 1),
    ],
)
def test_exit_code_of_wait_tells_how_the_job_ended(ctbatch, api, folder, state, counts, options, code):
    job = api.add_job("running", received=3, predicted=1)
    api.keys["k"] = job["id"]
    api.views[job["id"]] = [job, job_view(job["id"], state, "scan.zip", **counts)]
    result = ctbatch("submit", folder, "--wait", *options, "--json", "--idempotency-key", "k", env=api.env)
    assert result.returncode == code, result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["state"] == state


def test_job_that_predicted_nothing_is_reported(ctbatch, api, folder):
    api.keys["k"] = api.add_job("finished", received=2, rejected=2)["id"]
    result = ctbatch("submit", folder, "--wait", "--idempotency-key", "k", env=api.env)
    assert "job job1 is finished, nothing predicted: 2 rejected" in result.stderr


def test_strict_without_wait_is_a_usage_error(ctbatch, api, folder):
    assert ctbatch("submit", folder, "--strict", env=api.env).returncode == 2
    assert api.uploads == []


def test_wait_sends_the_etag_of_the_last_view(ctbatch, api, folder):
    job = api.add_job("running", received=3, predicted=1)
    ended = dict(job, state="finished", state_text="finished")
    api.keys["k"] = job["id"]
    api.views[job["id"]] = [job, dict(job), dict(job), ended]
    assert ctbatch("submit", folder, "--wait", "--idempotency-key", "k", env=api.env).returncode == 0
    assert [status for _, path, status in api.requests if path.endswith("/job1")] == [200, 304, 304, 200]


def test_a_file_that_shrinks_while_it_is_sent_is_not_submitted(tmp_path: Path):
    scan = tmp_path / "scan.png"
    scan.write_bytes(b"x" * 5_000_000)
    [part], _ = gather([scan])
    pieces = iter(part)
    next(pieces)
    os.truncate(scan, 2_000_000)
    with pytest.raises(UsageError, match="became shorter"):
        list(pieces)
