"""The command itself: its help, its exit codes, what it prints on a terminal and off one."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click import BadParameter
from pydantic import ValidationError

from cli.commands.up import check_host
from cli.errors import UsageError
from cli.main import COMMANDS, cli, main
from cli.output import safe
from db.settings import Settings
from tests.conftest import make_settings
from training.launch.installed import TrainingNotInstalled

PROJECT = Path(__file__).parents[2]


def test_help_lists_every_command_with_a_line(ctbatch):
    result = ctbatch("--help")
    assert result.returncode == 0
    for name in COMMANDS:
        assert f"  {name} " in result.stdout
    assert "Research use only, not for diagnosis." in " ".join(result.stdout.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    cli([name, "--help"], prog_name="ctbatch", standalone_mode=False)
    assert capsys.readouterr().out.startswith(f"Usage: ctbatch {name}")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "", "ct.example"])
def test_up_serves_others_in_clear_only_if_told_to(host, tmp_path):
    settings = make_settings(tmp_path, host=host)
    with pytest.raises(UsageError, match="--insecure"):
        check_host(settings)
    check_host(settings.model_copy(update={"trusted_proxies": 1}))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.5.6.7", "::1", "localhost"])
def test_up_serves_its_own_machine(host, tmp_path):
    check_host(make_settings(tmp_path, host=host))


def test_up_offers_no_engine_that_makes_scores_up(capsys):
    with pytest.raises(BadParameter):
        cli(["up", "--engine", "fake"], prog_name="ctbatch", standalone_mode=False)
    cli(["up", "--help"], prog_name="ctbatch", standalone_mode=False)
    assert "fake" not in capsys.readouterr().out


@pytest.mark.slow
def test_up_beyond_this_machine_is_refused(ctbatch):
    result = ctbatch("up", "--host", "0.0.0.0")
    assert (result.returncode, "--insecure" in result.stderr) == (2, True)


def test_an_unknown_command_is_a_usage_error(ctbatch):
    result = ctbatch("frobnicate")
    assert result.returncode == 2
    assert "No such command 'frobnicate'" in result.stderr


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("scipy", "scipy is not installed here. Install ctbatch again with all its dependencies."),
        ("keras.layers", str(TrainingNotInstalled())),
    ],
)
def test_missing_library_is_reported_in_one_line(monkeypatch, capsys, module, message):
    def lacks(**_):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(cli, "main", lacks)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 4
    assert capsys.readouterr().err == f"Error: {message}\n"


@pytest.mark.parametrize("error", [RuntimeError("broken"), ValueError("broken"), KeyError("broken")])
def test_defect_is_shown_and_is_not_the_exit_code_of_a_failed_job(monkeypatch, capsys, error):
    def fails(**_):
        raise error

    monkeypatch.setattr(cli, "main", fails)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 4
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("scan 1.png", "scan 1.png"),
        ("straße.png", "straße.png"),
        ("a\tb\nc", r"a\tb\nc"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("abc\u202egnp", r"abc\u202egnp"),
        (None, ""),
        (7, "7"),
    ],
)
def test_control_characters_in_names_are_escaped(text, printed):
    assert safe(text) == printed


def on_a_terminal(*words: object, env: dict[str, str]) -> str:
    """Run the command with a pseudo-terminal as stdout and stderr, and return what it wrote there."""
    leader, follower = pty.openpty()
    argv = [sys.executable, "-m", "cli", *map(str, words)]
    process = subprocess.Popen(argv, stdout=follower, stderr=follower, env=env)
    os.close(follower)
    written = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:  # how Linux says that no one holds the other end
            break
        if not piece:
            break
        written += piece
    os.close(leader)
    assert process.wait(60) == 0
    return written.decode()


def test_a_terminal_gets_a_table_and_a_bar(api, tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CTBATCH_")}
    env = kept | api.env | {"PYTHONPATH": str(PROJECT), "COLUMNS": "200", "TERM": "xterm"}
    (tmp_path / "scan.zip").write_bytes(b"x" * 100_000)
    written = on_a_terminal("submit", tmp_path / "scan.zip", env=env)
    assert "sending" in written
    assert "100%" in written
    written = on_a_terminal("jobs", "ls", env=env)
    assert "───" in written
    assert "job1" in written


def test_closed_pipe_is_not_an_error(ctbatch, api):
    api.add_job()
    env = {**os.environ, **api.env, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "cli", "jobs", "ls"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_an_interruption_is_exit_code_130(api):
    job = api.add_job("running", received=5)
    env = {**os.environ, **api.env, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "cli", "jobs", "wait", job["id"]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as process:
        while not api.requests:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.decode().splitlines()[-1] == "interrupted"
    assert b"Traceback" not in errors


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"CTBATCH_PORT": "many"}, "the setting CTBATCH_PORT: Input should be a valid integer"),
        (
            {"CTBATCH_ENGINE": "steam"},
            "the setting engine: unknown engine steam; choose from: auto, openvino,",
        ),
        ({"CTBATCH_SECRET_KEY_FILE": "/nowhere/key"}, "/nowhere/key: No such file or directory"),
        (
            {"DATABASE_URL": "sqlite:///x.db", "DATABASE_URL_FILE": "/nowhere/url"},
            "DATABASE_URL_FILE and DATABASE_URL are both set; unset one of them",
        ),
        ({"CTBATCH_HOME": "/proc/nowhere"}, "cannot use /proc/nowhere as home: No such file or directory"),
    ],
)
def test_wrong_setting_is_reported_in_one_line(ctbatch, env, message):
    result = ctbatch("up", "--port", 0, env=env) if "CTBATCH_HOME" in env else ctbatch("jobs", "ls", env=env)
    assert result.returncode == 4
    assert result.stderr.startswith(f"Error: {message}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["DATABASE_URL", "CELERY_BROKER_URL"])
@pytest.mark.parametrize(
    "url",
    [
        "redis://:SECRETPW/abc@127.0.0.1:1/0",
        "redis://u:1/SECRETPW@127.0.0.1:1/0",
        "redis://:12#SECRETPW@127.0.0.1:1/0",
        "redis://:12?SECRETPW@127.0.0.1:1/0",
        "postgresql://u:abc@SECRETPW@127.0.0.1:1/x",
        "postgresql://u:SECRET[PW@127.0.0.1:1/x",
        "postgresql://u:SECRET\u2100PW@127.0.0.1:1/x",
        "postgresql://u:SECRETPW@127.0.0.1:abc/x",
        "SECRETPW",
    ],
)
def test_bad_url_is_refused_without_its_password(ctbatch, name, url):
    result = ctbatch("doctor", env={name: url})
    assert (result.returncode, result.stdout) == (4, "")
    assert result.stderr.startswith(f"Error: {name} is not a valid URL; ")
    assert result.stderr.count("\n") == 1
    assert "SECRET" not in result.stderr
    with pytest.raises(ValidationError) as error:
        Settings(**{name: url})
    assert "SECRET" not in str(error.value)


def test_url_with_an_escaped_password_is_taken(tmp_path):
    url = "postgresql://ann%40site:a%2Fb%40c%23d%3F@[::1]:5432/x?sslmode=require"
    settings = make_settings(tmp_path / "a@home", DATABASE_URL=url, CELERY_BROKER_URL="rediss://:a%2Fb@host")
    assert settings.database_url == url


@pytest.mark.parametrize(
    "name", ["CTBATCH_SECRET_KEY_FILE", "CTBATCH_METRICS_TOKEN_FILE", "DATABASE_URL_FILE", "CELERY_BROKER_URL_FILE"]
)
def test_empty_file_of_a_secret_is_refused(ctbatch, tmp_path, name):
    (tmp_path / "secret").write_text(" \n")
    result = ctbatch("db", "upgrade", env={name: str(tmp_path / "secret")})
    assert result.returncode == 4
    assert name in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("words", [["jobs", "ls"], ["submit", "--help"]], ids=" ".join)
def test_client_commands_load_no_database_and_no_presets(api, tmp_path, words):
    code = "import sys; from cli.main import main\ntry: main()\nfinally: print(*sys.modules)"
    env = {"PYTHONPATH": str(PROJECT), **api.env}
    command = [sys.executable, "-c", code, *words]
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    loaded = set(result.stdout.splitlines()[-1].split())
    assert "httpx" in loaded
    assert {"sqlalchemy", "pydantic", "numpy", "celery"}.isdisjoint(loaded)
