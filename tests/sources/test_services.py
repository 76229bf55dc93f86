from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from django.db import connection
from django.forms.models import model_to_dict
from django.test.utils import CaptureQueriesContext

from contimg.exceptions import Busy, EngineFailed, MissingProduct
from images.models import Image
from sources import variability
from sources.models import Catalogue, Measurement, Source
from sources.services import (
    NotMeasurable,
    UnknownSource,
    catalogue_recipe,
    find_source,
    light_curve,
    measure_image,
    record_catalogue,
    refresh_statistics,
)
from tests.factories import ImageFactory, MeasurementFactory, SourceFactory
from tests.sources.skies import FIRST, RMS, make_tile, offset

pytestmark = pytest.mark.django_db
CENTRE = (150.0, 30.0)


def photometry(image: Image) -> Catalogue:
    return record_catalogue(image=image, measured=measure_image(image=image))


def sky(*fluxes: float, centre=CENTRE, spacing: float = 240.0) -> list[tuple[float, float, float]]:
    """Sources of these fluxes in a row from west to east through a position."""
    start = -(len(fluxes) - 1) / 2 * spacing
    return [(*offset(*centre, start + k * spacing, 60.0), flux) for k, flux in enumerate(fluxes)]


def rows(model) -> list[dict]:
    """Everything that a table says, without keys and clocks."""
    out = []
    for row in model.objects.all():
        said = model_to_dict(row)
        out.append({key: value for key, value in said.items() if key not in ("id", "created_at")})
    return sorted(out, key=repr)


def test_an_image_becomes_sources_with_a_fitted_and_a_forced_flux_each(products_root):
    truth = sky(0.1, 0.05, 0.02)
    image = make_tile(products_root, truth)
    catalogue = photometry(image)
    assert (catalogue.n_detected, catalogue.n_forced, catalogue.n_new_sources) == (3, 3, 3)
    assert catalogue.recipe == catalogue_recipe(image=image)
    assert catalogue.engine == "pybdsf"
    for ra, dec, flux in truth:
        source = find_source(text=f"{ra} {dec}")
        fitted, forced = source.measurements.order_by("is_forced")
        assert (fitted.is_forced, forced.is_forced) == (False, True)
        for measurement in (fitted, forced):
            assert measurement.flux_jy == pytest.approx(flux, abs=4 * measurement.flux_err_jy)
            assert measurement.peak_jy_per_beam == pytest.approx(measurement.flux_jy * measurement.primary_beam)
            assert measurement.observed_at == image.observed_at
        assert forced.upper_limit_jy is None
        assert source.first_seen_at == source.last_seen_at == image.observed_at
        assert (source.n_measurements, source.eta, source.is_variable) == (1, None, False)
        assert source.statistics_reason == "Only one valid epoch; eta and V need two."


def test_the_same_source_in_the_next_image_is_the_same_source_at_a_better_place(products_root):
    truth = sky(0.03, 0.05)
    for day in range(4):
        photometry(make_tile(products_root, truth, day=day))
    assert Source.objects.count() == 2
    for ra, dec, flux in truth:
        source = find_source(text=f"{ra} {dec}")
        fitted = list(source.measurements.fitted())
        assert len(fitted) == 4
        expected = sum(row.position_err_arcsec**-2 for row in fitted) ** -0.5
        assert source.position_err_arcsec == pytest.approx(expected)
        assert source.flux_mean_jy == pytest.approx(flux, rel=0.05)
        assert (source.first_seen_at.day, source.last_seen_at.day) == (20, 23)


def test_statistics_are_those_of_the_forced_fluxes(products_root):
    for day, flux in enumerate([0.05, 0.05, 0.02, 0.09]):
        photometry(make_tile(products_root, sky(flux, 0.04), day=day))
    for source in Source.objects.all():
        counted = source.measurements.counted()
        found = variability.statistics(*zip(*counted.values_list("flux_jy", "flux_err_jy"), strict=True))
        assert (source.n_measurements, source.flux_mean_jy, source.flux_max_jy) == (4, found.mean_jy, found.max_jy)
        assert (source.eta, source.v, source.statistics_reason) == (found.eta, found.v, "")
        assert source.is_variable == variability.is_variable(eta=found.eta, n=4, n_sources=2)
    assert [s.is_variable for s in Source.objects.order_by("ra_deg")] == [True, False]


def test_doing_it_again_changes_nothing(products_root):
    images = [make_tile(products_root, sky(0.05, 0.02), day=day) for day in range(2)]
    for image in images:
        photometry(image)
    before = rows(Source), rows(Measurement), rows(Catalogue)
    for image in images:
        photometry(image)
    assert (rows(Source), rows(Measurement), rows(Catalogue)) == before


def test_other_parameters_replace_what_was_measured(products_root, settings):
    image = make_tile(products_root, sky(0.05, 0.02))
    first = photometry(image)
    ids = set(Source.objects.values_list("id", flat=True))
    settings.CONTIMG_FLUX_SYSTEMATIC = 0.5
    second = photometry(image)
    assert second.recipe != first.recipe
    assert set(Source.objects.values_list("id", flat=True)) == ids
    assert (Measurement.objects.count(), Catalogue.objects.count()) == (4, 1)
    assert min(row.flux_err_jy / row.flux_jy for row in Measurement.objects.all()) >= 0.5


def test_a_source_that_a_new_measurement_of_its_only_image_does_not_see_is_gone(products_root, settings):
    image = make_tile(products_root, sky(0.05))
    photometry(image)
    settings.CONTIMG_FLUX_SYSTEMATIC = 0.1
    measured = measure_image(image=image)
    measured.fitted.clear()
    record_catalogue(image=image, measured=measured)
    assert not Source.objects.exists()


def test_a_new_source_is_measured_in_the_images_before_it(products_root):
    faint = sky(0.002, 0.05)
    early = [make_tile(products_root, faint, day=day) for day in range(2)]
    for image in early:
        photometry(image)
    assert Source.objects.count() == 1
    late = make_tile(products_root, sky(0.03, 0.05), day=2)
    catalogue = photometry(late)
    assert catalogue.n_new_sources == 1
    ra, dec, _ = faint[0]
    source = find_source(text=f"{ra} {dec}")
    forced = {row.image_id: row for row in source.measurements.forced()}
    assert set(forced) == {image.pk for image in [*early, late]}
    assert source.n_measurements == 3
    assert source.first_seen_at == late.observed_at
    assert source.is_variable
    for image in early:
        limit = forced[image.pk].upper_limit_jy
        assert limit is None or limit == pytest.approx(3 * forced[image.pk].flux_err_jy)
    assert [point["status"] for point in light_curve(source=source)["points"]] == ["forced", "forced", "detected"]


def test_an_earlier_image_whose_file_is_gone_does_not_stop_the_new_one(products_root, caplog):
    early = make_tile(products_root, sky(0.05))
    photometry(early)
    Path(products_root, early.flat_noise_path).unlink()
    assert photometry(make_tile(products_root, sky(0.05, 0.05, 0.03), day=1)).n_new_sources == 2
    assert "not on disk any more" in caplog.text


def test_every_known_source_in_an_image_is_measured_seen_or_not(products_root):
    photometry(make_tile(products_root, sky(0.05, 0.03)))
    catalogue = photometry(make_tile(products_root, sky(0.05, 0.0), day=1))
    assert (catalogue.n_detected, catalogue.n_forced) == (1, 2)
    lost = Source.objects.order_by("-ra_deg").first()
    curve = light_curve(source=lost)
    assert [point["status"] for point in curve["points"]] == ["detected", "forced"]
    assert curve["points"][1]["upper_limit_jy"] == pytest.approx(3 * curve["points"][1]["flux_err_jy"])


def test_a_poor_image_makes_no_sources_and_is_rejected_in_light_curves(products_root):
    poor = make_tile(products_root, sky(0.05, 0.5), grade="poor")
    assert photometry(poor).n_new_sources == 0
    assert not Source.objects.exists()
    photometry(make_tile(products_root, sky(0.05), day=1))
    bad = make_tile(products_root, sky(0.5), day=2, grade="poor")
    photometry(bad)
    (source,) = Source.objects.all()
    curve = light_curve(source=source)
    assert [point["status"] for point in curve["points"]] == ["rejected", "detected", "rejected"]
    assert [point["grade"] for point in curve["points"]] == ["poor", "good", "poor"]
    assert curve["statistics"]["n"] == source.n_measurements == 1
    assert source.flux_max_jy < 0.1
    assert (source.first_seen_at.day, source.last_seen_at.day) == (21, 21)


def test_a_changed_grade_changes_the_statistics_and_asks_for_another_catalogue(products_root):
    images = [make_tile(products_root, sky(0.05), day=day) for day in range(3)]
    for image in images:
        photometry(image)
    recipe = catalogue_recipe(image=images[2])
    Image.objects.filter(pk=images[2].pk).update(grade="poor")
    images[2].refresh_from_db()
    refresh_statistics(images=[images[2]])
    assert Source.objects.get().n_measurements == 2
    assert catalogue_recipe(image=images[2]) != recipe


def test_a_superseded_image_does_not_count(products_root):
    images = [make_tile(products_root, sky(0.05), day=day) for day in range(3)]
    for image in images:
        photometry(image)
    Image.objects.filter(pk=images[0].pk).update(is_current=False)
    refresh_statistics(images=[images[0]])
    source = Source.objects.get()
    assert source.n_measurements == 2
    assert len(light_curve(source=source)["points"]) == 2


@pytest.mark.parametrize("centre", [(0.0, 30.0), (0.0, 0.0), (120.0, 90.0), (77.0, -90.0), (359.9999, -45.0)])
def test_sources_keep_their_identity_across_zero_and_at_the_poles(products_root, centre):
    truth = [
        (*offset(*centre, east, north), 0.05)
        for east, north in [(3, 2), (200, -3), (-200, 3), (2, 200), (-2, -200), (300, 300)]
    ]
    for day in range(2):
        photometry(make_tile(products_root, truth, day=day, ra_deg=centre[0], dec_deg=centre[1]))
    assert Source.objects.count() == len(truth)
    for ra, dec, _ in truth:
        source = find_source(text=f"{ra:.9f} {dec:.9f}")
        assert source.measurements.fitted().count() == 2
        assert source.measurements.forced().count() == 2
        assert 0 <= source.ra_deg < 360
        assert source.healpix


def test_two_close_sources_stay_two(products_root):
    near = offset(*CENTRE, 0, 48)
    for day in range(3):
        photometry(make_tile(products_root, [(*CENTRE, 0.1), (*near, 0.05)], day=day))
    first, second = Source.objects.order_by("dec_deg")
    assert first.measurements.count() == second.measurements.count() == 6
    assert second.flux_mean_jy == pytest.approx(0.05, rel=0.05)
    assert [first.is_variable, second.is_variable] == [False, False]


def test_two_sources_with_one_name_get_a_letter(products_root):
    name = "DSA J100000.0+300100"
    place = offset(*CENTRE, 0, 60)
    SourceFactory(name=name, ra_deg=CENTRE[0], dec_deg=30.1)
    photometry(make_tile(products_root, [(place[0] + 1e-5, place[1] + 5e-5, 0.5)]))
    assert Source.objects.filter(name__startswith=name).count() == 2


def test_a_detection_below_the_limit_for_new_sources_is_counted_but_makes_none(products_root):
    image = make_tile(products_root, sky(0.05))
    measured = measure_image(image=image)
    assert measured.n_detected == 1
    assert all(row.peak_jy_per_beam / row.rms_jy_per_beam >= 5.5 for row in measured.fitted)


def test_work_writes_nothing(products_root):
    measured = measure_image(image=make_tile(products_root, sky(0.05)))
    assert measured.new_sources
    assert [model.objects.count() for model in (Source, Measurement, Catalogue)] == [0, 0, 0]


def test_two_workers_cannot_add_the_same_source(products_root):
    images = [make_tile(products_root, sky(0.05), day=day) for day in range(2)]
    both = [measure_image(image=image) for image in images]
    record_catalogue(image=images[0], measured=both[0])
    with pytest.raises(Busy, match="measure it again"):
        record_catalogue(image=images[1], measured=both[1])
    assert photometry(images[1]).n_new_sources == 0
    assert Source.objects.count() == 1


def test_queries_do_not_grow_with_the_number_of_sources(products_root):
    counts = []
    for number, centre in [(1, (100.0, 30.0)), (9, (200.0, 30.0))]:
        truth = [(*offset(*centre, 150 * (k % 3 - 1), 150 * (k // 3 - 1)), 0.05) for k in range(number)]
        place = {"ra_deg": centre[0], "dec_deg": centre[1]}
        photometry(make_tile(products_root, truth, **place))
        image = make_tile(products_root, truth, day=1, **place)
        with CaptureQueriesContext(
            connection,
        ) as captured:
            photometry(image)
        counts.append(len(captured))
        assert Measurement.objects.filter(image=image).count() == 2 * number
    assert counts[0] == counts[1] < 30


def test_an_image_without_sources_has_an_empty_catalogue(products_root):
    catalogue = photometry(make_tile(products_root, []))
    assert (catalogue.n_detected, catalogue.n_forced, catalogue.n_new_sources) == (0, 0, 0)


@pytest.mark.parametrize(
    ("change", "says"),
    [({"bmaj_arcsec": None}, "does not say its beam"), ({"unit": "K"}, "is in K"), ({"unit": ""}, "an unknown unit")],
)
def test_an_image_that_does_not_say_enough_is_refused_by_name(products_root, change, says):
    image = make_tile(products_root, [])
    for name, value in change.items():
        setattr(image, name, value)
    with pytest.raises(NotMeasurable, match=f"tile of day 0 .*{says}"):
        measure_image(image=image)


def test_a_missing_product_is_said_so(products_root):
    with pytest.raises(MissingProduct):
        measure_image(image=make_tile(products_root, []) and ImageFactory(flat_noise_path="gone.fits"))


def test_an_unreadable_image_is_an_error_of_the_family(products_root):
    image = make_tile(products_root, [], rms=0.0)
    with pytest.raises(EngineFailed, match="cannot be searched"):
        measure_image(image=image)


def test_an_external_image_is_measured_but_neither_adds_sources_nor_counts(products_root):
    photometry(make_tile(products_root, sky(0.05)))
    image = make_tile(products_root, sky(0.5, 0.5, 0.5), day=1)
    Image.objects.filter(pk=image.pk).update(
        kind="external", measurement_set=None, primary_beam_path="", residual_path="", flat_noise_path="",
        path=image.flat_noise_path,
    )  # fmt: skip
    image.refresh_from_db()
    assert photometry(image).n_forced == 1
    source = Source.objects.get()
    assert source.measurements.forced().count() == 2
    assert source.n_measurements == 1
    assert len(light_curve(source=source)["points"]) == 1


def test_a_light_curve_says_what_did_not_cover_the_source_and_why(products_root):
    place = offset(*CENTRE, 600, 0)
    truth = [(*place, 0.05)]
    photometry(make_tile(products_root, truth))
    narrow = make_tile(products_root, truth, day=1, fwhm_px=100.0)
    photometry(narrow)
    waiting = make_tile(products_root, truth, day=2)
    make_tile(products_root, [], day=3, ra_deg=170.0)
    curve = light_curve(source=Source.objects.get())
    assert len(curve["points"]) == 1
    assert [(gap["image"], gap["name"]) for gap in curve["not_covered"]] == [
        (narrow.pk, "tile of day 1"),
        (waiting.pk, "tile of day 2"),
    ]
    assert [gap["reason"] for gap in curve["not_covered"]] == [
        "outside the image, blank, or below 0.1 of the primary beam",
        "not measured yet",
    ]


def test_a_light_curve_has_the_shape_of_the_contract(products_root):
    for day in range(2):
        photometry(make_tile(products_root, sky(0.05), day=day))
    source = Source.objects.get()
    curve = light_curve(source=source)
    assert list(curve) == ["source", "points", "not_covered", "statistics"]
    point = curve["points"][0]
    assert list(point) == [
        "observed_at", "mjd", "status", "flux_jy", "flux_err_jy", "upper_limit_jy", "snr", "image", "grade",
    ]  # fmt: skip
    assert point["observed_at"] == FIRST
    assert point["snr"] == pytest.approx(0.05 / RMS, rel=0.2)
    assert list(curve["statistics"]) == ["n", "mean_jy", "std_jy", "eta", "v", "reason"]
    assert curve["statistics"]["eta"] == pytest.approx(source.eta)
    assert curve["statistics"]["mean_jy"] == pytest.approx(source.flux_mean_jy)


def test_a_light_curve_costs_the_same_for_many_epochs(products_root, django_assert_num_queries):
    source = SourceFactory()
    for _ in range(30):
        MeasurementFactory(source=source)
    with django_assert_num_queries(2):
        assert len(light_curve(source=source)["points"]) == 30


@pytest.mark.parametrize(
    "text",
    [
        "DSA J133108.3+303033", "dsa j133108.3+303033", " DSA  J133108.3+303033 ", "202.7845 30.5092",
        "202.7845, +30.5092", "13:31:08.3 +30:30:33", "13h31m08.3s +30d30m33s", "13 31 08.3 +30 30 33",
    ],
)  # fmt: skip
def test_a_source_is_found_by_name_or_position(text):
    SourceFactory(name="DSA J133110.0+303033", ra_deg=202.7915, dec_deg=30.5092)
    source = SourceFactory(name="DSA J133108.3+303033", ra_deg=202.7845, dec_deg=30.5092)
    assert find_source(text=text) == source


def test_ra_and_dec_zero_are_a_position():
    source = SourceFactory(ra_deg=0.0, dec_deg=0.0)
    assert find_source(text="0 0") == find_source(text="359.999 0.001") == source


@pytest.mark.parametrize(
    "text", ["DSA J000000.0+000000", "", "202.7845", "10 95", "202.7845 30.52", "nan nan", "1 2 3"]
)
def test_what_is_not_there_is_unknown(text):
    SourceFactory(ra_deg=202.7845, dec_deg=30.5092)
    with pytest.raises(UnknownSource) as refused:
        find_source(text=text)
    assert (refused.value.code, refused.value.status) == ("unknown_source", 404)


def test_constant_sources_of_many_epochs_are_not_variable_and_the_variable_one_is(products_root):
    rng = np.random.default_rng(8)
    constant = np.geomspace(0.006, 0.2, 24)
    for day in range(6):
        truth = [
            (*offset(*CENTRE, 240 * (k % 5 - 2), 240 * (k // 5 - 2)), float(flux * rng.normal(1, 0.02)))
            for k, flux in enumerate(constant)
        ]
        truth.append((*offset(*CENTRE, 480, 480), 0.05 * (1 + 0.45 * (-1) ** day)))
        photometry(make_tile(products_root, truth, day=day))
    variable = find_source(text="{:.6f} {:.6f}".format(*offset(*CENTRE, 480, 480)))
    assert list(Source.objects.variable()) == [variable]
    assert variable.v > 0.3
    assert 0.6 < np.median([source.eta for source in Source.objects.exclude(pk=variable.pk)]) < 1.3


@pytest.mark.parametrize(
    ("detections_snr", "judged"), [([5.9], False), ([6.99], False), ([7.0], True), ([5.6, 5.6], True), ([90.0], True)]
)
def test_a_source_seen_once_near_the_threshold_may_be_noise_and_is_not_called_variable(detections_snr, judged):
    source = SourceFactory()
    fluxes = [0.05, 0.0, 0.001, -0.001, 0.0, 0.001]
    measured = [MeasurementFactory(source=source, flux_jy=flux, flux_err_jy=0.003) for flux in fluxes]
    for forced, snr in zip(measured, detections_snr, strict=False):
        MeasurementFactory(
            source=source, image=forced.image, is_forced=False, peak_jy_per_beam=snr, rms_jy_per_beam=1.0
        )
    refresh_statistics(images=[measured[0].image])
    source.refresh_from_db()
    assert source.is_variable is judged
    assert ("not judged" in source.statistics_reason) is not judged


def test_an_image_that_was_measured_meanwhile_is_not_left_without_the_new_sources(products_root):
    """One that may not add sources was recorded between the halves of one that may."""
    good, poor = (make_tile(products_root, sky(0.05), day=day) for day in range(2))
    Image.objects.filter(pk=poor.pk).update(grade="poor")
    poor.refresh_from_db()
    measured = measure_image(image=good)
    photometry(poor)
    with pytest.raises(Busy, match="measured meanwhile"):
        record_catalogue(image=good, measured=measured)
    photometry(good)
    assert set(Source.objects.get().measurements.forced().values_list("image", flat=True)) == {good.pk, poor.pk}
