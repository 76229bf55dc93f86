"""Directions from the array by astropy's AltAz: independent of the phasing that pyuvdata does."""

from __future__ import annotations

import numpy as np
from astropy.coordinates import AltAz, SkyCoord
from astropy.time import Time

from observations.telescope import LATITUDE_DEG, location, use_bundled_iers


def directions_enu(times: Time, position: SkyCoord) -> np.ndarray:
    """Unit vectors (east, north, up) of positions at times, shape (time, source, 3); no refraction."""
    use_bundled_iers()
    local = position.transform_to(AltAz(obstime=times[:, None], location=location()))
    az, alt = local.az.rad, local.alt.rad
    return np.stack([np.cos(alt) * np.sin(az), np.cos(alt) * np.cos(az), np.sin(alt)], axis=-1)


def meridian_enu(pointing_dec_deg: float) -> np.ndarray:
    """Unit vector (east, north, up) of the meridian at an apparent declination, where the dishes point."""
    zenith_angle = np.radians(LATITUDE_DEG - pointing_dec_deg)
    return np.array([0.0, -np.sin(zenith_angle), np.cos(zenith_angle)])
