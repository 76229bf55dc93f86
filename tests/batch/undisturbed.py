"""What a night must come to, whatever befell it: the content and the files of a run that nobody disturbed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from batch.sweeper import PATH_COLUMNS, sweep_files
from calibration.models import AppliedTable, CalibrationTable, FlagTable
from contimg.products import work_folders
from images.models import Image
from observations.models import MeasurementSet, SubbandGroup
from qa.models import Assessment, Finding
from sources.models import Catalogue, Measurement, Source
from tests.batch.installation import Installation

# Everything that must come out the same: contents and numbers, but no keys, times of writing or paths.
QUESTIONS: dict[type, tuple[str, ...]] = {
    SubbandGroup: ("started_at", "n_files", "n_subbands"),
    MeasurementSet: ("name", "is_calibrated", "recipe", "checksum", "flagged_fraction", "is_current"),
    FlagTable: ("recipe", "checksum"),
    CalibrationTable: ("set_name", "kind", "recipe", "checksum", "grade"),
    AppliedTable: ("measurement_set__recipe", "table__recipe"),
    Image: ("name", "recipe", "checksum", "rms_jy_per_beam", "grade", "is_current"),
    Assessment: ("image__recipe", "grade", "is_current"),
    Finding: ("assessment__image__recipe", "rule", "value", "outcome"),
    Source: ("name", "ra_deg", "dec_deg", "n_measurements", "eta", "is_variable"),
    Measurement: ("source__name", "image__recipe", "is_forced", "flux_jy", "flux_err_jy"),
    Catalogue: ("recipe", "n_detected", "n_forced", "n_new_sources"),
}


def content() -> dict[str, list[tuple]]:
    return {
        model.__name__: sorted(model._default_manager.values_list(*columns), key=repr)
        for model, columns in QUESTIONS.items()
    }


def orphans(installation: Installation) -> set[str]:
    """Product files that no row names."""
    named = {
        path
        for model, columns, _ in PATH_COLUMNS
        for paths in model._default_manager.values_list(*columns)
        for path in paths
    }
    products = installation.folder / "products"
    return {str(path.relative_to(products)) for path in _products(products)} - named


def _products(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir() and not (path / "table.dat").exists():
            yield from _products(path) if not path.name.startswith(".") else []
        elif not path.name.startswith("."):
            yield path


def check_as_undisturbed(installation: Installation, undisturbed: dict[str, list]) -> None:
    sweep_files()
    found = content()
    differences = {name: sorted(set(rows) ^ set(found[name]), key=repr) for name, rows in undisturbed.items()}
    assert not any(differences.values()), differences
    assert {name: len(rows) for name, rows in found.items()} == {name: len(rows) for name, rows in undisturbed.items()}
    assert orphans(installation) == set()
    assert work_folders() == []
