"""The contract of every imager. A new one is added to images/engines/registry.py and must pass all of this."""

from __future__ import annotations

import os
import re
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits as astropy_fits
from astropy.wcs import WCS

from contimg.exceptions import DiskFull, EngineFailed, EngineUnavailable
from images.engines import fits
from images.engines.imager import CleanResult, Imager, ImagingParameters
from images.engines.registry import IMAGERS, UnknownImager, get_imager
from images.engines.wsclean import WSCleanImager
from images.services import configured_imager
from tests.images.small_sets import write_set

RA, DEC = 0.05, 37.0  # the field lies across right ascension 0
SOURCES = [(0.05, 37.0, 1.0), (0.30, 37.12, 0.5), (359.85, 36.88, 0.25)]
PARAMETERS = ImagingParameters(size_px=512, pixel_arcsec=6.0, niter=5000)
NOISE_JY = 0.5  # of one visibility: 2.7 mJy/beam, well above what CLEAN leaves of 1 Jy with so few antennas


def require(name: str) -> None:
    """A missing program is skipped loudly on a developer's machine and is a failure in CI."""
    if name == "wsclean" and shutil.which("wsclean") is None:
        message = "the WSClean program is missing: apt-get install wsclean"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture(params=sorted(IMAGERS), scope="module")
def imager(request) -> Imager:
    require(request.param)
    return get_imager(request.param)


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("sets")


@pytest.fixture(scope="module")
def field(sets) -> Path:
    return write_set(sets / "field.ms", ra_deg=RA, dec_deg=DEC, sources=SOURCES, noise_jy=NOISE_JY)


@pytest.fixture(scope="module")
def noise(sets) -> Path:
    return write_set(sets / "noise.ms", ra_deg=RA, dec_deg=DEC, noise_jy=1.0)


def make(imager: Imager, measurement_set: Path, folder: Path, parameters=PARAMETERS) -> CleanResult:
    return imager.make(measurement_set=measurement_set, output_folder=folder, parameters=parameters, threads=1)


@pytest.fixture(scope="module")
def result(imager, field, tmp_path_factory) -> CleanResult:
    return make(imager, field, tmp_path_factory.mktemp(imager.name))


def fitted(path: Path, ra_deg: float, dec_deg: float) -> tuple[float, float, float]:
    """Peak and offsets (arcsec east, north) of a parabola through the 3 x 3 pixels around a source's brightest one."""
    plane, header = fits.read_plane(path)
    wcs = WCS(header)
    x0, y0 = (round(float(value)) for value in wcs.wcs_world2pix([[ra_deg, dec_deg]], 0)[0])
    near = plane[y0 - 3 : y0 + 4, x0 - 3 : x0 + 4]
    row, column = np.unravel_index(np.argmax(near), near.shape)
    y, x = y0 - 3 + row, x0 - 3 + column
    rows, columns = np.mgrid[-1:2, -1:2]
    terms = np.stack([np.ones(9), *(a.ravel() for a in (columns, rows, columns**2, rows**2, columns * rows))], axis=1)
    c, bx, by, axx, ayy, axy = np.linalg.lstsq(terms, np.log(plane[y - 1 : y + 2, x - 1 : x + 2]).ravel(), rcond=None)[
        0
    ]
    dx, dy = np.linalg.solve([[2 * axx, axy], [axy, 2 * ayy]], [-bx, -by])
    ra, dec = wcs.wcs_pix2world([[x + dx, y + dy]], 0)[0]
    east = ((ra - ra_deg + 180) % 360 - 180) * np.cos(np.radians(dec_deg)) * 3600
    return float(np.exp(c + (bx * dx + by * dy) / 2)), float(east), float((dec - dec_deg) * 3600)


# --- the result ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("source", SOURCES, ids=["centre", "north-east", "south-west"])
def test_sources_come_out_with_their_flux_where_they_are(result, source):
    ra_deg, dec_deg, flux_jy = source
    peak, east, north = fitted(result.image_path, ra_deg, dec_deg)
    assert peak == pytest.approx(flux_jy, rel=0.01, abs=3 * NOISE_JY / np.sqrt(result.n_effective_visibilities))
    assert abs(east) < 0.5
    assert abs(north) < 0.5


def test_right_ascension_increases_to_the_left(result):
    plane, _ = fits.read_plane(result.image_path)
    centre = PARAMETERS.size_px // 2
    north_east = plane[centre + 20 :, : centre - 20]
    north_west = plane[centre + 20 :, centre + 20 :]
    assert north_east.max() > 0.4 > 10 * north_west.max()


def test_the_phase_centre_is_pixel_n_half_plus_one(result):
    plane, _ = fits.read_plane(result.image_path)
    assert np.unravel_index(np.argmax(plane), plane.shape) == (256, 256)


def test_cleaning_leaves_noise(result):
    residual = fits.read_facts(result.residual_path)
    expected = NOISE_JY / np.sqrt(result.n_effective_visibilities)
    assert residual.rms_jy_per_beam == pytest.approx(expected, rel=0.15)
    assert residual.peak_jy_per_beam < 8 * expected
    assert 0 < result.n_iterations <= PARAMETERS.niter
    assert result.n_major_cycles >= 1
    assert result.clean_threshold_jy_per_beam == pytest.approx(expected, rel=0.5)


def test_it_tells_how_far_it_is_at_every_major_cycle(imager, field, tmp_path):
    told: list[float] = []
    made = imager.make(
        measurement_set=field, output_folder=tmp_path, parameters=PARAMETERS, threads=1, progress=told.append
    )
    assert len(told) in (made.n_major_cycles, made.n_major_cycles - 1)  # the last may only confirm that all is done
    assert told == sorted(told)
    assert told[0] == 0
    assert 0.5 < told[-1] < 1


def test_autocorrelations_are_not_imaged(result):
    plane, _ = fits.read_plane(result.image_path)
    assert np.median(plane) < 1e-3  # they are 1000 Jy and would lift everything


def test_the_noise_of_an_image_follows_from_the_effective_visibilities(imager, noise, tmp_path):
    parameters = ImagingParameters(size_px=512, pixel_arcsec=6.0, niter=0, robust=-0.5)
    result = make(imager, noise, tmp_path, parameters)
    plane, _ = fits.read_plane(result.image_path)
    assert plane.std() == pytest.approx(1 / np.sqrt(result.n_effective_visibilities), rel=0.1)
    assert result.n_iterations == 0


def test_the_beam_in_the_result_is_the_beam_in_both_headers(result):
    assert 15 < result.bmin_arcsec <= result.bmaj_arcsec < 45
    for path in (result.image_path, result.residual_path):
        beam = fits.read_facts(path).beam
        assert (beam.bmaj_arcsec, beam.bmin_arcsec, beam.bpa_deg) == pytest.approx(
            (result.bmaj_arcsec, result.bmin_arcsec, result.bpa_deg)
        )


def test_the_header_is_the_standard_one(imager, result):
    for path in (result.image_path, result.residual_path):
        with astropy_fits.open(path) as hdus:
            assert len(hdus) == 1
            header = hdus[0].header
            assert hdus[0].data.dtype == np.dtype(">f4")
        assert (header["NAXIS"], header["NAXIS1"], header["NAXIS2"]) == (2, 512, 512)
        assert (header["CTYPE1"], header["CTYPE2"]) == ("RA---SIN", "DEC--SIN")
        assert (header["CRVAL1"], header["CRVAL2"]) == pytest.approx((RA, DEC), abs=1e-7)
        assert (header["CDELT1"], header["CDELT2"]) == pytest.approx((-6 / 3600, 6 / 3600))
        assert header["BUNIT"] == "Jy/beam"
        assert header["RESTFRQ"] == result.frequency_hz == pytest.approx(1.407e9, rel=1e-3)
        assert re.fullmatch(r"2023-02-25T21:30:44\.9\d*", header["DATE-OBS"])
        history = "\n".join(header["HISTORY"])
        for name, number in imager.versions().items():
            assert name in history
            assert number in history
        assert "robust" in history or "briggs" in history


def test_the_header_has_no_path_of_this_machine(result, field):
    for path in (result.image_path, result.residual_path):
        header = astropy_fits.getheader(path)
        assert str(field.parent) not in header.tostring()
        assert str(path.parent) not in header.tostring()


def test_facts_of_the_product_need_no_notes(result):
    facts = fits.read_facts(result.image_path)
    assert facts.notes == ()
    assert (facts.ra_deg, facts.finite_fraction) == (pytest.approx(RA, abs=0.002), 1.0)


def test_the_measurement_set_is_left_alone(imager, field, tmp_path):
    before = {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in field.rglob("*.f*") if path.is_file()}
    make(imager, field, tmp_path, ImagingParameters(size_px=256, pixel_arcsec=6.0, niter=100))
    assert before == {
        path: (path.stat().st_size, path.stat().st_mtime_ns) for path in field.rglob("*.f*") if path.is_file()
    }


def test_the_same_set_gives_the_same_content(imager, field, tmp_path):
    results = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        results.append(make(imager, field, tmp_path / name))
    assert fits.content_checksum(results[0].image_path) == fits.content_checksum(results[1].image_path)


def test_only_the_products_and_a_log_are_left(result):
    left = {path.name for path in result.image_path.parent.iterdir()}
    assert {"image.fits", "residual.fits"} <= left <= {"image.fits", "residual.fits", "wsclean.log"}


# --- what cannot be imaged -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("damage", "code"), [("all_flagged", "nothing_to_image"), ("nan_everywhere", "bad_visibilities")]
)
def test_a_set_that_cannot_be_imaged_fails_for_good(imager, sets, tmp_path, damage, code):
    measurement_set = write_set(sets / f"{damage}-{imager.name}.ms", ra_deg=RA, dec_deg=DEC, **{damage: True})
    with pytest.raises(EngineFailed) as failure:
        make(imager, measurement_set, tmp_path)
    assert failure.value.permanent
    assert failure.value.code == code
    assert str(tmp_path) not in str(failure.value)


def test_a_folder_that_is_no_measurement_set_fails_for_good(imager, tmp_path):
    (tmp_path / "odd.ms").mkdir()
    with pytest.raises(EngineFailed, match=r"odd\.ms"):
        make(imager, tmp_path / "odd.ms", tmp_path)


# --- WSClean as a program --------------------------------------------------------------------------------------------
def program(folder: Path, script: str) -> str:
    """A stand-in for the binary, which answers `-version` as it does."""
    path = folder / "wsclean"
    path.write_text(f'#!/bin/sh\nif [ "$1" = -version ]; then echo "WSClean version 3.1.0"; exit; fi\n{script}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_missing_program_is_unavailable(tmp_path, field):
    with pytest.raises(EngineUnavailable, match="install the Debian package") as failure:
        make(WSCleanImager(binary=str(tmp_path / "nowhere")), field, tmp_path)
    assert not failure.value.permanent
    assert str(tmp_path) not in str(failure.value)


def test_the_unrelated_program_of_that_name_is_unavailable(tmp_path, field):
    path = tmp_path / "wsclean"
    path.write_text("#!/bin/sh\necho clipboard cleaned\n")
    path.chmod(0o755)
    with pytest.raises(EngineUnavailable, match="not the imager WSClean"):
        make(WSCleanImager(binary=str(path)), field, tmp_path)


@pytest.mark.parametrize(
    ("script", "error", "message"),
    [
        (
            "echo reading; echo 'Cannot open /data/secret/x.ms: broken'; exit 3",
            EngineFailed,
            "3: Cannot open x.ms: broken",
        ),
        ("exit 1", EngineFailed, "it said nothing"),
        ("echo done", EngineFailed, "without an image"),
        ("echo 'write failed: No space left on device'; exit 1", DiskFull, "disk was full"),
        ("kill -9 $$", EngineUnavailable, "signal 9"),
        ("kill -11 $$", EngineFailed, "-11"),
    ],
)
def test_failures_of_the_program_are_told_apart(tmp_path, field, script, error, message):
    with pytest.raises(error, match=message) as failure:
        make(WSCleanImager(binary=program(tmp_path, script)), field, tmp_path)
    assert type(failure.value) is error
    assert "/data" not in str(failure.value)


def test_its_temporary_files_are_in_the_jobs_own_folder(tmp_path, field):
    binary = program(tmp_path, f'echo "$@" > {tmp_path}/asked; exit 1')
    (tmp_path / "job").mkdir()
    with pytest.raises(EngineFailed):
        make(WSCleanImager(binary=binary), field, tmp_path / "job")
    asked = (tmp_path / "asked").read_text()
    assert f"-temp-dir {tmp_path}/job/" in asked
    for option in ("-no-update-model-required", "-use-wgridder", "-j 1 ", "-weight briggs 0.5", "-data-column DATA"):
        assert option in asked


# --- the registry ----------------------------------------------------------------------------------------------------
def test_an_unknown_imager_is_named_with_the_choices():
    with pytest.raises(UnknownImager, match="'casa'; choose one of embedded, wsclean"):
        get_imager("casa")


def test_the_settings_choose_the_imager_and_its_binary(settings):
    settings.CONTIMG_IMAGER, settings.CONTIMG_WSCLEAN_BINARY = "wsclean", "/opt/wsclean"
    chosen = configured_imager()
    assert (chosen.name, chosen.binary) == ("wsclean", "/opt/wsclean")
    settings.CONTIMG_IMAGER = "embedded"
    assert configured_imager().name == "embedded"
