"""Inserts and finds many rows with one statement."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from sqlalchemy import ARRAY, Column, ColumnElement, Float, Table, bindparam, func, insert, literal, select
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Session

Row = Mapping[str, Any]
UNSEEN = {"synchronize_session": False}
"""The execution options of an update whose rows the session has not loaded."""


def insert_rows(s: Session, model: type[DeclarativeBase], rows: Sequence[Row], **common: Any) -> None:
    """Insert rows that all have the same columns. Each row also gets the values `common`, which may be SQL.

    The Python default of a column is used only if it does not depend on the row. PostgreSQL gets one array for each
    column, or a single value if all rows have the same value. One parameter for each value is slow: to send 128 slices,
    the driver took three times as long as the server took to insert them.
    """
    if not rows:
        return
    table, names = cast(Table, model.__table__), list(rows[0])
    if s.get_bind().dialect.name != "postgresql":
        s.execute(insert(table).values(common), list(rows))
        return
    columns = table.columns
    key, *others = names  # the key is always sent as an array, because its length gives the number of rows
    same = {name: rows[0][name] for name in others if all(row[name] == rows[0][name] for row in rows)}
    names, common = [key, *(name for name in others if name not in same)], same | common
    arrays = [func.unnest(bindparam(name, type_=ARRAY(columns[name].type, dimensions=1))).label(name) for name in names]
    constants = [
        value if isinstance(value, ColumnElement) else literal(value, columns[name].type)
        for name, value in common.items()
    ]
    statement = insert(table).from_select([*names, *common], select(*arrays, *constants))
    s.execute(statement, {name: _values(columns[name], rows) for name in names})


def _values(column: Column[Any], rows: Sequence[Row]) -> list[Any]:
    """Return the values of a column. Convert them to floats if it is a column of floats.

    This is needed because psycopg cannot send a list that mixes integers and floats.
    """
    values = [row[column.name] for row in rows]
    if isinstance(column.type, Float):
        return [None if value is None else float(value) for value in values]
    return values


def one_of(
    s: Session, column: InstrumentedAttribute[Any], values: Collection[int] | Collection[str]
) -> ColumnElement[bool]:
    """Return the SQL condition that a column has one of these values, however many they are.

    The values are one parameter. PostgreSQL accepts at most 65,535 parameters, and SQLite 32,766.
    """
    if s.get_bind().dialect.name == "postgresql":
        return column == func.any(literal(list(values), ARRAY(column.type)))
    listed = func.json_each(json.dumps(list(values))).table_valued("value")
    return column.in_(select(listed.c.value))
