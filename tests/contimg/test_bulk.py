"""Many rows at once are those that saving each would have made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from django.db import IntegrityError, connection, models, transaction

from contimg import bulk
from images.models import Image
from sources.models import Source
from tests.factories import ImageFactory, SourceFactory

pytestmark = pytest.mark.django_db
COLUMNS = ["name", "path", "recipe", "observed_at", "rms_jy_per_beam", "peak_jy_per_beam"]
AWKWARD = "tab\tline\nback\\slash \\N 'quote' \"double\" µJy"


def _columns(image: models.Model) -> dict[str, object]:
    return {field.attname: getattr(image, field.attname) for field in image._meta.concrete_fields}


def test_each_row_is_like_the_template_but_for_its_own_values() -> None:
    template = Image.objects.get(pk=ImageFactory(parameters={"weight": "briggs", "name": AWKWARD}).pk)
    times = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=at) for at in (0, 1)]
    bulk.insert_like(
        template,
        COLUMNS,
        [(AWKWARD, "a.fits", "a", times[0], 1e-17, None), ("", "b.fits", "b", None, 0.1 + 0.2, -0.0)],
    )
    *_, first, second = Image.objects.order_by("pk")
    own = dict(zip(COLUMNS, (AWKWARD, "a.fits", "a", times[0], 1e-17, None), strict=True))
    assert _columns(first) | {"id": template.pk, "created_at": None} == (
        _columns(template) | own | {"dynamic_range": None, "created_at": None}
    )
    assert (second.name, second.observed_at, second.rms_jy_per_beam) == ("", None, 0.30000000000000004)


def test_keys_grow_in_the_order_of_the_rows_over_several_statements(monkeypatch) -> None:
    monkeypatch.setattr(bulk, "ROWS_AT_ONCE", 7)
    names = [f"source {number:02}" for number in reversed(range(20))]
    bulk.insert_like(SourceFactory.build(), ["name"], ((name,) for name in names))
    assert list(Source.objects.order_by("pk").values_list("name", flat=True)) == names


def test_a_row_that_is_refused_is_an_integrity_error_and_leaves_none() -> None:
    template = SourceFactory.build()
    with pytest.raises(IntegrityError), transaction.atomic():
        bulk.insert_like(template, ["name"], [("one",), (None,)])
    assert not Source.objects.exists()


@pytest.mark.skipif(connection.vendor != "sqlite", reason="a cache of SQLite")
@pytest.mark.parametrize("name", ["one", None])
def test_many_rows_have_a_larger_cache_and_others_the_usual_one_again(name, monkeypatch) -> None:
    monkeypatch.setattr(bulk, "ROWS_AT_ONCE", 1)
    meanwhile = []

    def cache() -> int:
        with connection.cursor() as cursor:
            return cursor.execute("PRAGMA cache_size").fetchone()[0]

    def rows() -> Iterator[tuple[str | None]]:
        yield ("first",)
        meanwhile.append(cache())
        yield (name,)

    before = cache()
    with contextlib.suppress(IntegrityError), transaction.atomic():
        bulk.insert_like(SourceFactory.build(), ["name"], rows())
    assert meanwhile == [-64_000]
    assert cache() == before


def test_no_rows_are_no_rows() -> None:
    bulk.insert_like(SourceFactory.build(), ["name"], [])
    assert not Source.objects.exists()
