"""A calibrated set becomes a tile: the real engines at small scale, the rows and files they leave."""

from __future__ import annotations

import shutil
from datetime import UTC
from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.time import Time
from astropy.wcs import WCS

from calibration.engines.applier import apply
from contimg.exceptions import MissingProduct
from contimg.products import digest, publish, workspace
from images.models import Image
from images.tiles import (
    image_field,
    imaging_parameters,
    imaging_recipe,
    make_tile,
    record_tile,
    thermal_rms_jy_per_beam,
)
from observations.epochs import hour_of
from observations.models import MeasurementSet
from tests.factories import HOUR, CalibratedSetFactory, EpochFactory, MeasurementSetFactory, SubbandGroupFactory
from tests.images.test_imagers import require
from tests.science import (
    IMAGED,
    MODEL,
    STRIP_DEC_DEG,
    Observed,
    calibrator_plan,
    field_plan,
    observe,
    solved,
)

pytestmark = [pytest.mark.django_db, pytest.mark.once]
SOURCES = [(0.05, 0.04, 1.0), (-0.15, 0.1, 0.5), (0.2, -0.12, 0.3)]  # degrees east and north of the centre, Jy


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory) -> tuple[Observed, Path, Observed, Path]:
    """A field and a calibrator's tile, both calibrated with the calibrator's tables; 14 antennas, 8 integrations."""
    from calibration.engines.flagger import FlaggingParameters, flag

    folder = tmp_path_factory.mktemp("tiles")
    plans = {"calibrator": calibrator_plan(IMAGED), "field": field_plan(IMAGED, offsets=SOURCES, noise_seed=1)}
    tiles = {}
    for name, plan in plans.items():
        (folder / name).mkdir()
        tiles[name] = observe(folder / name, IMAGED, plan)
        flag(measurement_set=tiles[name].path, output=folder / name / "f.h5", parameters=FlaggingParameters())
    tables = solved(tiles["calibrator"].path, folder / "calibrator" / "f.h5", folder)
    sets = []
    for name, tile in tiles.items():
        apply(
            measurement_set=tile.path,
            flag_table=folder / name / "f.h5",
            tables=[table.path for table in tables.tables],
            output=folder / name / "calibrated.ms",
        )
        sets.append(folder / name / "calibrated.ms")
    return tiles["field"], sets[1], tiles["calibrator"], sets[0]


@pytest.fixture(autouse=True)
def small_images(settings):
    settings.CONTIMG_IMAGER = "embedded"
    settings.CONTIMG_IMAGE_SIZE_PX = 256
    settings.CONTIMG_PIXEL_ARCSEC = 12.0
    settings.CONTIMG_NITER = 2000
    settings.CONTIMG_SEFD_JY = IMAGED.sefd_jy


def row_of(tile: Observed, path: Path, **fields) -> MeasurementSet:
    """The row of a calibrated set, with its files in this test's products root."""
    with workspace() as folder:
        shutil.copytree(path, folder / "copy.ms")
        published = publish(folder / "copy.ms", "measurement_sets/copy.ms")
    c = tile.converted
    observed_at = Time(c.mid_jd, format="jd", scale="utc").to_datetime(timezone=UTC)
    raw = MeasurementSetFactory(group=SubbandGroupFactory(started_at=tile.plan.started_at))
    return CalibratedSetFactory(
        calibrated_from=raw,
        path=published,
        observed_at=observed_at,
        ra_deg=c.ra_deg,
        dec_deg=c.dec_deg,
        pointing_dec_deg=STRIP_DEC_DEG,
        frequency_hz=c.frequency_hz,
        bandwidth_hz=c.bandwidth_hz,
        n_channels=c.n_channels,
        duration_s=c.duration_s,
        integration_s=c.integration_s,
        recipe=digest("set", tile.plan.noise_seed),
        **fields,
    )


@pytest.fixture
def field(calibrated) -> MeasurementSet:
    return row_of(*calibrated[:2])


@pytest.fixture
def calibrator(calibrated) -> MeasurementSet:
    return row_of(*calibrated[2:])


def imaged(measurement_set: MeasurementSet) -> Image:
    with workspace() as folder:
        made = make_tile(measurement_set=measurement_set, parameters=imaging_parameters(), folder=folder)
        image = record_tile(measurement_set=measurement_set, made=made)
    image.refresh_from_db()
    return image


def value_at(path: Path, ra_deg: float, dec_deg: float) -> float:
    """The peak within two pixels of a place."""
    with fits.open(path) as hdus:
        x, y = (round(float(v)) for v in WCS(hdus[0].header).world_to_pixel_values(ra_deg, dec_deg))
        return float(np.nanmax(hdus[0].data[y - 2 : y + 3, x - 2 : x + 3]))


def test_a_tile_has_the_columns_that_describe_it(field, products_root):
    image = imaged(field)

    assert (image.kind, image.engine, image.name) == ("tile", "embedded", field.name)
    assert image.measurement_set == field
    assert image.observed_at == field.observed_at
    assert image.epoch == field.observed_at.replace(minute=0, second=0, microsecond=0)
    assert (image.width_px, image.height_px, image.pixel_arcsec) == (256, 256, pytest.approx(12.0))
    assert SkyCoord(image.ra_deg, image.dec_deg, unit="deg").separation(
        SkyCoord(field.ra_deg, field.dec_deg, unit="deg")
    ).arcsec == pytest.approx(0, abs=12)
    assert image.radius_deg == pytest.approx(256 * 12 / 3600 / np.sqrt(2), rel=0.02)
    assert image.frequency_hz == pytest.approx(field.frequency_hz, rel=1e-3)
    assert image.bandwidth_hz == field.bandwidth_hz
    assert (image.unit, image.is_primary_beam_corrected, image.is_current) == ("Jy/beam", True, True)
    assert image.finite_fraction == 1.0
    assert image.metrics["calibrators_restored"] == []
    assert image.metrics["n_major_cycles"] >= 1
    assert image.versions["ducc0"]
    assert image.parameters["size_px"] == 256
    assert 5 < image.bmin_arcsec <= image.bmaj_arcsec < 120


def test_noise_peak_and_dynamic_range_are_of_the_flat_noise_image(field, products_root):
    image = imaged(field)

    residual = fits.getdata(products_root / image.residual_path)
    flat = fits.getdata(products_root / image.flat_noise_path)
    mad = 1.4826 * np.median(np.abs(residual - np.median(residual)))
    assert image.rms_jy_per_beam == pytest.approx(mad, rel=0.01)
    assert image.peak_jy_per_beam == pytest.approx(flat.max(), rel=1e-5)
    assert image.dynamic_range == pytest.approx(image.peak_jy_per_beam / image.rms_jy_per_beam)
    assert 0.9 < image.rms_jy_per_beam / image.thermal_rms_jy_per_beam < 2


def test_thermal_noise_is_the_textbooks(field):
    """SEFD / sqrt(2 N (N-1) dnu dt) for two polarizations, natural weights, N = 14 and all of band and time."""
    n, n_samples = 14, 8 * 32
    thermal = thermal_rms_jy_per_beam(measurement_set=field, n_effective_visibilities=2 * n * (n - 1) / 2 * n_samples)

    width_hz, time_s = 187.5e6 / 768, 12.885
    assert thermal == pytest.approx(300 / np.sqrt(2 * n * (n - 1) * width_hz * time_s * n_samples), rel=1e-3)


def test_the_corrected_image_has_the_true_fluxes(calibrated, field, products_root):
    image = imaged(field)

    for source in calibrated[0].plan.sources:
        beam = fits.getdata(products_root / image.primary_beam_path)
        assert 0.5 < beam.min() < beam.max() <= 1
        found = value_at(products_root / image.path, source.ra_deg, source.dec_deg)
        assert found == pytest.approx(source.flux_jy, rel=0.07, abs=5 * image.rms_jy_per_beam)  # off its pixel's centre


def test_every_file_of_the_tile_is_there_and_the_preview_is_a_png(field, products_root):
    image = imaged(field)

    paths = [image.path, image.flat_noise_path, image.residual_path, image.primary_beam_path, image.preview_path]
    assert len(set(paths)) == 5
    assert all((products_root / path).is_file() for path in paths)
    assert all(path.startswith(f"images/{field.observed_at:%Y-%m-%d}/") for path in paths)
    assert (products_root / image.preview_path).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert image.size_bytes == (products_root / image.path).stat().st_size
    assert list((products_root / ".work").iterdir()) == []


@pytest.mark.parametrize(
    ("grade", "is_lenient", "rejected"),
    [("poor", False, True), ("poor", True, False), ("unknown", False, False), ("good", False, False)],
)
def test_a_tile_that_is_made_again_takes_over_the_verdict_on_its_epoch(field, grade, is_lenient, rejected):
    started_at = hour_of(field.observed_at)
    EpochFactory(started_at=started_at, dec_deg=STRIP_DEC_DEG, grade=grade, is_lenient=is_lenient)
    EpochFactory(started_at=started_at, dec_deg=STRIP_DEC_DEG - 5, grade="poor")
    EpochFactory(started_at=started_at - HOUR, dec_deg=STRIP_DEC_DEG, grade="poor")
    image = imaged(field)
    assert (image.is_epoch_rejected, image.is_lenient) == (rejected, is_lenient)


def test_imaging_again_gives_the_same_row_and_content(field):
    first = imaged(field)

    again = imaged(field)

    assert (again.pk, again.checksum) == (first.pk, first.checksum)
    assert Image.objects.count() == 1


def test_a_second_version_supersedes_the_first(field, settings, products_root):
    first = imaged(field)
    settings.CONTIMG_ROBUST = -0.5
    assert imaging_recipe(field, imaging_parameters()) != first.recipe

    second = imaged(field)

    first.refresh_from_db()
    assert (first.is_current, second.is_current) == (False, True)
    assert second.bmaj_arcsec < first.bmaj_arcsec
    assert (products_root / first.path).exists()

    settings.CONTIMG_ROBUST = 0.5
    assert imaged(field).pk == first.pk
    second.refresh_from_db()
    assert not second.is_current


def test_a_lenient_set_makes_a_lenient_tile_and_says_which_subbands_lack(calibrated):
    measurement_set = row_of(*calibrated[:2], is_lenient=True)
    measurement_set.calibrated_from.parameters = {"missing_subbands": [5]}
    measurement_set.calibrated_from.save()
    assert measurement_set.group.missing_subbands == []  # the file has come since

    image = imaged(measurement_set)

    assert image.is_lenient
    assert image.missing_subbands == [5]


def test_a_calibrator_is_subtracted_before_and_restored_after(calibrator, products_root):
    image = imaged(calibrator)

    assert image.metrics["calibrators_restored"] == ["3C286"]
    flux = value_at(products_root / image.path, MODEL.ra_deg, MODEL.dec_deg)
    assert flux == pytest.approx(float(MODEL.flux_jy(image.frequency_hz)), rel=0.05)
    assert "3C286 subtracted before CLEAN" in str(fits.getheader(products_root / image.flat_noise_path)["HISTORY"])
    assert image.dynamic_range > 1000  # CLEAN alone, on 14 antennas and 15 Jy, does not come there
    assert image.peak_jy_per_beam == pytest.approx(flux, rel=0.1)


def test_the_rest_of_a_calibrators_field_is_imaged_for_the_solver(calibrated, tmp_path):
    tile = calibrated[0]
    path = image_field(calibrated[1], MODEL, STRIP_DEC_DEG, tmp_path)  # 3C286 is below the field's horizon of beam
    assert path is not None

    components = fits.getdata(path)

    assert 0.5 * 1.8 < components.sum() < 1.2 * 1.8
    for source in tile.plan.sources[:1]:
        assert value_at(path, source.ra_deg, source.dec_deg) > 0.1


def test_a_set_that_is_gone_is_named(field, products_root):
    shutil.rmtree(products_root / field.path)

    with workspace() as folder, pytest.raises(MissingProduct, match="make it again"):
        make_tile(measurement_set=field, parameters=imaging_parameters(), folder=folder)


def test_wsclean_makes_the_same_tile(field, settings, products_root):
    require("wsclean")
    ours = imaged(field)
    settings.CONTIMG_IMAGER = "wsclean"

    theirs = imaged(field)

    ours.refresh_from_db()
    assert (ours.is_current, theirs.is_current, theirs.engine) == (False, True, "wsclean")
    assert theirs.peak_jy_per_beam == pytest.approx(ours.peak_jy_per_beam, rel=0.05)
    assert theirs.thermal_rms_jy_per_beam == pytest.approx(ours.thermal_rms_jy_per_beam, rel=0.1)
    assert (products_root / theirs.preview_path).exists()
