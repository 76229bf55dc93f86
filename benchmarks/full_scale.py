"""One full-scale tile through every engine: `python benchmarks/full_scale.py`.

96 antennas, 16 x 48 channels, 24 integrations (2.3 GB raw), a 4800 x 4800 image of 3 arcsec. The tile has a calibrator,
so every stage has work: the steps marked * are those of a calibrator's tile alone. Each step runs in its own process,
by the engines' own functions and without a database. The real-time budget is the 309 s that a tile lasts.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from benchmarks.child import Measured, measured  # noqa: E402
from calibration.engines.applier import apply  # noqa: E402
from calibration.engines.field_model import FieldModel, subtract  # noqa: E402
from calibration.engines.flagger import FlaggingParameters, flag  # noqa: E402
from calibration.engines.model import CalibratorModel  # noqa: E402
from calibration.engines.solver import SolvingParameters, solve  # noqa: E402
from images.engines.imager import ImagingParameters  # noqa: E402
from images.engines.peeling import write_field_model  # noqa: E402
from images.engines.preview import make_preview  # noqa: E402
from images.engines.primary_beam import write_corrected, write_primary_beam  # noqa: E402
from images.engines.registry import get_imager  # noqa: E402
from observations.engines.converter import convert  # noqa: E402
from observations.engines.night_plan import NightPlan, plan_nights  # noqa: E402
from observations.engines.simulator import Instrument, SkySource, TilePlan, simulate_tile  # noqa: E402
from observations.telescope import INTEGRATION_S, N_INTEGRATIONS  # noqa: E402
from sources.engines import finder  # noqa: E402
from sources.engines.forced import ImageFiles, RestoringBeam, force  # noqa: E402

BUDGET_S = N_INTEGRATIONS * INTEGRATION_S
MEMORY_LIMIT_GB = 12.0
CALIBRATOR = SkySource("3C286", 202.7845329, 30.5091550, 0.0, flux_coefficients=(1.2481, -0.4507, -0.1798, 0.0357))
MODEL = CalibratorModel(CALIBRATOR.name, CALIBRATOR.ra_deg, CALIBRATOR.dec_deg, CALIBRATOR.flux_coefficients)


@dataclass(frozen=True)
class Tile:
    """The size of the job, and where its files are."""

    folder: Path
    instrument: Instrument
    plan: TilePlan
    parameters: ImagingParameters
    imager: str
    threads: int

    def path(self, name: str) -> Path:
        return self.folder / name

    def new_folder(self, name: str) -> Path:
        self.path(name).mkdir()
        return self.path(name)


# --- the steps: each reads what those before it wrote ------------------------------------------------------------
def simulate(tile: Tile) -> str:
    paths = simulate_tile(tile.instrument, tile.plan, tile.new_folder("raw"))
    return f"{sum(path.stat().st_size for path in paths) / 1e9:.2f} GB raw"


def convert_tile(tile: Tile) -> str:
    converted = convert(
        files=sorted(tile.path("raw").glob("*.hdf5")),
        pointing_dec_deg=tile.plan.pointing_dec_deg,
        output=tile.path("raw.ms"),
    )
    return f"{converted.n_channels} channels, {len(converted.antennas)} antennas"


def flag_tile(tile: Tile) -> str:
    found = flag(measurement_set=tile.path("raw.ms"), output=tile.path("flags.h5"), parameters=FlaggingParameters())
    return f"{100 * found.flagged_fraction:.2f}% flagged"


def _solve(tile: Tile, folder: str, field: FieldModel | None) -> str:
    solved = solve(
        measurement_set=tile.path("raw.ms"),
        flag_table=tile.path("flags.h5"),
        model=MODEL,
        pointing_dec_deg=tile.plan.pointing_dec_deg,
        output_folder=tile.new_folder(folder),
        parameters=SolvingParameters(),
        field=field,
    )
    return ", ".join(f"{table.kind} SNR {table.metrics['median_snr']:.0f}" for table in solved.tables)


def solve_alone(tile: Tile) -> str:
    return _solve(tile, "first", None)


def _apply(tile: Tile, tables: str, output: str) -> str:
    applied = apply(
        measurement_set=tile.path("raw.ms"),
        flag_table=tile.path("flags.h5"),
        tables=[tile.path(tables) / f"{kind}.cal" for kind in "BG"],
        output=tile.path(output),
    )
    return f"{100 * applied.flagged_fraction:.2f}% flagged"


def apply_first(tile: Tile) -> str:
    return _apply(tile, "first", "first.ms")


def image_field(tile: Tile) -> str:
    path = write_field_model(
        measurement_set=tile.path("first.ms"),
        calibrator=MODEL,
        pointing_dec_deg=tile.plan.pointing_dec_deg,
        folder=tile.folder,
        parameters=tile.parameters,
        threads=tile.threads,
    )
    return "field model written" if path else "no field model: nothing stands out"


def solve_with_field(tile: Tile) -> str:
    field = tile.path("field_model.fits")
    return _solve(tile, "final", FieldModel.read(field) if field.exists() else None)


def apply_tables(tile: Tile) -> str:
    return _apply(tile, "final", "calibrated.ms")


def subtract_calibrator(tile: Tile) -> str:
    fluxes = subtract(
        measurement_set=tile.path("calibrated.ms"),
        models=[MODEL],
        pointing_dec_deg=tile.plan.pointing_dec_deg,
        output=tile.path("peeled.ms"),
    )
    return f"{fluxes[0]:.2f} Jy"


def image(tile: Tile) -> str:
    clean = get_imager(tile.imager).make(
        measurement_set=tile.path("peeled.ms"),
        output_folder=tile.new_folder("image"),
        parameters=tile.parameters,
        threads=tile.threads,
    )
    tile.path("image/beam.json").write_text(json.dumps([clean.bmaj_arcsec, clean.bmin_arcsec, clean.bpa_deg]))
    beam = f"{clean.bmaj_arcsec:.1f} x {clean.bmin_arcsec:.1f} arcsec"
    return f"{clean.n_major_cycles} major cycles, {clean.n_iterations} iterations, beam {beam}"


def correct_and_preview(tile: Tile) -> str:
    folder = tile.path("image")
    write_primary_beam(
        measurement_set=tile.path("peeled.ms"),
        image=folder / "image.fits",
        pointing_dec_deg=tile.plan.pointing_dec_deg,
        output=folder / "beam.fits",
    )
    write_corrected(image=folder / "image.fits", primary_beam=folder / "beam.fits", output=folder / "corrected.fits")
    make_preview(folder / "image.fits", folder / "preview.png", title=tile.folder.name)
    return "beam, corrected image, preview"


def find_sources(tile: Tile) -> str:
    """Finding, and forced photometry at every true position."""
    folder = tile.path("image")
    files = ImageFiles(
        image=folder / "image.fits",
        beam=RestoringBeam(*json.loads((folder / "beam.json").read_text())),
        residual=folder / "residual.fits",
        primary_beam=folder / "beam.fits",
    )
    found = finder.find(files=files, detection_sigma=5.0, island_sigma=3.5)
    sky = [source for source in tile.plan.sources if source.name != CALIBRATOR.name]
    forced = force(
        files=files,
        ra_deg=[source.ra_deg for source in sky],
        dec_deg=[source.dec_deg for source in sky],
        flux_systematic=0.02,
    )
    frequency_hz = fits.getheader(files.image)["RESTFRQ"]
    true_jy = np.array([float(source.flux_at(frequency_hz)) for source in sky])
    ratio = np.median((forced.flux_jy / true_jy)[forced.peak_jy_per_beam > 10 * forced.rms_jy_per_beam])
    rms_mjy = 1e3 * np.nanmedian(forced.rms_jy_per_beam)
    false = _false_snrs(found, sky, files.beam)
    at = f" at SNR {', '.join(f'{snr:.1f}' for snr in false)}" if false else ""
    return f"{len(found)} found of {len(sky)}, {len(false)} false{at}; rms {rms_mjy:.3f} mJy, flux ratio {ratio:.3f}"


def _false_snrs(found: list[finder.Detection], sky: list[SkySource], beam: RestoringBeam) -> list[float]:
    """Signal to noise of the detections without a true source within one beam."""
    true = SkyCoord([source.ra_deg for source in sky], [source.dec_deg for source in sky], unit="deg")
    places = SkyCoord([one.ra_deg for one in found], [one.dec_deg for one in found], unit="deg")
    _, separation, _ = places.match_to_catalog_sky(true)
    return [one.snr for one, away in zip(found, separation.arcsec, strict=True) if away > beam.bmaj_arcsec]


@dataclass(frozen=True)
class Step:
    name: str
    run: Callable[[Tile], str]
    is_science: bool = True  # False: only a calibrator's tile needs it (or nature does it)
    done_with: tuple[str, ...] = ()  # files that no later step reads


STEPS = (
    Step("simulate", simulate, is_science=False),
    Step("convert", convert_tile, done_with=("raw",)),
    Step("flag", flag_tile),
    Step("solve alone *", solve_alone, is_science=False),
    Step("apply that *", apply_first, is_science=False, done_with=()),
    Step("image field *", image_field, is_science=False, done_with=("first.ms", "field.ms")),
    Step("solve with field *", solve_with_field, is_science=False),
    Step("apply", apply_tables, done_with=("raw.ms", "flags.h5")),
    Step("subtract calibrator *", subtract_calibrator, is_science=False, done_with=("calibrated.ms",)),
    Step("image", image),
    Step("beam, preview", correct_and_preview),
    Step("find, force", find_sources),
)


def main(argv: list[str] | None = None) -> None:
    options = _options(argv)
    with tempfile.TemporaryDirectory(prefix="contimg-full-scale-", dir=options.folder) as scratch:
        instrument = Instrument(n_antennas=options.antennas, channels_per_subband=options.channels)
        night = NightPlan(nights=1, tiles=1, sources_per_tile=options.sources, variable=False)
        tile = Tile(
            folder=Path(scratch),
            instrument=instrument,
            plan=plan_nights(instrument, night, CALIBRATOR)[0],
            parameters=ImagingParameters(size_px=options.size_px, pixel_arcsec=options.pixel_arcsec),
            imager=options.imager,
            threads=options.threads,
        )
        rows = run(tile)
    if options.json:
        options.json.write_text(json.dumps({"options": _plain(options), "steps": rows}, indent=1))
    if max(row["peak_gb"] for row in rows) > MEMORY_LIMIT_GB:
        raise SystemExit(f"a step took more than {MEMORY_LIMIT_GB:g} GB")


def run(tile: Tile) -> list[dict[str, Any]]:
    print(f"{'step':<22}{'s':>8}{'CPU s':>8}{'peak GB':>9}{'of budget':>11}  what came out", flush=True)
    rows = []
    for step in STEPS:
        took = measured(step.run, tile.threads, tile)
        rows.append(_row(step, took))
        print(_line(rows[-1]), took.result, sep="  ", flush=True)
        for name in step.done_with:
            _remove(tile.path(name))
    science = [row for row, step in zip(rows, STEPS, strict=True) if step.is_science]
    every = [row for row, step in zip(rows, STEPS, strict=True) if step.run is not simulate]
    rows += [_total("a science tile", science), _total("a calibrator's tile", every)]
    print(*(_line(row) for row in rows[-2:]), sep="\n")
    return rows


def _row(step: Step, took: Measured) -> dict[str, Any]:
    return {
        "step": step.name,
        "seconds": took.seconds,
        "cpu_s": took.cpu_s,
        "peak_gb": took.peak_bytes / 1e9,
        "result": took.result,
    }


def _total(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "step": name,
        "seconds": sum(row["seconds"] for row in rows),
        "cpu_s": sum(row["cpu_s"] for row in rows),
        "peak_gb": max(row["peak_gb"] for row in rows),
    }


def _line(row: dict[str, Any]) -> str:
    share = row["seconds"] / BUDGET_S
    return f"{row['step']:<22}{row['seconds']:>8.1f}{row['cpu_s']:>8.1f}{row['peak_gb']:>9.2f}{share:>11.0%}"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--antennas", type=int, default=96)
    parser.add_argument("--channels", type=int, default=48, help="per subband")
    parser.add_argument("--sources", type=int, default=100)
    parser.add_argument("--size-px", type=int, default=4800)
    parser.add_argument("--pixel-arcsec", type=float, default=3.0)
    parser.add_argument("--imager", choices=("embedded", "wsclean"), default="embedded")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where some 10 GB are free; the files are removed at the end")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(argv)


def _plain(options: argparse.Namespace) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}


if __name__ == "__main__":
    main()
