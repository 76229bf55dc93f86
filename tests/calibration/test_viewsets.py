from __future__ import annotations

import io
import math
import shutil
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from casacore.tables import table as casacore_table
from PIL import Image as Picture

from calibration.engines.caltable import Solution, write_table
from calibration.engines.solutions_plot import draw as draw_solutions
from calibration.services import next_transits
from observations.engines.measurement_set import read_header
from observations.telescope import meridian_icrs, next_transit
from tests.contimg.api.test_filters import errors
from tests.factories import (
    AntennaFlagFactory,
    AssessmentFactory,
    CalibratedSetFactory,
    CalibrationTableFactory,
    CalibratorFactory,
    FindingFactory,
    FlagTableFactory,
    MeasurementSetFactory,
)
from tests.science import column, edited

TABLES = "/api/v1/calibration-tables/"


@pytest.mark.django_db
def test_tables_valid_at_a_time_are_found_at_both_ends_of_their_interval(api):
    table = CalibrationTableFactory()

    def found(time):
        return [row["id"] for row in api.get(TABLES, {"valid_at": time.isoformat()}).json()["results"]]

    assert found(table.valid_from) == found(table.valid_until) == [table.pk]
    assert found(table.valid_until.replace(year=2030)) == []


@pytest.mark.django_db
def test_tables_are_found_by_the_calibrator_s_name_or_id(api):
    table, other = CalibrationTableFactory(calibrator__name="4C 1"), CalibrationTableFactory(calibrator__name="4C 2")

    def found(calibrator):
        return [row["id"] for row in api.get(TABLES, {"calibrator": calibrator}).json()["results"]]

    assert found("4C 1") == found("4c 1") == found(str(table.calibrator_id)) == [table.pk]
    assert found(str(other.calibrator_id)) == [other.pk]
    assert found("4C") == found("9" * 30) == []


@pytest.mark.django_db
def test_a_table_is_shown_with_its_current_verdict(api):
    table = CalibrationTableFactory()
    verdict = AssessmentFactory(image=None, calibration_table=table)
    FindingFactory(assessment=verdict, rule="snr")
    detail = api.get(f"{TABLES}{table.pk}/").json()
    assert detail["assessment"]["id"] == verdict.pk
    assert [finding["rule"] for finding in detail["assessment"]["findings"]] == ["snr"]
    assert detail["source_measurement_set"]["id"] == table.source_measurement_set_id
    assert detail["calibrator"] == table.calibrator.name
    assert (detail["solver"], detail["metrics"]) == ("stefcal", {"snr": 40.0})


@pytest.mark.django_db
def test_a_calibrator_has_its_flux_model_and_paper(api):
    calibrator = CalibratorFactory(name="PKS 1934")
    (row,) = api.get("/api/v1/calibrators/", {"name": "pks 1934"}).json()["results"]
    assert row["reference"].startswith("Perley")
    detail = api.get(f"/api/v1/calibrators/{calibrator.pk}/").json()
    assert detail["flux_coefficients"][0] == 1.2481


# --- transits ---------------------------------------------------------------------------------------------------------
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def transiting(api, time):
    response = api.get("/api/v1/calibrators/", {"transiting_at": time.isoformat()})
    assert response.status_code == 200, response.content
    return {row["name"] for row in response.json()["results"]}


@pytest.mark.django_db
@pytest.mark.parametrize("dec_deg", [-30.0, 0.0, 16.3, 54.6, 80.0])
def test_calibrators_within_the_beam_of_the_meridian_are_transiting(api, dec_deg):
    (ra,), (dec,) = meridian_icrs([NOON], [dec_deg])
    across = math.cos(math.radians(dec))
    for name, off in (("on it", 0), ("before", 1.3), ("after", -1.3), ("too early", 1.45), ("too late", -1.45)):
        CalibratorFactory(name=name, ra_deg=(ra + off / across) % 360, dec_deg=dec)
    CalibratorFactory(name="below the pole", ra_deg=(ra + 180) % 360, dec_deg=dec)
    assert transiting(api, NOON) == {"on it", "before", "after"}


@pytest.mark.django_db
def test_next_transits_are_when_the_meridian_is_there(api):
    (ra,), (dec,) = meridian_icrs([NOON], [30.0])
    calibrator = CalibratorFactory(ra_deg=ra, dec_deg=dec)
    assert abs(next_transit(ra, dec, NOON - timedelta(hours=5)) - NOON) <= timedelta(seconds=1)
    times = next_transits(calibrator=calibrator, after=NOON + timedelta(minutes=1))
    day = timedelta(seconds=86_164.09)
    assert [abs(time - NOON - n * day) < timedelta(seconds=2) for n, time in enumerate(times, 1)] == [True] * 3
    shown = api.get(f"/api/v1/calibrators/{calibrator.pk}/").json()["next_transits"]
    assert len(shown) == 3
    assert transiting(api, datetime.fromisoformat(shown[0])) == {calibrator.name}


@pytest.mark.django_db
def test_a_time_of_transit_that_is_none_is_refused(api):
    assert api.get("/api/v1/calibrators/", {"transiting_at": "tonight"}).status_code == 400


# --- the antennas of a set --------------------------------------------------------------------------------------------
@pytest.fixture
def raw_set(db, calibrator_tile, products_root):
    shutil.copytree(calibrator_tile.path, products_root / "raw.ms")
    names = read_header(calibrator_tile.path).antenna_names
    return MeasurementSetFactory(path="raw.ms", antennas=list(names[1:]), flagged_fraction=0.25)


def antennas(api, measurement_set):
    response = api.get(f"/api/v1/measurement-sets/{measurement_set.pk}/antennas/")
    assert response.status_code == 200, response.content
    assert response.headers["ETag"]
    return response.json()


def test_the_antennas_of_a_raw_set_have_their_places_and_the_fractions_of_its_flag_table(api, raw_set, products_root):
    header = read_header(products_root / "raw.ms")
    names = header.antenna_names
    FlagTableFactory(measurement_set=raw_set, flagged_fraction=0.5, antenna_fractions={names[1]: 0.9})
    table = FlagTableFactory(measurement_set=raw_set, flagged_fraction=0.25, antenna_fractions={names[1]: 0.75})
    flag = AntennaFlagFactory(antenna=names[1], started_at=raw_set.observed_at)
    everywhere = AntennaFlagFactory(antenna="", started_at=raw_set.observed_at)
    AntennaFlagFactory(antenna=names[1], started_at=raw_set.observed_at + timedelta(hours=1))
    AntennaFlagFactory(antenna=names[1], started_at=raw_set.observed_at, withdrawn_at=raw_set.observed_at)
    found = antennas(api, raw_set)
    assert (found["measurement_set"], found["flag_table"]) == (raw_set.pk, table.pk)
    assert [row["name"] for row in found["antennas"]] == list(names)
    for number, row in enumerate(found["antennas"]):
        assert row["number"] == number
        assert row["itrf_m"] == pytest.approx(header.antenna_positions_m[number].tolist(), abs=1e-6)
    first, second = found["antennas"][:2]
    assert (first["has_data"], first["flagged_fraction"]) == (False, None)
    assert (second["has_data"], second["flagged_fraction"]) == (True, 0.75)
    assert [row["id"] for row in second["staff_flags"]] == [flag.pk, everywhere.pk]
    assert [row["id"] for row in first["staff_flags"]] == [everywhere.pk]


@pytest.mark.django_db
def test_flags_that_no_table_has_are_counted_in_the_set(api, calibrator_tile, products_root, tmp_path):
    def third_is_dead(flags, antenna1, antenna2):
        flags[(antenna1 == 2) | (antenna2 == 2)] = True
        return flags

    shutil.move(edited(calibrator_tile.path, tmp_path, FLAG=third_is_dead), products_root / "calibrated.ms")
    calibrated = CalibratedSetFactory(path="calibrated.ms")
    FlagTableFactory(measurement_set=calibrated.calibrated_from, antenna_fractions={"x": 0.1})
    found = antennas(api, calibrated)
    flags, antenna1, antenna2 = (
        column(products_root / "calibrated.ms", name) for name in ("FLAG", "ANTENNA1", "ANTENNA2")
    )
    assert found["flag_table"] is None
    assert found["antennas"][2]["flagged_fraction"] == 1
    for number, row in enumerate(found["antennas"]):
        own = (antenna1 != antenna2) & ((antenna1 == number) | (antenna2 == number))
        assert row["flagged_fraction"] == pytest.approx(flags[own].mean())


@pytest.mark.parametrize("spoil", ["delete", "empty", "truncate"])
def test_a_set_that_is_gone_is_410_and_a_broken_one_is_named_without_its_place(api, raw_set, products_root, spoil):
    place = products_root / "raw.ms"
    if spoil == "truncate":
        (place / "ANTENNA" / "table.dat").write_bytes(b"x")
    else:
        shutil.rmtree(place)
    if spoil == "empty":
        place.mkdir()
    response = api.get(f"/api/v1/measurement-sets/{raw_set.pk}/antennas/")
    expected = (410, "missing_product") if spoil == "delete" else (422, "rendition_failed")
    assert (response.status_code, response.json()["code"]) == expected
    assert str(products_root.parent) not in response.content.decode()
    assert "Traceback" not in response.content.decode()


def test_antennas_take_no_parameter(api, raw_set):
    url = f"/api/v1/measurement-sets/{raw_set.pk}/antennas/"
    assert errors(api.get(url, {"antenna": "1"})) == {"antenna": "unknown_parameter"}
    assert api.get("/api/v1/measurement-sets/0/antennas/").status_code == 404


# --- solutions -------------------------------------------------------------------------------------------------------
def picture_of(api, table):
    response = api.get(f"{TABLES}{table.pk}/solutions.png")
    assert (response.status_code, response.headers["Content-Type"]) == (200, "image/png")
    return np.asarray(Picture.open(io.BytesIO(b"".join(response.streaming_content))).convert("RGB"))


@pytest.mark.django_db
@pytest.mark.parametrize("kind", ["B", "G"])
def test_solutions_are_drawn_and_flagged_antennas_are_marked(api, calibrator_tables, products_root, kind):
    (source,) = [table.path for table in calibrator_tables.tables if table.kind == kind]
    shutil.copytree(source, products_root / "whole.cal")
    shutil.copytree(source, products_root / "flagged.cal")
    with casacore_table(str(products_root / "flagged.cal"), readonly=False, ack=False) as main:
        flags = main.getcol("FLAG")
        flags[2] = True
        main.putcol("FLAG", flags)
    grey = {}
    for name in ("whole", "flagged"):
        table = CalibrationTableFactory(path=f"{name}.cal", kind=kind)
        pixels = picture_of(api, table)
        assert min(pixels.shape[:2]) >= 300
        assert (pixels == (0x0B, 0x53, 0x94)).all(axis=2).any()
        grey[name] = (pixels == 0xEC).all(axis=2).sum()
        etag = api.get(f"{TABLES}{table.pk}/solutions.png").headers["ETag"]
        assert api.get(f"{TABLES}{table.pk}/solutions.png", headers={"if-none-match": etag}).status_code == 304
    assert grey["flagged"] > grey["whole"] + 3000


@pytest.mark.parametrize("every", [True, False])
def test_a_full_array_is_drawn_also_when_all_is_flagged(tmp_path, calibrator_tile, every):
    header = read_header(calibrator_tile.path)
    shape = (len(header.antenna_names), header.frequency_hz.size, 2)
    flags = np.full(shape, every)
    solution = Solution(gains=np.ones(shape, np.complex64), flags=flags, snr=np.ones(shape, np.float32))
    write_table(tmp_path / "t.cal", "B", solution, header, 0, "3C286")
    draw_solutions(out=tmp_path / "t.png", path=str(tmp_path / "t.cal"), name="$odd^name")
    assert Picture.open(tmp_path / "t.png").format == "PNG"


@pytest.mark.django_db
@pytest.mark.parametrize("spoil", ["delete", "truncate"])
def test_a_table_that_is_gone_is_410_and_a_broken_one_is_named(api, calibrator_tables, products_root, spoil):
    shutil.copytree(calibrator_tables.tables[0].path, products_root / "t.cal")
    table = CalibrationTableFactory(path="t.cal")
    if spoil == "delete":
        shutil.rmtree(products_root / "t.cal")
    else:
        (products_root / "t.cal" / "table.f0").write_bytes(b"")
        (products_root / "t.cal" / "table.dat").write_bytes(b"x")
    response = api.get(f"{TABLES}{table.pk}/solutions.png")
    expected = (410, "missing_product") if spoil == "delete" else (422, "rendition_failed")
    assert (response.status_code, response.json()["code"]) == expected
    assert str(products_root.parent) not in response.content.decode()
    assert errors(api.get(f"{TABLES}{table.pk}/solutions.png?x=1")) == {"x": "unknown_parameter"}
