"""Sets up the logs of all processes, which are lines on stdout. Names of files or patients never go into a log."""

import logging
import sys
import traceback
from collections.abc import Iterator
from types import TracebackType

import structlog
from sqlalchemy.exc import DBAPIError

from db.database import current


def configure(role: str) -> None:
    """Send this process's logs to stdout, each line with its time, level, role and logger."""

    def add_role(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["role"] = role
        return event

    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.stdlib.ExtraAdder(),
                add_role,
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.ExceptionRenderer(format_exception),
                structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "role", "logger", "event"]),
            ],
        )
    )
    handler.addFilter(_without_task_data)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(current().log_level)
    for chatty in ("celery.worker.strategy", "celery.app.trace"):  # write two lines for each message
        logging.getLogger(chatty).setLevel(logging.WARNING)


def format_exception(
    exc_info: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
) -> str:
    """Return the stack, the type and the message of an exception, after the stack, type and message of its cause.

    Leave out messages that may quote a value, such as the name of a file or a patient.
    """
    error = exc_info[1]
    return "" if error is None else "".join(_lines(error)).rstrip()


def _lines(error: BaseException) -> Iterator[str]:
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        yield from _lines(cause)
        yield "which led to:\n"
    yield from traceback.format_tb(error.__traceback__)
    yield f"{type(error).__qualname__}{_message(error)}\n"


def _message(error: BaseException) -> str:
    """Return a colon and the message of an error, without quoted values. Return "" if nothing is left."""
    source = error.orig if isinstance(error, DBAPIError) and error.orig else error
    if state := getattr(source, "sqlstate", None):  # PostgreSQL: the text quotes values, also below DETAIL
        constraint = getattr(getattr(source, "diag", None), "constraint_name", None)
        return f": {state} {constraint or ''}".rstrip()
    if isinstance(source, LookupError | ValueError):  # the message is a key, or the text that could not be parsed
        return ""
    if isinstance(source, OSError):
        return f": {source.strerror}" if source.strerror else ""
    return f": {source}" if str(source) else ""


def _without_task_data(record: logging.LogRecord) -> bool:
    """Remove the exception's text and the task's arguments from the line that Celery logs for a failed task."""
    if record.name == "celery.app.trace" and record.exc_info and record.exc_info[0] is not None:
        task = record.args.get("name", "") if isinstance(record.args, dict) else ""
        record.msg, record.args = "task %s ended with %s", (task, record.exc_info[0].__qualname__)
        record.__dict__.pop("data", None)
    return True
