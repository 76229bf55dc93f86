"""`manage.py night_report`: what an operator reads about a night in a minute."""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
import zeal
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from PIL import Image as Picture

from batch.models import State
from batch.night_facts import WORST, InvalidNight, Night, night_facts, night_figures, night_of
from batch.night_report import CELL_PERCENT, PREVIEW_PX, render
from qa.models import Policy
from tests import factories

DATE = "2026-03-01"
NIGHT = Night(date(2026, 3, 1))
START = datetime(2026, 3, 1, tzinfo=UTC)
HOSTILE = "<script>alert('$x$')</script>"

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def reports(tmp_path, settings) -> Path:
    settings.VAR_DIR = tmp_path / "var"
    return settings.VAR_DIR / "reports"


def at(hour: float) -> datetime:
    return START + timedelta(hours=hour)


def tile(hour: float = 6, **of):
    group = factories.SubbandGroupFactory(started_at=at(hour))
    raw = factories.MeasurementSetFactory(group=group)
    return factories.ImageFactory(measurement_set__calibrated_from=raw, **of)


def failed(hour: float = 6, **of):
    group = factories.SubbandGroupFactory(started_at=at(hour))
    return factories.ItemFactory(group=group, **{"state": State.FAILED, "error_code": "bad_visibilities"} | of)


def page(night: Night = NIGHT) -> str:
    return render(night_facts(night=night), night_figures(night=night))


def whole_night(n: int) -> None:
    """`n` of everything that a page shows, in one dec strip."""
    policy = Policy.objects.get(is_active=True)
    for number in range(n):
        hour = number * 0.1
        image = tile(hour, grade="poor", preview_path=f"previews/{number}.png")
        verdict = factories.AssessmentFactory(image=image, grade="poor", policy=policy)
        factories.FindingFactory.create_batch(2, assessment=verdict, outcome="fail")
        matches = [[row, 1.0, 1.0, 0.1, 0.1 + 0.001 * row, 0.01] for row in range(4)]
        factories.ComparisonFactory(image=image, matches=matches, completeness_by_flux=[[0.05, 0.1, 4, 4]])
        raw = image.measurement_set.calibrated_from
        flags = factories.FlagTableFactory(measurement_set=raw)
        factories.CalibrationTableFactory(
            source_measurement_set=raw,
            flag_table=flags,
            metrics={"phase_scatter_deg": 5.0, "antennas": [{"antenna": "pad1", "phase_scatter_deg": 5.0}]},
        )
        failed(hour + 0.02)
        factories.ItemFactory(group=image.measurement_set.group, state=State.DONE, stage="image")
        factories.ItemFactory(group=None, image=image, stage="assess", state=State.FAILED, writes_to=f"i{image.pk}")
        factories.ItemFactory(
            group=None, measurement_set=raw, stage="calibrate", state=State.WAITING, writes_to=f"m{raw.pk}"
        )
        factories.SubbandGroupFactory(started_at=at(hour + 0.04))  # nobody asked for it
        epoch = factories.EpochFactory(started_at=at(number % 24), dec_deg=n + number // 24)
        factories.MosaicFactory(mosaic_of=epoch)
        of_epoch = factories.AssessmentFactory(image=None, epoch=epoch, policy=policy)
        factories.FindingFactory(assessment=of_epoch, gate="noise", outcome="fail")
        factories.ItemFactory(
            group=None, epoch=epoch, stage="mosaic", state=State.FAILED, writes_to=f"e{epoch.pk}"
        )  # fmt: skip
        factories.SubbandFileFactory(group=None, named_at=at(hour), error_code="subband_truncated")
        factories.AlertFactory(observed_at=at(hour), antenna=f"pad{n}")
        factories.QuarantineFactory(calibration_table__source_measurement_set=raw)


# --- what the page says ----------------------------------------------------------------------------------------------
def test_the_headline_is_the_night_in_one_sentence():
    for number, grade in enumerate(("excellent", "good", "good", "poor", "unknown")):
        tile(6 + 0.1 * number, grade=grade)
    failed(7)
    factories.MosaicFactory(mosaic_of=factories.EpochFactory(started_at=at(6), grade="good"))
    factories.EpochFactory(started_at=at(7), grade="unknown")
    factories.AlertFactory(observed_at=at(6))
    factories.AlertFactory(observed_at=at(5), acknowledged_at=at(9))
    assert night_facts(night=NIGHT)["headline"] == (
        "5 of 6 tiles done (1 excellent, 2 good, 1 poor, 1 unknown); 1 of 1 mosaics made (epoch gates: 1 passed); "
        "1 open alert; 1 tile failed."
    )


def test_the_headline_counts_suspects():
    tile(6, grade="good")
    tile(6.1, grade="good", is_suspect=True)
    assert "2 of 2 tiles done (2 good); 1 suspect (quarantine); " in night_facts(night=NIGHT)["headline"]


def test_a_quiet_night_says_that_nothing_failed():
    tile(6, grade="good")
    said = page()
    for words in (
        "nothing failed", "No stage failed.", "No image is poor, marginal or unknown.",
        "No source of a reference catalogue was measured", "no hour has tiles enough for a mosaic",
    ):  # fmt: skip
        assert words in said


def test_a_night_without_tiles_is_a_page_that_says_so(capsys, reports):
    tile(24.5)  # of the next day
    call_command("night_report", DATE)
    path, headline = capsys.readouterr().out.splitlines()
    assert path == str(reports / "night-2026-03-01.html")
    assert headline == "Nothing was observed on 2026-03-01: no tile of that day is known."
    assert headline in Path(path).read_text()


def test_a_night_is_a_utc_day_by_the_middle_of_a_tile():
    half = timedelta(seconds=309 / 2)
    inside = [factories.SubbandGroupFactory(started_at=time - half) for time in (START, at(24) - timedelta(seconds=1))]
    for time in (START - timedelta(seconds=1), at(24)):
        factories.SubbandGroupFactory(started_at=time - half)
    assert [one["subband_group"] for one in night_facts(night=NIGHT)["tiles"]] == [group.pk for group in inside]


def test_failures_are_grouped_by_stage_and_code_with_what_they_are_of():
    items = [failed(6 + 0.1 * number, error_detail=f"Tile {number} is all zero.") for number in range(5)]
    failed(8, error_code="dependency_failed", stage="apply")
    failed(9, state=State.QUARANTINED, error_code="engine_unavailable", stage="image")
    facts = night_facts(night=NIGHT)
    most, least = facts["failures"]
    assert (most["n"], most["code"], most["message"]) == (5, "bad_visibilities", "Tile 4 is all zero.")
    assert (least["code"], least["state"]) == ("engine_unavailable", "quarantined")
    said = page()
    assert f"subband-groups/{items[-1].group_id}/" in said
    assert f"batch show {items[-1].batch_id}" in said
    assert "dependency_failed" not in said


def test_what_was_tried_again_with_success_is_no_failure():
    image = tile(6)
    group = image.measurement_set.group
    factories.ItemFactory(group=group, stage="image", state=State.FAILED, error_code="engine_failed")
    assert night_facts(night=NIGHT)["tiles"][0]["state"] == "failed"
    factories.ItemFactory(group=group, stage="image", state=State.DONE)
    facts = night_facts(night=NIGHT)
    assert facts["failures"] == []
    assert facts["tiles"][0]["state"] == "done"


def test_a_tile_that_is_to_be_judged_again_is_done_and_what_waits_is_named():
    image = tile(6)
    factories.ItemFactory(group=image.measurement_set.group, stage="assess", state=State.READY)
    assert night_facts(night=NIGHT)["tiles"][0]["state"] == "ready", "its sources were not measured yet"
    factories.CatalogueFactory(image=image)
    facts = night_facts(night=NIGHT)
    assert facts["tiles"][0]["state"] == "done"
    assert facts["headline"].startswith("1 of 1 tiles done")
    assert [(row["stage"], row["state"]) for row in facts["waiting"]] == [("assess", "ready")]


def test_what_waits_and_what_nobody_asked_for_is_named_with_its_reason():
    failed(6, state=State.WAITING, error_code="waiting_for_calibration", error_detail="No table is valid for it.")
    lacking = factories.SubbandGroupFactory(
        started_at=at(7), n_subbands=9, missing_subbands=list(range(9, 16)), n_files=9
    )
    said = page()
    assert "No table is valid for it." in said
    assert f"{lacking.name} <code>subband-groups/{lacking.pk}/</code>: 9 of 16 subbands" in said
    assert "group_incomplete" in said


def test_each_tile_has_a_letter_beside_its_colour_where_its_minute_is():
    tile(6.5 - 309 / 7200, grade="marginal", name="the tile")  # its middle is at half past six
    cells = re.findall(r'<span class="cell marginal" style="left:([\d.]+)%" title="([^"]*)">M</span>', page())
    ((left, title),) = cells
    assert float(left) == pytest.approx((100 - CELL_PERCENT) / 2, abs=0.05)
    assert "marginal by policy, rms 0.5 mJy/beam" in title


def test_tiles_that_follow_on_one_another_lie_beside_each_other():
    for number in range(12):
        tile(number * 309 / 3600)
    lefts = [float(left) for left in re.findall(r'style="left:([\d.]+)%"', page())]
    pairs = list(pairwise(lefts[:11]))  # the twelfth is of the next hour
    assert len(lefts) == 12
    assert all(later - one > CELL_PERCENT for one, later in pairs)
    assert max(lefts) + CELL_PERCENT <= 100


def test_the_grade_of_a_review_is_the_grade_and_says_so():
    tile(6, grade="poor", grade_source="review")
    said = page()
    assert "by review" in said
    assert "1 graded by a reviewer" in said


def test_gaps_are_told():
    tile(6)
    tile(6.75)
    assert "<b>1 gap</b>, the longest 45 min after 06:02." in page()


def test_an_epoch_shows_its_three_gates_and_why_one_failed():
    epoch = factories.EpochFactory(started_at=at(6), grade="poor")
    mosaic = factories.MosaicFactory(mosaic_of=epoch)
    tile(6)
    verdict = factories.AssessmentFactory(image=None, epoch=epoch, grade="poor")
    for gate, outcome, reason in (
        ("flux_scale", "fail", "the median flux ratio is below 0.8"), ("noise", "pass", "within the limit"),
    ):  # fmt: skip
        factories.FindingFactory(assessment=verdict, gate=gate, outcome=outcome, reason=reason)
    (row,) = night_facts(night=NIGHT)["epochs"]
    assert [gate["outcome"] for gate in row["gates"]] == ["fail", "skipped", "pass"]
    said = page()
    assert "flux scale: the median flux ratio is below 0.8" in said
    assert f"epochs/{epoch.pk}/" in said
    assert f"images/{mosaic.pk}/" in said


def test_alerts_quarantines_policy_and_software_are_there():
    image = tile(6, is_suspect=True, versions={"wsclean": "3.1"}, engine="wsclean")
    factories.AssessmentFactory(image=image, policy=Policy.objects.get(is_active=True))
    alert = factories.AlertFactory(observed_at=at(6), lower_limit=0.9, upper_limit=1.1)
    factories.AlertFactory(observed_at=at(-24))
    row = factories.QuarantineFactory()
    said = page()
    for words in (
        f"alerts/{alert.pk}/", "0.9 to 1.1", "1 older alert not acknowledged", f"quarantines/{row.pk}/",
        "solved on a resolved source", "1 tile of this night is suspect", "policy standard 2", "wsclean 3.1",
    ):  # fmt: skip
        assert words in said, words


# --- what it must not be -----------------------------------------------------------------------------------------
def test_names_and_messages_are_text_whatever_is_in_them():
    image = tile(6, grade="poor", name=HOSTILE, engine=HOSTILE[:30], versions={HOSTILE: HOSTILE})
    factories.FindingFactory(
        assessment=factories.AssessmentFactory(image=image), outcome="fail", reason=HOSTILE, where=HOSTILE
    )
    factories.FlagTableFactory(
        measurement_set=image.measurement_set.calibrated_from, antenna_fractions={HOSTILE: 0.9}
    )  # fmt: skip
    failed(7, error_detail=HOSTILE, error_code=HOSTILE)
    factories.SubbandFileFactory(
        group=None, named_at=at(6), error_code="subband_header", error_detail=HOSTILE, relative_path=HOSTILE
    )
    factories.QuarantineFactory(reason=HOSTILE)
    factories.AlertFactory(observed_at=at(6), antenna=HOSTILE[:20], acknowledged_at=at(7), note=HOSTILE)
    said = page()
    assert "<script" not in said
    assert said.count("&lt;script&gt;") > 8


def test_the_page_loads_nothing(products_root):
    whole_night(3)
    said = page()
    assert "<script" not in said
    addresses = re.findall(r'\b(?:src|href|action|data|poster)="([^"]*)"', said)
    assert all(address.startswith(("data:image/", "#")) for address in addresses)
    assert not re.search(r"@import|url\((?!#)", said)
    named = set(re.findall(r'https?://[^"\s<]+', said))
    assert named <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}, "names of formats, never fetched"


def test_previews_are_few_and_small(products_root):
    (products_root / "previews").mkdir()
    Picture.effect_noise((1600, 1600), 80).convert("RGB").save(products_root / "previews" / "0.png")
    for number in range(9):
        tile(6 + 0.1 * number, grade="poor", preview_path="previews/0.png")
    said = page()
    pictures = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)"', said)
    assert len(pictures) == WORST
    assert max(map(len, pictures)) < 4 / 3 * PREVIEW_PX**2, "a byte for each pixel, of pure noise"


def test_a_preview_that_is_gone_or_no_picture_is_said_in_words(products_root):
    (products_root / "previews").mkdir()
    (products_root / "previews" / "text.png").write_text("no picture")
    for number, path in enumerate(("previews/gone.png", "previews/text.png", "../outside.png")):
        tile(6 + 0.1 * number, grade="poor", preview_path=path)
    tile(7, grade="poor")
    said = page()
    assert said.count("Its preview is not on disk any more, or no picture.") == 3
    assert "It has no preview." in said


def test_figures_that_are_missing_or_not_finite_do_not_break_it():
    nan = float("nan")
    image = tile(6, grade="unknown", rms_jy_per_beam=None, peak_jy_per_beam=None, thermal_rms_jy_per_beam=None)
    other = tile(6.2, grade="poor", rms_jy_per_beam=0.0)
    if connection.vendor == "postgresql":  # SQLite stores NaN as null
        tile(6.4, rms_jy_per_beam=nan, grade="poor")
    factories.FindingFactory(assessment=factories.AssessmentFactory(image=image), outcome="skip", value=None)
    factories.ComparisonFactory(
        image=other, flux_ratio=None, completeness=None, matches=[[1, 1, 1, 0.0, 0.1, 0.1], [2, 1, 1, 0.1, None, 0.1]]
    )
    raw = image.measurement_set.calibrated_from
    flags = factories.FlagTableFactory(measurement_set=raw, antenna_fractions={"pad1": None, "pad2": 0.1})
    unsolved = {"antennas": [{"antenna": "pad3", "phase_scatter_deg": None}]}
    factories.CalibrationTableFactory(source_measurement_set=raw, flag_table=flags, metrics=unsolved)
    factories.CalibrationTableFactory(source_measurement_set=raw, flag_table=flags, metrics={})
    said = page()
    assert "rms unknown" in said
    assert "No tile of the night has a measured noise." in said
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", said, flags=re.DOTALL)


def test_facts_and_figures_take_as_many_queries_for_30_of_everything_as_for_one():
    def n_queries() -> tuple[int, int]:
        with zeal.zeal_context(), CaptureQueriesContext(connection) as facts:
            night_facts(night=NIGHT)
        with zeal.zeal_context(), CaptureQueriesContext(connection) as figures:
            night_figures(night=NIGHT)
        return len(facts), len(figures)

    whole_night(1)
    few = n_queries()
    whole_night(30)
    assert n_queries() == few
    assert few[0] <= 24
    assert few[1] <= 11


# --- the command -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text", ["", "2026-3-1", "20260301", "2026-02-30", "2026-03-01T06:00", "tomorrow", "0000-01-01"]
)
def test_what_is_no_date_is_refused_in_one_sentence(text):
    with pytest.raises(
        CommandError, match=r"is no date; give one as 2026-03-20 \(UTC\), or `yesterday`\. \[invalid_night\]"
    ):
        call_command("night_report", text)


def test_a_night_to_come_is_refused():
    now = at(30)
    assert night_of("2026-03-02", now=now).date == date(2026, 3, 2)
    assert night_of("yesterday", now=now) == NIGHT
    with pytest.raises(InvalidNight, match="2026-03-03 is yet to come"):
        night_of("2026-03-03", now=now)


def test_a_night_that_is_not_over_says_so():
    tile(6)
    facts = night_facts(night=NIGHT, now=at(8))
    assert "1 of 1 tiles done so far" in facts["headline"]
    assert "not over yet" in render(facts, night_figures(night=NIGHT))
    assert "so far" not in night_facts(night=NIGHT, now=at(24))["headline"]


def test_out_and_json(capsys, tmp_path):
    image = tile(6)
    out = tmp_path / "elsewhere" / "page.html"
    call_command("night_report", DATE, "--out", out, "--json")
    said = json.loads(capsys.readouterr().out)
    assert said["path"] == str(out)
    assert said["tiles"][0]["image"] == image.pk
    assert said["headline"] in out.read_text()


def test_where_nothing_can_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "page.html", tmp_path):
        with pytest.raises(CommandError, match="cannot be written"):
            call_command("night_report", DATE, "--out", out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "products"]


def test_the_report_of_today_is_possible(capsys):
    call_command("night_report", "today")
    assert f"night-{timezone.now():%Y-%m-%d}" in capsys.readouterr().out
