"""Whatever a FITS file holds, it is registered or refused by name, and the next file has its turn."""

from __future__ import annotations

import gzip
import random
import sysconfig
import warnings
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from django.core.management import CommandError, call_command

from images.engines.fits import Corrupt, NoWcs, OtherFrame, is_usual, read_facts
from images.models import Image
from images.services import register_images
from tests.images.radio_fits import HEIGHT, NOISE, PEAK, WIDTH, celestial_cards, frequency_axis, sky, write

pytestmark = [pytest.mark.django_db, pytest.mark.once]
SITE_PACKAGES = Path(sysconfig.get_path("purelib"))


def registered(path: Path) -> Image:
    report = register_images(paths=[path])
    assert report.refused == []
    return report.registered[0]


# --- other skies -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("longitude", "latitude"),
    [
        ("HPLN-TAN", "HPLT-TAN"),
        ("HGLN-CAR", "HGLT-CAR"),
        ("CRLN-CAR", "CRLT-CAR"),
        ("MALN-CAR", "MALT-CAR"),
        ("TLON-CAR", "TLAT-CAR"),
        ("SLON-TAN", "SLAT-TAN"),
        ("ELON-TAN", "ELAT-TAN"),  # astropy would take it for right ascension and declination
        ("HLON-TAN", "HLAT-TAN"),
    ],
)
def test_a_map_of_another_sky_is_refused(tmp_path, longitude, latitude):
    path = write(tmp_path / "image.fits", CTYPE1=longitude, CTYPE2=latitude)
    with pytest.raises(OtherFrame, match=f"{longitude} and {latitude}"):
        read_facts(path)


def test_a_frame_that_astropy_does_not_know_is_refused(tmp_path):
    with pytest.raises(OtherFrame, match="GAPPT"):
        read_facts(write(tmp_path / "image.fits", RADESYS="GAPPT"))


def test_a_sky_of_both_kinds_is_not_mixed(tmp_path):
    with pytest.raises(NoWcs):
        read_facts(write(tmp_path / "image.fits", CTYPE2="GLAT-SIN"))


# --- huge values -----------------------------------------------------------------------------------------------------
HUGE = {
    "float32 around 1e38": sky() * np.float32(1e38 / PEAK),
    "float32 to its end": np.where(sky() > 0, np.finfo(np.float32).max, np.finfo(np.float32).min),
    "float64 of +-1e308": np.where(sky() > 0, 1e308, -1e308),
    "one pixel of float64": np.where(sky() == np.float32(PEAK), 1e308, sky().astype(np.float64)),
    "one pixel of float32": np.where(sky() == np.float32(PEAK), np.float32(-3e38), sky()),
    "of next to nothing": sky().astype(np.float64) * 1e-305,
    "all the largest": np.full((HEIGHT, WIDTH), np.finfo(np.float32).max),
}


@pytest.mark.parametrize("case", HUGE)
def test_huge_values_are_registered_and_not_taken_for_fluxes(tmp_path, case, recwarn):
    image = registered(write(tmp_path / "image.fits", HUGE[case]))
    assert image.finite_fraction == 1.0
    assert all(is_usual(value or 0) for value in (image.rms_jy_per_beam, image.peak_jy_per_beam))
    assert "no flux density" in " ".join(image.metrics["notes"]) or case == "one pixel of float32"
    assert not recwarn.list


def test_one_huge_pixel_leaves_the_noise_as_it_is(tmp_path):
    image = registered(write(tmp_path / "image.fits", HUGE["one pixel of float64"]))
    assert image.rms_jy_per_beam == pytest.approx(NOISE, rel=0.1)
    assert image.peak_jy_per_beam is None


def test_a_large_image_of_huge_values_is_squeezed(tmp_path):
    size = {"width": 1700, "height": 1700}
    data = sky(1700, 1700) * np.float32(1e38 / PEAK)
    assert registered(write(tmp_path / "image.fits", data, **celestial_cards(**size))).finite_fraction == 1.0


# --- a place that is not all there -----------------------------------------------------------------------------------
NO_STEP = {"CDELT1": None, "CDELT2": None}


@pytest.mark.parametrize(
    ("cards", "missing"),
    [
        (dict.fromkeys([key for key in celestial_cards() if not key.startswith("CTYPE")]), "CRVAL1, CRPIX1, CDELT1"),
        (NO_STEP, "CDELT1, CDELT2"),
        ({**NO_STEP, "PC1_1": 0.0, "PC1_2": 1.0, "PC2_1": -1.0, "PC2_2": 0.0}, "CDELT1, CDELT2"),
        ({"CDELT2": None}, "CDELT2"),
        ({"CRPIX1": None}, "CRPIX1"),
        ({"CRVAL2": None}, "CRVAL2"),
        ({"CRVAL2": "abc"}, "CRVAL2"),
        ({"CRVAL2": True}, "CRVAL2"),
        ({"CDELT1": ""}, "CDELT1"),
        ({"CROTA2": "north"}, "CROTA2"),
        ({"PC1_1": "x"}, "PC1_1"),
        ({**NO_STEP, "CD1_1": -1e-3, "CD2_2": "x"}, "CDELT2, CD2_2"),
    ],
)
def test_a_place_that_the_header_does_not_say_is_not_invented(tmp_path, cards, missing):
    with pytest.raises(NoWcs, match=missing) as refusal:
        read_facts(write(tmp_path / "image.fits", **cards))
    assert refusal.value.code == "fits_no_wcs"


def test_the_cards_are_named_as_the_file_has_them(tmp_path):
    swapped = {"CTYPE1": "DEC--SIN", "CTYPE2": "RA---SIN", "CRVAL2": None}
    with pytest.raises(NoWcs, match="CRVAL2 is missing"):
        read_facts(write(tmp_path / "image.fits", **swapped))


def test_a_place_that_is_spelled_in_strings_is_read(tmp_path):
    facts = read_facts(write(tmp_path / "image.fits", CRVAL1="150.0", CRVAL2="30.0", CDELT2="5.5555555555555556E-04"))
    assert (facts.ra_deg, facts.dec_deg, facts.pixel_arcsec) == pytest.approx((150.0, 30.0, 2.0))


@pytest.mark.parametrize("cards", [{"CDELT1": -1e-320}, {"CDELT2": 1e300}, {"PC1_2": 2**31 * 1e6}])
def test_a_pixel_of_no_size_or_more_than_the_sky_is_refused(tmp_path, cards):
    with pytest.raises(NoWcs):
        read_facts(write(tmp_path / "image.fits", **cards))


# --- one never spoils the rest ---------------------------------------------------------------------------------------
def test_every_fits_file_of_the_libraries_has_its_turn(tmp_path):
    files = [path for path in SITE_PACKAGES.rglob("*") if path.name.lower().endswith((".fits", ".fits.gz", ".fit"))]
    good = write(tmp_path / "zz_last.fits")
    report = register_images(paths=[*files, good])
    assert len(report.registered) + len(report.refused) == len(files) + 1
    assert report.registered[-1].name == "zz_last"
    assert len(report.registered) >= 20
    codes = {refusal.code for refusal in report.refused}
    assert codes == {"fits_no_image", "fits_no_wcs", "fits_other_frame", "fits_not_fits"}


def test_a_header_that_claims_billions_of_axes_costs_no_time(tmp_path):
    path = write(tmp_path / "image.fits")
    path.write_bytes(path.read_bytes().replace(b"NAXIS   =                    2", b"NAXIS   =           2147483648"))
    with pytest.raises(Corrupt, match="NAXIS = 2147483648"):
        read_facts(path)


def test_what_nobody_foresaw_is_refused_logged_and_the_next_file_registered(tmp_path, monkeypatch, caplog):
    def broken(path):
        raise RecursionError("nobody foresaw this")

    first, second = write(tmp_path / "first.fits"), write(tmp_path / "second.fits", sky(seed=2))
    with monkeypatch.context() as patched:
        patched.setattr("images.engines.fits.read_facts", broken)
        report = register_images(paths=[first])
    assert [(refusal.code, str(tmp_path) in refusal.reason) for refusal in report.refused] == [
        ("fits_unreadable", False)
    ]
    assert "nobody foresaw this" in caplog.text
    assert len(register_images(paths=[first, second]).registered) == 2


def test_an_empty_path_is_refused_in_a_sentence():
    with pytest.raises(CommandError, match="an empty path names nothing"):
        call_command("register_images", "", stdout=StringIO())


# --- damaged on purpose ----------------------------------------------------------------------------------------------
KEYWORDS = [
    *celestial_cards(), "CROTA2", "PC1_1", "PC1_2", "CD1_1", "CD2_1", "CD2_2", "PV1_1", "PV2_1", "LONPOLE", "LATPOLE",
    "RADESYS", "EQUINOX", "EPOCH", "BMAJ", "BMIN", "BPA", "BUNIT", "RESTFRQ", "DATE-OBS", "MJD-OBS", "TIMESYS",
    "BSCALE", "BZERO", "BLANK", "NAXIS", "NAXIS1", "NAXIS2", "NAXIS3", "BITPIX", "WCSAXES", "CTYPE3", "CRVAL3",
    "CDELT3", "A_ORDER", "B_ORDER", "A_2_0", "CPDIS1", "GROUPS", "PCOUNT", "ZBITPIX", "ZNAXIS1", "ZCMPTYPE", "TFORM1",
]  # fmt: skip
VALUES = [
    "0", "-1", "1", "8", "16", "-64", "90.0", "360.0", "1E38", "-1E308", "1E-320", "1.0D400", "1E999", "NaN",
    "2147483648", "9223372036854775807", "T", "'abc'", "''", "'1.5'", "'RA---TPV'", "'DEC--TAN-SIP'", "'GLON-CAR'",
    "'HPLT-TAN'", "'FK4'", "'deg'", "'Hz'", "'unterminated", "(1,2)", "abc", "",
]  # fmt: skip


def damaged(path: Path, chance: random.Random) -> Path:
    """An image of some kind with some cards overwritten, perhaps cut off or packed."""
    faint = sky()
    data = chance.choice(
        [faint, *HUGE.values(), np.full_like(faint, np.inf), faint.astype(np.float64), np.zeros((2, 3, 4), np.int16)]
        + [np.clip(faint * 400, 0, 200).astype(kind) for kind in ("u1", "i2", "u2", "i4", "i8")]
    )
    header = fits.Header({**celestial_cards(), **frequency_axis(3), "BUNIT": "Jy/beam", "BMAJ": 3e-3, "BMIN": 2e-3})
    kind = chance.randrange(4)
    if kind == 0:
        hdus = [
            fits.PrimaryHDU(),
            fits.CompImageHDU(data, header, compression_type=chance.choice(["RICE_1", "GZIP_1"])),
        ]
    elif kind == 1:
        hdus = [fits.PrimaryHDU(), fits.ImageHDU(data, header)]
    else:
        hdus = [fits.PrimaryHDU(data, header)]
    fits.HDUList(hdus).writeto(path, output_verify="ignore")
    content = bytearray(path.read_bytes())
    for _ in range(chance.randrange(4)):
        keyword = chance.choice(KEYWORDS)
        at = content.rfind(f"{keyword:<8}=".encode())
        if at < 0:  # over the beam
            at = content.rfind(b"BMAJ    =")
        if at >= 0:
            content[at : at + 80] = f"{keyword:<8}= {chance.choice(VALUES)}".ljust(80).encode()
    if chance.random() < 0.2:
        content = content[: chance.randrange(len(content))]
    path.write_bytes(gzip.compress(content) if chance.random() < 0.1 else content)
    return path


@pytest.mark.parametrize("seed", range(2))
def test_damaged_files_are_registered_or_refused_by_a_name_that_says_why(tmp_path, seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # astropy, writing what no image should be
        files = [damaged(tmp_path / f"{n}.fits", random.Random(f"{seed} {n}")) for n in range(40)]
    good = write(tmp_path / "zz_last.fits")
    report = register_images(paths=[*files, good])
    assert [image.name for image in report.registered][-1] == "zz_last"
    assert [refusal for refusal in report.refused if refusal.code == "fits_unreadable"] == []
