"""A page of a list from the rows of one query, without instances of models and serializers.

`shown_by(serializer, queryset)` is the queryset of the list with exactly the columns that the serializer shows; it
yields what is rendered as the serializer's answer would be, byte for byte (tests/contimg/api/test_rows.py). Filters,
orderings and pages are built on it as on any queryset. Serializers with fields of their own making
(`SerializerMethodField`, nested ones) have none, and their lists go through instances.

Of a statement only the part behind WHERE is compiled for each request; the rest is text that was compiled once for the
same model, columns, joins, condition, ordering and limit. No value is ever kept: parameters are those of the request.
Measured in docs/measurements.md, "The API".
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any, cast

from django.core.exceptions import EmptyResultSet, FieldDoesNotExist, FullResultSet
from django.db import connections, models
from django.db.models import QuerySet
from django.db.models.expressions import BaseExpression, Col
from django.db.models.query import BaseIterable
from django.db.models.sql.compiler import SQLCompiler
from rest_framework import serializers
from rest_framework.serializers import BooleanField, DateTimeField

from contimg.api.serializers import MjdField, SeparationField

Show = Callable[[Any], Any]
MOST_STATEMENTS = 1000

# Fields whose answer follows from one value of the database, and which say None for None; and the columns of which they
# answer the value as it is.
_PLAIN: dict[type[serializers.Field], tuple[type[models.Field[Any, Any]], ...]] = {
    serializers.BigIntegerField: (models.IntegerField,),
    BooleanField: (models.BooleanField,),
    serializers.CharField: (models.CharField, models.TextField),
    serializers.ChoiceField: (models.CharField,),
    DateTimeField: (models.DateTimeField,),
    serializers.FloatField: (models.FloatField,),
    serializers.IntegerField: (models.IntegerField,),
    serializers.PrimaryKeyRelatedField: (models.ForeignKey, models.IntegerField),
    MjdField: (),
    SeparationField: (models.FloatField,),
}
# The driver makes these of SQLite's text too, without a converter of Django.
_OF_DRIVER = (BooleanField, DateTimeField)


def shown_by(serializer_class: type[serializers.BaseSerializer[Any]], queryset: QuerySet[Any]) -> QuerySet[Any] | None:
    """The queryset of what the serializer shows; None when that takes instances."""
    fields: dict[str, serializers.Field] = getattr(serializer_class(), "fields", {})
    sources = {name: _source(field, queryset) for name, field in fields.items()}
    if not fields or None in sources.values():
        return None
    stored = [source for source in sources.values() if source]
    rows = queryset.values(*dict.fromkeys(stored))
    rows._iterable_class = type("Rows", (_Rows,), {"fields": fields, "sources": sources})
    return rows


def _source(field: serializers.Field, queryset: QuerySet[Any]) -> str | None:
    """The column or annotation behind it; "" for what only a cone search has, None for what is no one value."""
    if type(field) not in _PLAIN:
        return None
    if isinstance(field, SeparationField):
        return ""
    source = "__".join(field.source_attrs)
    if source in queryset.query.annotations:
        return source
    try:
        queryset.model._meta.get_field(source)
    except FieldDoesNotExist:
        return None  # a property, or of a related row
    return source


class _Rows(BaseIterable):
    fields: dict[str, serializers.Field]
    sources: dict[str, str]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        connection = connections[self.queryset.db]
        compiler = self.queryset.query.get_compiler(connection=connection)
        try:
            statement, params = self._statement(compiler)
        except EmptyResultSet:
            return iter(())
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.adapters.register_loader("timestamptz", _time_loader())
            cursor.execute(statement.text, params)
            rows = cursor.fetchall()
        names, in_order = tuple(self.fields), statement.in_order
        page = [dict(zip(names, in_order((*row, None)), strict=True)) for row in rows]
        for name, show in statement.shows:
            for shown in page:
                if (value := shown[name]) is not None:
                    shown[name] = show(value)
        return iter(page)

    def _statement(self, compiler: SQLCompiler) -> tuple[_Statement, Sequence[Any]]:
        query = compiler.query
        where, params = _where(compiler)
        joins = tuple((alias, table.join_type, table) for alias, table in query.alias_map.items())
        limits = (query.low_mark, query.high_mark)
        key = (type(self), compiler.connection.vendor, where, joins, query.order_by, limits)
        if not query.annotation_select and (known := _statements.get(key)):
            return known, params
        text, all_params = compiler.as_sql()
        statement = _Statement.of(text, compiler, self.fields, self.sources)
        # Whatever else takes a parameter, such as an annotation, is compiled each time.
        if not query.annotation_select and tuple(all_params) == tuple(params):
            if len(_statements) >= MOST_STATEMENTS:  # those that are asked for come back
                _statements.clear()
            _statements[key] = statement
        return statement, all_params


@dataclass(frozen=True)
class _Statement:
    """Ready to be executed: how its rows, each with a None behind it, become the fields' values."""

    text: str
    in_order: Callable[[Sequence[Any]], Sequence[Any]]
    shows: list[tuple[str, Show]]

    @classmethod
    def of(
        cls, text: str, compiler: SQLCompiler, fields: dict[str, serializers.Field], sources: dict[str, str]
    ) -> _Statement:
        query = compiler.query
        names = list(query.selected or [*query.values_select, *query.annotation_select])
        positions = [names.index(wanted) if (wanted := sources[name] or name) in names else -1 for name in fields]
        expressions = [expression for expression, _, _ in compiler.select]
        converters = compiler.get_converters(expressions)
        shows = []
        for (name, field), position in zip(fields.items(), positions, strict=True):
            if position >= 0:
                convert, _ = converters.get(position, ([], None))
                show = _show(field, expressions[position], convert, compiler.connection)
                shows += [(name, show)] if show else []
        in_order = tuple if positions == [*range(len(names)), -1] else itemgetter(*positions)
        return cls(text, in_order, shows)


_statements: dict[Any, _Statement] = {}


@functools.cache
def _time_loader() -> Any:
    """As Django's, in a quarter of its time: the 300 times of 100 images took a third of the page."""
    from psycopg.adapt import Loader  # installed where the database is PostgreSQL

    class TimeLoader(Loader):
        def load(self, data: Any) -> datetime:
            return datetime.fromisoformat(str(data, "ascii"))  # the session is in UTC

    return TimeLoader


def _where(compiler: SQLCompiler) -> tuple[str, Sequence[Any]]:
    try:
        return compiler.compile(cast(BaseExpression, compiler.query.where))  # it has what an expression has
    except FullResultSet:
        return "", ()


def _show(field: serializers.Field, expression: Any, converters: Sequence[Any], connection: Any) -> Show | None:
    """How a value of this column becomes the field's; None: it is that already."""
    column = expression.output_field
    column = column.output_field if isinstance(column, models.GeneratedField) else column
    is_column = isinstance(expression, Col)
    if isinstance(column, _PLAIN[type(field)]) and (not converters or (is_column and type(field) in _OF_DRIVER)):
        return None

    def show(value: Any) -> Any:
        for converter in converters:
            value = converter(value, expression, connection)
        return field.to_representation(value)

    return show
