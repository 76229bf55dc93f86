"""Decisions and writes about images. Engines are imported inside the functions: web processes import this module."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from django.conf import settings
from django.db import transaction

from contimg.exceptions import ContimgError, InvalidInput, MissingProduct, NotReadable
from contimg.products import digest, full_disk_named, inside, product_path, publish, workspace
from contimg.sky import healpix_index
from images.models import Image, ImageEdge
from observations.models import DataRoot

if TYPE_CHECKING:
    from images.engines.fits import FitsFacts
    from images.engines.imager import Imager

log = structlog.get_logger(__name__)
FITS_SUFFIXES = (".fits", ".fits.gz", ".fit")
MJD_ZERO = datetime(1858, 11, 17, tzinfo=UTC)
_CELESTIAL_CARD = re.compile(
    r"(CTYPE|CRVAL|CRPIX|CDELT|CUNIT|CROTA)[1-9]|(PC|CD|PV)\d{1,2}_\d{1,2}|LONPOLE|LATPOLE|RADESYS|EQUINOX|EPOCH"
)
LONGEST_PATH = 500  # characters of the columns that hold one


class FileChanged(InvalidInput):
    """A registered file now holds something else; images are immutable."""

    code = "file_changed"


class UnusableName(InvalidInput):
    code = "unusable_name"


class Unreadable(InvalidInput):
    """A library broke on the file in a way that nobody foresaw."""

    code = "fits_unreadable"


class NothingFound(InvalidInput):
    code = "nothing_found"


@dataclass(frozen=True)
class Refusal:
    path: Path
    code: str
    reason: str


@dataclass
class RegistrationReport:
    registered: list[Image] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)


def image_file(*, image: Image) -> Path:
    """The FITS file of an image.

    Raises MissingProduct when it is gone, ProductsAway when its disk is, and OutsideRoot when it left its root.
    """
    if image.root is None:
        return product_path(image.path)
    path = inside(Path(image.root.path), image.path)
    if not path.exists():
        raise MissingProduct(f"The external file {image.path} is not in its folder any more; put it back.")
    return path


def celestial_cards(*, image: Image) -> dict[str, str | float] | None:
    """The cards of the file's first header that say where it is, named in lower case; None where it has none."""
    try:
        path = image_file(image=image)
        stat = path.stat()
    except (OSError, ContimgError):  # gone
        return None
    return _celestial_cards(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=10_000)  # reading a header takes longer than all else of an image's detail
def _celestial_cards(path: Path, size_bytes: int, changed_ns: int) -> dict[str, str | float] | None:
    from astropy.io.fits import Header, VerifyError

    try:
        with path.open("rb") as file:
            header = Header.fromfile(file)
        cards = {name.lower(): header[name] for name in header if _CELESTIAL_CARD.fullmatch(name)}
    except (OSError, EOFError, ValueError, VerifyError):  # spoilt since it was registered
        return None
    known = {name: value for name, value in cards.items() if isinstance(value, str) or math.isfinite(value)}
    return known if any(name.startswith("ctype") for name in known) else None


def covers(*, image: Image, ra_deg: float, dec_deg: float) -> bool:
    """Whether the image has a finite pixel at an ICRS position: its pixels decide, not its outline."""
    from images.engines import fits

    return bool(fits.covers(image_file(image=image), ra_deg, dec_deg)[0])


def configured_imager() -> Imager:
    """The imager that the settings choose."""
    from images.engines.registry import get_imager

    options = {"wsclean": {"binary": settings.CONTIMG_WSCLEAN_BINARY}}
    return get_imager(settings.CONTIMG_IMAGER, **options.get(settings.CONTIMG_IMAGER, {}))


def register_images(
    *, paths: Sequence[Path], progress: Callable[[list[Path]], Iterable[Path]] = iter
) -> RegistrationReport:
    """Register every FITS file named or found below a folder; one that is refused never spoils the rest."""
    files, refused = _find(paths)
    report = RegistrationReport(refused=refused)
    for path in progress(files):
        try:
            report.registered.append(register_external(path=path))
        except ContimgError as error:
            report.refused.append(Refusal(path, error.code, str(error)))
    return report


def register_external(*, path: Path) -> Image:
    """Register one FITS file that contimg did not make; the same file with the same content gives the same row.

    A plain file stays where it is and its folder is recorded as a read-only root; a gzip file is expanded into the
    products root. Raises the refusals of images.engines.fits, Unreadable, FileChanged, UnusableName and DiskFull.
    """
    from images.engines import fits
    from images.engines.preview import make_preview

    path = _storable(path)
    with workspace() as folder:
        with named_failures(path):
            plain = fits.uncompressed(path, folder)
            facts = fits.read_facts(plain)
        recipe = digest("external", facts.checksum, str(path))
        known = Image.objects.filter(recipe=recipe).first()
        if known is not None:
            record_edges(image=known, facts=facts)
            return known
        preview = folder / "preview.png"
        with named_failures(path):
            make_preview(plain, preview, title=_name(path))
        return _record_external(path=path, plain=plain, preview=preview, recipe=recipe, facts=facts)


@contextlib.contextmanager
def named_failures(path: Path) -> Iterator[None]:
    """Around the engines only, so that a database that fails still ends the command."""
    try:
        with full_disk_named():
            yield
    except ContimgError:
        raise
    # An edge as the worker's is: files come from anywhere, and what astropy, wcslib, numpy and matplotlib raise on them
    # is of every family from ArithmeticError to MemoryError. One file must not take the others with it.
    except Exception as error:
        log.exception("fits_unreadable", file=path.name)
        raise Unreadable(
            f"{path.name} cannot be read ({type(error).__name__}); the log has the details, which are worth a report."
        ) from error


@transaction.atomic
def _record_external(*, path: Path, plain: Path, preview: Path, recipe: str, facts: FitsFacts) -> Image:
    if plain == path:
        root, _ = DataRoot.objects.get_or_create(path=str(path.parent))
        stored = path.name
        known = Image.objects.filter(root=root, path=stored)
    else:
        # Named for the place it is from, and above all for finding again what was registered from there.
        root, place = None, f"images/external/{digest(str(path))[:16]}."
        known = Image.objects.filter(root=None, path__gte=place, path__lt=f"{place}g", path__startswith=place)
    if known.exists():
        raise FileChanged(f"{path.name} is registered with other content; give the new file another name.")
    if root is None:
        stored = publish(plain, f"{place}fits")
    image, _ = Image.objects.get_or_create(
        recipe=recipe,
        defaults={
            **columns_of(facts),
            "kind": Image.Kind.EXTERNAL,
            "name": _name(path),
            "root": root,
            "path": stored,
            "preview_path": publish(preview, f"images/previews/{recipe[:16]}.png"),
            "parameters": {"registered_from": path.name},
            "versions": {"astropy": version("astropy")},
        },
    )
    record_edges(image=image, facts=facts)
    return image


def record_edges(*, image: Image, facts: FitsFacts) -> None:
    """Also of an image that was registered before edges were."""
    if image.edges.exists():
        return
    edges = [ImageEdge(image=image, number=number, **asdict(edge)) for number, edge in enumerate(facts.edges)]
    ImageEdge.objects.bulk_create(edges, ignore_conflicts=True)


def columns_of(facts: FitsFacts) -> dict[str, object]:
    """A file's facts as columns of Image."""
    beam, at = facts.beam, facts.observed_at
    return {
        "checksum": facts.checksum,
        "size_bytes": facts.size_bytes,
        "width_px": facts.width_px,
        "height_px": facts.height_px,
        "pixel_arcsec": facts.pixel_arcsec,
        "ra_deg": facts.ra_deg,
        "dec_deg": facts.dec_deg,
        "healpix": healpix_index(facts.ra_deg, facts.dec_deg),
        "radius_deg": facts.radius_deg,
        "bmaj_arcsec": beam.bmaj_arcsec if beam else None,
        "bmin_arcsec": beam.bmin_arcsec if beam else None,
        "bpa_deg": beam.bpa_deg if beam else None,
        "unit": facts.unit[:20],
        "frequency_hz": facts.frequency_hz,
        "bandwidth_hz": facts.bandwidth_hz,
        "observed_at": at,
        "mjd": None if at is None else (at - MJD_ZERO) / timedelta(days=1),
        "epoch": None if at is None else at.replace(minute=0, second=0, microsecond=0),
        "rms_jy_per_beam": facts.rms_jy_per_beam,
        "peak_jy_per_beam": facts.peak_jy_per_beam,
        "finite_fraction": facts.finite_fraction,
        "metrics": {"notes": list(facts.notes)},
    }


def _name(path: Path) -> str:
    return re.sub(r"(\.fits?)?(\.gz)?$", "", path.name, flags=re.IGNORECASE)[:200]


def _storable(path: Path) -> Path:
    """The path with links resolved, refused when the database could not hold it."""
    try:
        real = path.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        raise NotReadable(f"{path.name} cannot be followed to a file (a loop of links, or no permission).") from error
    try:
        text = str(real).encode().decode()
    except UnicodeEncodeError as error:
        raise UnusableName("A file name that is not UTF-8 cannot be stored; rename the file.") from error
    if len(text) > LONGEST_PATH or "\0" in text:
        raise UnusableName(f"The path of {real.name[:40]} is longer than {LONGEST_PATH} characters; move the file.")
    return real


# --- finding ------------------------------------------------------------------------------------------------------
def _find(paths: Sequence[Path]) -> tuple[list[Path], list[Refusal]]:
    """Files as given, folders replaced by the images below them; each file once, in order."""
    from images.engines.fits import is_casa_table

    files: list[Path] = []
    refused: list[Refusal] = []
    for path in paths:
        if not os.path.isdir(path) or is_casa_table(path):
            files.append(path)
            continue
        found, unreadable = _below(path)
        files += found
        refused += unreadable
        if not found and not unreadable:
            refused.append(Refusal(path, NothingFound.code, f"The folder {path.name} holds no FITS file."))
    return list(dict.fromkeys(files)), refused


def _below(folder: Path) -> tuple[list[Path], list[Refusal]]:
    from images.engines.fits import is_casa_image, is_casa_table

    found: list[Path] = []
    refused: list[Refusal] = []

    def note(error: OSError) -> None:
        place = Path(error.filename)
        refused.append(Refusal(place, NotReadable.code, f"The folder {place.name} cannot be read."))

    for place, folders, names in os.walk(folder, onerror=note):
        here = Path(place)
        found += [here / name for name in names if name.lower().endswith(FITS_SUFFIXES)]
        found += [here / name for name in folders if is_casa_image(here / name)]
        folders[:] = sorted(name for name in folders if not is_casa_table(here / name))
    return sorted(found), refused
