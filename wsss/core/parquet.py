"""Parquet tables: ours carry a seal and a format that every reader compares, others are read within limits."""

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wsss.core.checks import DataError, some
from wsss.core.files import BESIDE, BLANK, check_format, check_seal, seal, write_atomic
from wsss.core.reading import check_regular, one_line

FORMAT = "wsss-table-1"
_ENDS = b"PAR1"
MOST_FOOTER = 1 << 26
"""Bytes of the description at a table's end, which is read at once."""
FEW_ROWS = 200_000
"""Tables of no more rows are read however small their file is."""
FEW_VALUES = 1 << 24
"""The same of values; larger tables have a byte for every two."""
FEW_TEXTS = 1 << 26
"""Bytes of text that the smallest file may have."""
LEAST_PER_ROW = 1.0
"""Bytes of the file for each row of larger tables, at least: rows that all say the same are no table of ours."""
MOST_COLUMNS = 10_000
ROWS_PER_GROUP = 20_000
"""Rows that are written at once, so many that a group packs well."""
VALUES_PER_GROUP = 8_000_000
"""The same for tables of many columns: some 32 MB of numbers."""
FEW_TABLES = 256
"""Tables that wait for their group; more are put into one."""
BUFFER = 1 << 20
"""Bytes of a column that are read at once: it may promise more than it holds."""
MOST_BLOWN_UP = 1 << 28
"""Bytes that the pages of a table may have unpacked, if that is more than 100 times the file."""


def sealed_schema(schema: pa.Schema) -> pa.Schema:
    """Return a schema with the format, and with room for the seal that `seal` puts in once the file is written."""
    return schema.with_metadata({**(schema.metadata or {}), b"wsss": f"{FORMAT} {BLANK}".encode()})


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Write a table as sealed Parquet, whole or not at all."""
    arrow_table = pa.Table.from_pandas(table, preserve_index=False)
    arrow_table = arrow_table.cast(sealed_schema(arrow_table.schema))

    def pour(stream: Any) -> None:
        pq.write_table(arrow_table, stream)
        seal(stream)

    write_atomic(path, pour)


class TableWriter:
    """A sealed table written from frames that come one by one, memory flat in their number; a context.

    Args:
        stream: where the table goes; it can be read and moved about in.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.Table] = []
        self.rows = 0
        """Rows of all frames."""

    @property
    def empty(self) -> bool:
        """Whether no frame has come yet."""
        return self._writer is None

    def add(self, frame: pd.DataFrame) -> None:
        """Append rows; the first frame, which may have none, says the columns."""
        table = pa.Table.from_pandas(frame, preserve_index=False)
        if self._writer is None:
            schema = sealed_schema(table.schema)
            self._writer = pq.ParquetWriter(self._stream, schema, compression="zstd", write_page_checksum=True)
        self._waiting.append(table.cast(self._writer.schema))
        self.rows += len(frame)
        if len(self._waiting) >= FEW_TABLES:  # thousands of small ones would take far more room than their content
            self._waiting = [pa.concat_tables(self._waiting).combine_chunks()]
        if sum(len(table) for table in self._waiting) >= max(
            1, min(ROWS_PER_GROUP, VALUES_PER_GROUP // table.num_columns)
        ):
            self._flush()

    def _flush(self) -> None:
        assert self._writer is not None
        self._writer.write_table(pa.concat_tables(self._waiting))
        self._waiting = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._writer is None:
            if kind is None:
                raise ValueError("no frame was given: give one without rows, for its columns.")
            return
        try:
            if self._waiting and kind is None:  # the last frame may have filled a group
                self._flush()
        finally:
            self._writer.close()
        if kind is None:
            seal(self._stream)


def open_parquet(path: Path, again: str = "Make it again.") -> pq.ParquetFile:
    """Open a table after comparing it with its seal, if it has one, and what it promises with its size.

    Args:
        again: the way out if it is damaged or missing, as a sentence.

    Raises:
        DataError: it is missing, no Parquet, damaged, of a newer format, or promises too much.
    """
    with named(path, again):
        check_table_length(path, again)
        check_seal(path, again, within=_footer(path))
        schema = pq.read_schema(path)
        if nested := [own.name for own in schema if pa.types.is_nested(own.type)]:
            raise DataError(f"{path} has lists or records in {some(nested)}, expected a number or a text in each cell.")
        texts = [own.name for own in schema if _is_text(own.type)]
        file = pq.ParquetFile(path, page_checksum_verification=True, read_dictionary=texts, buffer_size=BUFFER)
        about = file.metadata
        file_format = (about.metadata or {}).get(b"wsss", b"").decode("ascii", "replace").partition(" ")[0]
        rows, columns, size = about.num_rows, about.num_columns, path.stat().st_size
        unpacked = sum(group.total_byte_size for group in _groups(about))
    if file_format:
        check_format(path, file_format, FORMAT, "table", again.rstrip("."))
    few = rows <= max(FEW_ROWS, size / LEAST_PER_ROW) and rows * columns <= max(FEW_VALUES, 2 * size)
    if columns > MOST_COLUMNS or not few:
        raise DataError(f"{path} promises {rows} rows of {columns} columns in {size} bytes: that is no table of cells.")
    if unpacked > max(MOST_BLOWN_UP, 100 * size):
        raise DataError(f"{path} unpacks from {size} to {unpacked} bytes: it is damaged, or made to do harm.")
    return file


def check_table_length(path: Path, again: str) -> None:
    """Refuse a table that is longer than the columns it describes, before all of it is read for its digest.

    Raises:
        DataError: it is, or is no table.
    """
    with named(path, again):
        length, about = _footer(path), pq.read_metadata(path)
        unpacked = sum(group.total_byte_size + group.num_columns * BESIDE for group in _groups(about))
        size, described = path.stat().st_size, length + unpacked
    if size > described + BESIDE:
        raise DataError(f"{path} is damaged: it has {size} bytes and describes no more than {described}. {again}")


def _groups(about: pq.FileMetaData) -> list[pq.RowGroupMetaData]:
    """Return the groups of rows. Their columns are not to be asked: pyarrow ends the process if these are damaged."""
    return [about.row_group(k) for k in range(about.num_row_groups)]


def _footer(path: Path) -> int:
    """Return the bytes of a table's description at its end, from its last bytes: the whole is read for its digest."""
    check_regular(path)
    with path.open("rb") as stream:
        start, size = stream.read(len(_ENDS)), stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - 8))
        length, end = struct.unpack("<I4s", stream.read(8).rjust(8, b"\0"))
    if (start, end) != (_ENDS, _ENDS) or not 0 < length <= min(size, MOST_FOOTER):
        raise ValueError(f"it does not begin and end as one, or describes itself in {length} bytes")
    return int(length) + 8


def _is_text(kind: pa.DataType) -> bool:
    kinds = (pa.types.is_string, pa.types.is_binary, pa.types.is_large_string, pa.types.is_large_binary)
    return any(is_kind(kind) for is_kind in kinds)


def batches(
    file: pq.ParquetFile, path: Path, columns: Sequence[str] | None = None, rows: int = 65536
) -> Iterator[pa.RecordBatch]:
    """Yield a table of `open_parquet` part by part.

    A text that comes often may be stored once, so that a file of 500 bytes has gigabytes of text: it is counted before
    each row gets its own.

    Args:
        columns: those to read; all by default.
        rows: of a part, at most.

    Raises:
        DataError: the texts take much more than the file.
    """
    left = max(FEW_TEXTS, 100 * path.stat().st_size)
    for batch in file.iter_batches(batch_size=rows, columns=columns):
        plain = []
        for column in batch.columns:
            if pa.types.is_dictionary(column.type) and _is_text(column.type.value_type):
                left -= pc.sum(pc.binary_length(column.dictionary).take(column.indices)).as_py() or 0
                if left < 0:
                    raise DataError(f"{path} unpacks to much more text than it has bytes: it is made to do harm.")
                column = column.dictionary_decode()
            plain.append(column)
        yield pa.RecordBatch.from_arrays(plain, batch.schema.names).replace_schema_metadata(batch.schema.metadata)


def read_parquet(
    path: Path,
    columns: Sequence[str] | None = None,
    *,
    leave_out: Sequence[str] = (),
    ids: Sequence[str] | None = None,
    again: str = "Make it again.",
) -> pd.DataFrame:
    """Read a table.

    Args:
        columns: those to read; all by default.
        leave_out: columns that are not read.
        ids: keep only the rows with these IDs.
        again: the way out if it is damaged or missing, as a sentence.

    Raises:
        DataError: see `open_parquet`; or a column is missing.
    """
    file = open_parquet(path, again)
    names = file.schema_arrow.names
    if missing := [name for name in columns or () if name not in names]:
        raise DataError(f"{path} has no column {some(missing)}; it has {some(names, 8)}.")
    chosen = [name for name in (names if columns is None else columns) if name not in leave_out]
    parts = []
    with named(path, again):
        wanted = pa.array(ids or [], pa.string())
        for batch in batches(file, path, chosen):
            part = pa.Table.from_batches([batch])
            if ids is not None:
                part = part.filter(pc.is_in(part["ID"].cast(pa.string()), value_set=wanted))
            if part.num_rows:
                parts.append(part)
        kinds = [_plain(file.schema_arrow.field(name)) for name in chosen]
        whole = pa.concat_tables(parts) if parts else pa.schema(kinds, file.schema_arrow.metadata).empty_table()
        return whole.to_pandas()


def _plain(field: pa.Field) -> pa.Field:
    kind = field.type
    return field.with_type(kind.value_type) if pa.types.is_dictionary(kind) and _is_text(kind.value_type) else field


@contextmanager
def named(path: Path, again: str) -> Iterator[None]:
    """Name the file that is missing or damaged, whatever its decoder makes of it."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. {again}") from None
    except DataError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        # what pyarrow and pandas raise for footers, schemas and pages that do not fit each other
        raise DataError(f"{path} is no Parquet file, or damaged ({one_line(error)}). {again}") from error
