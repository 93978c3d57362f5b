"""The `ctbatch` command: a table of commands, each of which is loaded only when it is run."""

import importlib
import io
import os
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

import click

from cli.errors import EXIT_CODES
from cli.home import use_home
from training.launch.installed import LIBRARIES, TrainingNotInstalled

# name -> (module, attribute, line of `ctbatch --help`). With the line here, the help does not import any command.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "up": ("cli.commands.up", "up", "Run everything on this machine: database, broker, web and workers."),
    "demo": ("cli.commands.demo", "demo", "Run everything and classify a demo archive with the demo model."),
    "submit": ("cli.commands.submit", "submit", "Send files, archives or folders as one job."),
    "jobs": ("cli.commands.jobs", "jobs", "List, show, wait for, cancel, retry and delete jobs."),
    "results": ("cli.commands.results", "results", "Print or save the results of a job."),
    "findings": ("cli.commands.findings", "findings", "List the verdicts on patients and series. Tune their rule."),
    "datasets": ("cli.commands.datasets", "datasets", "Make, list, show and split labelled datasets for training."),
    "models": (
        "cli.commands.models.models",
        "models",
        "Show, compare, check, promote, export and import model versions.",
    ),
    "train": ("cli.commands.train", "train", "Launch a training run on a dataset."),
    "runs": ("cli.commands.runs", "runs_group", "List, show, follow and end training runs."),
    "users": ("cli.commands.accounts.users", "users", "Add, list and disable user accounts; set passwords and roles."),
    "tokens": ("cli.commands.accounts.tokens", "tokens", "Make, list and revoke API tokens."),
    "audit": ("cli.commands.accounts.audit", "audit", "List who did what, and check that nobody changed the list."),
    "worker": ("cli.commands.worker", "worker", "Run one role: web, ingest, inference, training, evaluation or sweep."),
    "doctor": ("cli.commands.doctor", "doctor", "Check this installation, and say what is wrong."),
    "tune": (
        "cli.commands.models.tune",
        "tune",
        "Find and store the quickest engine settings for this machine.",
    ),
    "bench": ("cli.commands.bench", "bench", "Measure the speed of this machine, and the quality of models."),
    "files": ("cli.commands.files", "files", "Move unused stored files to the trash, and restore them."),
    "db": ("cli.commands.db", "db", "Upgrade the database, back it up and restore it."),
}


class LazyGroup(click.Group):
    """A group that imports a command's module only when that command is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table: daily commands first."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command of this name, or None."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. A reader that closes the pipe (`ctbatch results JOB | head`) is not an error."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes its buffer at exit
            raise click.exceptions.Exit(0) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])


@click.command(cls=LazyGroup, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep all files of ctbatch in this folder  [env: CTBATCH_HOME; default: ~/.ctbatch]",
)
@click.version_option(package_name="ctbatch", message="ctbatch %(version)s")
def cli(home: Path | None) -> None:
    """Classify CT slices in bulk as COVID or non-COVID. Research use only, not for diagnosis.

    submit, jobs, results and `findings ls` send requests to the server in CTBATCH_SERVER, with the token in
    CTBATCH_TOKEN. If these are not set, they use the `ctbatch up` of this machine.

    These commands open the database directly: datasets, models, train, runs, users, tokens, audit, files, db, tune,
    doctor, and all of findings except ls. They use the database in DATABASE_URL, or else ctbatch.db in the --home
    folder.
    """
    if home is not None:
        use_home(home)


def main() -> None:
    """Run the command line and exit. Errors are shown as one line; an interruption exits with 130."""
    os.umask(0o077)  # the database, stored files and exports are for this user alone
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as on stderr: a name may have letters of any script
    try:
        code = cli.main(standalone_mode=False, prog_name="ctbatch")
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (TrainingNotInstalled, ModuleNotFoundError) as error:
        click.echo(f"Error: {_not_installed(error)}", err=True)
        sys.exit(4)
    except (OSError, ValueError) as error:
        if (message := _problem_of_the_machine(error)) is None:
            _report_defect()
        click.echo(f"Error: {message}", err=True)
        sys.exit(2 if isinstance(error, UnicodeError) else 4)
    except Exception:  # a defect of ctbatch: it is reported with its traceback
        _report_defect()
    sys.exit(code if isinstance(code, int) else 0)


def _report_defect() -> NoReturn:
    """Print the traceback of the present exception, and exit with 4.

    Python's own exit code 1 would say that a job failed.
    """
    traceback.print_exc()
    click.echo("Error: ctbatch made an error. Report it with the lines above.", err=True)
    sys.exit(4)


def _not_installed(error: TrainingNotInstalled | ModuleNotFoundError) -> str:
    """Return one line that names what is not installed here, and what to do."""
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] not in LIBRARIES:
        return f"{error.name} is not installed here. Install ctbatch again with all its dependencies."
    return str(error if isinstance(error, TrainingNotInstalled) else TrainingNotInstalled())


def _problem_of_the_machine(error: OSError | ValueError) -> str | None:
    """Return one line that explains the error, or None if the error is a defect of ctbatch.

    It explains a full disk, a forbidden file, an argument that is not text, and a wrong setting.
    """
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        return f"{ascii(error.object)[:100]} is not UTF-8"
    if getattr(error, "title", "") != "Settings":  # the title of pydantic's error is the name of the checked class
        return None
    details = error.errors()  # type: ignore[attr-defined]  # naming the class would load pydantic
    return "; ".join(
        "".join(f"the setting {name}: " for name in detail["loc"][:1]) + detail["msg"].removeprefix("Value error, ")
        for detail in details
    )
