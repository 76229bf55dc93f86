"""What a mosaic of a whole hour costs: `python benchmarks/mosaic.py [--tiles 16] [--size 4800]`.

Tiles of noise at the telescope's spacing, beams differing by a percent. Ours runs in a process of its own, and so does
`reproject.mosaicking.reproject_and_coadd`, which does less: regridding (cubic, then bilinear) of the same images, one
weight for all, no smoothing to a common beam, no noise image.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.child import Measured, measured
from images.engines.mosaic import Tile, make_mosaic

SPACING_DEG = 309 * 15.041 / 3600
FWHM_DEG, FREQUENCY_HZ = 2.71, 1.405e9


def write_tiles(folder: Path, n_tiles: int, size_px: int, pixel_arcsec: float) -> list[Tile]:
    """Gaussian beams and white noise: what regridding costs does not depend on what the pixels hold."""
    rng = np.random.default_rng(1)
    return [_write_tile(folder, number, size_px, pixel_arcsec, rng) for number in range(n_tiles)]


def _write_tile(folder: Path, number: int, size_px: int, pixel_arcsec: float, rng: np.random.Generator) -> Tile:
    header = fits.Header()
    for axis, kind, value, sign in ((1, "RA---SIN", 350 + number * SPACING_DEG, -1), (2, "DEC--SIN", 16.0, 1)):
        header[f"CTYPE{axis}"], header[f"CRVAL{axis}"], header[f"CUNIT{axis}"] = kind, value % 360, "deg"
        header[f"CDELT{axis}"], header[f"CRPIX{axis}"] = sign * pixel_arcsec / 3600, size_px / 2 + 1
    header["BMAJ"], header["BMIN"] = (14 + 0.1 * rng.random()) / 3600, (11 + 0.1 * rng.random()) / 3600
    header["BPA"], header["BUNIT"], header["RESTFRQ"] = 5 * rng.random(), "Jy/beam", FREQUENCY_HZ
    offset = (np.arange(size_px, dtype=np.float32) - size_px / 2) * pixel_arcsec / 3600 / FWHM_DEG
    lobe = 0.5 ** (4 * offset**2)
    noise = rng.normal(0, 3e-4, (size_px, size_px)).astype(np.float32)
    paths = {}
    for part, data in (("image", noise), ("residual", noise), ("primary_beam", np.outer(lobe, lobe))):
        paths[part] = folder / f"{number}_{part}.fits"
        fits.PrimaryHDU(data.astype(np.float32), header).writeto(paths[part])
    return Tile(name=f"tile {number}", **paths, mjd=61000 + 309 * number / 86400, duration_s=309.0)


def ours(tiles: Sequence[Tile], folder: Path) -> tuple[int, ...]:
    return fits.getdata(make_mosaic(tiles=tiles, folder=folder, threads=1).image).shape


def plain(tiles: Sequence[Tile], folder: Path, grid: Path, order: str) -> tuple[int, ...]:
    from reproject import reproject_interp
    from reproject.mosaicking import reproject_and_coadd

    header = fits.getheader(grid)
    mean, _ = reproject_and_coadd(
        [str(tile.image) for tile in tiles],
        WCS(header),
        shape_out=(header["NAXIS2"], header["NAXIS1"]),
        reproject_function=reproject_interp,
        order=order,
        combine_function="mean",
    )
    return mean.shape


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=int, default=16)
    parser.add_argument("--size", type=int, default=4800)
    parser.add_argument("--pixel", type=float, default=3.0)
    parser.add_argument("--keep", type=Path, help="work in this folder")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="contimg-mosaic-"))
    tiles = write_tiles(folder, options.tiles, options.size, options.pixel)
    print(f"{options.tiles} tiles of {options.size} x {options.size} px\n")
    print("| | grid | CPU s | s | peak GB | CPU s a tile |\n|---|---|--:|--:|--:|--:|")
    own = measured(ours, 1, tiles, folder)
    _print("contimg: smooth, cubic, beam and noise weights, noise image", own, options.tiles)
    for order in ("bicubic", "bilinear"):
        other = measured(plain, 1, tiles, folder, folder / "mosaic.fits", order)
        _print(f"reproject_and_coadd, {order}, the images alone", other, options.tiles)
        print(f"| contimg / that | | {own.cpu_s / other.cpu_s:.2f} | | {own.peak_bytes / other.peak_bytes:.2f} | |")
    if not options.keep:
        shutil.rmtree(folder)


def _print(what: str, cost: Measured, n_tiles: int) -> None:
    grid = " x ".join(map(str, cost.result[::-1]))
    figures = f"{cost.cpu_s:.0f} | {cost.seconds:.0f} | {cost.peak_bytes / 1e9:.2f} | {cost.cpu_s / n_tiles:.1f}"
    print(f"| {what} | {grid} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
