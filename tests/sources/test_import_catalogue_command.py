from __future__ import annotations

import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from sources.models import ReferenceCatalogue, ReferenceSource

pytestmark = pytest.mark.django_db


def command(*args, **kwargs) -> str:
    out = StringIO()
    call_command("import_catalogue", *map(str, args), stdout=out, **kwargs)
    return out.getvalue()


@pytest.fixture
def survey(tmp_path):
    (tmp_path / "survey.csv").write_text("ra,dec,peak,total\n-10,16,5,6\n20,16,1,2\n20,16,1,2\n30,99,1,2\n")
    return tmp_path / "survey.csv"


UNITS = ("--ra-unit", "deg", "--dec-unit", "deg", "--flux-unit", "mJy", "--flux-column", "total")


def test_it_says_what_it_read_and_what_it_left_out(survey):
    said = command(survey, "--name", "NVSS", *UNITS, "--frequency-mhz", "1400", "--epoch", "1995.0")
    assert said == (
        "Read as ra = ra (deg), dec = dec (deg), flux = total (mJy); ICRS.\n"
        "NVSS was imported. 2 of 4 rows taken; left out: 1 dec out of range, 1 duplicate.\n"
        "Images are held against NVSS (CONTIMG_REFERENCE_CATALOGUE says which).\n"
    )
    catalogue = ReferenceCatalogue.objects.get()
    assert (catalogue.frequency_hz, catalogue.epoch_jyear) == (1.4e9, 1995.0)
    assert sorted(ReferenceSource.objects.values_list("ra_deg", "flux_jy")) == [(20.0, 0.002), (350.0, 0.006)]


def test_again_it_changes_nothing_and_in_another_way_it_says_that_it_replaces(survey):
    command(survey, "--name", "NVSS", *UNITS)
    assert "nothing was changed. 2 of 4 rows" in command(survey, "--name", "NVSS", *UNITS)
    assert "all of them were replaced" in command(survey, "--name", "NVSS", *UNITS[:-1], "peak")
    assert "was changed" in command(survey, "--name", "NVSS", *UNITS[:-1], "peak", "--note", "a paper")


def test_json(survey):
    answer = json.loads(command(survey, "--name", "NVSS", *UNITS, "--json"))
    catalogue = ReferenceCatalogue.objects.get()
    assert answer == {
        "id": catalogue.pk,
        "name": "NVSS",
        "outcome": "imported",
        "n_rows": 4,
        "n_sources": 2,
        "left_out": {"dec_out_of_range": 1, "duplicate": 1},
        "parameters": catalogue.parameters,
        "checksum": catalogue.checksum,
    }


@pytest.mark.parametrize(
    ("args", "code"),
    [
        ((), "catalogue_column"),
        (UNITS[2:], "catalogue_unit"),
        ((*UNITS, "--flux-unit", "deg"), "catalogue_unit"),
        ((*UNITS, "--minor-column", "x"), "catalogue_column"),
        ((*UNITS, "--frequency-mhz", "0"), "catalogue_fact"),
        ((*UNITS, "--ra-unit", "h", "--dec-column", "ra"), "catalogue_no_rows"),
    ],
)
def test_what_cannot_be_imported_ends_it_with_a_code_and_no_row(survey, args, code):
    survey.write_text("ra,dec,peak,total\n95,16,5,6\n")
    with pytest.raises(CommandError, match=rf"\[{code}\]$") as failure:
        command(survey, "--name", "NVSS", *args)
    assert failure.value.returncode == 1
    assert not ReferenceCatalogue.objects.exists()


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CommandError, match=r"b\.fits does not exist; check the path\. \[no_such_file\]"):
        command(tmp_path / "b.fits", "--name", "NVSS")
