"""The errors of commands. Each has an exit code and a message of one line."""

import click

EXIT_CODES = """\
Exit codes: 0: ok. 1: a job, run or evaluation failed, or ctbatch refused a change such as a promotion. 2: wrong usage,
or the server refused the input or the change. 3: not found or denied. 4: something is unavailable, a check found a
fault, or ctbatch made an error. 5: a job ended, but predicted nothing, or has quarantined or cancelled slices (with
--strict also: rejected files). 130: interrupted."""


class CommandError(click.ClickException):
    """A command failed. The message is shown as one line on stderr."""

    exit_code = 4


class JobFailed(CommandError):
    """The job, the training run or the evaluation failed."""

    exit_code = 1


class Refused(CommandError):
    """ctbatch refuses the change, such as a promotion against the gate."""

    exit_code = 1


class UsageError(CommandError):
    """The words of the command line do not fit together, or the server refused the input."""

    exit_code = 2


class NotFoundOrDenied(CommandError):
    """What the user named does not exist or is somebody else's, or the user may not do this."""

    exit_code = 3


class Unavailable(CommandError):
    """The server, the database or a part of the installation cannot be used now."""


class Declined(Unavailable):
    """The server could not carry out the request, and says so: it changed nothing."""


class PartialFailure(CommandError):
    """The job ended, but it predicted nothing, or slices were quarantined or cancelled.

    With `--strict`, rejected slices count too.
    """

    exit_code = 5
