"""Operators' commands against a real database: accounts, tokens, model versions, migrations, and the doctor."""

import json
import os
import pwd
import shutil
import socket
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import update

from cli.commands import doctor
from cli.errors import Unavailable
from cli.local import file_systems
from cli.local.access import LocalAccess, sign_in_link
from cli.local.session import operator_name
from db import database as base
from db.access import accounts, audit, links, tokens
from db.database import session_scope
from db.installation import claim_storage
from db.models import AuditEvent, User
from db.registry import champions
from db.storage import storage
from tests.builders.buckets import CALLS, bucket_away
from tests.web.actors import load_engines
from worker.engines.processor import read_processor
from worker.imaging.sandbox.pool import DecoderPool


@pytest.fixture
def operate(ctbatch, database):
    """Run a command on the database of this test."""
    env = {"CTBATCH_HOME": str(database.home), "DATABASE_URL": database.database}

    def run(*words: object, stdin: str = ""):
        return ctbatch(*words, stdin=stdin, env=env)

    return run


def test_a_user_is_added_and_can_sign_in(operate):
    assert operate("users", "add", "ann", "--admin", stdin="correct horse battery\n").returncode == 0
    with session_scope() as session:
        user = accounts.verify_password(session, "ann", "correct horse battery")
    assert user is not None
    assert user.is_admin
    listed = json.loads(operate("users", "ls", "--json").stdout)
    assert [(user["name"], user["admin"]) for user in listed] == [("ann", True)]
    assert operate("users", "add", "ann", "--no-password").returncode == 2


def test_user_is_disabled_enabled_and_given_another_role(operate, ann):
    assert operate("users", "disable", "ann").returncode == 0
    assert operate("users", "role", "ann", "admin").returncode == 0
    assert [(user["disabled"], user["admin"]) for user in json.loads(operate("users", "ls", "--json").stdout)] == [
        (True, True)
    ]
    assert operate("users", "enable", "ann").returncode == 0
    assert operate("users", "role", "ann", "user").returncode == 0
    assert [(user["disabled"], user["admin"]) for user in json.loads(operate("users", "ls", "--json").stdout)] == [
        (False, False)
    ]
    assert operate("users", "disable", "nobody").returncode == 3
    assert operate("users", "add", "local", "--no-password").returncode == 2


def test_stopping_ends_the_local_token_and_link(database):
    access = LocalAccess.prepare()
    secret = sign_in_link("http://127.0.0.1:8000", "/").rpartition("/")[2]
    with session_scope() as session:
        assert tokens.token_user(session, access.token) is not None
        assert links.link_user(session, secret) is not None
    access.end()
    with session_scope() as session:
        assert tokens.token_user(session, access.token) is None
        assert links.link_user(session, secret) is None


def test_up_on_another_machine_leaves_the_token_of_the_first(database, tmp_path):
    def is_valid(access: LocalAccess) -> bool:
        with session_scope() as session:
            return tokens.token_user(session, access.token) is not None

    first = LocalAccess.prepare()
    base.use(database.model_copy(update={"home": tmp_path / "another"}))
    second = LocalAccess.prepare()
    assert is_valid(first)
    base.use(database)
    again = LocalAccess.prepare()
    assert (is_valid(first), is_valid(second), is_valid(again)) == (False, True, True)


@pytest.mark.parametrize(
    ("change", "command"),
    [
        ({"is_admin": False}, ("users", "role", "local", "admin")),
        ({"disabled_at": datetime.now(UTC)}, ("users", "enable", "local")),
    ],
)
def test_up_does_not_make_somebody_elses_account_its_own_and_names_the_command_that_does(operate, change, command):
    with session_scope() as session:
        session.add(User(name=accounts.LOCAL_USER, **({"is_admin": True} | change)))
    with pytest.raises(Unavailable, match=" ".join(command)):
        LocalAccess.prepare()
    assert operate(*command).returncode == 0
    LocalAccess.prepare().end()


def test_a_password_is_changed_and_a_short_one_refused(operate, ann):
    assert operate("users", "password", "ann", stdin="a new long password\n").returncode == 0
    with session_scope() as session:
        assert accounts.verify_password(session, "ann", "a new long password")
    short = operate("users", "password", "ann", stdin="short\n")
    assert (short.returncode, "at least 12 characters" in short.stderr) == (2, True)
    assert operate("users", "password", "nobody", stdin="a new long password\n").returncode == 3


def test_a_token_is_shown_once_works_and_can_be_revoked(operate, ann):
    secret = operate("tokens", "new", "ann", "--label", "laptop", "--days", 1).stdout.strip()
    with session_scope() as session:
        assert tokens.token_user(session, secret).name == "ann"
    [token] = json.loads(operate("tokens", "ls", "--json").stdout)
    assert (token["user"], token["label"]) == ("ann", "laptop")
    assert secret not in json.dumps(token)
    assert operate("tokens", "revoke", token["id"]).returncode == 0
    with session_scope() as session:
        assert tokens.token_user(session, secret) is None
    assert operate("tokens", "revoke", token["id"]).returncode == 3
    assert operate("tokens", "new", "nobody").returncode == 3


@pytest.mark.parametrize("words", [("tokens", "new", "ann"), ("users", "link", "ann", "--url", "http://127.0.0.1")])
def test_disabled_user_gets_no_token_and_no_link(operate, ann, words):
    assert operate("users", "disable", "ann").returncode == 0
    refused = operate(*words)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "ctbatch users enable ann" in refused.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("tokens", "revoke", 10**20),
        ("runs", "show", 10**20),
        ("tokens", "new", "ann", "--days", "nan"),
        ("tokens", "new", "ann", "--days", 1e10),
        ("users", "password", "\udcff"),
    ],
)
def test_arguments_out_of_range_are_usage_errors(operate, words):
    refused = operate(*words, stdin="a new long password\n")
    assert (refused.returncode, "Traceback" in refused.stderr) == (2, False)


def test_damaged_database_is_reported_in_one_line(tmp_path, ctbatch):
    (tmp_path / "ctbatch.db").write_text("no database")
    refused = ctbatch("users", "ls", env={"CTBATCH_HOME": str(tmp_path)})
    assert (refused.returncode, refused.stderr) == (4, "Error: the database cannot be used: file is not a database\n")


def test_model_versions_are_listed_promoted_and_rolled_back(operate, champion, new_champion):
    new_champion("better")
    listed = json.loads(operate("models", "ls", "--json").stdout)
    assert [(version["version"], version["champion"]) for version in listed] == [("better/1", True), ("fake/1", False)]
    shown = operate("models", "show", "fake/1").stdout
    assert "recipe\tlung-224-v1\n" in shown
    assert "metrics.accuracy\t0.5\n" in shown

    assert operate("models", "rollback", "--reason", "worse on CT 2").returncode == 0
    with session_scope() as session:
        assert champions.champion(session).label == "fake/1"
    assert operate("models", "promote", "better/1", "--reason", "the rollback was a mistake").returncode == 0
    with session_scope() as session:
        assert champions.champion(session).label == "better/1"
    assert operate("models", "promote", "nosuch/1").returncode == 3


def test_rollback_without_an_earlier_champion_is_exit_code_3(operate, champion):
    result = operate("models", "rollback")
    assert (result.returncode, result.stderr) == (3, "Error: there is no champion before fake/1 to go back to\n")


def test_missing_database_is_reported_in_one_line(ctbatch):
    for words in (["users", "ls"], ["models", "ls"], ["tokens", "ls"]):
        result = ctbatch(*words)
        assert result.returncode == 4
        assert result.stderr.startswith("Error: the database is not set up")
        assert result.stderr.endswith("run `ctbatch db upgrade`\n")


def test_unreachable_database_is_reported_in_one_line(ctbatch):
    result = ctbatch("users", "ls", env={"DATABASE_URL": "postgresql://ctbatch@127.0.0.1:1/ctbatch"})
    assert result.returncode == 4
    assert result.stderr.startswith("Error: the database cannot be used: ")
    assert result.stderr.count("\n") == 1
    assert ctbatch("users", "ls", env={"DATABASE_URL": "nonsense"}).returncode == 4


def test_db_upgrade_creates_the_tables(ctbatch):
    assert ctbatch("db", "current").returncode == 4
    assert ctbatch("db", "upgrade").returncode == 0
    current = json.loads(ctbatch("db", "current", "--json").stdout)
    assert current["revision"] == current["needed"]
    assert ctbatch("users", "ls", "--json").stdout == "[]\n"


@pytest.mark.parametrize("role", ["sweep", "web", "ingest"])
def test_worker_does_not_start_beside_another_revision(ctbatch, role):
    result = ctbatch("worker", role, env={"CELERY_BROKER_URL": "redis://127.0.0.1:1/0"})
    assert result.returncode == 4
    assert "ctbatch db upgrade" in result.stderr


@pytest.mark.slow
def test_web_does_not_start_on_an_empty_folder_in_place_of_its_storage(ctbatch, tmp_path):
    assert ctbatch("db", "upgrade").returncode == 0
    assert ctbatch("files", "adopt").returncode == 0
    shutil.rmtree(tmp_path / "home" / "files")
    result = ctbatch("worker", "web", env={"CELERY_BROKER_URL": "redis://127.0.0.1:1/0"})
    assert (result.returncode, "marker file" in result.stderr) == (4, True)


@pytest.mark.slow
def test_files_are_for_their_user_alone(ctbatch, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o755)  # whatever the umask
    assert ctbatch("db", "upgrade").returncode == 0
    assert (home / "ctbatch.db").stat().st_mode & 0o077 == 0
    states = {finding["check"]: finding["state"] for finding in json.loads(ctbatch("doctor", "--json").stdout)}
    assert states["home"] == "warn"
    home.chmod(0o700)
    states = {finding["check"]: finding["state"] for finding in json.loads(ctbatch("doctor", "--json").stdout)}
    assert states["home"] == "ok"


def test_the_doctor_finds_a_fresh_home_well(ctbatch):
    result = ctbatch("doctor", "--json")
    assert result.returncode == 0, result.stdout
    findings = json.loads(result.stdout)
    states = {finding["check"]: finding["state"] for finding in findings}
    assert states["python"] == states["home"] == states["processor"] == states["broker"] == states["engine"] == "ok"
    assert states["decoder"] == "ok"
    [detail] = [finding["detail"] for finding in findings if finding["check"] == "processor"]
    assert detail.startswith(read_processor().line)
    assert states["database"] == states["server"] == "warn"


@pytest.mark.parametrize(("kind", "state"), [("nfs4", "fail"), ("ext4", "ok")])
def test_doctor_sees_a_database_on_a_network(database, monkeypatch, tmp_path, kind, state):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 22 0:50 / {tmp_path} rw - {kind} server:/homes rw\n")
    monkeypatch.setattr(file_systems, "MOUNTS", mounts)
    settings = database.model_copy(update={"database_url": f"sqlite:///{tmp_path}/a/ctbatch.db"})
    [finding] = doctor.sqlite_place(settings)
    assert finding.state == state
    assert kind in finding.detail


def test_doctor_reports_a_storage_of_another_database(database):
    def owner() -> str:
        return {finding.check: finding.state for finding in doctor.database(database)}["storage's owner"]

    assert owner() == "ok"
    storage().mark("another")
    assert owner() == "fail"


def test_file_system_of_a_folder_with_a_blank_in_its_name(monkeypatch, tmp_path):
    (tmp_path / "mountinfo").write_text("22 1 8:1 / / rw - ext4 a rw\n30 22 0:50 / /my\\040files rw - cifs b rw\n")
    monkeypatch.setattr(file_systems, "MOUNTS", tmp_path / "mountinfo")
    assert file_systems.file_system_of(Path("/my files/x")) == "cifs"
    assert file_systems.file_system_of(Path("/my")) == "ext4"


@pytest.mark.parametrize("calls", [CALLS, ("pipe_file",)], ids=["all", "writing"])
@pytest.mark.parametrize("code", ["ExpiredToken", "NoSuchBucket"])
def test_doctor_says_why_the_storage_cannot_be_used(settings, tmp_path, calls, code):
    base.use(settings.model_copy(update={"storage_url": f"bucket://{tmp_path.name}"}))
    with session_scope() as s:
        claim_storage(s)
    with bucket_away(code, calls):
        results = {result.check: result for result in doctor.database(settings)}
    assert results["storage"].state == "fail"
    assert code in results["storage"].detail
    assert results["model version"].state == "warn"


def test_doctor_repeats_what_web_noticed_of_a_proxy(settings):
    assert list(doctor.proxy(settings)) == []
    settings.proxy_note.parent.mkdir(parents=True, exist_ok=True)
    settings.proxy_note.write_text("no proxy is trusted")
    assert list(doctor.proxy(settings)) == [doctor.CheckResult("proxy", "warn", "no proxy is trusted")]


@pytest.mark.parametrize(("is_allowed", "state"), [(True, "warn"), (False, "fail")])
def test_doctor_reports_a_decoder_without_a_filter(is_allowed, state, monkeypatch, settings):
    unfiltered = "tests.worker.imaging.sandbox.unfiltered_decoder:decode"
    monkeypatch.setattr("worker.decoding.DecoderPool", partial(DecoderPool, function=unfiltered))
    base.use(settings.model_copy(update={"allow_unfiltered_decoders": is_allowed}))
    [finding] = doctor.decoder(settings)
    assert (finding.check, finding.state) == ("decoder", state)
    assert "no filter is known for" in finding.detail


def test_doctor_names_failed_checks_without_passwords(ctbatch):
    env = {
        "DATABASE_URL": "postgresql://ctbatch:hush@127.0.0.1:1/ctbatch",
        "CELERY_BROKER_URL": "redis://127.0.0.1:1/0",
        "CTBATCH_SERVER": "http://127.0.0.1:1",
        "CTBATCH_TOKEN": "ctb_x",
    }
    result = ctbatch("doctor", env=env)
    assert result.returncode == 4
    assert result.stderr.splitlines()[-1].startswith("Error: failed checks: database, broker, server;")
    assert "hush" not in result.stdout + result.stderr


def proof_finding(operate) -> tuple[str, str]:
    """What the doctor finds of the engine's proof: state and detail."""
    findings = json.loads(operate("doctor", "--json").stdout)
    [(state, detail)] = [(one["state"], one["detail"]) for one in findings if one["check"] == "engine proof"]
    return state, detail


@pytest.mark.slow
def test_the_doctor_says_which_engine_serves_here(operate, champion):
    host = socket.gethostname()
    load_engines(champion.id, "another", int8=False)
    assert proof_finding(operate) == ("ok", f"not loaded: no running worker on {host} has loaded fake/1")
    load_engines(champion.id, host, int8=True)
    assert proof_finding(operate) == (
        "ok",
        "openvino-int8 predicts with fake/1; a probability differs by at most 0.0041",
    )
    load_engines(champion.id, host, int8=False, bf16=True)
    state, detail = proof_finding(operate)
    assert state == "warn"
    assert detail.startswith(f"int8 is not used on {host} for fake/1; bfloat16 serves instead. openvino-int8")
    load_engines(champion.id, host, int8=False, f32=False)
    state, detail = proof_finding(operate)
    assert (state, f"{host} refuses to predict with fake/1" in detail) == ("fail", True)
    assert operate("doctor").returncode == 4


def audited(operate, *options: str) -> list[tuple[str, str, str]]:
    """Action, object and detail of the events that `ctbatch audit ls` lists, oldest first."""
    events = json.loads(operate("audit", "ls", "--json", *options).stdout)
    assert {event["actor"] for event in events} <= {None, "ann", "root"}
    return [(event["action"], event["object"], event["detail"]) for event in reversed(events)]


def test_audit_lists_what_operators_did(operate, database):
    for words in (
        ("users", "add", "ann", "--no-password"),
        ("users", "role", "ann", "admin"),
        ("tokens", "new", "ann"),
        ("tokens", "revoke", "1"),
        ("users", "disable", "ann"),
        ("users", "enable", "ann"),
    ):
        assert operate(*words).returncode == 0
    assert operate("users", "password", "ann", stdin="correct horse battery\n").returncode == 0
    assert audited(operate) == [
        ("user.add", "user ann", "user"),
        ("user.role", "user ann", "admin"),
        ("token.make", "user ann", "token 1"),
        ("token.revoke", "user ann", "token 1"),
        ("user.disable", "user ann", ""),
        ("user.enable", "user ann", ""),
        ("user.password", "user ann", ""),
    ]
    assert audited(operate, "--action", "token", "--limit", "1") == [("token.revoke", "user ann", "token 1")]
    vias = {event["via"] for event in json.loads(operate("audit", "ls", "--json").stdout)}
    assert vias == {operator_name()}


def test_audit_verify_finds_a_change(operate, ann, tmp_path):
    assert "1 events are not sealed yet" in operate("audit", "verify").stderr
    with session_scope() as session:
        sealed = audit.seal(session)
    assert sealed is not None
    found = json.loads(operate("audit", "verify", "--json").stdout)
    assert found == {"seals": 1, "events": 1, "unsealed": 0, "last": sealed.id, "digest": sealed.digest}
    log = tmp_path / "sweep.log"
    line = 'sweep | level=info event="audit trail sealed" seal={} events=1 digest={}'
    log.write_text("other\n" + line.format(sealed.id, sealed.digest))
    assert "1 seals match the log" in operate("audit", "verify", "--log", log).stderr
    log.write_text(line.format(sealed.id, "0" * 64))
    assert operate("audit", "verify", "--log", log).returncode == 1
    with session_scope() as session:
        session.execute(update(AuditEvent).values(actor="somebody else"))
    refused = operate("audit", "verify")
    assert refused.returncode == 1
    assert "seal 1 does not match its events" in refused.stderr


def test_operator_has_the_name_of_the_account_whatever_the_environment_says(operate, ctbatch, database):
    env = {"CTBATCH_HOME": str(database.home), "DATABASE_URL": database.database, "LOGNAME": "DOE^JANE", "USER": "x"}
    assert ctbatch("users", "add", "ann", "--no-password", env=env).returncode == 0
    (event,) = json.loads(operate("audit", "ls", "--json", "--user", operator_name()).stdout)
    assert event["via"] == f"{pwd.getpwuid(os.getuid()).pw_name} at the command line"
    assert operate("audit", "ls", "--json", "--until", "2020-01-01").stdout == "[]\n"
    assert operate("audit", "ls", "--since", "2020-01-01").stdout.count("user.add") == 1
