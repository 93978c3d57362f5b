"""Logging of all processes: lines on stdout. The name of a file or a patient never goes into a log."""

import logging
import sys

import structlog

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
                structlog.processors.format_exc_info,
                structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "role", "logger", "event"]),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(current().log_level)
    for chatty in ("celery.worker.strategy", "celery.app.trace"):  # two lines for each message; the work logs itself
        logging.getLogger(chatty).setLevel(logging.WARNING)
