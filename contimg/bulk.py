"""Many rows or keys in one statement.

`bulk_create` makes an expression of every value of every column: a batch of 10 000 items took 1.2 s. COPY is no faster
on PostgreSQL than what is here, and `executemany` takes twice as long on SQLite. See benchmarks/batches.py and api.py.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from django.db import connection, models
from django.db.models.expressions import RawSQL

ROWS_AT_ONCE = 20_000
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

    In the caller's transaction and in bounded memory; keys grow in the order of the rows.
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
    some = _prepared([fields[name] for name in columns], rows)
    with connection.cursor() as cursor:
        while chunk := list(itertools.islice(some, ROWS_AT_ONCE)):
            cursor.execute(statement, [*same.values(), json.dumps(chunk)])


def _prepared(fields: Sequence[models.Field[Any, Any]], rows: Iterable[Sequence[Any]]) -> Iterator[Sequence[Any]]:
    """Times and JSON as the text that the database makes them of."""
    changes = [(at, _TEXT[type(field)]) for at, field in enumerate(fields) if type(field) in _TEXT]
    for row in rows:
        values = list(row)
        for at, text in changes:
            values[at] = None if values[at] is None else text(values[at])
        yield values


_TEXT: dict[type, Callable[[Any], str]] = {
    models.DateTimeField: lambda time: str(connection.ops.adapt_datetimefield_value(time)),
    models.JSONField: json.dumps,
}


def listed(keys: Iterable[int]) -> RawSQL:
    """Many keys as one parameter, for `pk__in=`: 10 000 of a plain list cost 0.15 s to write into the statement."""
    return RawSQL(_LISTED[connection.vendor], [json.dumps(list(keys))])  # noqa: S611 - our own text
