"""Which tables a tile gets, and what is recorded of it."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from calibration.models import AppliedTable, CalibrationTable, Calibrator, FlagTable
from calibration.services import (
    CalibrationGateFailed,
    WaitingForCalibration,
    applying_recipe,
    calibrator_to_solve_on,
    calibrators_in,
    choose_tables,
    flagging_recipe,
    make_calibrated_set,
    make_flags,
    make_tables,
    record_calibrated_set,
    record_flags,
    record_tables,
    solving_recipe,
)
from contimg.products import workspace
from observations.conversion import make_measurement_set, record_measurement_set
from observations.models import MeasurementSet, SubbandGroup
from observations.services import index_subbands
from tests.factories import (
    FIRST_TILE,
    AppliedTableFactory,
    CalibratedSetFactory,
    CalibrationTableFactory,
    CalibratorFactory,
    FlagTableFactory,
    MeasurementSetFactory,
)

pytestmark = pytest.mark.django_db


def raw_set(**fields) -> MeasurementSet:
    return MeasurementSetFactory(observed_at=FIRST_TILE, **fields)


def table_set(name: str = "cal_1", *, hours: float = 0.0, kinds: str = "BG", **fields) -> list[CalibrationTable]:
    """Tables solved that many hours before the tile, valid for twelve on both sides."""
    source = MeasurementSetFactory(observed_at=FIRST_TILE - timedelta(hours=hours))
    return [
        CalibrationTableFactory(set_name=name, kind=kind, source_measurement_set=source, **fields) for kind in kinds
    ]


# --- choosing --------------------------------------------------------------------------------------------------------
def test_bandpass_and_gain_of_the_set_are_chosen_in_order_of_application():
    table_set(kinds="GB")

    assert [table.kind for table in choose_tables(measurement_set=raw_set())] == ["B", "G"]


SECOND = 1 / 3600


@pytest.mark.parametrize(
    ("hours", "is_valid"),
    [(0, True), (12, True), (12 - SECOND, True), (12 + SECOND, False), (-12, True), (-12 - SECOND, False), (36, False)],
)
def test_tables_are_valid_to_the_ends_of_their_interval_and_not_a_second_longer(hours, is_valid):
    table_set(hours=hours)

    assert can_choose() is is_valid


@pytest.mark.parametrize(
    ("offset_deg", "is_valid"), [(0, True), (0.249, True), (-0.249, True), (0.251, False), (-0.251, False)]
)
def test_tables_are_valid_in_their_own_dec_strip(offset_deg, is_valid):
    table_set(dec_deg=16.1 + offset_deg)

    assert can_choose(pointing_dec_deg=16.1) is is_valid


def can_choose(**fields) -> bool:
    try:
        return bool(choose_tables(measurement_set=raw_set(**fields)))
    except WaitingForCalibration:
        return False


def test_an_interval_of_its_own_counts_and_not_the_distance_in_time():
    table_set(hours=1, valid_from=FIRST_TILE - timedelta(hours=2), valid_until=FIRST_TILE - timedelta(minutes=30))
    far = table_set("cal_2", hours=20, valid_from=FIRST_TILE - timedelta(days=1), valid_until=FIRST_TILE)

    assert choose_tables(measurement_set=raw_set()) == far


@pytest.mark.parametrize("retired", [["B"], ["G"], ["B", "G"]])
def test_a_set_with_a_retired_table_is_never_applied(retired):
    table_set()
    CalibrationTable.objects.filter(kind__in=retired).update(is_retired=True)

    assert not can_choose()


@pytest.mark.parametrize("kinds", ["B", "G"])
def test_half_a_set_is_none(kinds):
    table_set(kinds=kinds)

    assert not can_choose()


def test_the_nearest_in_time_is_chosen_before_or_after():
    table_set("far before", hours=5)
    near = table_set("near after", hours=-2)
    table_set("nearer but retired", hours=1, is_retired=True)

    assert choose_tables(measurement_set=raw_set()) == near


def test_of_two_at_the_same_distance_the_newer_is_chosen():
    table_set("older", hours=1)
    newer = table_set("newer", hours=-1)

    assert choose_tables(measurement_set=raw_set()) == newer


def test_a_newer_solution_of_the_same_tile_supersedes_the_one_that_was_applied():
    raw = raw_set()
    used = table_set("first", hours=5)
    calibrated = CalibratedSetFactory(calibrated_from=raw)
    for table in used:
        AppliedTableFactory(measurement_set=calibrated, table=table)
    source = used[0].source_measurement_set
    corrected = [
        CalibrationTableFactory(set_name="corrected", kind=kind, source_measurement_set=source) for kind in "BG"
    ]

    assert choose_tables(measurement_set=raw) == corrected

    CalibrationTable.objects.filter(set_name="corrected").update(grade="poor")
    assert choose_tables(measurement_set=raw) == used


def test_going_back_to_earlier_parameters_brings_their_tables_back(settings):
    raw, source = raw_set(), MeasurementSetFactory(observed_at=FIRST_TILE - timedelta(hours=5))
    flags, calibrator = FlagTableFactory(measurement_set=source, recipe=flagging_recipe(source)), CalibratorFactory()

    def solved(antenna: str) -> list[CalibrationTable]:
        settings.CONTIMG_REFERENCE_ANTENNA = antenna
        return [
            CalibrationTableFactory(
                set_name=antenna, kind=kind, source_measurement_set=source, flag_table=flags, calibrator=calibrator,
                recipe=solving_recipe(flag_table=flags, calibrator=calibrator, kind=kind),
            )
            for kind in "BG"
        ]  # fmt: skip

    first, second = solved("pad001"), solved("pad002")
    assert choose_tables(measurement_set=raw) == second

    settings.CONTIMG_REFERENCE_ANTENNA = "pad001"
    assert choose_tables(measurement_set=raw) == first

    settings.CONTIMG_REFERENCE_ANTENNA = "pad003"  # nobody has solved with it: the newest
    assert choose_tables(measurement_set=raw) == second


def test_cal_1_does_not_pick_up_cal_10():
    table_set("cal_10", hours=0, kinds="G")
    table_set("cal_1", hours=1, kinds="B")

    with pytest.raises(WaitingForCalibration):
        choose_tables(measurement_set=raw_set())

    table_set("cal_10", hours=3, kinds="B")
    assert {table.set_name for table in choose_tables(measurement_set=raw_set())} == {"cal_10"}


def test_a_tile_without_tables_waits_and_says_for_what():
    with pytest.raises(WaitingForCalibration, match=r"waits for calibration: .* 16\.10 deg") as caught:
        choose_tables(measurement_set=raw_set())

    assert (caught.value.code, caught.value.permanent) == ("waiting_for_calibration", False)

    tables = table_set()
    assert choose_tables(measurement_set=raw_set()) == tables


@pytest.mark.parametrize("poor", [["B"], ["G"], ["B", "G"]])
def test_tables_that_failed_their_gate_are_used_only_when_asked(poor):
    tables = table_set()
    CalibrationTable.objects.filter(kind__in=poor).update(grade="poor")

    with pytest.raises(CalibrationGateFailed, match="--lenient"):
        choose_tables(measurement_set=raw_set())
    assert choose_tables(measurement_set=raw_set(), lenient=True) == tables


@pytest.mark.parametrize("grade", ["excellent", "good", "marginal", "unknown"])
def test_any_other_grade_passes_the_gate(grade):
    tables = table_set(grade=grade)

    assert choose_tables(measurement_set=raw_set()) == tables


def test_a_good_set_further_away_is_preferred_to_a_poor_one():
    table_set("poor", hours=0.5, grade="poor")
    good = table_set("good", hours=6)

    assert choose_tables(measurement_set=raw_set()) == good


def test_tables_once_applied_are_kept_although_nearer_ones_came():
    raw = raw_set()
    used = table_set("first", hours=5)
    calibrated = CalibratedSetFactory(calibrated_from=raw)
    for table in used:
        AppliedTableFactory(measurement_set=calibrated, table=table)
    table_set("nearer", hours=1)

    assert choose_tables(measurement_set=raw) == used

    used[0].is_retired = True
    used[0].save()
    assert {table.set_name for table in choose_tables(measurement_set=raw)} == {"nearer"}


def test_lenience_is_said_only_where_it_was_needed():
    good, poor = table_set("good"), table_set("poor", grade="poor")
    flags = poor[0].flag_table

    assert applying_recipe(flag_table=flags, tables=good, lenient=True) == applying_recipe(
        flag_table=flags, tables=good, lenient=False
    )
    assert applying_recipe(flag_table=flags, tables=poor, lenient=True) != applying_recipe(
        flag_table=flags, tables=poor, lenient=False
    )


# --- from files to rows ----------------------------------------------------------------------------------------------
@pytest.fixture
def raw(calibrator_tile, tmp_path, products_root) -> MeasurementSet:
    return recorded(calibrator_tile.files, tmp_path / "calibrator")


def recorded(files, folder: Path) -> MeasurementSet:
    folder.mkdir()
    for path in files:
        shutil.copy(path, folder)
    index_subbands(folder=folder)
    group = SubbandGroup.objects.under(folder).get()
    with workspace() as work:
        converted = make_measurement_set(group=group, folder=work)
        return record_measurement_set(group=group, converted=converted, folder=work)


def flagged(raw: MeasurementSet, calibrator: Calibrator | None = None) -> FlagTable:
    with workspace() as work:
        flagging = make_flags(measurement_set=raw, folder=work)
        return record_flags(measurement_set=raw, flagging=flagging, calibrator=calibrator, folder=work)


def solved(raw: MeasurementSet, image_field=lambda *args: None) -> list[CalibrationTable]:
    match = calibrator_to_solve_on(measurement_set=raw)
    assert match
    with workspace() as work:
        flagging = make_flags(measurement_set=raw, folder=work)
        tables = make_tables(
            measurement_set=raw,
            flags=work / "flags.h5",
            calibrator=match.calibrator,
            folder=work,
            image_field=image_field,
        )
        flags = record_flags(measurement_set=raw, flagging=flagging, calibrator=match.calibrator, folder=work)
        return record_tables(measurement_set=raw, flag_table=flags, calibrator=match.calibrator, solved=tables)


def calibrated(raw: MeasurementSet, flags: FlagTable, tables, *, lenient: bool = False) -> MeasurementSet:
    with workspace() as work:
        applied = make_calibrated_set(measurement_set=raw, flag_table=flags, tables=tables, folder=work)
        return record_calibrated_set(
            measurement_set=raw, flag_table=flags, tables=tables, applied=applied, lenient=lenient, folder=work
        )


def test_the_calibrator_in_the_tile_is_found_with_the_beams_response(raw):
    [match] = calibrators_in(measurement_set=raw)

    assert match.calibrator.name == "3C286"
    assert match.response == pytest.approx(0.965, abs=0.01)
    assert match.apparent_flux_jy == pytest.approx(15.05 * match.response, rel=0.01)


def test_a_tile_without_a_calibrator_has_none_to_solve_on(field_tile, tmp_path):
    science = recorded(field_tile.files, tmp_path / "science")

    assert calibrators_in(measurement_set=science) == []
    assert calibrator_to_solve_on(measurement_set=science) is None


def test_a_retired_calibrator_is_neither_solved_on_nor_subtracted(raw):
    Calibrator.objects.filter(name="3C286").update(is_retired=True)

    assert calibrators_in(measurement_set=raw) == []
    assert calibrator_to_solve_on(measurement_set=raw) is None


def test_a_calibrator_on_the_edge_of_the_beam_is_seen_but_not_solved_on(raw):
    Calibrator.objects.filter(name="3C286").update(dec_deg=30.509155 + 2.0)

    [match] = calibrators_in(measurement_set=raw)
    assert 0.1 < match.response < 0.3
    assert calibrator_to_solve_on(measurement_set=raw) is None


def test_the_tables_are_recorded_with_what_an_operator_asks_about(raw, products_root):
    tables = solved(raw)

    assert [table.kind for table in tables] == ["B", "G"]
    for table in tables:
        table.refresh_from_db()
        assert table.source_measurement_set == raw
        assert table.calibrator.name == "3C286"
        assert table.valid_from == raw.observed_at - timedelta(hours=12)
        assert table.valid_until == raw.observed_at + timedelta(hours=12)
        assert table.dec_deg == pytest.approx(30.37, abs=0.01)
        assert table.reference_antenna.startswith("pad")
        assert (table.solver, table.version) == ("stefcal", "1")
        assert table.metrics["median_snr"] > 100
        assert (products_root / table.path / "table.dat").exists()
        assert table.size_bytes > 1000
    assert tables[0].set_name == tables[1].set_name
    assert choose_tables(measurement_set=raw) == tables
    raw.refresh_from_db()
    assert raw.flagged_fraction == tables[0].flag_table.flagged_fraction


def test_solving_again_gives_the_same_rows(raw):
    first = solved(raw)

    again = solved(raw)

    assert [table.pk for table in again] == [table.pk for table in first]
    assert [table.checksum for table in again] == [table.checksum for table in first]
    assert FlagTable.objects.count() == 1


def test_solving_with_another_reference_antenna_makes_another_set(raw, settings):
    first = solved(raw)
    settings.CONTIMG_REFERENCE_ANTENNA = "pad009"

    second = solved(raw)

    assert CalibrationTable.objects.count() == 4
    assert {table.reference_antenna for table in second} == {"pad009"}
    assert second[0].set_name != first[0].set_name
    assert choose_tables(measurement_set=raw) == second


def test_a_corrected_calibrator_flux_makes_another_set(raw):
    first = solved(raw)
    Calibrator.objects.filter(name="3C286").update(flux_coefficients=[1.26, -0.4507, -0.1798, 0.0357])

    second = solved(raw)

    assert {table.pk for table in second}.isdisjoint(table.pk for table in first)


def test_the_validity_is_the_setting(raw, settings):
    settings.CONTIMG_CALIBRATION_VALIDITY_H = 3

    [bandpass, _] = solved(raw)

    assert bandpass.valid_until - bandpass.valid_from == timedelta(hours=6)


def test_the_field_is_imaged_from_the_first_solution_and_used_in_the_second(raw):
    seen = []

    def image_field(measurement_set, model, pointing_dec_deg, folder):
        seen.append((measurement_set.name, (measurement_set / "table.dat").exists(), model.name, pointing_dec_deg))

    solved(raw, image_field)

    assert seen == [("first.ms", True, "3C286", raw.pointing_dec_deg)]


def test_what_was_applied_to_what_is_recorded(raw, products_root):
    tables = solved(raw)
    flags = tables[0].flag_table

    result = calibrated(raw, flags, tables)

    result.refresh_from_db()
    assert {applied.table for applied in AppliedTable.objects.filter(measurement_set=result)} == set(tables)
    assert (result.calibrated_from, result.group) == (raw, raw.group)
    assert (result.is_calibrated, result.is_lenient, result.is_current) == (True, False, True)
    assert result.parameters == {"antennas_missing_in_tables": []}
    assert (products_root / result.path).exists()
    assert (products_root / raw.path).exists()
    raw.refresh_from_db()
    assert raw.is_current


def test_applying_again_gives_the_same_row(raw):
    tables = solved(raw)
    first = calibrated(raw, tables[0].flag_table, tables)

    again = calibrated(raw, tables[0].flag_table, tables)

    assert (again.pk, again.checksum) == (first.pk, first.checksum)
    assert AppliedTable.objects.count() == 2


def test_applying_other_tables_makes_a_new_current_set(raw):
    tables = solved(raw)
    first = calibrated(raw, tables[0].flag_table, tables)
    CalibrationTable.objects.update(grade="poor")
    poor = list(CalibrationTable.objects.order_by("kind"))

    second = calibrated(raw, tables[0].flag_table, poor, lenient=True)

    first.refresh_from_db()
    assert (first.is_current, second.is_current) == (False, True)
    assert (first.is_lenient, second.is_lenient) == (False, True)


@pytest.mark.parametrize("recipe", ["flag", "solve B", "solve G", "apply"])
def test_a_recipe_follows_its_inputs_and_nothing_else(recipe):
    def recipes(measurement_set: MeasurementSet, table: CalibrationTable) -> str:
        flags, calibrator = table.flag_table, table.calibrator
        return {
            "flag": lambda: flagging_recipe(measurement_set),
            "solve B": lambda: solving_recipe(flag_table=flags, calibrator=calibrator, kind="B"),
            "solve G": lambda: solving_recipe(flag_table=flags, calibrator=calibrator, kind="G"),
            "apply": lambda: applying_recipe(flag_table=flags, tables=[table], lenient=False),
        }[recipe]()

    measurement_set, table = raw_set(), table_set()[0]
    before = recipes(measurement_set, table)
    measurement_set.path, measurement_set.flagged_fraction = "elsewhere.ms", 0.7
    table.grade, table.flag_table.path = "poor", "elsewhere.h5"
    assert recipes(measurement_set, table) == before

    measurement_set.recipe = table.recipe = table.flag_table.recipe = "other"
    assert recipes(measurement_set, table) != before
