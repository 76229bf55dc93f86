"""What staff flag: refused or entered, used by the next flagging, and by nothing before it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.urls import reverse

from access.models import AuditEntry
from calibration.engines.flagger import AllFlagged, FlaggingParameters, StaffFlag, flag, read_flags
from calibration.models import AntennaFlag
from calibration.services import choose_tables, flagging_recipe, solving_recipe
from calibration.staff_flags import STAFF_FLAGS, AlreadyWithdrawn, InvalidAntennaFlag, add, flags_for, withdraw
from contimg.products import digest
from observations.engines.measurement_set import read_header
from observations.engines.simulator import Instrument
from qa.services import assess_calibration_table, assess_image
from tests.factories import (
    FIRST_TILE,
    AntennaFlagFactory,
    CalibrationTableFactory,
    CalibratorFactory,
    FlagTableFactory,
    ImageFactory,
    MeasurementSetFactory,
)
from tests.science import column, field_plan, observe

INSTRUMENT = Instrument(n_antennas=6, channels_per_subband=2, n_integrations=8, sefd_jy=300.0)
HOUR = timedelta(hours=1)


# --- the engine ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def tile(tmp_path_factory) -> Path:
    return observe(tmp_path_factory.mktemp("tile"), INSTRUMENT, field_plan(INSTRUMENT, offsets=[(0.2, 0.1, 0.3)])).path


def wholly_flagged(tile: Path, folder: Path, *staff: StaffFlag) -> np.ndarray:
    """Rows flagged in all channels, shape (integration, baseline)."""
    flag(measurement_set=tile, output=folder / "f.h5", parameters=FlaggingParameters(), staff=staff)
    return read_flags(folder / "f.h5", 0, 10**9).all(axis=(1, 2)).reshape(8, -1)


def with_antenna(tile: Path, number: int) -> np.ndarray:
    return ((column(tile, "ANTENNA1") == number) | (column(tile, "ANTENNA2") == number)).reshape(8, -1)


@pytest.mark.parametrize(
    ("begins", "ends", "integrations"),
    [  # in integrations from the beginning of the tile
        (2.0, 4.0, [2, 3]),
        (2.01, 3.99, [2, 3]),
        (1.99, 4.0, [1, 2, 3]),
        (2.0, 4.01, [2, 3, 4]),
        (2.4, 2.6, [2]),
        (-50.0, 1.0, [0]),
        (7.0, 50.0, [7]),
        (0.0, 8.0, range(8)),
        (8.0, 50.0, []),
        (-50.0, 0.0, []),
    ],
)
def test_the_rows_of_the_antenna_are_flagged_in_every_integration_that_the_interval_touches(
    tile, tmp_path, begins, ends, integrations
):
    header = read_header(tile)
    first_s, step_s = header.times_s[0] - header.integration_s / 2, header.integration_s
    known = StaffFlag(antenna="pad003", start_s=first_s + begins * step_s, end_s=first_s + ends * step_s)

    flagged = wholly_flagged(tile, tmp_path, known)

    expected = with_antenna(tile, 2) & np.isin(np.arange(8), list(integrations))[:, None]
    np.testing.assert_array_equal(flagged, expected)


def test_all_antennas_are_flagged_for_most_of_a_tile_and_the_rest_of_it_is_kept(tile, tmp_path):
    header = read_header(tile)
    known = StaffFlag(antenna="", start_s=header.times_s[1], end_s=header.times_s[-1] + 100)

    flagged = wholly_flagged(tile, tmp_path, known)

    assert flagged[1:].all()
    assert not flagged[0].any()


def test_an_antenna_that_the_tile_does_not_have_changes_nothing(tile, tmp_path):
    assert not wholly_flagged(tile, tmp_path, StaffFlag(antenna="pad099", start_s=0, end_s=1e12)).any()


def test_a_tile_that_is_flagged_whole_says_so(tile, tmp_path):
    with pytest.raises(AllFlagged, match="what staff have flagged"):
        wholly_flagged(tile, tmp_path, StaffFlag(antenna="", start_s=0, end_s=1e12))


# --- entering and withdrawing ----------------------------------------------------------------------------------------
@pytest.fixture
def raw(db):
    return MeasurementSetFactory(observed_at=FIRST_TILE)


def entered(antenna: str = "pad2", started_at: datetime = FIRST_TILE, ended_at: datetime | None = None, **given):
    return add(antenna=antenna, started_at=started_at, ended_at=ended_at, **{"reason": "warm receiver", **given})


def test_a_flag_is_entered_with_who_did_it_and_how_many_tiles_it_concerns(raw):
    anna = User.objects.create_user("anna")

    change = entered(actor=anna)

    assert change.n_tiles == 1
    assert "batch create --stage process" in str(change)
    assert AntennaFlag.objects.get().created_by == anna
    entry = AuditEntry.objects.get(action="antenna_flag.add")
    assert (entry.object_id, entry.details["antenna"], entry.details["reason"]) == (
        change.flag.pk, "pad2", "warm receiver",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"antenna": "pad9"}, "known: pad1, pad2, pad3"),
        ({"ended_at": FIRST_TILE}, "end later"),
        ({"ended_at": FIRST_TILE - HOUR}, "end later"),
        ({"ended_at": datetime.max.replace(tzinfo=UTC)}, "1900 to 2200"),
        ({"started_at": datetime.min.replace(tzinfo=UTC)}, "1900 to 2200"),
        ({"started_at": FIRST_TILE.replace(tzinfo=None)}, "zone"),
        ({"ended_at": (FIRST_TILE + HOUR).replace(tzinfo=None)}, "zone"),
        ({"reason": "  "}, "Say why"),
        ({"reason": "x" * 301}, "at most 300"),
    ],
)
def test_a_flag_that_cannot_be_meant_is_refused(raw, given, words):
    with pytest.raises(InvalidAntennaFlag, match=words):
        entered(**given)

    assert not AntennaFlag.objects.exists()
    assert not AuditEntry.objects.exists()


def test_a_flag_is_withdrawn_once(raw):
    flag = entered().flag

    withdraw(flag=flag)

    assert not AntennaFlag.objects.in_use().exists()
    assert AuditEntry.objects.get(action="antenna_flag.withdraw").object_id == flag.pk
    with pytest.raises(AlreadyWithdrawn):
        withdraw(flag=flag)


HALF_TILE = timedelta(seconds=309 / 2)


@pytest.mark.parametrize(
    ("begins", "ends", "n"),
    [
        (-HOUR, -HALF_TILE - timedelta(seconds=1), 0),
        (-HOUR, -HALF_TILE + timedelta(seconds=1), 1),
        (HALF_TILE - timedelta(seconds=1), None, 1),
        (HALF_TILE + timedelta(seconds=1), None, 0),
        (-HOUR, None, 1),
    ],
)
def test_tiles_are_counted_and_flagged_from_their_first_moment_to_their_last(raw, begins, ends, n):
    change = entered(started_at=FIRST_TILE + begins, ended_at=None if ends is None else FIRST_TILE + ends)

    assert change.n_tiles == n
    assert len(flags_for(measurement_set=raw)) == n


# --- recipes ---------------------------------------------------------------------------------------------------------
# Of a tile without flags of staff as it was before there were any: were it another, every tile would be made again.
def test_the_recipe_of_a_tile_that_no_flag_concerns_is_the_old_one(raw):
    before = digest("flag", raw.recipe, asdict(FlaggingParameters()))
    AntennaFlagFactory(antenna="pad2", started_at=FIRST_TILE + HOUR)
    AntennaFlagFactory(antenna="another array's", started_at=FIRST_TILE - HOUR)

    assert flagging_recipe(raw) == before


def test_a_flag_asks_for_other_flags_and_withdrawn_for_the_old_ones(raw):
    before = flagging_recipe(raw)

    flag = entered().flag
    during = flagging_recipe(raw)
    withdraw(flag=flag)

    assert during != before
    assert flagging_recipe(raw) == before


def test_a_flag_that_was_open_and_now_has_an_end_after_the_tile_changes_nothing(raw):
    flag = entered(started_at=FIRST_TILE - HOUR).flag
    during = flagging_recipe(raw)

    withdraw(flag=flag)
    entered(started_at=FIRST_TILE - 2 * HOUR, ended_at=FIRST_TILE + HOUR, reason="repaired since")

    assert flagging_recipe(raw) == during


def test_tables_stay_valid_when_their_tile_is_flagged_and_yield_to_those_solved_again(raw):
    source, calibrator = MeasurementSetFactory(observed_at=FIRST_TILE - HOUR), CalibratorFactory()

    def solved(name: str) -> set[int]:
        flags = FlagTableFactory(measurement_set=source, recipe=flagging_recipe(source), calibrator=calibrator)
        return {
            CalibrationTableFactory(
                set_name=name, kind=kind, source_measurement_set=source, flag_table=flags, calibrator=calibrator,
                recipe=solving_recipe(flag_table=flags, calibrator=calibrator, kind=kind),
            ).pk
            for kind in "BG"
        }  # fmt: skip

    def chosen() -> set[int]:
        return {table.pk for table in choose_tables(measurement_set=raw)}

    old = solved("old")
    flag = entered(started_at=FIRST_TILE - 2 * HOUR, ended_at=FIRST_TILE - HOUR / 2).flag
    assert chosen() == old

    new = solved("new")
    assert chosen() == new

    withdraw(flag=flag)
    assert chosen() == old


# --- doors -----------------------------------------------------------------------------------------------------------
LIST = "/api/v1/antenna-flags/"


def test_the_api_enters_withdraws_and_filters(raw, administrator):
    answer = administrator.post(LIST, {"antenna": "pad2", "started_at": "2026-03-20T06:00:00Z", "reason": "warm"})

    assert answer.status_code == 201
    assert {"n_tiles", "advice"} <= set(answer.json())
    pk = answer.json()["id"]
    assert [row["id"] for row in administrator.get(f"{LIST}?in_use=true&antenna=pad2").json()["results"]] == [pk]
    assert administrator.post(f"{LIST}{pk}/withdraw/").json()["withdrawn_at"]
    assert administrator.get(f"{LIST}?in_use=true").json()["results"] == []
    again = administrator.post(f"{LIST}{pk}/withdraw/")
    assert (again.status_code, again.json()["code"]) == (409, "already_withdrawn")


@pytest.mark.parametrize(
    "given", [{"antenna": "pad9"}, {"reason": ""}, {"started_at": "soon"}, {"ended_at": "2001-01-01T00:00:00Z"}]
)
def test_the_api_refuses_with_a_reason(raw, administrator, given):
    body = {"antenna": "pad2", "started_at": "2026-03-20T06:00:00Z", "reason": "warm", **given}

    answer = administrator.post(LIST, body)

    assert answer.status_code == 400
    assert answer.json()["code"]


def test_the_admin_enters_refuses_and_withdraws(raw, admin_client):
    page = reverse("admin:calibration_antennaflag_add")
    body = {"antenna": "pad2", "started_at_0": "2026-03-20", "started_at_1": "06:00", "reason": "warm"}

    refused = admin_client.post(page, {**body, "antenna": "pad9"})
    assert refused.status_code == 200
    assert b"known: pad1, pad2, pad3" in refused.content
    assert not AntennaFlag.objects.exists()

    assert admin_client.post(page, body).status_code == 302
    flag = AntennaFlag.objects.get()
    assert flag.created_by.username == "admin"
    assert admin_client.get(reverse("admin:calibration_antennaflag_change", args=[flag.pk])).status_code == 200

    chosen = {"action": "withdraw", "_selected_action": [flag.pk]}
    admin_client.post(reverse("admin:calibration_antennaflag_changelist"), chosen)
    flag.refresh_from_db()
    assert flag.withdrawn_at is not None


def test_the_command_enters_lists_and_withdraws(raw, capsys):
    call_command("flag_antenna", "all", "2026-03-20T06:00", "2026-03-20T07:00", "--reason", "storm")
    flag = AntennaFlag.objects.get()
    assert (flag.antenna, flag.started_at.isoformat()) == ("", "2026-03-20T06:00:00+00:00")

    call_command("flag_antenna", "--list")
    assert "all antennas from 2026-03-20 06:00 until 2026-03-20 07:00: storm" in capsys.readouterr().out

    call_command("flag_antenna", "--withdraw", str(flag.pk))
    assert not AntennaFlag.objects.in_use().exists()


@pytest.mark.parametrize("given", [[], ["pad2"], ["pad2", "soon"], ["--withdraw", "7"], ["pad2", "--list"]])
def test_the_command_says_what_is_missing(raw, given):
    with pytest.raises(CommandError):
        call_command("flag_antenna", *given)


def test_assessments_name_the_flags_that_their_data_were_made_with(raw, administrator):
    entered(started_at=FIRST_TILE - HOUR, ended_at=FIRST_TILE)
    used = [asdict(known) for known in flags_for(measurement_set=raw)]
    table = CalibrationTableFactory(flag_table=FlagTableFactory(measurement_set=raw, parameters={STAFF_FLAGS: used}))
    image = ImageFactory(measurement_set__parameters={STAFF_FLAGS: used})

    for assessment in (assess_calibration_table(table=table), assess_image(image=image)):
        shown = administrator.get(f"/api/v1/assessments/{assessment.pk}/").json()
        [text] = shown["circumstances"]["antenna_flags"]
        assert "pad2 from" in text
        assert "warm receiver" in text
