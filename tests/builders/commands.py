"""Runs the `ctbatch` command in processes of their own that need not import everything anew."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

Result = subprocess.CompletedProcess[str]
SECONDS = 120

# What nearly every command imports. A process that is forked from one that has it starts in a twentieth of the time.
IMPORTED = ["pytest", "cli.main", "cli.commands.jobs", "cli.commands.submit", "cli.commands.accounts.users",
            "cli.commands.models.models", "cli.commands.datasets", "cli.commands.doctor", "db.migrate"]  # fmt: skip
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(IMPORTED)


def run_command(words: list[str], env: dict[str, str], folder: Path, stdin: str) -> Result:
    """Run `ctbatch` with these words. It has its own environment, folder, standard streams and settings."""
    with tempfile.TemporaryDirectory() as name:
        streams = [Path(name) / stream for stream in ("stdin", "stdout", "stderr")]
        streams[0].write_text(stdin)
        process = _forks.Process(target=_run, args=(words, env, folder, streams))
        process.start()
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(words, SECONDS)
        out, err = (stream.read_text() for stream in streams[1:])
        return subprocess.CompletedProcess(words, process.exitcode, out, err)


def _run(words: list[str], env: dict[str, str], folder: Path, streams: list[Path]) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    for number, path in enumerate(streams):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.argv = ["ctbatch", *words]
    from cli.main import main

    main()
