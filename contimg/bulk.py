"""Many rows or keys at once.

`bulk_create` makes an expression of every value of every column: 10 000 items took it 1.2 s of CPU. One statement that
takes all values as JSON is slower on PostgreSQL than COPY by half. See benchmarks/batches.py and api.py.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from django.db import connection, models
from django.db.models.expressions import RawSQL

ROWS_AT_ONCE = 20_000
_CACHE_KB = 64_000
_LISTED = {
    "sqlite": "SELECT value FROM json_each(%s)",
    "postgresql": "SELECT value::bigint FROM json_array_elements_text(%s)",
}


def insert_like(template: models.Model, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Insert a row for each of `rows`, which has the values of these columns; the others are as in `template`.

    In the caller's transaction and in bounded memory; keys grow in the order of the rows. On PostgreSQL `rows` must ask
    the database nothing while they are taken. Raises Django's IntegrityError and DataError.
    """
    meta = template._meta
    fields = {str(field.column): field for field in meta.concrete_fields if not (field.primary_key or field.generated)}
    same = {
        name: field.get_db_prep_save(field.pre_save(template, add=True), connection)
        for name, field in fields.items()
        if name not in columns
    }
    names = ", ".join(connection.ops.quote_name(name) for name in (*columns, *same))
    into = f"{connection.ops.quote_name(meta.db_table)} ({names})"
    whole = _prepared([fields[name] for name in columns], rows, tuple(same.values()))
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            with connection.wrap_database_errors, cursor.copy(f"COPY {into} FROM STDIN") as copy:
                for row in whole:
                    copy.write_row(row)
            return
        statement = f"INSERT INTO {into} VALUES ({', '.join(['%s'] * len(fields))})"  # noqa: S608 - names of the model
        chunk = list(itertools.islice(whole, ROWS_AT_ONCE))
        with _more_pages(cursor) if len(chunk) == ROWS_AT_ONCE else nullcontext():
            while chunk:
                cursor.executemany(statement, chunk)
                chunk = list(itertools.islice(whole, ROWS_AT_ONCE))


@contextmanager
def _more_pages(cursor: Any) -> Iterator[None]:
    """SQLite keeps those of all indexes, over which the rows fall at random: a million were slower by a quarter."""
    (usual,) = cursor.execute("PRAGMA cache_size").fetchone()
    cursor.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
    try:
        yield
    finally:
        cursor.execute(f"PRAGMA cache_size = {usual}")


def _prepared(
    fields: Sequence[models.Field[Any, Any]], rows: Iterable[Sequence[Any]], same: tuple[Any, ...]
) -> Iterator[tuple[Any, ...]]:
    """Each row with what is the same in all; times and JSON as the text that the database makes them of."""
    changes = [(at, _TEXT[type(field)]) for at, field in enumerate(fields) if type(field) in _TEXT]
    for row in rows:
        values = [*row]
        for at, text in changes:
            values[at] = None if values[at] is None else text(values[at])
        yield (*values, *same)


_TEXT: dict[type, Callable[[Any], str]] = {
    models.DateTimeField: lambda time: str(connection.ops.adapt_datetimefield_value(time)),
    models.JSONField: json.dumps,
}


def listed(keys: Iterable[int]) -> RawSQL:
    """Many keys as one parameter, for `pk__in=`: 10 000 of a plain list cost 0.15 s to write into the statement."""
    return RawSQL(_LISTED[connection.vendor], [json.dumps(list(keys))])  # noqa: S611 - our own text
