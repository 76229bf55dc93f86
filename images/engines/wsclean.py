"""The production imager: WSClean (Offringa et al. 2014, MNRAS 444, 606), run as a program.

Its 4-D files are read once and written again with the header that all our images carry.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess  # the engine is a program; its arguments are a list and no shell sees them
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

import numpy as np
from astropy.io import fits as astropy_fits

from contimg.exceptions import DiskFull, EngineFailed, EngineUnavailable
from images.engines import fits
from images.engines.fits_header import write_product
from images.engines.imager import CleanProgress, CleanResult, Imager, ImagingParameters
from images.engines.weights import briggs_effective_visibilities
from observations.engines.measurement_set import read_header

VERSION_LIMIT_S = 20.0
PREFIX, TEMPORARY = "wsclean", "wsclean-temp"
_THRESHOLD = re.compile(r"global threshold of ([\d.]+) (\S?)Jy")
_NOISE = re.compile(r"standard deviation of background noise: ([\d.]+) (\S?)Jy")
_PEAK = re.compile(r"Initial peak: ([\d.]+) (\S?)Jy")
_FACTOR = {"": 1.0, "m": 1e-3, "µ": 1e-6, "u": 1e-6, "n": 1e-9, "K": 1e3, "k": 1e3}
_PATH = re.compile(r"(?:/[^\s/'\"]+)+/")
_VERSION = re.compile(r"WSClean version (\S+)")


class WSCleanImager(Imager):
    name = "wsclean"

    def __init__(self, binary: str = "wsclean") -> None:
        self.binary = binary

    def versions(self) -> dict[str, str]:
        return {"wsclean": wsclean_version(self.binary), "astropy": version("astropy")}

    def make(
        self,
        *,
        measurement_set: Path,
        output_folder: Path,
        parameters: ImagingParameters,
        threads: int,
        progress: Callable[[float], None] = lambda fraction: None,
    ) -> CleanResult:
        versions = self.versions()
        n_effective = briggs_effective_visibilities(
            measurement_set,
            size_px=parameters.size_px,
            pixel_arcsec=parameters.pixel_arcsec,
            robust=parameters.robust,
        )
        log = self._run(
            _arguments(parameters, threads), measurement_set, output_folder, threads, _LogReader(parameters, progress)
        )
        image = _product(output_folder, "image", log)
        residual = _product(output_folder, "residual", log) if parameters.niter else image
        result = _result(image, output_folder, n_effective, log)
        header = read_header(measurement_set)
        for source, target in ((image, result.image_path), (residual, result.residual_path)):
            # WSClean rotates the phase centre from ICRS to FK5 (20 mas) and wraps RA; ours is the measurement set's.
            write_product(
                target, _plane(source), header=header, result=result, parameters=parameters, versions=versions
            )
        _tidy(output_folder)
        return result

    def _run(
        self, arguments: list[str], measurement_set: Path, output_folder: Path, threads: int, reader: _LogReader
    ) -> str:
        """Run to the end and return the log. Temporary files stay in the output folder, so jobs never share them."""
        temporary = output_folder / TEMPORARY
        temporary.mkdir(parents=True, exist_ok=True)
        command = [self.binary, *arguments, "-temp-dir", str(temporary), "-name", str(output_folder / PREFIX)]
        log_path = output_folder / "wsclean.log"
        with log_path.open("wb") as log:
            status = _execute([*command, str(measurement_set)], log, threads, reader)
        text = log_path.read_text(errors="replace")
        _refuse_failure(status, text)
        return text


def wsclean_version(binary: str) -> str:
    """Asked of the program once for each time that it is replaced. Raises EngineUnavailable."""
    found = shutil.which(binary)
    if found is None:
        raise _unavailable(binary)
    return _version_of(found, Path(found).stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _version_of(binary: str, replaced_ns: int) -> str:
    try:
        answer = subprocess.run(  # noqa: S603
            [binary, "-version"], capture_output=True, text=True, check=False, timeout=VERSION_LIMIT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _unavailable(binary) from error
    found = _VERSION.search(answer.stdout)
    if not found:
        raise EngineUnavailable(
            f"The program {Path(binary).name!r} is not the imager WSClean (PyPI has an unrelated one of that name);"
            " install the Debian package `wsclean`."
        )
    return found[1]


def _unavailable(binary: str) -> EngineUnavailable:
    return EngineUnavailable(
        f"WSClean cannot be run as {Path(binary).name!r}; install the Debian package `wsclean`, set"
        " CONTIMG_WSCLEAN_BINARY, or choose CONTIMG_IMAGER=embedded."
    )


def _arguments(parameters: ImagingParameters, threads: int) -> list[str]:
    """Everything that shapes the result; paths are added when it runs."""
    size = str(parameters.size_px)
    options: list[tuple[object, ...]] = [
        ("-j", threads),
        ("-no-update-model-required",),  # the measurement set is read only
        ("-use-wgridder",),
        ("-data-column", "DATA"),
        ("-pol", "I"),
        ("-size", size, size),
        ("-scale", f"{parameters.pixel_arcsec}asec"),
        ("-weight", "briggs", parameters.robust),
        ("-niter", parameters.niter),
    ]
    if not parameters.niter:
        options.append(("-make-psf",))  # or it fits no beam
    else:
        options += [
            ("-no-dirty",),
            ("-auto-mask", parameters.auto_mask_sigma),
            ("-auto-threshold", parameters.auto_threshold_sigma),
            ("-gain", parameters.gain),
            ("-mgain", parameters.mgain),
        ]
    return [str(word) for option in options for word in option]


class _LogReader:
    """What WSClean prints at the start of a major cycle, the residual's noise and peak, says how far it is."""

    def __init__(self, parameters: ImagingParameters, progress: Callable[[float], None]) -> None:
        self.threshold_sigma, self.progress = parameters.auto_threshold_sigma, CleanProgress(progress)
        self.noise: float | None = None

    def read(self, line: str) -> None:
        if found := _NOISE.search(line):
            self.noise = _jy(found)
        elif self.noise is not None and (found := _PEAK.search(line)):
            self.progress.cycle(peak=_jy(found), threshold=self.threshold_sigma * self.noise)


def _execute(command: list[str], log: BinaryIO, threads: int, reader: _LogReader) -> int:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1"}
    try:
        engine = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
        )
    except OSError as error:
        raise _unavailable(command[0]) from error
    with engine:
        for line in engine.stdout or ():
            log.write(line)
            reader.read(line.decode(errors="replace"))
    return engine.returncode


def _refuse_failure(status: int, log: str) -> None:
    if status == 0:
        return
    if "No space left on device" in log:
        raise DiskFull("The disk was full while WSClean ran; nothing was recorded. Free some space and run again.")
    if status in (-signal.SIGKILL, -signal.SIGTERM):
        raise EngineUnavailable(f"WSClean was killed by signal {-status}, perhaps for want of memory; try again.")
    raise EngineFailed(f"WSClean stopped with status {status}: {_last_words(log)}")


def _last_words(log: str) -> str:
    """The last line that says something, without the server's paths."""
    lines = [line.strip() for line in log.splitlines() if any(c.isalpha() for c in line)]
    return _PATH.sub("", lines[-1])[:200] if lines else "it said nothing."


def _product(output_folder: Path, kind: str, log: str) -> Path:
    path = output_folder / f"{PREFIX}-{kind}.fits"
    if not path.is_file():
        raise EngineFailed(f"WSClean ended without an {kind} image: {_last_words(log)}")
    return path


def _result(image: Path, output_folder: Path, n_effective: float, log: str) -> CleanResult:
    """From WSClean's header keywords; CRVAL3 is the middle of the band."""
    header = astropy_fits.getheader(image)
    if not header.get("BMAJ") or not header.get("BMIN"):
        raise EngineFailed("WSClean could not fit a beam to the PSF; the measurement set has too few visibilities.")
    return CleanResult(
        image_path=output_folder / "image.fits",
        residual_path=output_folder / "residual.fits",
        bmaj_arcsec=header["BMAJ"] * 3600,
        bmin_arcsec=header["BMIN"] * 3600,
        bpa_deg=header["BPA"],
        frequency_hz=header["CRVAL3"],
        n_effective_visibilities=n_effective,
        n_iterations=int(header.get("WSCMINOR", 0)),
        n_major_cycles=int(header.get("WSCMAJOR", 0)),
        clean_threshold_jy_per_beam=_threshold(log),
    )


def _plane(path: Path) -> np.ndarray:
    data, _ = fits.read_plane(path)
    if not np.isfinite(data).all():
        raise EngineFailed("WSClean made an image with NaN in it; convert and calibrate the tile again.")
    return data


def _tidy(output_folder: Path) -> None:
    """Leave the two products and the log."""
    for leftover in output_folder.glob(f"{PREFIX}-*.fits"):
        leftover.unlink()
    shutil.rmtree(output_folder / TEMPORARY, ignore_errors=True)


def _threshold(log: str) -> float | None:
    """Where cleaning stopped, when it did so at its noise threshold and not at the iteration limit."""
    found = [_jy(threshold) for threshold in _THRESHOLD.finditer(log)]
    return found[-1] if found else None


def _jy(found: re.Match[str]) -> float:
    return float(found[1]) * _FACTOR.get(found[2], 1.0)
