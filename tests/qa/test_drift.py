from __future__ import annotations

import io
import json
import random
from datetime import UTC, datetime, timedelta

import pytest
from django.core.management import CommandError, call_command

from access.models import AuditEntry
from calibration.models import CalibrationTable, FlagTable
from contimg.intervals import ReversedInterval
from images.models import Image
from qa.drift import (
    FEWEST,
    LIMIT_SIGMA,
    SERIES,
    AlreadyAcknowledged,
    InvalidAlertChange,
    Strip,
    UnknownSeries,
    acknowledge,
    judged,
    points,
    raise_alerts,
    silence,
)
from qa.models import Alert
from tests.factories import (
    AlertFactory,
    CalibrationTableFactory,
    ComparisonFactory,
    FlagTableFactory,
    ImageFactory,
    MeasurementSetFactory,
    UserFactory,
)

NIGHT = datetime(2026, 3, 1, tzinfo=UTC)
STRIP = Strip(16.1, NIGHT, NIGHT + timedelta(days=2))


def at(number: int) -> datetime:
    return NIGHT + number * timedelta(minutes=5)


def noise(seed: int, n: int = 288) -> list[tuple[datetime, float]]:
    chance = random.Random(seed)
    return [(at(number), chance.gauss(1, 0.02)) for number in range(n)]


# --- limits and steps ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("sigma", "is_out"), [(LIMIT_SIGMA - 0.01, False), (LIMIT_SIGMA + 0.01, True)])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_value_is_out_beyond_its_limit(sigma, is_out, sign):
    before = [(at(number), 1 + 0.01 * (number % 3 - 1)) for number in range(9)]  # median 1, MAD 0.01
    found = judged([*before, (at(9), 1 + sign * sigma * 1.4826 * 0.01)])[-1]
    assert (found.is_out, found.n) == (is_out, 9)


def test_too_few_values_have_no_limits():
    found = judged(noise(1)[: FEWEST + 1])
    assert [one.upper_limit is None for one in found] == [True] * FEWEST + [False]


def test_noise_alone_is_hardly_ever_out_and_a_step_is_seen_where_it_is():
    out = steps = seen = 0
    for seed in range(40):
        found = judged(noise(seed))
        out += sum(one.is_out for one in found)
        steps += sum(one.is_step for one in found)
        stepped = judged([(time, value * (1.15 if i >= 150 else 1)) for i, (time, value) in enumerate(noise(seed))])
        seen += any(one.is_step for one in stepped[147:154])
    assert out <= 10  # of 11 520
    assert steps <= 3
    assert seen >= 36


@pytest.mark.django_db
def test_a_millionth_of_the_data_flagged_is_no_drift_where_usually_none_is():
    for number, fraction in enumerate([0.0] * 12 + [4e-6, 0.02, 0.2]):
        FlagTableFactory(measurement_set__group__started_at=at(number), flagged_fraction=fraction)
    found = points(series="flagged_fraction", strip=STRIP)
    assert [one.is_out for one in found[-3:]] == [False, False, True]


def test_a_series_without_scatter_has_limits_too():
    found = judged([(at(number), 1.0) for number in range(20)] + [(at(20), 1.02), (at(21), 1.04)])
    assert [one.is_out for one in found[-2:]] == [False, True]


# --- the series ------------------------------------------------------------------------------------------------------
@pytest.mark.django_db
def test_each_series_is_of_its_strip_and_time():
    for dec, time in ((16.1, at(1)), (16.2, at(2)), (50.0, at(3)), (16.1, NIGHT - timedelta(hours=1))):
        raw = MeasurementSetFactory(observed_at=time, pointing_dec_deg=dec)
        flags = FlagTableFactory(measurement_set=raw, flagged_fraction=0.1, antenna_fractions={"103": 0.3})
        image = ImageFactory(
            observed_at=time, pointing_dec_deg=dec, rms_jy_per_beam=0.002, thermal_rms_jy_per_beam=0.001
        )
        ComparisonFactory(image=image, flux_ratio=1.1, ra_offset_arcsec=3.0, dec_offset_arcsec=4.0)
        solved = {"solved_at": time, "dec_deg": dec, "flag_table": flags, "source_measurement_set": raw}
        antennas = [{"antenna": "103", "phase_scatter_deg": 7.0, "flagged_fraction": 0.0}]
        CalibrationTableFactory(kind="B", metrics={"phase_scatter_deg": 5.0, "antennas": antennas}, **solved)
        CalibrationTableFactory(kind="G", metrics={"median_amplitude": 1.3}, **solved)
    values = {"flux_ratio": 1.1, "astrometric_offset_arcsec": 5.0, "rms_over_thermal": 2.0, "flagged_fraction": 0.1,
              "calibration_amplitude": 1.3, "phase_scatter_deg": 5.0}  # fmt: skip
    assert set(values) == set(SERIES)
    for name, value in values.items():
        found = points(series=name, strip=STRIP)
        assert [one.observed_at for one in found] == [at(1), at(2)], name
        assert [one.value for one in found] == pytest.approx([value] * 2)
    of_antenna = Strip(16.1, STRIP.observed_from, STRIP.observed_until, antenna="103")
    assert [one.value for one in points(series="flagged_fraction", strip=of_antenna)] == [0.3, 0.3]
    assert [one.value for one in points(series="phase_scatter_deg", strip=of_antenna)] == [7.0, 7.0]
    nobody = Strip(16.1, STRIP.observed_from, STRIP.observed_until, antenna="9")
    with pytest.raises(UnknownSeries, match="there are 103"):
        points(series="phase_scatter_deg", strip=nobody)
    for model in (CalibrationTable, FlagTable, Image):
        model.objects.update(is_suspect=True)
    assert [name for name in SERIES if points(series=name, strip=STRIP)] == []
    assert points(series="phase_scatter_deg", strip=nobody) == []


@pytest.mark.parametrize(("series", "antenna"), [("rms", ""), ("flux_ratio", "103")])
def test_what_is_no_series_is_refused(series, antenna):
    with pytest.raises(UnknownSeries):
        points(series=series, strip=Strip(16.1, NIGHT, at(1), antenna))


def test_a_time_that_ends_before_it_begins_is_refused():
    with pytest.raises(ReversedInterval, match="exchange the two"):
        points(series="flux_ratio", strip=Strip(16.1, at(1), NIGHT))
    with pytest.raises(CommandError, match="reversed_interval"):
        call_command("drift", "--from", "2026-03-02", "--until", "2026-03-01")


# --- alerts ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def jumped(db):
    """Thirty tiles, of which the twenty-first has ten times the noise."""
    for number in range(30):
        rms = 0.002 if number == 20 else 0.0002 + 0.000002 * (number % 5)
        ImageFactory(observed_at=at(number), pointing_dec_deg=16.1, rms_jy_per_beam=rms, thermal_rms_jy_per_beam=0.0002)


def test_an_alert_is_raised_once_and_not_while_its_series_is_silenced(jumped):
    (alert,) = raise_alerts(strip=STRIP, since=NIGHT)
    assert (alert.series, alert.kind, alert.observed_at) == ("rms_over_thermal", "limit", at(20))
    assert (alert.value, alert.pointing_dec_deg) == (pytest.approx(10), 16.1)
    assert raise_alerts(strip=STRIP, since=NIGHT) == []
    Alert.objects.update(observed_at=at(19))
    silence(alert=Alert.objects.get(), until=at(21))
    assert raise_alerts(strip=STRIP, since=NIGHT) == []
    silence(alert=Alert.objects.get(), until=at(20))
    assert len(raise_alerts(strip=STRIP, since=NIGHT)) == 1
    assert set(AuditEntry.objects.values_list("action", flat=True)) == {"alert.silence"}


def test_a_strip_that_is_taken_a_little_elsewhere_is_the_same(jumped):
    assert len(raise_alerts(strip=STRIP, since=NIGHT)) == 1
    beside = Strip(16.2, STRIP.observed_from, STRIP.observed_until)
    assert raise_alerts(strip=beside, since=NIGHT) == []


def test_suspect_tiles_are_in_no_series(jumped):
    Image.objects.filter(observed_at=at(20)).update(is_suspect=True)
    assert raise_alerts(strip=STRIP, since=NIGHT) == []


def test_of_values_that_stay_outside_the_first_is_told(jumped):
    Image.objects.filter(observed_at__gte=at(20)).update(rms_jy_per_beam=0.002)
    alerts = raise_alerts(strip=STRIP, since=NIGHT)
    limit, step = sorted(alerts, key=lambda alert: alert.kind)
    assert (limit.kind, limit.observed_at, step.kind) == ("limit", at(20), "step")
    assert abs(step.observed_at - at(20)) <= at(3) - at(0)


def test_an_antenna_that_differs_from_itself_is_named(db):
    for number in range(24):
        raw = MeasurementSetFactory(observed_at=at(number), pointing_dec_deg=16.1)
        fractions = {"7": 0.01, "8": 0.9 if number >= 15 else 0.01}
        FlagTableFactory(measurement_set=raw, flagged_fraction=0.02, antenna_fractions=fractions)
    alerts = raise_alerts(strip=STRIP, since=NIGHT)
    assert {(one.series, one.antenna) for one in alerts} == {("flagged_fraction", "8")}
    assert sorted(one.kind for one in alerts) == ["limit", "step"]
    assert min(one.observed_at for one in alerts) == at(15)
    assert raise_alerts(strip=STRIP, since=NIGHT) == []


def test_few_calibrators_a_day_have_limits_too(db):
    for day in range(12):
        antennas = [{"antenna": "8", "phase_scatter_deg": 60.0 if day == 11 else 5.0}]
        CalibrationTableFactory(
            kind="B", solved_at=NIGHT + timedelta(days=day), dec_deg=16.1,
            metrics={"phase_scatter_deg": 5.0, "antennas": antennas},
        )  # fmt: skip
    last = NIGHT + timedelta(days=11)
    (alert,) = raise_alerts(strip=Strip(16.1, last, last + timedelta(hours=1)), since=last)
    assert (alert.series, alert.antenna, alert.value) == ("phase_scatter_deg", "8", 60.0)


def test_a_step_of_few_calibrators_a_day_is_told_once_by_daily_looks(db):
    chance = random.Random(3)
    for number in range(40):
        amplitude = (1.0 if number < 20 else 1.08) * chance.gauss(1, 0.01)
        solved_at = NIGHT + timedelta(hours=12 * number)
        CalibrationTableFactory(kind="G", solved_at=solved_at, dec_deg=16.1, metrics={"median_amplitude": amplitude})
        day = Strip(16.1, solved_at - timedelta(hours=23), solved_at + timedelta(hours=1))
        raise_alerts(strip=day, since=day.observed_from)
    (step,) = Alert.objects.filter(kind="step")
    assert abs(step.observed_at - (NIGHT + timedelta(days=10))) <= timedelta(hours=36)


def test_what_was_before_is_not_told_again(jumped):
    assert raise_alerts(strip=STRIP, since=at(21)) == []


def test_the_command_looks_in_every_strip(jumped):
    out = io.StringIO()
    call_command("drift", "--from", "2026-03-01", "--until", "2026-03-02", stdout=out)
    assert out.getvalue().splitlines()[-1] == "1 new alerts."
    out = io.StringIO()
    call_command("drift", "--from", "2026-03-01", "--until", "2026-03-02", "--json", stdout=out)
    assert json.loads(out.getvalue()) == []


@pytest.mark.django_db
def test_an_alert_is_acknowledged_once():
    alert, user = AlertFactory(), UserFactory()
    assert acknowledge(alert=alert, actor=user, note="a new correlator").acknowledged_by == user
    with pytest.raises(AlreadyAcknowledged):
        acknowledge(alert=alert)
    with pytest.raises(InvalidAlertChange):
        acknowledge(alert=AlertFactory(), note="x" * 501)
    with pytest.raises(InvalidAlertChange):
        silence(alert=alert, until=alert.observed_at)


ASKED = {
    "series": "flux_ratio",
    "pointing_dec_deg": "16.1",
    "observed_from": "2026-03-01T00:00:00Z",
    "observed_until": "2026-03-02T00:00:00Z",
}


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, 200),
        ({"series": "flagged_fraction", "antenna": "103"}, 200),
        ({"series": "rms"}, 400),
        ({"antenna": "103"}, 400),
        ({"pointing_dec_deg": "nan"}, 400),
        ({"pointing_dec_deg": "91"}, 400),
        ({"observed_from": "yesterday"}, 400),
        ({"night": "1"}, 400),
    ],
)
def test_a_series_is_asked_for_over_http(api, change, status):
    assert api.get("/api/v1/drift/", {**ASKED, **change}).status_code == status
