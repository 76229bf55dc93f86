"""What policy version 2 says of a tile's own pixels, antennas and flags, on both sides of each limit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from qa.services import assess_calibration_table, assess_image
from qa.tiles import measured_of_tile
from tests.factories import CalibratedSetFactory, CalibrationTableFactory, ImageFactory, MosaicFactory

pytestmark = pytest.mark.django_db

N_ANTENNAS = 40
ERROR = 0.03


def gains(changed: dict[int, float] | None = None, *, error: float = ERROR) -> list[dict]:
    """Those of a healthy array, but for what is `changed`: amplitudes by number."""
    found = []
    for number in range(N_ANTENNAS):
        amplitude = (changed or {}).get(number, 1.0)
        found.append(
            {
                "antenna": f"pad{number}", "polarization": "X", "amplitude": amplitude, "phase_deg": 0.0,
                "off": abs(amplitude - 1), "error": error, "mean_amplitude": amplitude,
            }
        )  # fmt: skip
    return found


def tile(**metrics):
    """Of 1.25 Jy over 0.5 mJy, healthy but for `metrics`."""
    healthy = {"lowest_jy_per_beam": -0.0025, "antenna_gains": gains()}
    return ImageFactory(peak_jy_per_beam=1.25, rms_jy_per_beam=0.0005, grade="unknown", metrics={**healthy, **metrics})


def objections(assessment) -> dict[str, str]:
    return dict(assessment.findings.filter(outcome__in=["warn", "fail"]).values_list("rule", "where"))


EDGES = [
    # 6 sigma are 3 mJy
    ("sky_negative", {"lowest_jy_per_beam": -0.128}, {"lowest_jy_per_beam": -0.1281}),
    ("sky_imbalanced", {"lowest_jy_per_beam": -0.628}, {"lowest_jy_per_beam": -0.6281}),
    # 5 errors of 0.03 are 0.15
    ("antenna_gain_off", {"antenna_gains": gains({7: 1.2499})}, {"antenna_gains": gains({7: 1.2501})}),
    ("antenna_gain_off", {"antenna_gains": gains({7: 0.7501})}, {"antenna_gains": gains({7: 0.7499})}),
    # a fifth of a are 0.4 a in standard deviation; the errors of 0.015 are taken out in quadrature
    (
        "antenna_gains_scatter",
        {"antenna_gains": gains(dict.fromkeys(range(8), 1.1545))},
        {"antenna_gains": gains(dict.fromkeys(range(8), 1.1547))},
    ),
]


@pytest.mark.parametrize(("rule", "inside", "outside"), EDGES)
def test_a_value_on_either_side_of_a_limit(rule, inside, outside):
    assert rule not in objections(assess_image(image=tile(**inside)))
    assert rule in objections(assess_image(image=tile(**outside)))


def test_a_healthy_tile_raises_no_objection():
    assert objections(assess_image(image=tile())) == {}


def test_exchanged_feeds_and_a_jump_of_a_fifth_are_told_with_their_antennas():
    swapped = objections(assess_image(image=tile(antenna_gains=gains({7: 0.3}))))
    assert swapped["antenna_gain_off"] == "antenna pad7"
    jumped = objections(assess_image(image=tile(antenna_gains=gains(dict.fromkeys(range(8), 1.3)))))
    assert jumped == {"antenna_gain_off": "antenna pad0 and 7 others", "antenna_gains_scatter": ""}


@pytest.mark.parametrize(("error", "is_judged"), [(0.1, True), (0.1001, False)])
def test_a_dim_field_says_nothing_of_its_antennas(error, is_judged):
    measured = measured_of_tile(tile(antenna_gains=gains(error=error)))
    assert (measured.metrics["worst_antenna_gain_off"] is not None) is is_judged
    assert ("too little of the sky" in measured.skipped.get("worst_antenna_gain_off", "")) is not is_judged


def test_what_is_no_tile_or_was_not_looked_at_says_so():
    names = {"negative_excess_over_peak", "worst_antenna_gain_off", "antenna_gain_scatter"}
    old = measured_of_tile(ImageFactory(metrics={}))
    assert (set(old.skipped), {"by a version" in why for why in old.skipped.values()}) == (names, {True})
    assert "only a tile" in measured_of_tile(MosaicFactory()).skipped["worst_antenna_gain_off"]
    assert set(measured_of_tile(tile(antenna_gains=[])).skipped) == names - {"negative_excess_over_peak"}


@pytest.mark.parametrize(("n_before", "flagged", "is_warned"), [(5, 0.15, False), (5, 0.1501, True), (4, 0.9, False)])
def test_a_tile_with_more_flags_than_its_strip_warns(n_before, flagged, is_warned):
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for hours in range(n_before):
        ImageFactory(
            measurement_set=CalibratedSetFactory(flagged_fraction=0.05), grade="good",
            observed_at=start + timedelta(hours=hours), pointing_dec_deg=16.0,
        )  # fmt: skip
    last = ImageFactory(
        measurement_set=CalibratedSetFactory(flagged_fraction=flagged),
        observed_at=start + timedelta(days=1), pointing_dec_deg=16.0,
    )  # fmt: skip
    assert ("data_flagged" in objections(assess_image(image=last))) is is_warned


@pytest.mark.parametrize(("scatter_deg", "is_warned"), [(30.0, False), (30.01, True)])
def test_an_antenna_whose_phase_is_unsteady_is_named(scatter_deg, is_warned):
    antennas = [
        {"antenna": name, "flagged_fraction": 0.0, "phase_scatter_deg": 1.0, "time_phase_scatter_deg": scatter}
        for name, scatter in (("7", 2.0), ("103", scatter_deg), ("104", None))
    ]
    table = CalibrationTableFactory(metrics={**CalibrationTableFactory.build().metrics, "antennas": antennas})
    found = objections(assess_calibration_table(table=table))
    assert found.get("antenna_unsteady") == ("antenna 103" if is_warned else None)
