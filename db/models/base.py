"""The base class of every table."""

from datetime import datetime
from typing import Any

from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import JSON

from db.clock import UtcDateTime

Json = dict[str, Any]
"""A JSON object without fixed members."""

FILE = {"file": True}
"""`info` of a column that names files in storage by SHA-256: one, or several within JSON. The reaper keeps them."""

NO_FILE = {"file": False}
"""`info` of a column that holds another hash, or JSON, and names no file."""


class Base(DeclarativeBase):
    """Base of every table. The naming convention gives constraints the same names on both databases."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_N_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012  (SQLAlchemy's own spelling)
        datetime: UtcDateTime,
        Json: JSON,
        dict[str, str]: JSON,
        dict[str, float]: JSON,
        dict[str, int]: JSON,
        dict[str, str | list[str]]: JSON,
        dict[str, dict[str, float]]: JSON,
        list[Json]: JSON,
        list[str]: JSON,
    }
