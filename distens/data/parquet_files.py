"""Parquet files as tables, read in batches with a budget for what their cells take once they are unpacked."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as _compute

from distens.data.files import Location, check_names, check_unpacked
from distens.errors import DAMAGE_ERRORS, DataError

pc: Any = _compute  # its functions are made at runtime

if TYPE_CHECKING:
    import pandas as pd

MAX_UNPACK_FACTOR = 2000
"""The limit is SMALL_BYTES, or so many times the file's size if that is more: a column of few values is stored in one
bit a row or less. Texts are limited more strictly, since a dictionary has each of them once."""

MAX_TEXT_FACTOR = 200
"""As MAX_UNPACK_FACTOR, for texts."""

ROWS_AT_ONCE = 1 << 16
MAX_EXACT = 2**53
"""The magnitude up to which float64 holds every whole number."""


def read_parquet(location: Location, ignored: Collection[str] = ()) -> pd.DataFrame:
    """Return a Parquet table.

    Args:
        ignored: columns that will not be used; only these may hold lists or other nested values, which are not read.

    Raises:
        DataError: the file is damaged, two columns have one name, a column holds nested values, or the table would
            take far more memory than the file's size allows to expect.
    """
    where = location.address
    try:
        with location.open() as source:
            return _read(source, where, ignored)
    except (*DAMAGE_ERRORS, MemoryError, pa.ArrowException, OSError) as error:  # the file's metadata may be anything
        raise DataError(f"{where}: not a readable Parquet table: {error}") from error


def _read(source: Any, where: str, ignored: Collection[str]) -> pd.DataFrame:
    import pyarrow.parquet as pq

    source.seek(0, 2)
    size = source.tell()
    file = pq.ParquetFile(source)
    schema, told = file.schema_arrow, file.metadata
    check_names(schema.names, where)
    nested = [name for name in schema.names if pa.types.is_nested(schema.field(name).type)]
    for name in nested:
        if name not in ignored:
            raise DataError(f"{where}: column {name!r} holds {schema.field(name).type}; `data.drop` leaves it out")
    unpacked = sum(told.row_group(i).total_byte_size for i in range(told.num_row_groups))
    check_unpacked(max(unpacked, 8 * told.num_rows * len(schema.names)), size, where, MAX_UNPACK_FACTOR)
    # Texts that repeat stay in their dictionary until it is known how much they would take.
    file = pq.ParquetFile(source, read_dictionary=[one.name for one in schema if _is_text(one.type)])
    names = [name for name in schema.names if name not in nested]
    batches, taken = [], 0
    for batch in file.iter_batches(ROWS_AT_ONCE, columns=names):
        taken += sum(map(_text_bytes, batch.columns))
        check_unpacked(taken, size, where, MAX_TEXT_FACTOR)
        batches.append(batch)
    table = pa.Table.from_batches(batches) if batches else file.read(columns=names)
    exact = schema.pandas_metadata is None  # else it says which columns of whole numbers keep their gaps
    plain = pa.table([_plain(table[name], schema.field(name).type, exact) for name in names], names)
    frame = plain.replace_schema_metadata(schema.metadata).to_pandas().reset_index(drop=True)
    return frame.assign(**dict.fromkeys(nested)) if nested else frame


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind)


def _text_bytes(column: pa.Array) -> int:
    """Return the bytes of a column's texts, each counted in every row that has it."""
    if not pa.types.is_dictionary(column.type):
        return column.nbytes if _is_text(column.type) else 0
    if not _is_text(column.type.value_type):
        return 0
    lengths = pc.binary_length(column.dictionary).cast(pa.int64())
    return pc.sum(lengths.take(column.indices)).as_py() or 0


def _plain(column: pa.ChunkedArray, kind: pa.DataType, exact: bool) -> pa.ChunkedArray:
    """Return a column of its own type; if `exact`, large whole numbers with gaps as text: floats are too short."""
    if pa.types.is_dictionary(column.type) and not pa.types.is_dictionary(kind):
        return column.cast(kind)
    if exact and pa.types.is_integer(column.type) and column.null_count:
        ends = pc.min_max(column).as_py()
        if ends["max"] is not None and max(abs(ends["min"]), abs(ends["max"])) > MAX_EXACT:
            return column.cast(pa.large_string())
    return column
