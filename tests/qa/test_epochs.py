"""The gates of an epoch, on both sides of each limit, and what follows for its tiles."""

from __future__ import annotations

from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest
from django.utils import timezone

from contimg.gates import gates_of
from images.models import Image
from observations.models import Epoch
from qa.epochs import measured_of_epoch
from qa.models import Policy
from qa.rules import judge
from qa.services import assess_epoch, is_epoch_assessed
from sources.services import light_curve
from tests.factories import (
    HOUR,
    CalibratedSetFactory,
    ComparisonFactory,
    EpochFactory,
    ImageFactory,
    MeasurementFactory,
    MosaicFactory,
    MosaicTileFactory,
    ReferenceCatalogueFactory,
    SourceFactory,
)

pytestmark = pytest.mark.django_db

STRIP_DEG = 16.1
HEALTHY = {
    "n_expected": 30,
    "n_matched": 30,
    "flux_ratio": 1.0,
    "flux_ratio_scatter": 0.02,
    "flux_ratio_gradient_per_deg": 0.0,
    "flux_ratio_gradient_sigma": 0.0,
    "completeness": 1.0,
    "completeness_by_flux": [[0.05, 0.1, 30, 30]],
    "parameters": {"least_flux_jy": 0.05},
}


@pytest.fixture
def nvss():
    return ReferenceCatalogueFactory()


def epoch_with_mosaic(nvss, started_at: datetime | None = None, *, rms: float = 0.001, tiles=(), **compared):
    started_at = started_at or datetime(2026, 3, 1, 6, tzinfo=timezone.get_current_timezone())
    mosaic = MosaicFactory(
        mosaic_of=EpochFactory(started_at=started_at, dec_deg=STRIP_DEG), epoch=started_at,
        rms_jy_per_beam=rms, peak_jy_per_beam=2.0, grade="unknown",
    )  # fmt: skip
    ComparisonFactory(image=mosaic, catalogue=nvss, **{**HEALTHY, **compared})
    for number, ratio in enumerate(tiles):
        tile = tile_of(started_at + timedelta(minutes=5 * number))
        ComparisonFactory(image=tile, catalogue=nvss, **{**HEALTHY, "flux_ratio": ratio})
        MosaicTileFactory(mosaic=mosaic, tile=tile)
    return mosaic


def tile_of(observed_at: datetime, **changed) -> Image:
    return ImageFactory(measurement_set=CalibratedSetFactory(observed_at=observed_at, **changed), grade="good")


def assess(mosaic, **how):
    return assess_epoch(epoch=mosaic.mosaic_of, mosaic=mosaic, **how)


def history(nvss, mosaic, *, n: int = 6, ratio: float = 1.0, rms: float = 0.001) -> None:
    for hours in range(1, n + 1):
        before = epoch_with_mosaic(nvss, mosaic.mosaic_of.started_at - hours * HOUR, rms=rms, flux_ratio=ratio)
        Image.objects.filter(pk=before.pk).update(grade="good")


def gate(assessment, name: str):
    return next(gate for gate in gates_of(assessment.findings.all()) if gate.name == name)


EDGES = [
    ("flux_scale", "ratio_low", {"flux_ratio": 0.8}, {"flux_ratio": 0.7999}, "poor"),
    ("flux_scale", "ratio_high", {"flux_ratio": 1.2}, {"flux_ratio": 1.2001}, "poor"),
    ("flux_scale", "ratio_of_few", {"n_matched": 10}, {"n_matched": 9}, "marginal"),
    ("flux_scale", "ratio_tilted", {"flux_ratio_gradient_per_deg": 0.0714}, {"flux_ratio_gradient_per_deg": 0.0715},
     "marginal"),
    ("flux_scale", "ratio_tilted_much", {"flux_ratio_gradient_per_deg": 0.2142},
     {"flux_ratio_gradient_per_deg": 0.2143}, "poor"),
    ("completeness", "incomplete", {"completeness": 0.6}, {"completeness": 0.5999}, "poor"),
    ("noise", "noise_excessive", {"rms": 0.0171}, {"rms": 0.01711}, "poor"),
    # what is certain of a tile's deviation: the error of its median is 1.2533 * 0.02 / sqrt(30) = 0.0046
    ("flux_scale", "tile_doubtful", {"tiles": [1.0, 1.0, 1.109]}, {"tiles": [1.0, 1.0, 1.11]}, "marginal"),
    ("flux_scale", "tile_bad", {"tiles": [1.0, 1.0, 0.841]}, {"tiles": [1.0, 1.0, 0.84]}, "poor"),
]  # fmt: skip
STRIP_EDGES = [
    ("flux_scale", "ratio_stepped_down", {"flux_ratio": 0.9001}, {"flux_ratio": 0.8999}, "poor"),
    ("flux_scale", "ratio_stepped_up", {"flux_ratio": 1.0999}, {"flux_ratio": 1.1001}, "poor"),
    ("noise", "noise_above_strip", {"rms": 0.0015}, {"rms": 0.001501}, "marginal"),
    ("noise", "noise_far_above_strip", {"rms": 0.002}, {"rms": 0.002001}, "poor"),
]


def test_every_rule_of_an_epoch_has_its_edge_here():
    named = {name for _, name, _, _, _ in [*EDGES, *STRIP_EDGES]}
    rules = Policy.objects.get(is_active=True).rules.filter(subject_kind="epoch")
    assert {rule.name for rule in rules} == named | {"held_against_the_sky"}


@pytest.mark.parametrize(("name", "rule", "inside", "outside", "grade"), [*EDGES, *STRIP_EDGES])
def test_a_value_on_either_side_of_a_limit_of_a_gate(nvss, name, rule, inside, outside, grade):
    if "tilted" in rule:
        inside, outside = ({**side, "flux_ratio_gradient_sigma": 10.0} for side in (inside, outside))
    first = datetime(2026, 3, 1, 6, tzinfo=timezone.get_current_timezone())
    for number, (side, speaks) in enumerate(((inside, False), (outside, True))):
        mosaic = epoch_with_mosaic(nvss, first + number * timedelta(days=40), **side)
        if (name, rule, inside, outside, grade) in STRIP_EDGES:
            history(nvss, mosaic)
        assessment = assess(mosaic)
        objected = assessment.findings.filter(rule=rule, outcome__in=["warn", "fail"]).exists()
        assert objected == speaks
        if speaks:
            assert assessment.grade == grade == Epoch.objects.get(pk=mosaic.mosaic_of_id).grade
            assert gate(assessment, name).outcome == ("fail" if grade == "poor" else "pass")


def test_a_healthy_epoch_passes_all_gates(nvss):
    mosaic = epoch_with_mosaic(nvss, tiles=[1.0, 1.01, 0.99])
    history(nvss, mosaic)
    assessment = assess(mosaic)
    assert assessment.grade == "excellent"
    assert [(gate.name, gate.outcome, gate.why) for gate in gates_of(assessment.findings.all())] == [
        ("flux_scale", "pass", ""),
        ("completeness", "pass", ""),
        ("noise", "pass", ""),
    ]
    assert mosaic.assessments.current().get().grade == "excellent"


def test_a_step_of_15_percent_fails_though_it_lies_within_20_of_the_catalogue(nvss):
    mosaic = epoch_with_mosaic(nvss, flux_ratio=0.85)
    history(nvss, mosaic, n=5)
    assessment = assess(mosaic)
    assert assessment.grade == "poor"
    assert list(assessment.findings.filter(outcome="fail").values_list("rule", flat=True)) == ["ratio_stepped_down"]
    assert assessment.metrics["strip_flux_ratio"] == 1.0


def test_with_four_epochs_before_it_there_is_no_step_to_judge(nvss):
    mosaic = epoch_with_mosaic(nvss, flux_ratio=0.85)
    history(nvss, mosaic, n=4)
    assert assess(mosaic).findings.get(rule="ratio_stepped_down").outcome == "skip"


NOTHING = {"n_expected": 0, "n_matched": 0, "flux_ratio": None, "flux_ratio_gradient_per_deg": None,
           "completeness": None, "completeness_by_flux": [],
           "reason": "nothing of NVSS is in this image"}  # fmt: skip
ONLY_FLUX = {"completeness": None, "completeness_by_flux": [[0.05, 0.1, 4, 4]]}


@pytest.mark.parametrize(
    ("compared", "rms", "grade", "outcomes"),
    [
        ({}, 0.001, "excellent", ("pass", "pass", "pass")),
        (NOTHING, 0.001, "unknown", ("skipped", "skipped", "pass")),
        (NOTHING, 0.02, "poor", ("skipped", "skipped", "fail")),
        (ONLY_FLUX, 0.001, "excellent", ("pass", "skipped", "pass")),
        ({"n_matched": 2}, 0.001, "excellent", ("skipped", "pass", "pass")),
        ({"n_matched": 3}, 0.001, "marginal", ("pass", "pass", "pass")),
        ({"n_matched": 2, "completeness": 0.1}, 0.001, "poor", ("skipped", "fail", "pass")),
        ({}, None, "unknown", ("pass", "pass", "skipped")),
        ({"flux_ratio": 0.06}, None, "poor", ("fail", "pass", "skipped")),
    ],
)
def test_an_epoch_passes_when_all_gates_that_were_not_skipped_pass_and_the_sky_was_one(
    nvss, compared, rms, grade, outcomes
):
    if compared.get("n_matched") == 2:
        compared = {**compared, "flux_ratio_gradient_per_deg": None, "flux_ratio_gradient_sigma": None}
    assessment = assess(epoch_with_mosaic(nvss, rms=rms, **compared))
    assert assessment.grade == grade
    assert tuple(gate.outcome for gate in gates_of(assessment.findings.all())) == outcomes


def test_a_skipped_gate_says_why(nvss):
    assessment = assess(epoch_with_mosaic(nvss, **NOTHING))
    assert "nothing of NVSS is in this image" in gate(assessment, "flux_scale").why
    assert gate(assessment, "completeness").why == "nothing of NVSS is in this image"


def test_one_bad_tile_of_a_mosaic_is_caught_and_two_tiles_tell_nothing(nvss):
    mosaic = epoch_with_mosaic(nvss, tiles=[1.0] * 11 + [0.7])
    told = assess(mosaic).findings.get(rule="tile_bad")
    bad = Image.objects.tiles().order_by("observed_at").last()
    assert (told.outcome, told.where) == ("fail", f"tile {bad.name}")
    later = datetime(2026, 4, 1, 6, tzinfo=timezone.get_current_timezone())
    two = epoch_with_mosaic(nvss, later, tiles=[1.0, 0.5])
    assert "fewer than 3" in measured_of_epoch(two).skipped["worst_tile_deviation"]


def test_a_draft_that_judges_the_stored_figures_comes_to_the_same_grade(nvss):
    """Also where the sky was not seen at all: what makes that unknown is in the figures."""
    rules = list(Policy.objects.get(is_active=True).rules.filter(subject_kind="epoch"))
    for number, compared in enumerate(({}, NOTHING, {"flux_ratio": 0.5})):
        started_at = datetime(2026, 3, 1 + number, 6, tzinfo=timezone.get_current_timezone())
        mosaic = epoch_with_mosaic(nvss, started_at, **compared)
        assert judge(rules=rules, measured=measured_of_epoch(mosaic)).grade == assess(mosaic).grade


@pytest.mark.parametrize(
    ("outcomes", "gate_is"),
    [
        (["pass", "pass"], "pass"),
        (["pass", "warn"], "pass"),
        (["pass", "skip"], "pass"),
        (["skip", "skip"], "skipped"),
        (["fail", "skip"], "fail"),
        (["warn", "fail"], "fail"),
    ],
)
def test_a_gate_fails_when_one_rule_does_and_is_skipped_when_none_speaks(outcomes, gate_is):
    findings = [
        SimpleNamespace(rule=str(number), gate="noise", outcome=outcome, reason=f"{outcome} {number}")
        for number, outcome in enumerate(outcomes)
    ]
    (found,) = gates_of([*findings, SimpleNamespace(rule="other", gate="", outcome="fail", reason="no gate")])
    assert (found.name, found.outcome) == ("noise", gate_is)


# --- what follows for the tiles -----------------------------------------------------------------------------------
BAD, GOOD = {"flux_ratio": 0.06}, {"flux_ratio": 1.0}


@pytest.fixture
def measured(nvss):
    """A mosaic, three of the tiles of its hour, and a source with a flux in each."""
    mosaic = epoch_with_mosaic(nvss)
    started_at = mosaic.mosaic_of.started_at
    tiles = [tile_of(started_at + timedelta(minutes=minutes)) for minutes in (0, 5, 59)]
    source = SourceFactory()
    for tile in tiles:
        for is_forced in (True, False):
            MeasurementFactory(source=source, image=tile, is_forced=is_forced)
    return mosaic, tiles, source


def judged(mosaic, changed, **how):
    comparison = mosaic.comparison
    comparison.flux_ratio = changed["flux_ratio"]
    comparison.save()
    epoch = Epoch.objects.get(pk=mosaic.mosaic_of_id)
    return assess_epoch(epoch=epoch, mosaic=Image.objects.get(pk=mosaic.pk), **how)


def statuses(source) -> list[str]:
    return [point["status"] for point in light_curve(source=source)["points"]]


def test_tiles_of_an_epoch_that_failed_leave_light_curves_and_statistics_and_come_back(measured):
    mosaic, tiles, source = measured
    judged(mosaic, BAD)
    source.refresh_from_db()
    assert (source.n_measurements, source.eta, statuses(source)) == (0, None, ["rejected"] * 3)
    assert source.statistics_reason
    for tile in tiles:
        tile.refresh_from_db()
        assert (tile.is_epoch_rejected, tile.is_accepted, tile.grade) == (True, False, "good")

    judged(mosaic, GOOD)
    source.refresh_from_db()
    assert (source.n_measurements, statuses(source)) == (3, ["detected"] * 3)


def test_with_lenience_they_count_and_everything_says_so(measured):
    mosaic, tiles, source = measured
    judged(mosaic, BAD)
    judged(mosaic, BAD, lenient=True)
    source.refresh_from_db()
    assert source.n_measurements == 3
    for row in (mosaic, *tiles):
        row.refresh_from_db()
        assert row.is_lenient
    assert not any(tile.is_epoch_rejected for tile in tiles)
    assert Epoch.objects.filter(pk=mosaic.mosaic_of_id, grade="poor", is_lenient=True).exists()

    judged(mosaic, BAD)
    source.refresh_from_db()
    assert source.n_measurements == 0
    assert not Image.objects.filter(is_lenient=True).exists()


def test_lenience_with_an_epoch_that_passes_marks_nothing(measured):
    mosaic, _, _ = measured
    judged(mosaic, GOOD, lenient=True)
    assert not Image.objects.filter(is_lenient=True).exists()
    assert not Epoch.objects.filter(is_lenient=True).exists()


def test_a_tile_that_was_calibrated_leniently_stays_lenient(measured):
    mosaic, tiles, _ = measured
    tiles[0].measurement_set.is_lenient = tiles[0].is_lenient = True
    tiles[0].measurement_set.save()
    tiles[0].save()
    judged(mosaic, BAD, lenient=True)
    judged(mosaic, GOOD)
    assert list(Image.objects.filter(is_lenient=True)) == [tiles[0]]


def test_other_hours_and_other_strips_do_not_care(measured):
    mosaic, _, _ = measured
    started_at = mosaic.mosaic_of.started_at
    others = [
        tile_of(started_at - timedelta(seconds=1)),
        tile_of(started_at + HOUR),
        tile_of(started_at, pointing_dec_deg=STRIP_DEG + 1),
    ]
    judged(mosaic, BAD)
    assert not any(Image.objects.get(pk=other.pk).is_epoch_rejected for other in others)


def test_a_mosaic_that_failed_makes_no_running_median(measured, nvss):
    mosaic, _, _ = measured
    judged(mosaic, BAD)
    assert not Image.objects.accepted().filter(pk=mosaic.pk).exists()


def test_an_epoch_is_assessed_while_its_mosaic_and_the_policy_are_those_that_it_was_assessed_with(measured):
    mosaic, _, _ = measured
    epoch = mosaic.mosaic_of
    assert not is_epoch_assessed(epoch=epoch, mosaic=mosaic)
    judged(mosaic, GOOD)
    assert is_epoch_assessed(epoch=epoch, mosaic=mosaic)
    Image.objects.filter(pk=mosaic.pk).update(is_current=False)
    newer = MosaicFactory(mosaic_of=epoch)
    assert not is_epoch_assessed(epoch=epoch, mosaic=newer)
    assess_epoch(epoch=epoch, mosaic=newer)
    assert not is_epoch_assessed(epoch=epoch, mosaic=mosaic), "the older one would be current again"
    Policy.objects.update(is_active=False)
    assert not is_epoch_assessed(epoch=epoch, mosaic=newer)
