"""Whole lists as CSV and VOTable, read back by other people's readers."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import numpy as np
import pytest
from astropy.io import ascii
from astropy.io.ascii import InconsistentTableError
from astropy.io.votable import parse_single_table
from astropy.io.votable.ucd import check_ucd
from django.db import OperationalError, connection
from structlog.testing import capture_logs

from contimg import renditions
from contimg.api import exports, meanings
from contimg.urls import router
from sources.models import Measurement
from tests.factories import ImageFactory, MeasurementFactory, SourceFactory

pytestmark = pytest.mark.django_db
EXPORTED = {prefix: view for prefix, view, _ in router.registry if getattr(view, "is_exported", False)}


def streamed(api, url: str) -> str:
    response = api.get(url)
    assert response.status_code == 200, response.content
    return b"".join(response.streaming_content).decode()


def rows_of_csv(api, url: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(streamed(api, url))))


def rows_of_json(api, url: str) -> list[dict]:
    return api.get(url).json()["results"]


@pytest.fixture
def sky(monkeypatch):
    """A few rows of everything that is exported, with nulls and words that need quoting; pages of two."""
    monkeypatch.setattr(exports, "ROWS_AT_ONCE", 2)
    for name in ("plain", 'of "a, b" <&>', "Großbild"):
        image = ImageFactory(name=name)
        MeasurementFactory(image=image)
    ImageFactory(kind="external", measurement_set=None, name="bare", observed_at=None, mjd=None, rms_jy_per_beam=None)
    SourceFactory(name="never seen", flux_mean_jy=None, eta=None, v=None)


def test_images_sources_and_measurements_are_exported():
    assert set(EXPORTED) == {"images", "sources", "measurements"}


@pytest.mark.parametrize("prefix", EXPORTED)
def test_csv_has_all_rows_of_all_pages_with_what_json_says(api, sky, prefix):
    for query in ("ordering=id", "ordering=-id"):
        expected = rows_of_json(api, f"/api/v1/{prefix}/?{query}")
        got = rows_of_csv(api, f"/api/v1/{prefix}/?{query}&format=csv")
        assert len(got) == len(expected) > 2
        for row, said in zip(got, expected, strict=True):
            assert list(row) == list(said)
            words = {name: "" if value is None else value for name, value in said.items()}
            words = {name: str(word).lower() if isinstance(word, bool) else str(word) for name, word in words.items()}
            assert row == words


@pytest.mark.parametrize("prefix", EXPORTED)
def test_votable_is_read_by_astropy_with_units_and_nulls(api, sky, prefix):
    expected = rows_of_json(api, f"/api/v1/{prefix}/?ordering=id")
    document = streamed(api, f"/api/v1/{prefix}/?ordering=id&format=votable").encode()
    table = parse_single_table(io.BytesIO(document), verify="exception")
    assert [field.name for field in table.fields] == list(expected[0])
    for field in table.fields:
        column = table.array[field.name]
        for got, said in zip(column, [row[field.name] for row in expected], strict=True):
            if said is None:
                assert np.ma.is_masked(got) or got == "" or np.isnan(got)
            else:
                assert got == said
        assert str(field.unit or "").replace(" ", "") == (meanings.unit(field.name) or "")


@pytest.mark.parametrize(
    "character", ["\x00", "\x0b", "\x1f", "\ufffe", "\uffff", "<", "&", "\t", "\x7f", "\U0001f52d"]
)
def test_a_votable_holds_what_xml_cannot_as_a_replacement_character(character):
    text = "".join(exports._votable("images", {}, [[{"name": f"a{character}b"}]]))
    ElementTree.fromstring(text)  # noqa: S314 - our own
    kept = escape(character) if character in "<&\t\x7f\U0001f52d" else "\ufffd"
    assert f"<TD>a{kept}b</TD>" in text


def test_every_exported_field_has_a_valid_descriptor_and_the_unit_in_its_name():
    for view in EXPORTED.values():
        for name in view.serializer_class().fields:
            assert check_ucd(exports.UCDS[name], check_controlled_vocabulary=True), name
    units = {
        name: meanings.unit(name) for name in ("rms_jy_per_beam", "flux_jy", "bpa_deg", "pixel_arcsec", "mjd", "snr")
    }
    assert units == {"rms_jy_per_beam": "Jy/beam", "flux_jy": "Jy", "bpa_deg": "deg", "pixel_arcsec": "arcsec",
                     "mjd": "d", "snr": None}  # fmt: skip


@pytest.mark.parametrize(("form", "end"), [("csv", "this export was broken off here"), ("votable", "</tr>")])
def test_an_export_that_fails_half_way_is_taken_for_whole_by_no_reader(api, sky, form, end):
    """The status is long sent, and the server ends the answer properly."""
    chunks = iter(api.get(f"/api/v1/images/?format={form}").streaming_content)
    got = [next(chunks), next(chunks)]

    def fail(*_: object) -> None:
        raise OperationalError("the server closed the connection unexpectedly")

    with connection.execute_wrapper(fail), pytest.raises(OperationalError), capture_logs() as logs:
        got.extend(chunks)
    (line,) = [line for line in logs if line["event"] == "export_broken_off"]
    assert (line["table"], len(line["request_id"])) == ("images_image", 32)
    text = b"".join(got).decode()
    assert end in text.splitlines()[-1].lower()
    if form == "csv":
        with pytest.raises(InconsistentTableError):
            ascii.read(text, format="csv", guess=False, strict_names=False)
    else:
        with pytest.raises(ValueError, match="no element found"):
            parse_single_table(io.BytesIO(text.encode()))


def test_filters_orderings_and_cones_hold_for_an_export(api, sky):
    image = ImageFactory(name="there", ra_deg=10.0, dec_deg=-20.0)
    cone = "/api/v1/images/?ra_deg=10&dec_deg=-20&radius_deg=0.1"
    (row,) = rows_of_csv(api, f"{cone}&format=csv")
    assert row["id"] == str(image.pk)
    assert float(row["separation_deg"]) < 1e-9
    assert rows_of_csv(api, "/api/v1/images/?name=there&format=csv")[0]["name"] == "there"


@pytest.mark.parametrize("format_", ["csv", "votable"])
@pytest.mark.parametrize("query", ["limit=10", "cursor=x", "count=true", "colour=red", "ordering=colour"])
def test_what_an_export_cannot_do_is_refused_as_a_problem(api, format_, query):
    response = api.get(f"/api/v1/images/?format={format_}&{query}")
    assert response.status_code == 400
    assert response.headers["Content-Type"] == "application/problem+json"
    assert json.loads(response.content)["errors"]


def test_some_threads_are_left_to_the_others(api):
    """Two exports, whoever reads them how slowly; three with all else that takes long."""
    image = ImageFactory()
    url = "/api/v1/images/?format=csv"
    first, second = api.get(url), api.get(url)
    refused = api.get(url)
    assert (refused.status_code, json.loads(refused.content)["code"]) == (503, "too_many_exports")
    assert refused.headers["Retry-After"] == "10"
    assert api.head(url).status_code == 200
    with renditions.places.taken(), pytest.raises(renditions.TooManyRenditions), renditions.places.taken():
        pass
    assert next(iter(second.streaming_content))
    second._iterator.close()  # as its client hangs up; close() itself would end this test's transaction
    with renditions.places.taken():
        refused = api.get(url)
        assert refused.status_code == 200
        assert str(image.pk) in b"".join(refused.streaming_content).decode()
    assert b"".join(first.streaming_content)
    for _ in range(5):
        assert streamed(api, url)


def test_an_empty_list_is_a_table_without_rows(api):
    assert rows_of_csv(api, "/api/v1/images/?format=csv") == []
    table = parse_single_table(io.BytesIO(streamed(api, "/api/v1/images/?format=votable").encode()))
    assert len(table.array) == 0


def test_a_head_of_an_export_reads_nothing(api, django_assert_num_queries):
    with django_assert_num_queries(0):
        response = api.head("/api/v1/measurements/?format=csv")
    assert response.status_code == 200
    assert "measurements.csv" in response.headers["Content-Disposition"]


def test_details_are_not_exported(api):
    assert api.get(f"/api/v1/images/{ImageFactory().pk}/?format=csv").status_code == 400


def test_memory_does_not_grow_with_the_rows(api):
    """Ten times the rows of a page take no more than a page's worth."""
    first = MeasurementFactory()
    copies = []
    for _ in range(12_000):
        copy = Measurement.objects.none().model(**{
            f.attname: getattr(first, f.attname) for f in Measurement._meta.concrete_fields if not f.generated
        })  # fmt: skip
        copy.pk, copy.is_forced = None, False
        copies.append(copy)
    Measurement.objects.bulk_create(copies, batch_size=2000)
    del copies
    peaks = []
    for query in ("limit=1000", "format=csv"):
        tracemalloc.start()
        response = api.get(f"/api/v1/measurements/?{query}")
        n_bytes = sum(len(part) for part in response.streaming_content) if response.streaming else 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert n_bytes > 1_000_000
    assert peaks[1] < 10 * peaks[0]
