from __future__ import annotations

import io
import json

import pytest
from django.core.management import CommandError, call_command

from images.models import Image
from tests.provenance.chains import make_chain

pytestmark = pytest.mark.django_db


def said(*arguments):
    out = io.StringIO()
    call_command(*map(str, arguments), stdout=out)
    return out.getvalue()


def test_impact_says_how_much_of_each_kind():
    chain = make_chain(2)
    told = said("impact", "product", "calibration_table", chain.tables[0].pk)
    assert "3  image" in told
    assert "0  points of light curves" in told
    facts = json.loads(said("impact", "product", "calibration_table", chain.tables[0].pk, "--json"))
    assert facts["counts"]["image"] == 3


def test_impact_of_an_antenna_a_time_and_software():
    chain = make_chain(2)
    day = f"{chain.groups[0].observed_at:%Y-%m-%d}"
    assert "2  subband group" in said("impact", "time", "--from", day, "--until", "2027-01-01")
    assert "4  measurement set" in said("impact", "antenna", "pad1")
    with pytest.raises(CommandError, match=r"No measurement set has an antenna 'pad01'.*such as 'pad1'"):
        said("impact", "antenna", "pad01")
    with pytest.raises(CommandError, match=r"No product was made with ducc0 no such; .*\[unknown_software\]"):
        said("impact", "software", "ducc0", "no such")


@pytest.mark.parametrize("when", ["yesterday", "2026-13-01", "9999-12-31T23:59-14:00", "9999-12-31", "0001-01-01"])
def test_a_time_that_is_none_is_refused(when):
    with pytest.raises(CommandError, match=r"is not (a time|from 1900 to 2200)"):
        said("impact", "time", "--from", when, "--until", "2027-01-01")


def test_what_is_under_another_quarantine_stays_suspect_when_one_is_lifted():
    chain = make_chain(1)
    for kind, row in (("calibration_table", chain.tables[0]), ("image", chain.tiles[0])):
        said("quarantine", "add", kind, row.pk, "--reason", "solved on a resolved source")
    second, first = (row["id"] for row in json.loads(said("quarantine", "list", "--json")))
    assert "stays suspect" in said("quarantine", "lift", second)
    assert "trusted again" in said("quarantine", "lift", first)


def test_a_quarantine_from_beginning_to_end():
    chain = make_chain(2)
    told = said("quarantine", "add", "calibration_table", chain.tables[0].pk, "--reason", "solved on a resolved source")
    number = json.loads(said("quarantine", "list", "--json"))[0]["id"]
    assert f"quarantine plan {number}" in told
    assert Image.objects.filter(is_suspect=True).count() == 3
    assert "2 tiles stay suspect" in said("quarantine", "plan", number)
    assert "solved on a resolved source" in said("quarantine", "list")
    assert "trusted again" in said("quarantine", "lift", number)
    assert said("quarantine", "list") == "Nothing is quarantined.\n"
    assert "solved on" in said("quarantine", "list", "--all")
    with pytest.raises(CommandError, match=r"already_lifted"):
        said("quarantine", "lift", number)


@pytest.mark.parametrize("number", [0, -1, 2**70])
def test_what_is_not_there_is_refused(number):
    with pytest.raises(CommandError, match=r"no_such_product"):
        said("impact", "product", "image", number)
    with pytest.raises(CommandError, match=r"no_such_product"):
        said("quarantine", "add", "image", number, "--reason", "bad")
    with pytest.raises(CommandError, match=r"unknown_quarantine"):
        said("quarantine", "plan", number)
