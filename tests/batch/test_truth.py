"""The judge of the pipeline, judged on rows made by hand."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from django.core.management import CommandError, call_command

from batch.management.commands.compare_with_truth import limits, summarise
from batch.truth import TileTruth, Variability, compare, compare_variables, robust_std
from images.models import Image
from observations.engines.simulator import SkySource
from tests.factories import ImageFactory, MeasurementFactory, SourceFactory
from tests.sources.skies import offset, wcs_of

RA, DEC = 200.0, 30.0
BEAM_ARCSEC = 30.0
RMS = 0.001
SIZE_PX = 600  # of 6 arcsec: half a degree to each side
STARTED_AT = datetime(2026, 3, 20, 6, 0, 0, 123456, tzinfo=UTC)


def at(east_arcsec: float, north_arcsec: float) -> tuple[float, float]:
    return offset(RA, DEC, east_arcsec, north_arcsec)


def source(sigma: float, place: tuple[float, float], *, scale: float = 1.0, name: str = "s") -> SkySource:
    """A point source whose flux is so many times the noise of the image where the beam is one."""
    return SkySource(name, *place, flux_jy=sigma * RMS / scale, scale=scale)


@pytest.fixture
def image(db, products_root: Path) -> Image:
    """A tile whose beam is 1 but for a strip in the west, where it is 0.5, then 0.09, then blank."""
    beam = np.ones((SIZE_PX, SIZE_PX), np.float32)
    beam[:, 450:] = 0.5
    beam[:, 500:] = 0.09
    beam[:, 550:] = np.nan
    fits.PrimaryHDU(beam, wcs_of(RA, DEC, SIZE_PX).to_header()).writeto(products_root / "pb.fits")
    return ImageFactory(
        name="2026-03-20T06:00:00",
        ra_deg=RA,
        dec_deg=DEC,
        frequency_hz=1.4e9,
        bmaj_arcsec=BEAM_ARCSEC,
        rms_jy_per_beam=RMS,
        thermal_rms_jy_per_beam=0.8 * RMS,
        peak_jy_per_beam=0.2,
        primary_beam_path="pb.fits",
        grade="good",
    )


def truth_file(folder: Path, *tiles: dict) -> Path:
    path = folder / "truth.json"
    path.write_text(json.dumps({"tiles": tiles}))
    return path


def tile(*sources: SkySource, started_at: datetime = STARTED_AT, damage=()) -> dict:
    return {
        "started_at": started_at.isoformat(),
        "damage": list(damage),
        "sources": [dataclasses.asdict(source) for source in sources],
    }


def detected(image: Image, place: tuple[float, float], flux_jy: float = 0.02, snr: float = 20.0) -> None:
    MeasurementFactory(
        image=image,
        source=SourceFactory(ra_deg=place[0], dec_deg=place[1]),
        is_forced=False,
        flux_jy=flux_jy,
        peak_jy_per_beam=snr * RMS,
        rms_jy_per_beam=RMS,
    )


def compared(folder: Path, *sources: SkySource) -> TileTruth:
    (row,) = compare(truth_file(folder, tile(*sources)))
    return row


def test_a_row_says_what_the_image_says(image, tmp_path):
    (row,) = compare(truth_file(tmp_path, tile(damage=["dead antennas"])))
    assert (row.name, row.grade, row.damage) == ("2026-03-20T06:00:00", "good", ("dead antennas",))
    assert row.rms_mjy == pytest.approx(1.0)
    assert row.rms_over_thermal == pytest.approx(1.25)
    assert row.dynamic_range == pytest.approx(200)


def test_only_tiles_with_a_current_image_are_compared(image, tmp_path):
    other = datetime(2026, 3, 20, 7, tzinfo=UTC)
    assert len(compare(truth_file(tmp_path, tile(), tile(started_at=other)))) == 1
    Image.objects.update(is_current=False)
    assert compare(truth_file(tmp_path, tile())) == []


@pytest.mark.parametrize(
    ("sigma", "band"),
    [(10.01, "above 10"), (9.99, "7 to 10"), (7.01, "7 to 10"), (6.99, "5 to 7"), (5.01, "5 to 7"), (4.99, None)],
)
def test_a_source_is_expected_in_the_band_of_its_true_signal_to_noise(image, tmp_path, sigma, band):
    place = at(0, 0)
    detected(image, place)
    row = compared(tmp_path, source(sigma, place))
    assert [name for name, n in row.n_expected.items() if n] == ([band] if band else [])
    assert row.n_found == row.n_expected


@pytest.mark.parametrize(
    ("west_arcsec", "expected"),
    [(0, "above 10"), (1050, "5 to 7"), (1350, None), (1650, None), (3600, None)],
    ids=["where the beam is 1", "where it is a half", "below a tenth", "blank", "outside"],
)
def test_the_primary_beam_dims_what_is_expected(image, tmp_path, west_arcsec, expected):
    row = compared(tmp_path, source(12, at(-west_arcsec, 0)))
    assert [name for name, n in row.n_expected.items() if n] == ([expected] if expected else [])


@pytest.mark.parametrize(("distance_beams", "n_found"), [(0.0, 1), (0.69, 1), (0.71, 0)])
def test_a_detection_within_seven_tenths_of_a_beam_is_that_source(image, tmp_path, distance_beams, n_found):
    detected(image, at(0, distance_beams * BEAM_ARCSEC))
    row = compared(tmp_path, source(20, at(0, 0)))
    assert (row.n_expected["above 10"], row.n_found["above 10"]) == (1, n_found)
    assert len(row.ratios) == n_found


def test_ratios_and_offsets_are_of_the_nearest_detection_and_have_the_error_their_noise_predicts(image, tmp_path):
    place = at(100, -200)
    detected(image, offset(*place, 0.4, -0.3), flux_jy=0.044)
    detected(image, offset(*place, 9.0, 0), flux_jy=0.01)
    row = compared(tmp_path, source(40, place))
    assert row.ratios == [pytest.approx(1.1)]
    assert row.ratio_errors == [pytest.approx(1 / 40)]
    assert row.ra_offsets_arcsec == [pytest.approx(0.4, abs=1e-3)]
    assert row.dec_offsets_arcsec == [pytest.approx(-0.3, abs=1e-3)]


def test_ratios_are_of_sources_above_ten_sigma_only(image, tmp_path):
    detected(image, at(0, 0))
    assert compared(tmp_path, source(9, at(0, 0))).ratios == []


@pytest.mark.parametrize(
    ("sigma", "distance_beams", "snr", "n_false", "n_false_above_6"),
    [
        (3.1, 0.99, 7, 0, 0),
        (3.1, 1.01, 7, 1, 1),
        (2.9, 0.0, 7, 1, 1),
        (2.9, 0.0, 5.9, 1, 0),
        (2.9, 0.0, 6.1, 1, 1),
    ],
)
def test_a_detection_is_false_with_no_source_above_three_sigma_within_a_beam(
    image, tmp_path, sigma, distance_beams, snr, n_false, n_false_above_6
):
    detected(image, at(distance_beams * BEAM_ARCSEC, 0), snr=snr)
    row = compared(tmp_path, source(sigma, at(0, 0)))
    assert (row.n_false, row.n_false_above_6) == (n_false, n_false_above_6)


@pytest.mark.parametrize(
    ("sigma", "scale", "away_arcsec", "counts"),
    [
        (20, 1.0, 0, True),
        (20, 1.4, 0, False),
        (29.9, 1.0, 0, True),
        (30.1, 1.0, 0, False),
        (3.1, 1.0, 0, True),
        (2.9, 1.0, 0, False),
        (20, 1.0, 20.9, True),
        (20, 1.0, 21.1, False),
    ],
)
def test_a_forced_flux_of_a_faint_constant_source_is_held_against_its_own_error(
    image, tmp_path, sigma, scale, away_arcsec, counts
):
    place = at(0, away_arcsec)
    MeasurementFactory(
        image=image,
        source=SourceFactory(ra_deg=place[0], dec_deg=place[1]),
        flux_jy=sigma * RMS + 0.0015,
        flux_err_jy=0.001,
    )
    row = compared(tmp_path, source(sigma, at(0, 0), scale=scale))
    assert row.forced_pulls == ([pytest.approx(1.5)] if counts else [])


def test_an_image_without_a_beam_or_noise_finds_nothing(image, tmp_path):
    detected(image, at(0, 0))
    Image.objects.update(bmaj_arcsec=None)
    assert compared(tmp_path, source(20, at(0, 0))).n_found["above 10"] == 0
    Image.objects.update(rms_jy_per_beam=None, thermal_rms_jy_per_beam=None)
    row = compared(tmp_path, source(20, at(0, 0)))
    assert np.isnan([row.rms_mjy, row.rms_over_thermal, row.dynamic_range]).all()


def test_variable_sources_are_found_missed_or_wrongly_called(db, tmp_path):
    hit, missed, constant = at(0, 0), at(300, 0), at(0, 300)
    truth = truth_file(
        tmp_path,
        tile(source(50, hit, scale=1.4), source(50, missed, scale=0.7), source(50, constant)),
        tile(source(50, hit, scale=0.6), source(50, missed, scale=1.3), source(50, constant)),
    )
    SourceFactory(name="DSA hit", is_variable=True, **place_of(offset(*hit, 5, 0)))
    SourceFactory(name="DSA missed", is_variable=False, **place_of(missed))
    SourceFactory(name="DSA constant", is_variable=True, **place_of(constant))
    found = compare_variables(truth)
    assert sorted(found.found) == ["DSA constant", "DSA hit"]
    assert (found.missed, found.wrong) == (1, 1)


def place_of(place: tuple[float, float]) -> dict[str, float]:
    return {"ra_deg": place[0], "dec_deg": place[1]}


def test_the_robust_standard_deviation_is_that_of_normal_numbers_and_ignores_a_few_wild_ones():
    values = np.random.default_rng(1).normal(3, 2, 10_000).tolist()
    assert robust_std(values) == pytest.approx(2, rel=0.03)
    assert robust_std([*values, *[1e9] * 100]) == pytest.approx(2, rel=0.05)
    assert np.isnan(robust_std([]))


# --- the summary and its limits -----------------------------------------------------------------------------------
def perfect(**changes) -> TileTruth:
    """Sixty detections scattered as their noise predicts."""
    noise = np.random.default_rng(1).normal(0, 0.02, 60)
    row = TileTruth(
        name="t",
        grade="good",
        rms_mjy=1.0,
        rms_over_thermal=1.3,
        dynamic_range=500.0,
        damage=(),
        n_expected={"above 10": 60, "7 to 10": 20, "5 to 7": 4},
        n_found={"above 10": 60, "7 to 10": 19, "5 to 7": 2},
        ratios=(1 + noise - np.median(noise)).tolist(),
        ratio_errors=[0.02] * 60,
        ra_offsets_arcsec=[0.1, -0.1],
        dec_offsets_arcsec=[0.0, 0.0],
        forced_pulls=[-0.7, 0.7, 0.0],
    )
    return dataclasses.replace(row, **changes)


NOTHING_VARIES = Variability((), 0, 0)


def test_the_figures_are_of_all_tiles_together():
    tiles = [
        perfect(n_false=1, ra_offsets_arcsec=[0.4]),
        perfect(ratios=[2.0], ratio_errors=[0.1], ra_offsets_arcsec=[-0.2], n_false_above_6=1),
    ]
    figures = summarise(tiles, Variability(("DSA a",), 2, 3))
    assert figures["n_sources"] == 61
    assert figures["ra_offset_arcsec"] == pytest.approx(0.1)
    assert figures["found_of_expected"]["7 to 10"] == (38, 40)
    assert (figures["most_false_in_a_tile"], figures["false_above_6_sigma"]) == (1, 1)
    assert (figures["variables_found"], figures["variables_missed"], figures["constant_called_variable"]) == (
        ["DSA a"],
        2,
        3,
    )


def test_what_is_within_every_limit_says_so():
    summary = summarise([perfect()], NOTHING_VARIES)
    assert summary["is_within_limits"], summary["limits"]
    json.dumps(summary)


def test_without_any_detection_the_figures_are_not_within_their_limits():
    nothing = perfect(ratios=[], ratio_errors=[], ra_offsets_arcsec=[], dec_offsets_arcsec=[], forced_pulls=[])
    summary = summarise([nothing], NOTHING_VARIES)
    assert not summary["is_within_limits"]
    assert [limit for limit, met in summary["limits"].items() if not met] == [
        *list(summary["limits"])[:3],
        *list(summary["limits"])[-2:],
    ]


FIGURES = {
    "n_sources": 60,
    "flux_ratio_median": 1.0,
    "flux_ratio_scatter_over_predicted": 1.0,
    "ra_offset_arcsec": 0.0,
    "dec_offset_arcsec": 0.0,
    "found_of_expected": {"above 10": (50, 50), "7 to 10": (20, 20), "5 to 7": (0, 9)},
    "most_false_in_a_tile": 0,
    "false_above_6_sigma": 0,
    "forced_pull_std": 1.0,
    "n_forced_pulls": 40,
    "variables_missed": 0,
    "constant_called_variable": 0,
}
# A figure, values within its limit, values outside of it, and a word of the limit's name.
LIMITS = [
    ("flux_ratio_median", [0.981, 1.019], [0.979, 1.021, float("nan")], "flux ratio"),
    ("flux_ratio_scatter_over_predicted", [0.2, 1.3], [1.301, float("nan")], "scatter within"),
    ("ra_offset_arcsec", [-0.499, 0.499], [-0.5, 0.5], "mean offset"),
    ("dec_offset_arcsec", [-0.499, 0.499], [-0.5, 0.5], "mean offset"),
    ("most_false_in_a_tile", [1], [2], "false detection"),
    ("false_above_6_sigma", [0], [1], "false detection"),
    ("forced_pull_std", [0.7, 1.4], [0.699, 1.401, float("nan")], "(flux - truth)"),
    ("variables_missed", [0], [1], "variable"),
    ("constant_called_variable", [0], [1], "variable"),
    ("above 10", [(50, 50), (0, 0)], [(49, 50)], "above 10"),
    ("7 to 10", [(19, 20), (0, 0)], [(18, 20)], "7 to 10"),
    ("5 to 7", [(0, 9)], [], ""),
]


def changed(name: str, value) -> dict:
    if name in FIGURES["found_of_expected"]:
        return {**FIGURES, "found_of_expected": {**FIGURES["found_of_expected"], name: value}}
    return {**FIGURES, name: value}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, good, _, _ in LIMITS for value in good])
def test_a_figure_within_its_limit_is_met(name, value):
    assert all(limits(changed(name, value)).values())


@pytest.mark.parametrize(
    ("name", "value", "word"), [(name, value, word) for name, _, bad, word in LIMITS for value in bad]
)
def test_a_figure_outside_of_its_limit_misses_that_limit_and_no_other(name, value, word):
    (missed,) = [limit for limit, met in limits(changed(name, value)).items() if not met]
    assert word in missed


def test_what_was_not_measured_is_never_within_its_limit():
    nothing = {**FIGURES, "n_sources": 0, "n_forced_pulls": 0, "forced_pull_std": float("nan")}
    assert sum(not met for met in limits(nothing).values()) == 2


# --- the command -----------------------------------------------------------------------------------------------------
def test_a_truth_file_that_is_not_there_is_one_sentence(db, tmp_path):
    with pytest.raises(CommandError, match=r"truth\.json is not there"):
        call_command("compare_with_truth", tmp_path / "truth.json")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not JSON"),
        (b"tiles: none", "is not JSON"),
        (b"\x89HDF\r\n\xff\xfe", "is not JSON"),
        (b"[]", "no truth file"),
        (b"7", "no truth file"),
        (b'{"tiles": 7}', "no truth file"),
        (b'{"tiles": [{"started_at": "2026-03-20T06:00:00"}]}', "no truth file"),
        (b'{"tiles": [{"started_at": "yesterday", "damage": [], "sources": []}]}', "no truth file"),
        (b'{"tiles": [{"started_at": "2026-03-20T06:00:00", "damage": [], "sources": [{"x": 1}]}]}', "no truth file"),
    ],
)
def test_what_is_no_truth_file_is_one_sentence(db, tmp_path, content, said):
    path = tmp_path / "some.json"
    path.write_bytes(content)
    with pytest.raises(CommandError, match=said) as caught:
        call_command("compare_with_truth", path)
    assert str(caught.value).startswith("some.json ")
    assert "[invalid_input]" in str(caught.value)


def test_before_anything_was_processed_it_says_what_to_run(db, tmp_path):
    with pytest.raises(CommandError, match="run `process`"):
        call_command("compare_with_truth", truth_file(tmp_path, tile()))


def test_the_table_names_each_tile_its_damage_and_each_limit_and_a_miss_is_an_exit_status(image, tmp_path):
    truth = truth_file(tmp_path, tile(source(20, at(0, 0)), damage=["heavy interference"]))
    out = StringIO()
    with pytest.raises(SystemExit) as end:
        call_command("compare_with_truth", truth, stdout=out)
    assert end.value.code == 1
    text = out.getvalue()
    assert "2026-03-20T06:00:00  good" in text
    assert "heavy interference" in text
    assert "MISS all above 10 sigma found" in text
    assert "ok   at most one false detection" in text


def test_within_every_limit_the_exit_status_is_zero(image, tmp_path):
    places = [at(east, north) for east in (-300, 0, 300) for north in (-300, 0, 300)]
    chance = np.random.default_rng(2)
    for place, deviation in zip(places, np.linspace(-1, 1, 9), strict=True):
        detected(image, offset(*place, *chance.normal(0, 0.1, 2)), flux_jy=0.02 * (1 + deviation / 40))
        forced = SourceFactory(ra_deg=place[0], dec_deg=place[1])
        MeasurementFactory(image=image, source=forced, flux_jy=0.02 + deviation * 0.0013, flux_err_jy=0.001)
    out = StringIO()
    call_command("compare_with_truth", truth_file(tmp_path, tile(*(source(20, p) for p in places))), stdout=out)
    assert "9 detections above 10 sigma: flux ratio 1.000" in out.getvalue()
    assert "MISS" not in out.getvalue()


def test_places_are_where_we_say(image):
    east = SkyCoord(*at(100, 0), unit="deg")
    assert SkyCoord(RA * u.deg, DEC * u.deg).spherical_offsets_to(east)[0].arcsec == pytest.approx(100, rel=1e-6)
