"""The gains that are left in a set, from the products of each imager."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from casacore.tables import table

from images.engines.antenna_gains import antenna_gains
from images.engines.embedded import EmbeddedImager
from images.engines.imager import ImagingParameters
from images.engines.registry import IMAGERS, get_imager
from tests.images.small_sets import write_set
from tests.images.test_imagers import require

RA, DEC = 0.05, 37.0
SOURCES = [(0.05, 37.0, 0.2), (0.30, 37.12, 0.5), (359.85, 36.88, 0.25)]
PARAMETERS = ImagingParameters(size_px=512, pixel_arcsec=6.0, niter=5000)
N_ANTENNAS = 30


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    path = tmp_path_factory.mktemp("healthy") / "field.ms"
    return write_set(path, ra_deg=RA, dec_deg=DEC, sources=SOURCES, noise_jy=0.5, n_antennas=N_ANTENNAS)


def spoilt(path, folder, gains: np.ndarray):
    """A copy with its visibilities multiplied by gains, shape (antenna, polarization)."""
    copy = folder / "spoilt.ms"
    shutil.copytree(path, copy)
    with table(str(copy), readonly=False, ack=False) as main:
        first, second = main.getcol("ANTENNA1"), main.getcol("ANTENNA2")
        main.putcol("DATA", main.getcol("DATA") * (gains[first] * gains[second].conj())[:, None, :])
    return copy


def found(path, folder, imager="embedded"):
    made = get_imager(imager).make(measurement_set=path, output_folder=folder, parameters=PARAMETERS, threads=1)
    gains = antenna_gains(measurement_set=path, image=made.image_path, residual=made.residual_path, threads=1)
    return {gain.antenna: gain for gain in gains}


def test_a_healthy_array_is_at_one_within_its_errors(healthy, tmp_path):
    gains = list(found(healthy, tmp_path).values())

    assert len(gains) == N_ANTENNAS
    deviation = np.array([gain.off / gain.error for gain in gains])
    assert deviation.max() < 5
    assert 0.4 < np.sqrt((deviation**2).mean() / 2) < 1.5  # of the worse of two polarizations
    assert np.mean([gain.mean_amplitude for gain in gains]) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("imager", sorted(IMAGERS))
def test_an_antenna_that_changed_since_its_calibration_is_found_with_what_changed(imager, healthy, tmp_path):
    require(imager)
    gains = np.ones((N_ANTENNAS, 2), complex)
    gains[3] = 1.3
    gains[7, 1] = np.exp(1j)

    seen = found(spoilt(healthy, tmp_path, gains), tmp_path, imager)

    assert 1.15 < seen["pad3"].mean_amplitude < 1.35
    assert abs(seen["pad3"].phase_deg) < 10
    assert (seen["pad7"].polarization, seen["pad7"].off > 0.5) == ("Y", True)
    assert 30 < seen["pad7"].phase_deg < 65
    others = [gain for name, gain in seen.items() if name not in ("pad3", "pad7")]
    assert max(gain.off - 5 * gain.error for gain in others) < 0.05


def test_a_change_of_all_antennas_is_none_of_one(healthy, tmp_path):
    seen = found(spoilt(healthy, tmp_path, np.full((N_ANTENNAS, 2), 1.2 * np.exp(0.5j))), tmp_path)
    assert max(gain.off - 5 * gain.error for gain in seen.values()) < 0


def test_what_was_taken_out_before_imaging_is_part_of_the_model(tmp_path):
    bright = [*SOURCES, (0.5, 37.4, 8.0)]  # outside the image
    sets = {"ra_deg": RA, "dec_deg": DEC, "noise_jy": 0.5, "n_antennas": N_ANTENNAS}
    whole = write_set(tmp_path / "whole.ms", sources=bright, **sets)
    imaged = write_set(tmp_path / "imaged.ms", sources=SOURCES, **sets)
    made = EmbeddedImager().make(measurement_set=imaged, output_folder=tmp_path, parameters=PARAMETERS, threads=1)

    gains = antenna_gains(
        measurement_set=whole, imaged=imaged, image=made.image_path, residual=made.residual_path, threads=1
    )

    assert len(gains) == N_ANTENNAS
    assert max(gain.off for gain in gains) < 0.01


def test_an_empty_sky_tells_nothing(tmp_path):
    noise = write_set(tmp_path / "noise.ms", ra_deg=RA, dec_deg=DEC, noise_jy=1.0)
    assert found(noise, tmp_path) == {}
