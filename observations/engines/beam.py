"""The dish's primary beam: an Airy pattern, 4.65 m (FWHM 1.029 lambda/D, 2.71 deg at 1.405 GHz)."""

from __future__ import annotations

import numpy as np
from scipy.special import j1

from observations.telescope import DISH_DIAMETER_M

SPEED_OF_LIGHT_M_S = 299_792_458.0


def airy_power(separation_rad, frequency_hz, diameter_m: float = DISH_DIAMETER_M) -> np.ndarray:
    """Power response (1 on axis) at an angle from the beam centre; the arguments broadcast.

    (2 J1(x) / x)^2 with x = pi D sin(theta) / lambda (Born & Wolf, section 8.5.2).
    """
    x = np.pi * diameter_m * np.sin(separation_rad) * np.asarray(frequency_hz) / SPEED_OF_LIGHT_M_S
    safe = np.where(np.abs(x) < 1e-8, 1.0, x)
    return np.where(np.abs(x) < 1e-8, 1.0, (2 * j1(safe) / safe) ** 2)
