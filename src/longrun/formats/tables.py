"""Rows of Arrow tables as records; binary columns are text wherever they are UTF-8."""

from typing import Any

import pyarrow as pa

_BINARY = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)


def rows_of(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Return the rows of ``batch``.

    A binary column is decoded, also inside a dictionary; where its bytes are not UTF-8 they stay
    bytes: nobody may need the column, and who does refuses it by name.
    """
    columns = [_decoded(column) for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names).to_pylist()  # type: ignore[no-any-return]


def _decoded(column: pa.Array) -> pa.Array:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not any(is_binary(kind) for is_binary in _BINARY):
        return column
    try:
        return column.cast(kind).cast(pa.large_string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return column
