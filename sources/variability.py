"""Is a source variable? The one place where eta, V, Vs, m and the verdict are computed.

eta and V: Swinbank et al. 2015, Astronomy and Computing 11, 25 (the LOFAR Transients Pipeline), equations 35 and 36;
Vs and m: Mooley et al. 2016, ApJ 818, 105. Pure functions of numbers; a value that is not defined is None.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

FALSE_ALARMS_PER_FIELD = 0.01  # of all the constant sources that are judged together


@dataclass(frozen=True)
class Statistics:
    """Of the valid epochs of a light curve. `reason` says why something is None; empty when nothing is."""

    n: int
    mean_jy: float | None = None
    max_jy: float | None = None
    std_jy: float | None = None
    eta: float | None = None
    v: float | None = None
    reason: str = ""


def statistics(fluxes_jy: Sequence[float], errors_jy: Sequence[float]) -> Statistics:
    """Statistics of all epochs with a finite flux and a finite, positive error."""
    epochs = [
        (flux, error)
        for flux, error in zip(fluxes_jy, errors_jy, strict=True)
        if math.isfinite(flux) and math.isfinite(error) and error > 0
    ]
    if not epochs:
        return Statistics(n=0, reason="No valid epoch.")
    fluxes = [flux for flux, _ in epochs]
    mean, highest = math.fsum(fluxes) / len(fluxes), max(fluxes)
    if len(epochs) == 1:
        return Statistics(n=1, mean_jy=mean, max_jy=highest, reason="Only one valid epoch; eta and V need two.")
    std = math.sqrt(math.fsum((flux - mean) ** 2 for flux in fluxes) / (len(fluxes) - 1))
    return Statistics(
        n=len(epochs),
        mean_jy=mean,
        max_jy=highest,
        std_jy=std,
        eta=_eta(epochs),
        v=std / mean if mean > 0 else None,
        reason="" if mean > 0 else "The mean flux is not positive, so V is not defined.",
    )


def _eta(epochs: Sequence[tuple[float, float]]) -> float:
    """The reduced chi-square around the weighted mean.

    N/(N-1) (mean(w S^2) - mean(w S)^2 / mean(w)) written as a sum of squares: the same number, without the
    difference of two large ones that loses all digits for a bright source.
    """
    lowest = min(error for _, error in epochs)
    weights = [(lowest / error) ** 2 for _, error in epochs]  # of order one: no error is too small to be squared
    mean = math.fsum(w * flux for w, (flux, _) in zip(weights, epochs, strict=True)) / math.fsum(weights)
    return math.fsum(((flux - mean) / error) ** 2 for flux, error in epochs) / (len(epochs) - 1)


def pair_significance(flux_a: float, error_a: float, flux_b: float, error_b: float) -> float | None:
    """Vs: the difference of two epochs in units of its error; None without a positive error."""
    error = math.hypot(error_a, error_b)
    return (flux_a - flux_b) / error if error > 0 else None


def modulation_index(flux_a: float, flux_b: float) -> float | None:
    """m: the difference of two epochs over their mean; None when that is not positive."""
    total = flux_a + flux_b
    return 2 * (flux_a - flux_b) / total if total > 0 else None


def is_variable(*, eta: float | None, n: int, n_sources: int) -> bool:
    """Whether eta (N - 1) is above what chance gives to one in a hundred fields of `n_sources` constant sources.

    It follows chi-square with N - 1 degrees of freedom for a constant source; a fixed limit on eta would flag more
    and more of them the fewer epochs there are.
    """
    from scipy.special import chdtri  # here: web processes import this module, and scipy takes a third of a second

    if eta is None or n < 2:
        return False
    return eta * (n - 1) > float(chdtri(n - 1, FALSE_ALARMS_PER_FIELD / max(n_sources, 1)))
