"""Reference catalogues in the database."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table
from django.db import connection
from django.test.utils import CaptureQueriesContext

from access.models import AuditEntry
from contimg.sky import healpix_index
from sources import reference
from sources.engines.reference import NoUsableRow, WrongUnit
from sources.models import ReferenceCatalogue, ReferenceSource
from sources.reference import Outcome, UnusableFact, import_catalogue
from tests.factories import ReferenceSourceFactory

pytestmark = pytest.mark.django_db
UNITS = {"ra": "deg", "dec": "deg", "flux": "Jy"}


def file_of(tmp_path, n: int, *, name: str = "a.fits", flux_jy: float = 1.0):
    """Places all over the sky (a spiral), the fluxes of each its own."""
    index = np.arange(n)
    table = Table(
        {
            "name": [f"S{i}" for i in index],
            "ra": (index * 137.507764) % 360,
            "dec": np.degrees(np.arcsin(np.clip((2 * index + 1) / n - 1, -1, 1))),
            "flux": flux_jy * (1 + index / n),
            "maj": np.where(index % 2, 5.0, np.nan),
        },
        units={"ra": "deg", "dec": "deg", "flux": "Jy", "maj": "arcsec"},
    )
    table.write(tmp_path / name, overwrite=True)
    return tmp_path / name


def rows_of(name: str) -> list[float]:
    return list(ReferenceSource.objects.of_catalogue(name).order_by("row").values_list("flux_jy", flat=True))


def test_a_catalogue_and_its_sources_are_written(tmp_path):
    path = file_of(tmp_path, 4)
    done = import_catalogue(path=path, name="NVSS", frequency_hz=1.4e9, epoch_jyear=1995.0, note="Condon 1998")
    catalogue = ReferenceCatalogue.objects.get()
    assert (done.outcome, done.catalogue) == (Outcome.IMPORTED, catalogue)
    assert (catalogue.name, catalogue.frequency_hz, catalogue.epoch_jyear) == ("NVSS", 1.4e9, 1995.0)
    assert (catalogue.n_rows, catalogue.n_sources, catalogue.left_out) == (4, 4, {})
    assert catalogue.parameters["columns"]["ra"] == {"column": "ra", "unit": "deg"}
    assert len(catalogue.checksum) == 64
    second = catalogue.sources.get(row=2)
    assert (second.designation, second.ra_deg, second.flux_jy) == ("S1", pytest.approx(137.507764), 1.25)
    assert (second.major_arcsec, second.minor_arcsec, second.flux_err_jy) == (5.0, None, None)
    assert catalogue.sources.get(row=1).major_arcsec is None
    assert second.healpix == healpix_index(second.ra_deg, second.dec_deg)
    assert list(ReferenceSource.objects.brighter_than(1.5).values_list("row", flat=True)) == [3, 4]


def test_an_import_is_in_the_audit_log(tmp_path):
    done = import_catalogue(path=file_of(tmp_path, 4), name="NVSS")
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.object_kind) == ("reference_catalogue.import", "reference_catalogue")
    assert entry.object_id == done.catalogue.pk
    assert (entry.details["name"], entry.details["outcome"], entry.details["n_sources"]) == ("NVSS", "imported", 4)


def test_the_same_again_writes_nothing(tmp_path):
    path = file_of(tmp_path, 4)
    first = import_catalogue(path=path, name="NVSS", frequency_hz=1.4e9)
    ids = set(ReferenceSource.objects.values_list("pk", flat=True))
    # Naming what was guessed reads the file in the same way.
    for again in ({}, {"columns": {"flux": "flux"}}, {"units": UNITS}, {"frame": "icrs"}):
        done = import_catalogue(path=path, name="NVSS", frequency_hz=1.4e9, **again)
        assert done.outcome == Outcome.UNCHANGED
        assert done.catalogue.imported_at == first.catalogue.imported_at
    assert set(ReferenceSource.objects.values_list("pk", flat=True)) == ids
    assert AuditEntry.objects.count() == 1


def test_other_facts_of_the_same_rows_write_no_row(tmp_path):
    path = file_of(tmp_path, 4)
    import_catalogue(path=path, name="NVSS", frequency_hz=1.4e9)
    ids = set(ReferenceSource.objects.values_list("pk", flat=True))
    done = import_catalogue(path=path, name="NVSS", frequency_hz=1.4e9, epoch_jyear=1995.0)
    assert done.outcome == Outcome.DESCRIBED
    assert ReferenceCatalogue.objects.get().epoch_jyear == 1995.0
    assert set(ReferenceSource.objects.values_list("pk", flat=True)) == ids
    assert AuditEntry.objects.count() == 2


@pytest.mark.parametrize("units", [{}, {"flux": "mJy"}])
def test_another_file_or_reading_replaces_the_rows_of_that_catalogue_alone(tmp_path, units):
    other = ReferenceSourceFactory()
    first = import_catalogue(path=file_of(tmp_path, 4), name="NVSS")
    path = file_of(tmp_path, 4) if units else file_of(tmp_path, 3, flux_jy=0.001)
    done = import_catalogue(path=path, name="NVSS", units=units)
    assert done.outcome == Outcome.REPLACED
    assert done.catalogue.pk == first.catalogue.pk
    assert done.catalogue.imported_at > first.catalogue.imported_at
    assert ReferenceCatalogue.objects.get(name="NVSS").n_sources == (4 if units else 3)
    assert len(rows_of("NVSS")) == (4 if units else 3)
    assert max(rows_of("NVSS")) < 0.01
    assert ReferenceSource.objects.filter(pk=other.pk).exists()


def test_the_same_file_under_another_name_is_another_catalogue(tmp_path):
    path = file_of(tmp_path, 4)
    for name in ("NVSS", "nvss"):
        assert import_catalogue(path=path, name=name).outcome == Outcome.IMPORTED
    assert ReferenceSource.objects.count() == 8


class Killed(BaseException):
    pass


@pytest.mark.parametrize("is_known", [True, False])
def test_what_ends_in_the_middle_leaves_what_was_there(tmp_path, monkeypatch, is_known):
    monkeypatch.setattr(reference, "BATCH_ROWS", 2)
    if is_known:
        import_catalogue(path=file_of(tmp_path, 4), name="NVSS")
    before = list(ReferenceSource.objects.values()), list(ReferenceCatalogue.objects.values())

    def killed_while_writing(steps, what):
        for number, step in enumerate(steps):
            yield step
            if what == "write" and number == 1:
                assert ReferenceSource.objects.count() == 4  # of the new ones
                raise Killed

    with pytest.raises(Killed):
        import_catalogue(path=file_of(tmp_path, 9, flux_jy=7), name="NVSS", progress=killed_while_writing)
    assert (list(ReferenceSource.objects.values()), list(ReferenceCatalogue.objects.values())) == before


def test_a_file_that_is_refused_leaves_what_was_there(tmp_path):
    import_catalogue(path=file_of(tmp_path, 4), name="NVSS")
    before = rows_of("NVSS")
    with pytest.raises(NoUsableRow):
        import_catalogue(path=file_of(tmp_path, 4, flux_jy=-1), name="NVSS")
    with pytest.raises(WrongUnit):
        import_catalogue(path=file_of(tmp_path, 4), name="NVSS", units={"flux": "deg"})
    assert rows_of("NVSS") == before


@pytest.mark.parametrize(
    "facts",
    [
        {"name": ""},
        {"name": " "},
        {"name": "x" * 51},
        {"name": "a\nb"},
        {"note": "x" * 301},
        {"note": "a\nb"},
        {"frequency_hz": 1400.0},  # MHz taken for Hz
        {"frequency_hz": float("nan")},
        {"epoch_jyear": 49718.0},  # a modified Julian date
    ],
)
def test_facts_that_cannot_be_are_refused(tmp_path, facts):
    with pytest.raises(UnusableFact):
        import_catalogue(path=file_of(tmp_path, 4), **{"name": "NVSS", **facts})


def statements_of(tmp_path, n: int) -> int:
    with CaptureQueriesContext(connection) as queries:
        done = import_catalogue(path=file_of(tmp_path, n), name=f"of {n}")
    assert done.catalogue.sources.count() == done.catalogue.n_sources == n
    return len(queries)


def test_each_batch_takes_one_statement(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "BATCH_ROWS", 500)
    one, two, five = (statements_of(tmp_path, n) for n in (500, 1000, 2500))
    assert (two - one, five - two) == (1, 3)


@pytest.mark.slow
def test_hundreds_of_thousands_of_rows(tmp_path):
    few = statements_of(tmp_path, reference.BATCH_ROWS)
    assert statements_of(tmp_path, 200_000) == few + 200_000 // reference.BATCH_ROWS - 1
    assert import_catalogue(path=tmp_path / "a.fits", name="of 200000").outcome == Outcome.UNCHANGED
