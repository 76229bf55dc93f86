from __future__ import annotations

import io
import json
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command

from tests.factories import FIRST_TILE, CatalogueFactory, ImageFactory, MeasurementFactory, SourceFactory

pytestmark = pytest.mark.django_db
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def source():
    source = SourceFactory(name="DSA J133108.3+303033", ra_deg=202.7845, dec_deg=30.5092, is_variable=True)
    epochs = [("good", 0.05, None), ("good", 0.001, 0.003), ("poor", 0.9, None), ("marginal", 0.06, None)]
    for day, (grade, flux, limit) in enumerate(epochs):
        image = tile(day, grade=grade)
        CatalogueFactory(image=image)
        MeasurementFactory(source=source, image=image, flux_jy=flux, upper_limit_jy=limit)
        if day == 0:
            MeasurementFactory(source=source, image=image, flux_jy=flux, is_forced=False)
    CatalogueFactory(image=tile(4))
    return source


def tile(day: int, **columns):
    return ImageFactory(
        name=f"tile {day}", ra_deg=203.0, dec_deg=30.5, observed_at=FIRST_TILE + timedelta(days=day), **columns
    )


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command("light_curve", *arguments, stdout=out, stderr=io.StringIO())
    return out.getvalue()


@pytest.mark.parametrize("text", ["DSA J133108.3+303033", "202.7845 30.5092", "13:31:08.28 +30:30:33.1"])
def test_it_prints_every_epoch_and_the_verdict(source, text):
    lines = run(text).splitlines()
    assert lines[0].startswith("DSA J133108.3+303033  RA 202.78450  Dec +30.50920")
    assert [line.split()[2] for line in lines[3:7]] == ["detected", "forced", "rejected", "forced"]
    assert lines[3].split()[:4] == ["2026-03-01", "06:00:00", "detected", "50.000"]
    assert "<3.00" in lines[4]
    assert lines[7].startswith("2026-03-05 06:00:00  no flux: outside the image")
    assert lines[-1].startswith("N = 3  mean 37 mJy")
    assert lines[-1].endswith("variable.")


def test_json_is_the_light_curve_of_the_api(source):
    curve = json.loads(run(source.name, "--json"))
    assert curve["source"] == source.pk
    assert [point["status"] for point in curve["points"]] == ["detected", "forced", "rejected", "forced"]
    assert curve["points"][0]["observed_at"] == "2026-03-01T06:00:00Z"
    assert curve["statistics"]["n"] == 3


def test_png_writes_a_plot(source, tmp_path):
    run(source.name, "--png", str(tmp_path / "curve.png"))
    assert (tmp_path / "curve.png").read_bytes().startswith(PNG)


def test_a_source_without_epochs_has_an_empty_curve_and_plot(tmp_path):
    source = SourceFactory(ra_deg=1.0)
    said = run(source.name, "--png", str(tmp_path / "curve.png"))
    assert said.splitlines()[-1] == "N = 0. No valid epoch."
    assert (tmp_path / "curve.png").exists()


def test_only_rejected_epochs_and_one_epoch_can_be_plotted(tmp_path):
    source = SourceFactory(ra_deg=203.0, dec_deg=30.5)
    MeasurementFactory(source=source, image=tile(0, grade="poor"), flux_jy=-0.01)
    run(source.name, "--png", str(tmp_path / "curve.png"))
    assert (tmp_path / "curve.png").exists()


def test_an_unknown_source_is_one_sentence_with_its_code():
    with pytest.raises(CommandError, match=r"No source is within 30 arcsec .* \[unknown_source\]"):
        run("10 10")


@pytest.mark.parametrize("name", ["curve.xyz", "curve.pdf", "curve", ".png"])
def test_a_plot_under_another_extension_is_refused_before_anything_is_done(source, tmp_path, name):
    with pytest.raises(CommandError, match=r"does not end in \.png"):
        run(source.name, "--png", str(tmp_path / name))
    assert not (tmp_path / name).exists()


def test_a_plot_that_cannot_be_written_is_one_sentence(source, tmp_path):
    with pytest.raises(CommandError, match="cannot be written"):
        run(source.name, "--png", str(tmp_path / "nowhere" / "curve.png"))
