"""The outline of an image on the sky, as four circles.

A row or column of pixels is a circle on the sky, that is where a plane cuts the sphere, in TAN (a great circle), in
SIN, NCP and STG, and in the cylindrical projections as usually written. So a position is inside of the image when it is
on the inner side of four planes, which a database can compute. In other projections (ARC, ZEA, AIT, a turned CAR) the
circle through an edge's ends and middle comes near: of images of 5 degrees to 0.5 arcsec, of 10 degrees
to 10 arcsec.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS

STEPS = 16  # along each edge, even: the middle is one of them
STRAIGHT_PX = 0.01  # an edge that leaves its great circle by less is one; through three points in line goes any plane
# How far the outline may be wrong, in pixels and as a part of the shorter side, before an image is better without it.
TOLERANCE_PX, TOLERANCE = 1.0, 0.01


@dataclass(frozen=True)
class Edge:
    """Positions of the image have `x`, `y`, `z` (ICRS unit vector) on (`normal_x`, ...) at `offset` or beyond it."""

    normal_x: float
    normal_y: float
    normal_z: float
    offset: float


def border(wcs: WCS, width_px: int, height_px: int, outward_px: float = 0.0) -> SkyCoord:
    """ICRS positions (edge, step) around the image from corner to corner, NaN where it is off the sky."""
    outward_x, outward_y = (max(outward_px, -side / 4) for side in (width_px, height_px))
    left, right = -0.5 - outward_x, width_px - 0.5 + outward_x
    bottom, top = -0.5 - outward_y, height_px - 0.5 + outward_y
    corners = np.array([(left, bottom), (right, bottom), (right, top), (left, top)])
    way = (np.roll(corners, -1, axis=0) - corners)[:, np.newaxis]
    pixels = corners[:, np.newaxis] + np.linspace(0, 1, STEPS + 1)[:, np.newaxis] * way
    return wcs.pixel_to_world(pixels[..., 0], pixels[..., 1]).icrs


def _directions(sky: SkyCoord) -> np.ndarray:
    return np.moveaxis(sky.cartesian.xyz.value, 0, -1)


def outline(wcs: WCS, width_px: int, height_px: int, pixel_arcsec: float, centre: SkyCoord) -> tuple[Edge, ...]:
    """The four edges, or none when they are no circles, or do not bound the image: it is off the sky, or very wide."""
    with np.errstate(invalid="ignore", divide="ignore"):
        normals, offsets = _planes(_directions(border(wcs, width_px, height_px)), math.radians(pixel_arcsec / 3600))
        towards = np.sign(normals @ _directions(centre) - offsets)
        normals, offsets = normals * towards[:, np.newaxis], offsets * towards
        margin = max(TOLERANCE_PX, TOLERANCE * min(width_px, height_px))
        within, without = (
            (_directions(border(wcs, width_px, height_px, outward_px)) @ normals.T >= offsets).all(axis=-1)
            for outward_px in (-margin, margin)
        )
    if not within.all() or without.any():
        return ()
    # Rounded: PostgreSQL refuses a product too small for a double.
    return tuple(Edge(*np.round([*n, offset], 17).tolist()) for n, offset in zip(normals, offsets, strict=True))


def _planes(along: np.ndarray, pixel_rad: float) -> tuple[np.ndarray, np.ndarray]:
    """The normals and offsets of the planes through each edge's ends and its middle."""
    first, middle, last = along[:, 0], along[:, STEPS // 2], along[:, -1]
    great = _unit(np.cross(first, last))
    is_great = np.abs(np.sum(great * middle, axis=-1)) < STRAIGHT_PX * pixel_rad
    normals = np.where(is_great[:, np.newaxis], great, _unit(np.cross(middle - first, last - first)))
    return normals, np.sum(normals * first, axis=-1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
