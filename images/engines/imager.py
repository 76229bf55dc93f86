"""What every imager does: a calibrated measurement set in, a flat-noise CLEAN image and its residual out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ImagingParameters:
    """How to image. Ranges as the API documents them; `auto_mask_sigma` and below are multiples of the robust rms."""

    size_px: int = 4800
    pixel_arcsec: float = 3.0
    robust: float = 0.5
    niter: int = 100_000
    auto_mask_sigma: float = 5.0
    auto_threshold_sigma: float = 1.0
    gain: float = 0.1
    mgain: float = 0.8


@dataclass(frozen=True, kw_only=True)
class CleanResult:
    """The two files an imager leaves in its output folder and what it measured of them.

    Both FITS files are 2-D (dec, ra), RA---SIN, in Jy/beam, before primary-beam correction, with BMAJ, BMIN, BPA,
    BUNIT, RESTFRQ, DATE-OBS and HISTORY. `n_effective_visibilities` is over the imaging weights of all unflagged
    cross-correlations and both polarizations; it gives the thermal noise of the image.
    """

    image_path: Path
    residual_path: Path
    bmaj_arcsec: float
    bmin_arcsec: float
    bpa_deg: float
    frequency_hz: float
    n_effective_visibilities: float  # (sum w)^2 / sum w^2
    n_iterations: int
    n_major_cycles: int
    clean_threshold_jy_per_beam: float | None


class Imager(ABC):
    """Both imagers pass tests/images/test_imagers.py. To add one, copy the nearest and change it."""

    name: str

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """The versions of the engine and the libraries that shape its result."""

    @abstractmethod
    def make(
        self,
        *,
        measurement_set: Path,
        output_folder: Path,
        parameters: ImagingParameters,
        threads: int,
        progress: Callable[[float], None] = lambda fraction: None,
    ) -> CleanResult:
        """Image the DATA column of a calibrated measurement set; `progress` is told the share done at each major cycle.

        Raises EngineFailed when the set cannot be imaged (all flagged, NaN) and EngineUnavailable when the engine
        cannot run at all.
        """


class CleanProgress:
    """How far CLEAN is: major cycles take about the same time, and each lowers the peak by about the same factor."""

    def __init__(self, tell: Callable[[float], None]) -> None:
        self._tell = tell
        self._first: float | None = None
        self._told = 0.0

    def cycle(self, *, peak: float, threshold: float) -> None:
        """A major cycle begins whose residual has this peak, to be cleaned down to the threshold (both Jy/beam).

        The threshold follows the noise, which falls while cleaning; what was told is never taken back.
        """
        if not 0 < threshold < peak:
            return
        self._first = self._first or peak
        if self._first > threshold:
            done = math.log(self._first / peak) / math.log(self._first / threshold)
            self._told = max(self._told, done)
            self._tell(self._told)
