"""Many rows or keys in one statement.

`bulk_create` makes an expression of every value of every column: a batch of 10 000 items took 1.2 s; `executemany` is
as slow on PostgreSQL. See benchmarks/batches.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from django.db import connection, models
from django.db.models.expressions import RawSQL

_DIALECTS = {  # the values of a row, and all rows
    "sqlite": ("json_extract(value, '$[{position}]')", "json_each(%s)"),
    "postgresql": ("CAST(value ->> {position} AS {type})", "json_array_elements(CAST(%s AS json))"),
}
_LISTED = {
    "sqlite": "SELECT value FROM json_each(%s)",
    "postgresql": "SELECT value::bigint FROM json_array_elements_text(%s)",
}


def insert_like(template: models.Model, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Insert a row for each of `rows`, which has the values of these columns; the others are as in `template`.

    In the caller's transaction; keys grow in the order of the rows. The values of `rows` are numbers, text and None.
    """
    meta = template._meta
    fields = {str(field.column): field for field in meta.concrete_fields if not (field.primary_key or field.generated)}
    same = {
        name: field.get_db_prep_save(field.pre_save(template, add=True), connection)
        for name, field in fields.items()
        if name not in columns
    }
    value, source = _DIALECTS[connection.vendor]
    values = [
        value.format(position=position, type=fields[name].db_type(connection)) for position, name in enumerate(columns)
    ]
    quoted = ", ".join(connection.ops.quote_name(name) for name in (*columns, *same))
    selected = ", ".join((*values, *["%s"] * len(same)))
    statement = f"INSERT INTO {connection.ops.quote_name(meta.db_table)} ({quoted}) SELECT {selected} FROM {source}"  # noqa: S608 - names of the model
    with connection.cursor() as cursor:
        cursor.execute(statement, [*same.values(), json.dumps([list(row) for row in rows])])


def listed(keys: Iterable[int]) -> RawSQL:
    """Many keys as one parameter, for `pk__in=`: 10 000 of a plain list cost 0.15 s to write into the statement."""
    return RawSQL(_LISTED[connection.vendor], [json.dumps(list(keys))])  # noqa: S611 - our own text
