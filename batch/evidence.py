"""No success without evidence: what an attempt read and wrote, seen on disk with size and checksum."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from django.db.models import Model

from contimg.exceptions import EngineFailed, MissingProduct
from contimg.models import Product
from contimg.products import digest, file_checksum, newest_change_ns, product_path, products_root, size_bytes
from images.models import COMPANIONS, Image
from images.services import image_file
from observations.models import SubbandFile
from qa.models import Assessment
from sources.models import Catalogue, Source
from sources.services import StatisticsOf


class OutputMissing(EngineFailed):
    """A stage ended without error and without its product."""

    code = "output_missing"


class OutputEmpty(EngineFailed):
    code = "output_empty"


class OutputStale(EngineFailed):
    """What lies in the place of the product was there before the stage began."""

    code = "output_stale"


Entry = dict[str, Any]
Row = Model | StatisticsOf


def read(rows: Iterable[Row]) -> list[Entry]:
    """The evidence of inputs. Raises MissingProduct for one that is gone or is not what was recorded."""
    return [entry for row in rows for entry in _entries(row)]


def made(rows: Sequence[Row], *, since_ns: int, before: Sequence[Row] = ()) -> list[Entry]:
    """The evidence of outputs, each of which must have been made since the work began.

    `before` are the rows that were there then. Raises OutputMissing, OutputEmpty and OutputStale.
    """
    if not rows:
        raise OutputMissing("The stage ended and recorded no product; see the attempt's log.")
    found: list[Entry] = []
    for row in rows:
        _refuse_unwritten(row, before)
        for path in _paths(row):
            _refuse_unmade(path, since_ns)
        found += _entries(row)
    return found


def _refuse_unwritten(row: Row, before: Sequence[Row]) -> None:
    """Of products that are rows and not files."""
    if isinstance(row, StatisticsOf):
        if Source.objects.of_image(row.image).filter(is_stale=True).exists():
            raise OutputMissing("The stage ended and statistics of sources in this image are still withdrawn.")
        return
    if isinstance(row, Assessment):
        is_empty = not row.findings.exists()
    elif isinstance(row, Catalogue):
        # Detections alone leave no rows: in a poor image, or below what makes a new source, they become no source.
        is_empty = row.n_forced > 0 and not row.image.measurements.exists()
    else:
        return
    if row in before:
        raise OutputStale(f"The stage ended with the {row._meta.verbose_name} that was there before it.")
    if is_empty:
        raise OutputEmpty(f"The stage ended with an empty {row._meta.verbose_name}; see the attempt's log.")


def total_bytes(entries: Iterable[Entry]) -> int:
    return sum(entry.get("size_bytes") or 0 for entry in entries)


def _refuse_unmade(relative: str, since_ns: int) -> None:
    path = products_root() / relative
    if not path.exists():
        raise OutputMissing(f"The stage ended without its product {path.name}; see the attempt's log.")
    if size_bytes(path) == 0:
        raise OutputEmpty(f"The stage ended with an empty product {path.name}; see the attempt's log.")
    if newest_change_ns(path) < since_ns:
        raise OutputStale(f"The product {path.name} is older than the attempt that should have made it.")


def _paths(row: Row) -> Iterator[str]:
    if isinstance(row, Product | Image):
        yield row.path
    if isinstance(row, Image):
        yield from filter(None, (getattr(row, name) for name in COMPANIONS))


def _entries(row: Row) -> Iterator[Entry]:
    if isinstance(row, StatisticsOf):
        found = list(Source.objects.of_image(row.image).order_by("pk").values_list("pk", "n_measurements", "eta", "v"))
        yield {"kind": "statistics", "name": f"{len(found)} sources", "checksum": digest(found)}
        return
    kind = str(row._meta.verbose_name)
    if isinstance(row, SubbandFile):
        checksum = file_checksum(row.path)
        yield {"kind": kind, "id": row.pk, "name": row.path.name, "size_bytes": row.size_bytes, "checksum": checksum}
    elif isinstance(row, Assessment):
        findings = list(row.findings.values_list("rule", "value", "outcome"))
        yield {"kind": kind, "id": row.pk, "name": str(row), "checksum": digest(row.grade, findings)}
    elif isinstance(row, Catalogue):
        fluxes = list(row.image.measurements.order_by("id").values_list("flux_jy", "flux_err_jy"))
        yield {"kind": kind, "id": row.pk, "name": f"{len(fluxes)} measurements", "checksum": digest(fluxes)}
    elif isinstance(row, Product | Image):
        yield _product_entry(kind, row)
        yield from _companion_entries(row) if isinstance(row, Image) else ()


def _companion_entries(image: Image) -> Iterator[Entry]:
    for name in COMPANIONS:
        if relative := getattr(image, name):
            path = product_path(relative)
            yield {
                "kind": name.removesuffix("_path"),
                "name": relative,
                "size_bytes": path.stat().st_size,
                "checksum": file_checksum(path),
            }


def _product_entry(kind: str, row: Product | Image) -> Entry:
    path = image_file(image=row) if isinstance(row, Image) else product_path(row.path)
    size = size_bytes(path)
    if size != row.size_bytes:
        raise MissingProduct(
            f"The product {row.path} has {size} bytes and was recorded with {row.size_bytes}; make it again."
        )
    return {"kind": kind, "id": row.pk, "name": row.path, "size_bytes": size, "checksum": row.checksum}
