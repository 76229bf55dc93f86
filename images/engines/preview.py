"""A picture of an image for people who look at hundreds: grid, colour bar, beam, and noise that is just visible."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.visualization import AsinhStretch, ImageNormalize, ZScaleInterval
from astropy.visualization.wcsaxes import WCSAxes
from astropy.wcs.utils import proj_plane_pixel_scales
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Polygon
from PIL import Image as Picture

from images.engines import fits_cards as cards
from images.engines.fits import USUAL, Plane, is_usual, largest, open_plane, robust_rms
from images.engines.fits_cards import Beam

LONGEST_SIDE_PX = 800  # about what the picture has on the page; images of twice that and more are squeezed
SOURCE_RMS = 5  # a pixel above this is a source, and is not averaged away
WIDTH_IN, DPI = 9.6, 110
LEFT, RIGHT, BOTTOM, TOP = 1.05, 1.25, 0.75, 0.85  # inches around the picture
GROUND, BLANK, INK, FAINT, BEAM = "#0c0f15", "#232833", "#e6e9ef", "#98a1b3", "#7fd4ff"
COLOUR_MAP = "inferno"
BRIGHTEST_RMS = 300  # the colour scale ends at the peak, or at so many rms
CONVERGING_DEG = 75  # declination from which an image's meridians visibly converge
MERIDIANS_DEG = [minutes / 4 for minutes in (1 / 60, 1 / 12, 0.25, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 240)]
PARALLELS_DEG = [minutes / 60 for minutes in (1 / 60, 1 / 12, 0.25, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600)]
SOFTENING_RMS = 4  # linear below, logarithmic above


def thumbnail(png_path: Path, *, longest_side_px: int) -> bytes:
    """A preview as a JPEG of some ten kilobytes. Raises OSError for what is not there or no picture."""
    with Picture.open(png_path) as picture:
        picture.thumbnail((longest_side_px, longest_side_px))
        out = BytesIO()
        picture.convert("RGB").save(out, format="JPEG", quality=80)
    return out.getvalue()


def make_preview(fits_path: Path, png_path: Path, title: str = "") -> None:
    """Draw the image of a FITS file to a PNG of about a megapixel, in bounded memory.

    Colours run from the zscale minimum to the peak, linear about the noise and logarithmic above it. The beam is
    drawn in the lower left corner in its true size and angle. Raises what open_plane raises.
    """
    with open_plane(fits_path) as plane, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # matplotlib and wcsaxes on grids that leave the sky
        notes: list[str] = []
        beam = plane.beam(notes)
        unit, factor = _unit(plane, beam, notes)
        step = max(1, max(plane.width_px, plane.height_px) // LONGEST_SIDE_PX)
        rms = sampled_rms(plane, step)
        pixels, rms, power = _within_reach(decimated(plane, step, rms), rms)
        unit = f"1e{power} {unit}" if power else unit
        pixels, rms = pixels * factor, rms * factor
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


def _within_reach(pixels: np.ndarray, rms: float) -> tuple[np.ndarray, float, int]:
    """Pixels and rms in powers of ten of their unit, and which power: matplotlib cannot draw what is near the ends of
    a float's range. The power is 0 for usual images; a few huge pixels of one are put where the colours end anyway.
    """
    rms = rms if math.isfinite(rms) else 0.0
    finite = np.isfinite(pixels)
    highest = largest(pixels[finite])
    power = 0 if is_usual(rms or highest) else max(math.floor(math.log10(rms or highest)), -300)
    if power == 0 and is_usual(highest):
        return pixels, rms, 0
    with np.errstate(over="ignore"):
        scaled = np.clip(pixels.astype(np.float64) / 10.0**power, -USUAL[1], USUAL[1])
    return np.where(finite, scaled, np.nan), rms / 10.0**power, power


def _squeezed(block: np.ndarray, step: int, source_level: float) -> np.ndarray:
    margins = [(0, -size % step) for size in block.shape]
    padded = np.pad(block, margins, constant_values=np.nan)
    tiles = padded.reshape(padded.shape[0] // step, step, padded.shape[1] // step, step)
    finite = np.isfinite(tiles)
    count = finite.sum(axis=(1, 3))
    shares = np.where(finite, tiles, 0) / np.maximum(count, 1)[:, None, :, None]  # whose sum does not overflow
    mean = np.where(count, shares.sum(axis=(1, 3)), np.nan)
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
    if finite.size == 0:
        return ImageNormalize(vmin=0.0, vmax=1.0)
    low, high = ZScaleInterval().get_limits(finite)
    brightest = float(finite.max())
    high = max(high, min(brightest, BRIGHTEST_RMS * rms) if rms else brightest)
    if not high > low:
        high = low + max(1.0, abs(low) * 1e-3)
    softening = SOFTENING_RMS * rms / (high - low) or 0.1
    return ImageNormalize(vmin=low, vmax=high, stretch=AsinhStretch(min(softening, 1.0)), clip=False)


def _draw_grid(axes: WCSAxes, plane: Plane) -> None:
    axes.coords.grid(color="white", alpha=0.16, linewidth=0.6)
    axes.coords.frame.set_color(FAINT)
    for coordinate in axes.coords:
        coordinate.set_ticks(color=FAINT, size=4)
        coordinate.set_ticklabel(color=INK, size=9.5, exclude_overlapping=True)
        coordinate.set_axislabel(_axis_name(coordinate), color=FAINT, size=10)
    if _has_pole(plane):
        _label_around_pole(axes, plane)
    elif abs(plane.wcs.wcs.crval[1]) > CONVERGING_DEG:
        _label_below(axes, plane)


def _label_below(axes: WCSAxes, plane: Plane) -> None:
    """Meridians that converge are most at the top, where the titles are; so few reach the bottom that they need to be
    as close as is right for it."""
    edge = plane.wcs.wcs_pix2world([[0, 0], [plane.width_px - 1, 0]], 0)[:, 0]
    span_deg = abs((edge[1] - edge[0] + 180) % 360 - 180)
    if span_deg:
        axes.coords[0].set_ticks(spacing=_nice(span_deg / 5, MERIDIANS_DEG) * u.deg)
    axes.coords[0].set_ticklabel_position("b")
    axes.coords[1].set_ticklabel_position("l")


def _label_around_pole(axes: WCSAxes, plane: Plane) -> None:
    """Meridians leave through all sides and parallels through none: each is named where it is, inside the picture."""
    pole = math.copysign(90.0, plane.wcs.wcs.crval[1])
    reach_deg = math.hypot(plane.width_px, plane.height_px) * max(proj_plane_pixel_scales(plane.wcs))
    step_deg = _nice(min(plane.width_px, plane.height_px) * max(proj_plane_pixel_scales(plane.wcs)) / 8, PARALLELS_DEG)
    axes.coords[0].set_ticks(spacing=30 * u.deg)
    axes.coords[1].set_ticks(spacing=step_deg * u.deg)
    for coordinate in axes.coords:
        coordinate.set_ticklabel_visible(False)
        coordinate.set_axislabel(" ")
    has_hours = axes.coords[0].default_label.endswith("ra")
    outward = np.linspace(0, reach_deg, 500)[1:]
    for hour in range(0, 24, 2):
        inside = _inside(plane, hour * 15.0, pole - math.copysign(1, pole) * outward)
        if len(inside) > 40:  # not beside the pole, where they would run together
            _label(axes, inside[-1], f"{hour}ʰ" if has_hours else f"{hour * 15}°")
    for distance in np.arange(1, 9) * step_deg:
        inside = _inside(plane, 45.0, np.array([pole - math.copysign(distance, pole)]))
        if len(inside):
            _label(axes, inside[-1], _dec_text(pole - math.copysign(distance, pole)))


def _inside(plane: Plane, ra_deg: float, dec_deg: np.ndarray) -> np.ndarray:
    """Pixels (x, y) of those positions on a meridian that have room for a label."""
    places = plane.wcs.wcs_world2pix(np.column_stack([np.full(dec_deg.size, ra_deg), dec_deg]), 0)
    size = np.array([plane.width_px, plane.height_px])
    return places[((places > 0.04 * size) & (places < 0.96 * size)).all(axis=1)]


def _label(axes: WCSAxes, place: np.ndarray, text: str) -> None:
    ground = {"facecolor": GROUND, "edgecolor": "none", "alpha": 0.6, "pad": 1.5}
    axes.text(*place, text, color=INK, fontsize=9, ha="center", va="center", bbox=ground)


def _dec_text(dec_deg: float) -> str:
    arcsec = round(abs(dec_deg) * 3600)
    degrees, minutes, seconds = arcsec // 3600, arcsec // 60 % 60, arcsec % 60
    return f"{'−' if dec_deg < 0 else '+'}{degrees}°{minutes:02d}′" + (f"{seconds:02d}″" if seconds else "")


def _nice(step_deg: float, steps_deg: Sequence[float]) -> float:
    """The smallest of the steps that is not below; beyond all the largest."""
    return next((step for step in steps_deg if step >= step_deg), steps_deg[-1])


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
