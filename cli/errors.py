"""What can go wrong in a command, each with its exit code and one clear line for people."""

import click

EXIT_CODES = """\
Exit codes: 0 ok, 1 job failed or promotion refused, 2 usage, 3 not found or denied, 4 unavailable, 5 partial failure,
130 interrupted. A partial failure is a job that ended with nothing predicted, or with slices quarantined or cancelled;
with --strict also one with anything rejected."""


class CommandError(click.ClickException):
    """A command could not do what was asked; shown as one line on stderr."""

    exit_code = 4


class JobFailed(CommandError):
    """The job, or the training run, ended in failure."""

    exit_code = 1


class Refused(CommandError):
    """The promotion gate does not let this model version through."""

    exit_code = 1


class UsageError(CommandError):
    """What was asked makes no sense, or the server refused the input."""

    exit_code = 2


class NotFoundOrDenied(CommandError):
    """There is no such thing for this user, or the user may not do this."""

    exit_code = 3


class Unavailable(CommandError):
    """The server, the database or a part of the installation cannot be reached or used now."""

    exit_code = 4


class PartialFailure(CommandError):
    """The job ended, but it predicted nothing, or too many of its slices ended without a prediction."""

    exit_code = 5
