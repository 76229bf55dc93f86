"""The embedded imager beside WSClean on one calibrated measurement set: `python benchmarks/imagers.py`.

A simulated science tile, calibrated on a simulated calibrator's tile by the real engines, is imaged by both with one
thread and the same parameters, each in its own process. CPU seconds and peak memory of WSClean are those of its
program alone; the embedded imager's are of its whole process with Python and all libraries.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from benchmarks.child import Measured, measured  # noqa: E402
from benchmarks.full_scale import CALIBRATOR, MODEL  # noqa: E402
from calibration.engines.applier import apply  # noqa: E402
from calibration.engines.field_model import FieldModel  # noqa: E402
from calibration.engines.flagger import FlaggingParameters, flag  # noqa: E402
from calibration.engines.solver import SolvingParameters, solve  # noqa: E402
from images.engines.clean import robust_rms  # noqa: E402
from images.engines.imager import CleanResult, ImagingParameters  # noqa: E402
from images.engines.peeling import write_field_model  # noqa: E402
from images.engines.primary_beam import write_primary_beam  # noqa: E402
from images.engines.registry import get_imager  # noqa: E402
from observations.engines.converter import convert  # noqa: E402
from observations.engines.night_plan import NightPlan, plan_nights  # noqa: E402
from observations.engines.simulator import Instrument, TilePlan, simulate_tile  # noqa: E402
from sources.engines.forced import ForcedFluxes, ImageFiles, RestoringBeam, force  # noqa: E402

FIELD_ARCSEC = 7680.0  # across: every image shows the same 2.13 deg
MIN_SNR = 10.0
LIMITS = {"flux ratio": 0.01, "rms": 0.10, "cpu": 1.5}


# --- the measurement set ---------------------------------------------------------------------------------------------
def make_set(instrument: Instrument, plans: list[TilePlan], folder: Path) -> Path:
    """The science tile (the second), calibrated with tables solved on the first."""
    raw, flags = {}, {}
    for name, plan in zip(("calibrator", "science"), plans, strict=True):
        files = folder / name
        files.mkdir()
        raw[name], flags[name] = folder / f"{name}.ms", folder / f"{name}.h5"
        paths = simulate_tile(instrument, plan, files)
        convert(files=paths, pointing_dec_deg=plan.pointing_dec_deg, output=raw[name])
        flag(measurement_set=raw[name], output=flags[name], parameters=FlaggingParameters())
    dec_deg = plans[0].pointing_dec_deg

    def solved(name: str, field: FieldModel | None) -> list[Path]:
        tables = folder / name
        tables.mkdir()
        result = solve(
            measurement_set=raw["calibrator"],
            flag_table=flags["calibrator"],
            model=MODEL,
            pointing_dec_deg=dec_deg,
            output_folder=tables,
            parameters=SolvingParameters(),
            field=field,
        )
        return [table.path for table in result.tables]

    first = folder / "first.ms"
    apply(
        measurement_set=raw["calibrator"],
        flag_table=flags["calibrator"],
        tables=solved("alone", None),
        output=first,
    )
    model = write_field_model(
        measurement_set=first,
        calibrator=MODEL,
        pointing_dec_deg=dec_deg,
        folder=folder,
        parameters=ImagingParameters(size_px=1280, pixel_arcsec=6.0),
        threads=1,
    )
    tables = solved("final", FieldModel.read(model) if model else None)
    calibrated = folder / "calibrated.ms"
    apply(measurement_set=raw["science"], flag_table=flags["science"], tables=tables, output=calibrated)
    return calibrated


# --- imaging and measuring ---------------------------------------------------------------------------------------
def make_image(imager: str, measurement_set: Path, folder: Path, parameters: ImagingParameters) -> CleanResult:
    folder.mkdir()
    return get_imager(imager).make(
        measurement_set=measurement_set, output_folder=folder, parameters=parameters, threads=1
    )


def fluxes(clean: CleanResult, measurement_set: Path, plan: TilePlan) -> ForcedFluxes:
    """Forced photometry at the true positions, corrected for the primary beam."""
    beam = clean.image_path.with_name("beam.fits")
    write_primary_beam(
        measurement_set=measurement_set,
        image=clean.image_path,
        pointing_dec_deg=plan.pointing_dec_deg,
        output=beam,
    )
    return force(
        files=ImageFiles(
            image=clean.image_path,
            beam=RestoringBeam(clean.bmaj_arcsec, clean.bmin_arcsec, clean.bpa_deg),
            residual=clean.residual_path,
            primary_beam=beam,
        ),
        ra_deg=[source.ra_deg for source in plan.sources],
        dec_deg=[source.dec_deg for source in plan.sources],
        flux_systematic=0.0,
    )


def compare(size_px: int, measurement_set: Path, plan: TilePlan, folder: Path) -> dict[str, Any]:
    """Both imagers at one size: the figures of each, and the ratios that the limits are about."""
    parameters = ImagingParameters(size_px=size_px, pixel_arcsec=FIELD_ARCSEC / size_px)
    took, flux, row = {}, {}, {}
    for imager in ("embedded", "wsclean"):
        took[imager] = measured(make_image, 1, imager, measurement_set, folder / f"{imager}_{size_px}", parameters)
        flux[imager] = fluxes(took[imager].result, measurement_set, plan)
    snr = flux["embedded"].peak_jy_per_beam / flux["embedded"].rms_jy_per_beam
    bright = flux["embedded"].is_covered & flux["wsclean"].is_covered & (snr > MIN_SNR)
    for imager, cost in took.items():
        row[imager] = {
            **_quality(cost.result, flux[imager].flux_jy[bright] / _true_jy(cost.result, plan)[bright]),
            **_cost(cost, is_program=imager == "wsclean"),
        }
    between = flux["embedded"].flux_jy[bright] / flux["wsclean"].flux_jy[bright]
    ratios = {name: row["embedded"][name] / row["wsclean"][name] for name in ("rms_mjy", "cpu_s", "peak_mb")}
    return {
        "size_px": size_px,
        "pixel_arcsec": parameters.pixel_arcsec,
        "n_sources": int(bright.sum()),
        **row,
        "embedded over wsclean": {
            "flux_ratio": float(np.median(between)),
            "flux_ratio_scatter": float(np.std(between)),
            **ratios,
        },
    }


def _true_jy(clean: CleanResult, plan: TilePlan) -> np.ndarray:
    return np.array([float(source.flux_at(clean.frequency_hz)) for source in plan.sources])


def _quality(clean: CleanResult, flux_ratio: np.ndarray) -> dict[str, float]:
    return {
        "flux_ratio": float(np.median(flux_ratio)),
        "flux_ratio_scatter": float(np.std(flux_ratio)),
        "rms_mjy": 1e3 * robust_rms(fits.getdata(clean.residual_path)),
        "bmaj_arcsec": clean.bmaj_arcsec,
        "n_major_cycles": clean.n_major_cycles,
        "n_iterations": clean.n_iterations,
    }


def _cost(took: Measured, *, is_program: bool) -> dict[str, float]:
    return {
        "seconds": took.seconds,
        "cpu_s": took.programs_cpu_s if is_program else took.cpu_s,
        "cpu_s_with_wrapper": took.cpu_s,
        "peak_mb": (took.programs_peak_bytes if is_program else took.peak_bytes) / 1e6,
    }


def is_within_limits(row: dict[str, Any]) -> bool:
    ratios = row["embedded over wsclean"]
    return (
        abs(ratios["flux_ratio"] - 1) <= LIMITS["flux ratio"]
        and abs(ratios["rms_mjy"] - 1) <= LIMITS["rms"]
        and ratios["cpu_s"] <= LIMITS["cpu"]
    )


# --- the table -----------------------------------------------------------------------------------------------------
COLUMNS = {
    "flux_ratio": ("flux ratio", ".4f"),
    "flux_ratio_scatter": ("scatter", ".4f"),
    "rms_mjy": ("rms mJy", ".3f"),
    "cpu_s": ("CPU s", ".2f"),
    "cpu_s_with_wrapper": ("wrapped", ".2f"),
    "seconds": ("s", ".2f"),
    "peak_mb": ("peak MB", ".0f"),
    "bmaj_arcsec": ("beam", ".2f"),
    "n_major_cycles": ("majors", "d"),
    "n_iterations": ("iter.", "d"),
}


def print_row(row: dict[str, Any]) -> None:
    print(f"\n{row['size_px']} px of {row['pixel_arcsec']:g} arcsec, {row['n_sources']} sources above SNR {MIN_SNR:g}")
    print(f"{'':<22}", *(f"{title:>10}" for title, _ in COLUMNS.values()), sep="")
    for name in ("embedded", "wsclean", "embedded over wsclean"):
        form_of = {key: ".3f" if name.startswith("embedded over") else form for key, (_, form) in COLUMNS.items()}
        cells = [f"{row[name][key]:>10{form_of[key]}}" if key in row[name] else f"{'':>10}" for key in COLUMNS]
        print(f"{name:<22}", *cells, sep="")
    print("within the limits" if is_within_limits(row) else "LIMIT MISSED", flush=True)


def main(argv: list[str] | None = None) -> None:
    options = _options(argv)
    instrument = Instrument(n_antennas=options.antennas, channels_per_subband=options.channels, seed=options.seed)
    night = NightPlan(nights=1, tiles=2, sources_per_tile=options.sources, variable=False, seed=options.seed)
    plans = plan_nights(instrument, night, CALIBRATOR)
    with tempfile.TemporaryDirectory(prefix="contimg-imagers-", dir=options.folder) as scratch:
        print("simulating and calibrating ...", flush=True)
        made = measured(make_set, 1, instrument, plans, Path(scratch))
        rows = []
        for size_px in options.sizes:
            rows.append(compare(size_px, made.result, plans[1], Path(scratch)))
            print_row(rows[-1])
    if options.json:
        options.json.write_text(json.dumps({"limits": LIMITS, "sizes": rows}, indent=1))
    if not all(is_within_limits(row) for row in rows):
        raise SystemExit(1)


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 2048], metavar="PX")
    parser.add_argument("--antennas", type=int, default=40)
    parser.add_argument("--channels", type=int, default=4, help="per subband")
    parser.add_argument("--sources", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where a GB is free; the files are removed at the end")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
