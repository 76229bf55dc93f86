"""Mosaics: the good tiles of an epoch become one image and its noise.

`make_...` calls the engine and writes files only; `record_...` moves them into place and writes the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import transaction

from contimg.exceptions import EngineFailed
from contimg.models import Grade, suspect_if
from contimg.products import digest, product_path, publish
from images.models import Image, MosaicTile
from images.services import columns_of, record_edges
from observations.models import Epoch, SubbandGroup, name_files

if TYPE_CHECKING:
    from images.engines.fits import FitsFacts
    from images.engines.mosaic import Mosaic, Tile

FEWEST_TILES = 2
LEAST_SHARE = 0.5  # of the tiles that were observed
ENGINE = "mosaic"


class TooFewTiles(EngineFailed):
    """Less than half of an epoch's tiles, or a single one, are good enough for a mosaic."""

    code = "too_few_tiles"


@dataclass(frozen=True)
class EpochTile:
    """A tile of an epoch with its current image."""

    group: SubbandGroup
    image: Image | None


@dataclass(frozen=True)
class LeftOut:
    """A tile of the epoch that its mosaic is made without; `code` is stable."""

    name: str
    code: str
    reason: str


@dataclass(frozen=True)
class Choice:
    """The images that go into a mosaic, in the order of time, and the tiles that do not."""

    used: tuple[Image, ...]
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True)
class MadeMosaic:
    """The files of a mosaic in the work folder and what was measured of them."""

    choice: Choice
    mosaic: Mosaic
    facts: FitsFacts
    preview: Path


def tiles_of(*, epoch: Epoch) -> list[EpochTile]:
    """The epoch's tile set in the order of time."""
    groups = list(SubbandGroup.objects.in_epoch(epoch))
    images = Image.objects.tiles().current().filter(measurement_set__group__in=groups).select_related("measurement_set")
    by_group = {image.measurement_set.group_id: image for image in images.order_by("id") if image.measurement_set}
    return [EpochTile(group, by_group.get(group.pk)) for group in groups]


def choose_tiles(*, epoch: Epoch, failures: Mapping[int, str] | None = None) -> Choice:
    """The tiles that are judged and not poor; `failures` says by group why there is no image.

    Raises TooFewTiles.
    """
    used, left_out = [], []
    tiles = tiles_of(epoch=epoch)
    for tile in tiles:
        fault = _fault(tile, failures or {})
        if fault is None and tile.image is not None:
            used.append(tile.image)
        elif fault is not None:
            left_out.append(fault)
    needed = max(FEWEST_TILES, math.ceil(LEAST_SHARE * len(tiles)))
    if len(used) < needed:
        without = name_files([f"{fault.name} ({fault.reason})" for fault in left_out])
        raise TooFewTiles(
            f"Of the {len(tiles)} tiles of epoch {epoch} {len(used)} can go into its mosaic, which needs {needed}"
            f"{f'; without {without}' if without else ''}. Process them, then ask for the mosaic again."
        )
    return Choice(tuple(used), tuple(left_out))


def _fault(tile: EpochTile, failures: Mapping[int, str]) -> LeftOut | None:
    name = tile.group.name
    if tile.image is None:
        why = failures.get(tile.group.pk)
        return LeftOut(name, "no_image", f"no image: {why}" if why else "no image yet")
    if tile.image.grade == Grade.POOR:
        return LeftOut(name, "poor", "graded poor")
    if tile.image.is_suspect:
        return LeftOut(name, "suspect", "quarantined, or made from what is")
    if tile.image.grade == Grade.UNKNOWN:
        return LeftOut(name, "not_judged", "not judged")
    return None


def mosaic_recipe(images: Sequence[Image]) -> str:
    return digest("mosaic", ENGINE, sorted(image.recipe for image in images))


def make_mosaic(
    *, epoch: Epoch, choice: Choice, folder: Path, progress: Callable[[float], None] = lambda fraction: None
) -> MadeMosaic:
    """Coadd the chosen tiles into `folder`: mosaic, noise, preview. Raises TileUnusable and MissingProduct."""
    from images.engines import fits, mosaic
    from images.engines.preview import make_preview

    made = mosaic.make_mosaic(
        tiles=[_tile(image) for image in choice.used],
        folder=folder,
        threads=settings.CONTIMG_ENGINE_THREADS,
        progress=progress,
    )
    preview = folder / "preview.png"
    make_preview(made.image, preview, title=f"mosaic {epoch}")
    return MadeMosaic(choice, made, fits.read_facts(made.image), preview)


def _tile(image: Image) -> Tile:
    from images.engines.mosaic import Tile, TileUnusable

    measurement_set = image.measurement_set
    if measurement_set is None or image.mjd is None:
        raise TileUnusable(f"The image {image.name} is of no tile; only tiles go into a mosaic.")
    return Tile(
        name=image.name,
        image=product_path(image.flat_noise_path),
        residual=product_path(image.residual_path),
        primary_beam=product_path(image.primary_beam_path),
        mjd=image.mjd,
        duration_s=measurement_set.duration_s,
    )


@transaction.atomic
def record_mosaic(*, epoch: Epoch, made: MadeMosaic) -> Image:
    """Publish the files and write the rows; this mosaic becomes the epoch's current one."""
    from images.engines import mosaic

    used, result = made.choice.used, made.mosaic
    Image.objects.mosaics().current().filter(mosaic_of=epoch).update(is_current=False)
    stem = f"images/{epoch.started_at:%Y-%m-%d}/mosaic_{epoch.started_at:%Y-%m-%dT%H}_{epoch.dec_deg:+.2f}"
    image, _ = Image.objects.update_or_create(
        recipe=mosaic_recipe(used),
        defaults={
            **columns_of(made.facts),
            "kind": Image.Kind.MOSAIC,
            "name": f"mosaic {epoch}",
            "mosaic_of": epoch,
            "path": publish(result.image, f"{stem}.fits"),
            "noise_path": publish(result.noise, f"{stem}_noise.fits"),
            "preview_path": publish(made.preview, f"{stem}.png"),
            "engine": ENGINE,
            "versions": mosaic.versions(),
            "epoch": epoch.started_at,
            "pointing_dec_deg": epoch.dec_deg,
            **_middle(used),
            "bandwidth_hz": max((image.bandwidth_hz for image in used if image.bandwidth_hz is not None), default=None),
            "rms_jy_per_beam": result.rms_jy_per_beam,
            "peak_jy_per_beam": result.peak_jy_per_beam,
            "is_primary_beam_corrected": True,
            "missing_subbands": [],
            "metrics": {
                "n_tiles": len(used),
                "noise_ratio": result.noise_ratio,
                "left_out": [vars(fault) for fault in made.choice.left_out],
            },
            "is_lenient": any(image.is_lenient for image in used),
            "is_current": True,
            **suspect_if(any(image.is_suspect for image in used)),
        },
    )
    record_edges(image=image, facts=made.facts)
    image.mosaic_tiles.all().delete()
    MosaicTile.objects.bulk_create(
        MosaicTile(mosaic=image, tile=tile, rms_jy_per_beam=rms)
        for tile, rms in zip(used, result.tile_rms_jy_per_beam, strict=True)
    )
    return image


def _middle(used: Sequence[Image]) -> dict[str, object]:
    """The middle of the observation as columns."""
    times = [image.observed_at for image in used if image.observed_at is not None]
    days = [image.mjd for image in used if image.mjd is not None]
    half: timedelta = (max(times) - min(times)) / 2
    return {"observed_at": min(times) + half, "mjd": (min(days) + max(days)) / 2}
