"""Exports all results of a job as Parquet, one row group at a time, so that memory does not grow with the job."""

import io
from collections.abc import Iterator
from itertools import islice
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from db.ledger.results import Result
from db.models import Job
from web.downloads.job_results import export_rows
from web.schemas.jobs import JobOut

GROUP_ROWS = 10_000
_REVIEW = pa.struct(
    {"user": pa.string(), "label": pa.string(), "blind": pa.bool_(), "created_at": pa.timestamp("us", "UTC")}
)
_TYPES = {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), list[str]: pa.list_(pa.string())}


def _type_of(annotation: Any) -> pa.DataType:
    """Return Arrow's type for a member, which may also be null. Enumerations and literals become text."""
    kinds = [kind for kind in get_args(annotation) if kind in _TYPES] or [annotation]
    return _TYPES.get(kinds[0], pa.string())


SCHEMA = pa.schema(
    [
        *((name, _type_of(field.annotation)) for name, field in Result.model_fields.items()),
        ("reviews", pa.list_(_REVIEW)),
        ("notice", pa.string()),
    ]
)


def parquet_pieces(job: Job, shown: JobOut, notice: str) -> Iterator[bytes]:
    """Yield one Parquet file with the columns of the CSV. Its metadata have the notice and, as JSON, the job."""
    metadata = {"notice": notice, "job": shown.model_dump_json(by_alias=True)}
    schema = SCHEMA.with_metadata(metadata)
    rows = (row.model_dump(mode="python") | {"notice": notice} for row in export_rows(job))
    sink = _Pieces()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        while group := list(islice(rows, GROUP_ROWS)):
            writer.write_table(pa.Table.from_pylist(group, schema))
            yield sink.take()
    yield sink.take()


class _Pieces(io.RawIOBase):
    """A file that can only be written. `take` removes the bytes written so far, and returns them."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._at = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        self._at += len(self._parts[-1])
        return len(self._parts[-1])

    def tell(self) -> int:
        return self._at

    def take(self) -> bytes:
        """Return the bytes written since the last call."""
        taken, self._parts = b"".join(self._parts), []
        return taken
