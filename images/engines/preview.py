"""A picture of an image for people who look at hundreds: grid, colour bar, beam, and noise that is just visible."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.visualization import AsinhStretch, ImageNormalize, ZScaleInterval
from astropy.visualization.wcsaxes import WCSAxes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Polygon

from images.engines import fits_cards as cards
from images.engines.fits import Plane, open_plane, robust_rms
from images.engines.fits_cards import Beam

LONGEST_SIDE_PX = 800  # about what the picture has on the page; images of twice that and more are squeezed
SOURCE_RMS = 5  # a pixel above this is a source, and is not averaged away
WIDTH_IN, DPI = 9.6, 110
LEFT, RIGHT, BOTTOM, TOP = 1.05, 1.25, 0.75, 0.85  # inches around the picture
GROUND, BLANK, INK, FAINT, BEAM = "#0c0f15", "#232833", "#e6e9ef", "#98a1b3", "#7fd4ff"
COLOUR_MAP = "inferno"
BRIGHTEST_RMS = 300  # the colour scale ends at the peak, or at so many rms
SOFTENING_RMS = 4  # linear below, logarithmic above


def make_preview(fits_path: Path, png_path: Path, title: str = "") -> None:
    """Draw the image of a FITS file to a PNG of about a megapixel, in bounded memory.

    Colours run from the zscale minimum to the peak, linear about the noise and logarithmic above it. The beam is
    drawn in the lower left corner in its true size and angle. Raises what open_plane raises.
    """
    with open_plane(fits_path) as plane, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # matplotlib and wcsaxes on grids that leave the sky
        notes: list[str] = []
        beam = cards.beam(plane.header, plane.history, plane.beams_table, notes)
        unit, factor = _unit(plane, beam, notes)
        step = max(1, max(plane.width_px, plane.height_px) // LONGEST_SIDE_PX)
        rms = sampled_rms(plane, step)
        pixels = decimated(plane, step, rms) * factor
        rms *= factor
        figure, axes = _figure(plane)
        picture = _draw_pixels(axes, plane, pixels, step, rms)
        _draw_grid(axes, plane)
        _draw_colour_bar(figure, axes, picture, unit)
        if beam is not None:
            _draw_beam(axes, plane, beam)
        _write_titles(figure, title, _facts(plane, beam, rms, unit, notes))
        FigureCanvasAgg(figure).print_png(png_path)


def sampled_rms(plane: Plane, step: int) -> float:
    """Robust rms of every step-th pixel of every step-th row, in the file's unit."""
    sample = plane.values(slice(None, None, step))[:, ::step]
    return robust_rms(sample[np.isfinite(sample)])


def decimated(plane: Plane, step: int, rms: float) -> np.ndarray:
    """One value for step x step pixels: their mean, or their peak where a source stands out of the noise.

    The mean alone would dim a source smaller than the square to nothing, the peak alone would lift the noise.
    NaN where all are blank; the last row and column may be of fewer pixels.
    """
    if step == 1:
        return plane.values(slice(None))
    return np.concatenate([_squeezed(block, step, SOURCE_RMS * rms) for block in plane.blocks(multiple_of=step)])


def _squeezed(block: np.ndarray, step: int, source_level: float) -> np.ndarray:
    margins = [(0, -size % step) for size in block.shape]
    padded = np.pad(block, margins, constant_values=np.nan)
    tiles = padded.reshape(padded.shape[0] // step, step, padded.shape[1] // step, step)
    finite = np.isfinite(tiles)
    count = finite.sum(axis=(1, 3))
    mean = np.where(count, np.where(finite, tiles, 0).sum(axis=(1, 3)) / np.maximum(count, 1), np.nan)
    peak = tiles.max(axis=(1, 3), initial=-np.inf, where=finite)
    return np.where(peak > source_level, peak, mean)


def _unit(plane: Plane, beam: Beam | None, notes: list[str]) -> tuple[str, float]:
    """What to write at the colour bar and what to multiply by: mJy/beam when the image is a flux per beam."""
    unit = str(plane.header.get("BUNIT", "")).strip()
    factor = cards.jy_per_beam_factor(unit, has_beam=beam is not None, notes=notes)
    return (unit or "(unit not stated)", 1.0) if factor is None else ("mJy/beam", factor * 1e3)


# --- drawing ------------------------------------------------------------------------------------------------------
def _figure(plane: Plane) -> tuple[Figure, WCSAxes]:
    """A page as wide as ever and as high as the image needs, within reason."""
    width = WIDTH_IN - LEFT - RIGHT
    height = width * min(max(plane.height_px / plane.width_px, 0.4), 1.6)
    page = height + BOTTOM + TOP
    figure = Figure(figsize=(WIDTH_IN, page), dpi=DPI, facecolor=GROUND)
    axes = WCSAxes(figure, (LEFT / WIDTH_IN, BOTTOM / page, width / WIDTH_IN, height / page), wcs=plane.wcs)
    figure.add_axes(axes)
    return figure, axes


def _draw_pixels(axes: WCSAxes, plane: Plane, pixels: np.ndarray, step: int, rms: float):
    axes.set_facecolor(BLANK)
    extent = (-0.5, pixels.shape[1] * step - 0.5, -0.5, pixels.shape[0] * step - 0.5)
    picture = axes.imshow(
        pixels,
        origin="lower",
        extent=extent,
        norm=_norm(pixels, rms),
        cmap=COLOUR_MAP,
        interpolation="auto" if step == 1 else "nearest",
    )
    axes.set_xlim(-0.5, plane.width_px - 0.5)
    axes.set_ylim(-0.5, plane.height_px - 0.5)
    return picture


def _norm(pixels: np.ndarray, rms: float) -> ImageNormalize:
    finite = pixels[np.isfinite(pixels)]
    low, high = ZScaleInterval().get_limits(finite)
    brightest = float(finite.max())
    high = max(high, min(brightest, BRIGHTEST_RMS * rms) if rms else brightest)
    if not high > low:
        high = low + max(1.0, abs(low) * 1e-3)
    softening = SOFTENING_RMS * rms / (high - low) or 0.1
    return ImageNormalize(vmin=low, vmax=high, stretch=AsinhStretch(min(softening, 1.0)), clip=False)


def _draw_grid(axes: WCSAxes, plane: Plane) -> None:
    has_pole = _has_pole(plane)
    axes.coords.grid(color="white", alpha=0.16, linewidth=0.6)
    axes.coords.frame.set_color(FAINT)
    for coordinate in axes.coords:
        coordinate.set_ticks(color=FAINT, size=4)
        coordinate.set_ticklabel(color=INK, size=9.5, exclude_overlapping=True, simplify=not has_pole)
        coordinate.set_axislabel(_axis_name(coordinate), color=FAINT, size=10)
    if has_pole:  # meridians leave through all sides; left alone, labels go where there is no room
        axes.coords[0].set_ticks(spacing=30 * u.deg)
        axes.coords[0].set_ticklabel_position("l")
        axes.coords[1].set_ticklabel_position("b")


def _has_pole(plane: Plane) -> bool:
    x, y = plane.wcs.wcs_world2pix([[0.0, 90.0], [0.0, -90.0]], 0).T
    tangent = plane.wcs.wcs.crval[1]
    inside = (x >= 0) & (x < plane.width_px) & (y >= 0) & (y < plane.height_px)
    return bool(inside[0] and tangent > 0) or bool(inside[1] and tangent < 0)


def _axis_name(coordinate) -> str:
    names = {"ra": "Right ascension", "dec": "Declination", "glon": "Galactic longitude", "glat": "Galactic latitude"}
    return names.get(coordinate.default_label.removeprefix("pos.eq.").removeprefix("pos.galactic."), "")


def _draw_colour_bar(figure: Figure, axes: WCSAxes, picture, unit: str) -> None:
    box = axes.get_position()
    bar_axes = figure.add_axes((box.x1 + 0.018, box.y0, 0.02, box.height))
    bar = figure.colorbar(
        picture, cax=bar_axes, ticks=_ticks(picture.norm), format=lambda value, _: f"{value:g}".replace("-", "−")
    )
    bar.outline.set_edgecolor(FAINT)
    bar_axes.tick_params(colors=INK, labelsize=9.5, color=FAINT, length=4)
    bar_axes.minorticks_off()
    bar_axes.set_ylabel(unit, color=FAINT, fontsize=10)


def _ticks(norm: ImageNormalize) -> list[float]:
    """Round values (0 and 1, 2, 5 times powers of ten) that stand well apart on the bar, however it is stretched."""
    span = max(abs(norm.vmin), abs(norm.vmax))
    powers = range(math.floor(math.log10(span)) - 5, math.ceil(math.log10(span)) + 1)
    steps = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    chosen = [0.0] if norm.vmin <= 0 <= norm.vmax else []
    for value in [*steps, *(-step for step in steps)]:
        place = norm.vmin <= value <= norm.vmax
        if place and all(abs(norm(value) - norm(other)) > 0.055 for other in chosen):
            chosen.append(value)
    return sorted(chosen) if len(chosen) > 1 else list(np.linspace(norm.vmin, norm.vmax, 5))


def _draw_beam(axes: WCSAxes, plane: Plane, beam: Beam) -> None:
    """The half-power ellipse; BPA is east of north, and the WCS matrix says where those are in pixels."""
    outline = _beam_outline_px(plane.wcs.pixel_scale_matrix, beam)
    half = np.abs(outline).max(axis=0)
    margin = 0.012 * max(plane.width_px, plane.height_px)
    centre = half + 2.2 * margin
    corner, size = centre - half - margin, 2 * (half + margin)
    style = f"round,pad=0,rounding_size={margin}"
    box = FancyBboxPatch(
        corner, size[0], size[1], boxstyle=style, facecolor=GROUND, edgecolor="none", alpha=0.6, zorder=4
    )
    axes.add_patch(box)
    axes.add_patch(Polygon(outline + centre, facecolor=BEAM, edgecolor=BEAM, linewidth=0.6, zorder=5))  # above the grid
    axes.text(
        corner[0] + size[0] + margin / 2, centre[1], "beam",
        color=BEAM, fontsize=8.5, va="center", zorder=5,
        bbox={"facecolor": GROUND, "edgecolor": "none", "alpha": 0.6, "pad": 1.5},
    )  # fmt: skip


def _beam_outline_px(degrees_per_pixel: np.ndarray, beam: Beam) -> np.ndarray:
    """Points (x, y) of the ellipse around (0, 0), in pixels."""
    turn = np.linspace(0, 2 * np.pi, 73)[:-1]
    along, across = beam.bmaj_arcsec / 7200 * np.cos(turn), beam.bmin_arcsec / 7200 * np.sin(turn)
    angle = math.radians(beam.bpa_deg)
    east = along * math.sin(angle) + across * math.cos(angle)
    north = along * math.cos(angle) - across * math.sin(angle)
    return np.linalg.solve(degrees_per_pixel, np.stack([east, north])).T


def _write_titles(figure: Figure, title: str, facts: str) -> None:
    height = figure.get_figheight()
    left = LEFT / WIDTH_IN
    figure.text(left, 1 - 0.36 / height, _shortened(title), color=INK, fontsize=13, fontweight="bold", parse_math=False)
    figure.text(left, 1 - 0.64 / height, facts, color=FAINT, fontsize=10, parse_math=False)


def _shortened(title: str) -> str:
    return title if len(title) <= 75 else f"{title[:48]}…{title[-24:]}"


def _facts(plane: Plane, beam: Beam | None, rms: float, unit: str, notes: list[str]) -> str:
    frequency_hz, _ = cards.frequency(plane.header, notes)
    at = cards.observed_at(plane.header, notes)
    parts = [
        f"{at:%Y-%m-%d %H:%M} UTC" if at else "",
        f"{frequency_hz / 1e9:.4g} GHz" if frequency_hz else "",
        f"beam {beam.bmaj_arcsec:.3g}″ × {beam.bmin_arcsec:.3g}″" if beam else "no beam stated",
        f"rms {rms:.3g} {unit}" if rms else "",
    ]
    return "   ".join(part for part in parts if part)
