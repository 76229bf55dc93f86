"""Cutouts: which are made, and of what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from contimg.exceptions import ContimgError, InvalidInput, MissingProduct, NotReadable
from contimg.products import digest
from contimg.renditions import Rendition
from images.models import Image
from images.services import image_file, named_failures

FEWEST_PX, MOST_PX = 16, 2048
ROUNDING = 1e-9
FORM = 1  # of these files; another one, and nobody has the present version any more


class CutoutSize(InvalidInput):
    """Fewer or more pixels than a cutout may have."""

    code = "cutout_size"


@dataclass(frozen=True, kw_only=True)
class Square:
    """What is asked of an image: a point (ICRS) and the side of the square around it."""

    image: Image
    ra_deg: float
    dec_deg: float
    size_arcsec: float

    @property
    def size_px(self) -> int:
        """Raises CutoutSize."""
        pixel = self.image.pixel_arcsec
        fewest, most = FEWEST_PX * pixel, MOST_PX * pixel
        if not fewest * (1 - ROUNDING) <= self.size_arcsec <= most * (1 + ROUNDING):
            raise CutoutSize(
                f"A cutout has {FEWEST_PX} to {MOST_PX} pixels a side, which in this image are {fewest:g} to {most:g}"
                f" arcsec; {self.size_arcsec:g} is not in that range."
            )
        return round(self.size_arcsec / pixel)

    def recipe(self, form: str) -> str:
        """What the file follows from: a strong validator of HTTP."""
        image = self.image
        return digest("cutout", FORM, image.pk, image.checksum, self.ra_deg, self.dec_deg, self.size_px, form)


def fitting_arcsec(*, image: Image, size_arcsec: float) -> float:
    """The nearest size that a cutout of this image may have."""
    return min(max(size_arcsec, FEWEST_PX * image.pixel_arcsec), MOST_PX * image.pixel_arcsec)


def cutout(*, square: Square, form: str) -> bytes:
    """The file, `fits` or `png`. Raises CutoutSize, OutsideImage, and MissingProduct when the image's file is gone or
    is not what it was."""
    from images.engines import cutout as engine

    image, path = square.image, image_file(image=square.image)
    size_px = square.size_px
    try:
        with named_failures(path):
            made = engine.cut(path, ra_deg=square.ra_deg, dec_deg=square.dec_deg, size_px=size_px)
    except (engine.OutsideImage, NotReadable):
        raise
    except InvalidInput as error:  # it was a good image when it was registered
        raise MissingProduct(f"The file of image {image.pk} is not what it was any more: {error}") from error
    if form == "png":
        return engine.as_png(made)
    return engine.as_fits(made, origin={"IMAGEID": image.pk, "IMGNAME": image.name, "IMGSUM": image.checksum})


def sheet(*, squares: Sequence[Square]) -> Rendition:
    """One picture of many cutouts, in their order. Of an image whose file is gone it says so."""
    cells, paths = [], []
    for square in squares:
        try:
            path: str | None = str(image_file(image=square.image))
        except ContimgError:
            path = None
        image = square.image
        when = "" if image.observed_at is None else f"{image.observed_at:%Y-%m-%d %H:%M}"
        cells.append(
            {
                "title": f"{when} {image.kind} {image.pk}".strip(),
                "ra_deg": square.ra_deg,
                "dec_deg": square.dec_deg,
                "size_px": square.size_px,
                "is_there": path is not None,
            }
        )
        paths.append(path)
    return Rendition(
        engine="images.engines.cutout_sheet:draw",
        recipe=digest(*(square.recipe("sheet") for square in squares)),
        parameters={"cells": cells},
        arguments={"paths": paths},
        suffix=".png",
    )
