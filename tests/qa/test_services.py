from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection

from images.models import Image
from observations.models import MeasurementSet
from qa.models import Assessment, Finding, Policy
from qa.rules import Measured, judge
from qa.services import NoActivePolicy, assess_calibration_table, assess_image, is_assessed
from sources.services import refresh_statistics
from tests.factories import (
    CalibrationTableFactory,
    ImageFactory,
    MeasurementFactory,
    PolicyFactory,
    RuleFactory,
    SourceFactory,
)

pytestmark = pytest.mark.django_db

WINDOW = {"subband": 0, "flagged_fraction": 0.05, "bad_channel_fraction": 0.0}
GOOD_TABLE = {
    "flagged_fraction": 0.05,
    "median_snr": 40.0,
    "median_amplitude": 1.0,
    "phase_scatter_deg": 4.0,
    "spectral_windows": [WINDOW, {**WINDOW, "subband": 1}],
}


def image(**changed):
    """Bright and clean: dynamic range 2500, 1.25 of the thermal noise."""
    return ImageFactory(**{"peak_jy_per_beam": 1.25, "grade": "unknown", **changed})


def external(**changed):
    return image(kind="external", measurement_set=None, thermal_rms_jy_per_beam=None, **changed)


def table(*, kind: str = "B", **metrics):
    return CalibrationTableFactory(kind=kind, grade="unknown", metrics={**GOOD_TABLE, **metrics})


def outcomes(assessment: Assessment, metric: str) -> set[str]:
    return set(assessment.findings.filter(metric=metric).values_list("outcome", flat=True))


def test_an_image_is_judged_and_its_grade_goes_with_the_verdict():
    subject = image()
    assessment = assess_image(image=subject)
    subject.refresh_from_db()
    assert (assessment.grade, subject.grade) == ("excellent", "excellent")
    assert (assessment.subject_kind, assessment.subject_id) == ("image", subject.pk)
    assert assessment.policy == Policy.objects.get(is_active=True)
    measured = {
        "rms_over_strip": None,
        "beam_over_strip": None,
        "strip_rms_jy_per_beam": None,
        "strip_bmaj_arcsec": None,
        "strip_bmaj_arcsec_n": 0.0,
        "duty_fraction": 1.0,
        "dynamic_range": 2500.0,
        "rms_over_thermal": 1.25,
        "finite_fraction": 1.0,
        "rms_jy_per_beam": 0.0005,
        "peak_jy_per_beam": 1.25,
    }
    assert measured.items() <= assessment.metrics.items()


def test_a_table_is_judged_and_its_grade_goes_with_the_verdict():
    subject = table(spectral_windows=[WINDOW, {"subband": 1, "flagged_fraction": 0.9, "bad_channel_fraction": 0.2}])
    assessment = assess_calibration_table(table=subject)
    subject.refresh_from_db()
    assert (assessment.grade, subject.grade) == ("marginal", "marginal")
    assert (assessment.subject_kind, assessment.subject_id) == ("calibration_table", subject.pk)
    assert assessment.metrics["worst_window_flagged_fraction"] == 0.9
    assert assessment.circumstances["where"]["worst_window_flagged_fraction"] == "window 1"
    assert assessment.findings.get(rule="window_flagged").where == "window 1"
    assert list(assessment.findings.filter(outcome="warn").values_list("rule", flat=True)) == ["window_flagged"]


@pytest.mark.parametrize(
    ("assess", "kind"),
    [
        (lambda: assess_image(image=image()), "image"),
        (lambda: assess_calibration_table(table=table()), "calibration_table"),
    ],
)
def test_every_rule_of_the_kind_has_one_finding_with_value_and_limit(assess, kind):
    assessment = assess()
    rules = assessment.policy.rules.filter(subject_kind=kind)
    found = assessment.findings.all()
    told = [(f.rule, f.metric, f.comparison, f.limit) for f in found]
    assert told == [(r.name, r.metric, r.comparison, r.limit) for r in rules]
    assert all(f.value == assessment.metrics[f.metric] for f in found)


@pytest.mark.parametrize(
    ("subject", "assess"),
    [
        (image, lambda subject: assess_image(image=subject)),
        (table, lambda subject: assess_calibration_table(table=subject)),
    ],
)
def test_judged_again_the_old_verdicts_stay_and_exactly_one_is_current(subject, assess):
    row, other = subject(), subject()
    assess(other)
    verdicts = [assess(row) for _ in range(3)]
    assert [v.pk for v in row.assessments.order_by("id")] == [v.pk for v in verdicts]
    assert row.assessments.current().get() == verdicts[-1]
    assert all(verdict.findings.exists() for verdict in verdicts)
    assert other.assessments.current().count() == 1


def test_the_grade_is_that_of_the_newest_policy_and_an_image_judged_by_an_older_one_is_judged_again():
    subject = image()
    assess_image(image=subject)
    assert is_assessed(subject)
    Policy.objects.update(is_active=False)
    strict = RuleFactory(policy=PolicyFactory(is_active=True), limit=1.2, grade="poor").policy
    assert not is_assessed(subject)
    assert assess_image(image=subject).policy == strict
    assert is_assessed(subject)
    subject.refresh_from_db()
    assert subject.grade == "poor"


@pytest.mark.parametrize(
    ("subject", "assess"),
    [
        (image, lambda subject: assess_image(image=subject)),
        (table, lambda subject: assess_calibration_table(table=subject)),
    ],
)
def test_without_an_active_policy_nothing_is_judged_and_the_error_says_what_to_do(subject, assess):
    Policy.objects.update(is_active=False)
    row = subject()
    with pytest.raises(NoActivePolicy, match="activate one"):
        assess(row)
    row.refresh_from_db()
    assert row.grade == "unknown"
    assert not Assessment.objects.exists()


def break_on_insert(table_name: str, grade: str) -> None:
    """The database itself refuses this table's row update: a trigger, in the dialect of either database."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(
                f"CREATE TRIGGER refuse BEFORE UPDATE ON {table_name} WHEN NEW.grade = '{grade}' "
                "BEGIN SELECT RAISE(ABORT, 'refused'); END"
            )
        else:
            cursor.execute(
                "CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN RAISE EXCEPTION 'refused'; END $$ "
                "LANGUAGE plpgsql"
            )
            cursor.execute(
                f"CREATE TRIGGER refuse BEFORE UPDATE ON {table_name} FOR EACH ROW WHEN (NEW.grade = '{grade}') "
                "EXECUTE FUNCTION refuse()"
            )


@pytest.mark.parametrize(
    ("subject", "assess", "table_name"),
    [
        (image, lambda subject: assess_image(image=subject), "images_image"),
        (table, lambda subject: assess_calibration_table(table=subject), "calibration_calibrationtable"),
    ],
)
def test_a_verdict_whose_grade_cannot_be_stored_is_not_stored_either(subject, assess, table_name):
    row = subject()
    before = assess(row)
    type(row).objects.update(grade="unknown")
    break_on_insert(table_name, before.grade)
    with pytest.raises(Exception, match="refused"):
        assess(row)
    assert row.assessments.current().get() == before
    assert Assessment.objects.count() == 1
    assert Finding.objects.count() == before.findings.count()


@pytest.mark.parametrize(
    ("changed", "metric"),
    [
        ({"rms_jy_per_beam": None}, "rms_jy_per_beam"),
        ({"rms_jy_per_beam": None}, "dynamic_range"),
        ({"rms_jy_per_beam": None}, "rms_over_thermal"),
        ({"rms_jy_per_beam": 0.0}, "dynamic_range"),
        ({"peak_jy_per_beam": None}, "peak_jy_per_beam"),
        ({"peak_jy_per_beam": None}, "dynamic_range"),
        ({"thermal_rms_jy_per_beam": None}, "rms_over_thermal"),
        ({"thermal_rms_jy_per_beam": 0.0}, "rms_over_thermal"),
    ],
)
def test_an_image_whose_noise_or_peak_is_missing_is_unknown(changed, metric):
    subject = image(**changed)
    assessment = assess_image(image=subject)
    assert assessment.grade == subject.grade == "unknown"
    assert assessment.metrics[metric] is None
    assert outcomes(assessment, metric) == {"skip"}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_figure_that_is_not_a_number_is_stored_as_missing(value):
    subject = image()
    subject.rms_jy_per_beam = value
    assessment = assess_image(image=subject)
    assessment.refresh_from_db()
    assert assessment.grade == "unknown"
    assert assessment.metrics["rms_jy_per_beam"] is None


def test_a_peak_of_zero_is_a_value():
    assessment = assess_image(image=image(peak_jy_per_beam=0.0))
    assert assessment.metrics["dynamic_range"] == 0.0
    assert assessment.grade == "poor"


def test_an_image_from_elsewhere_is_judged_without_its_thermal_noise():
    assessment = assess_image(image=external())
    assert assessment.grade == "excellent"
    assert outcomes(assessment, "rms_over_thermal") == {"skip"}
    reasons = assessment.findings.filter(metric="rms_over_thermal").values_list("reason", flat=True)
    assert set(reasons) == {"the thermal noise of an image from elsewhere is not known"}


@pytest.mark.parametrize(
    ("flux_jy", "offset_deg", "peak_jy", "grade", "n_left_out"),
    [  # thermal noise 0.4 mJy, so a healthy image has up to 0.72 mJy; this one has 0.5 mJy
        (0.0220, 0.0, 0.022, "excellent", 2),  # a healthy image reaches 30.6 here, this one has 44
        (0.0215, 0.0, 0.013, "excellent", 3),  # 29.9: no rule of the dynamic range applies
        (0.0220, 0.0, 0.013, "poor", 2),  # 30.6: it could have had more than its 26
        (0.0725, 0.0, 0.049, "marginal", 1),  # 100.7
        (0.0715, 0.0, 0.049, "excellent", 2),  # 99.3
        (0.0725, 0.5, 0.049, "excellent", 2),  # the beam sees 0.066 Jy of it there
        (0.0725, 0.8, 0.049, "excellent", 2),  # not in the inner half of the image: what is seen in it decides
        (None, 0.1, 0.01, "excellent", 3),  # known, but without a mean flux
        (None, 0.1, 0.074, "excellent", 1),  # seen here
        (None, 0.1, 0.0014, "poor", 0),  # below three times its own noise: nothing is seen
    ],
)
def test_a_dim_field_is_judged_by_the_dynamic_range_that_it_allows(flux_jy, offset_deg, peak_jy, grade, n_left_out):
    subject = image(peak_jy_per_beam=peak_jy)
    SourceFactory(ra_deg=subject.ra_deg, dec_deg=subject.dec_deg + offset_deg, flux_mean_jy=flux_jy)
    assessment = assess_image(image=subject)
    assert assessment.findings.filter(metric="dynamic_range", outcome="skip").count() == n_left_out
    assert assessment.grade == grade


def test_a_verdict_that_changes_whether_an_image_counts_moves_the_statistics_of_its_sources():
    first, second = image(), image()
    source = SourceFactory()
    for one in (first, second):
        MeasurementFactory(image=one, source=source, is_forced=True)
        assess_image(image=one)
    refresh_statistics(images=[first, second])
    source.refresh_from_db()
    assert source.n_measurements == 2
    Image.objects.filter(pk=second.pk).update(rms_jy_per_beam=0.05)
    second.refresh_from_db()
    assert assess_image(image=second).grade == "poor"
    source.refresh_from_db()
    assert source.n_measurements == 1


def test_the_brightest_source_of_the_field_decides_how_far_the_dynamic_range_could_reach():
    subject = image(peak_jy_per_beam=0.01)
    for flux_jy in (0.001, 0.2, 0.01):
        SourceFactory(ra_deg=subject.ra_deg, dec_deg=subject.dec_deg, flux_mean_jy=flux_jy)
    assert assess_image(image=subject).grade == "poor"


def test_a_gain_table_has_no_phases_over_channels_and_no_windows_to_judge():
    assessment = assess_calibration_table(table=table(kind="G", phase_scatter_deg=None, spectral_windows=[]))
    assert assessment.grade == "excellent"
    skipped = assessment.findings.filter(outcome="skip")
    assert {f.metric.split("_")[0] for f in skipped} == {"phase", "worst"}
    assert {f.reason for f in skipped} == {"a gain table has one value for all channels"}


@pytest.mark.parametrize("missing", ["flagged_fraction", "median_snr", "median_amplitude", "phase_scatter_deg"])
def test_a_bandpass_table_with_a_figure_missing_is_unknown(missing):
    assert assess_calibration_table(table=table(**{missing: None})).grade == "unknown"


def test_a_bandpass_table_without_windows_is_unknown():
    assert assess_calibration_table(table=table(spectral_windows=[])).grade == "unknown"


def test_a_table_without_any_solution_is_poor_although_its_amplitude_is_not_known():
    nothing = {"flagged_fraction": 1.0, "median_snr": 0.0, "median_amplitude": None}
    assert assess_calibration_table(table=table(kind="G", **nothing)).grade == "poor"


def test_what_an_assessment_keeps_is_judged_as_the_subject_was():
    for assessment in (
        assess_image(image=image()),
        assess_image(image=external()),
        assess_image(image=image(peak_jy_per_beam=0.05)),
        assess_calibration_table(table=table(kind="G")),
    ):
        assessment.refresh_from_db()
        rules = assessment.policy.rules.filter(subject_kind=assessment.subject_kind)
        again = judge(rules=rules, measured=Measured.stored(assessment.metrics, assessment.circumstances))
        assert again.grade == assessment.grade
        assert [found._asdict() for found in again.findings] == list(
            assessment.findings.values(*again.findings[0]._fields)
        )


@pytest.mark.parametrize(("n_before", "outcome"), [(4, "skip"), (5, "warn")])
def test_noise_is_held_against_the_images_of_the_strip_before_where_there_are_enough(n_before, outcome):
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for hours in range(n_before):
        image(observed_at=start + timedelta(hours=hours), pointing_dec_deg=16.0, grade="good")
    image(observed_at=start, pointing_dec_deg=50.0, grade="good")
    image(observed_at=start, pointing_dec_deg=16.0, grade="poor")
    loud = image(observed_at=start + timedelta(days=1), pointing_dec_deg=16.0, rms_jy_per_beam=0.00101)
    assessment = assess_image(image=loud)
    found = assessment.findings.get(rule="noise_above_strip")
    assert (found.outcome, assessment.metrics["strip_rms_jy_per_beam_n"]) == (outcome, n_before)
    if outcome == "warn":
        assert assessment.metrics["strip_rms_jy_per_beam"] == 0.0005


@pytest.mark.parametrize(("missing", "warned"), [([0, 1, 2, 3], False), ([0, 1, 2, 3, 4], True)])
def test_a_tile_of_which_much_is_missing_warns(missing, warned):
    one = image(missing_subbands=missing)
    MeasurementSet.objects.filter(pk=one.measurement_set_id).update(duration_s=24 * 12.885)
    one.refresh_from_db()
    rules = set(assess_image(image=one).findings.filter(outcome="warn").values_list("rule", flat=True))
    assert ("duty_low" in rules) is warned


def test_a_noisy_antenna_is_named():
    antennas = [
        {"antenna": "7", "flagged_fraction": 0.0, "phase_scatter_deg": 4.0},
        {"antenna": "103", "flagged_fraction": 0.9, "phase_scatter_deg": 80.0},
    ]
    found = assess_calibration_table(table=table(antennas=antennas)).findings.filter(outcome="warn")
    assert {(one.rule, one.where) for one in found} == {
        ("antenna_flagged", "antenna 103"), ("antenna_phase_noisy", "antenna 103")
    }  # fmt: skip
