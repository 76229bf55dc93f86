"""Hold the pipeline's numbers against a simulation's truth: `manage.py compare_with_truth DIR/truth.json`."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import numpy as np
from django.core.management.base import CommandError

from batch.truth import TileTruth, Variability, compare, compare_variables, robust_std
from contimg.commands import ContimgCommand


class Command(ContimgCommand):
    help = "Compare tiles, catalogues and light curves with the truth file that `simulate` wrote."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("truth", type=Path, metavar="TRUTH.JSON")
        parser.add_argument("--json", action="store_true", dest="as_json")

    def handle(self, truth: Path, *, as_json: bool, **options: Any) -> None:
        if not truth.is_file():
            raise CommandError(f"{truth} is not there; `simulate DIR` writes DIR/truth.json.")
        tiles, variability = compare(truth), compare_variables(truth)
        if not tiles:
            raise CommandError("None of the simulated tiles has an image yet; run `process` on the folder first.")
        summary = summarise(tiles, variability)
        self.stdout.write(json.dumps(summary, indent=2) if as_json else "\n".join(as_text(tiles, summary)))
        if not summary["is_within_limits"]:
            raise SystemExit(1)


def summarise(tiles: list[TileTruth], variability: Variability) -> dict[str, Any]:
    """The figures of all tiles together, and whether each is within its limit."""
    ratios = [r for tile in tiles for r in tile.ratios]
    errors = [e for tile in tiles for e in tile.ratio_errors]
    ra = [x for tile in tiles for x in tile.ra_offsets_arcsec]
    dec = [x for tile in tiles for x in tile.dec_offsets_arcsec]
    pulls = [p for tile in tiles for p in tile.forced_pulls]
    found = {
        band: (sum(t.n_found[band] for t in tiles), sum(t.n_expected[band] for t in tiles)) for band in tiles[0].n_found
    }
    normalised = [(ratio - 1) / error for ratio, error in zip(ratios, errors, strict=True)]
    figures = {
        "n_sources": len(ratios),
        "flux_ratio_median": _median(ratios),
        "flux_ratio_scatter": robust_std(ratios),
        "flux_ratio_scatter_over_predicted": robust_std(normalised),
        "ra_offset_arcsec": _mean(ra),
        "dec_offset_arcsec": _mean(dec),
        "found_of_expected": found,
        "most_false_in_a_tile": max(tile.n_false for tile in tiles),
        "false_above_6_sigma": sum(tile.n_false_above_6 for tile in tiles),
        "forced_pull_std": robust_std(pulls),
        "n_forced_pulls": len(pulls),
        "variables_found": list(variability.found),
        "variables_missed": variability.missed,
        "constant_called_variable": variability.wrong,
    }
    return {**figures, "limits": limits(figures), "is_within_limits": all(limits(figures).values())}


def limits(figures: dict[str, Any]) -> dict[str, bool]:
    found = figures["found_of_expected"]
    return {
        "flux ratio median 1.00 +- 0.02": abs(figures["flux_ratio_median"] - 1) <= 0.02,
        "scatter within 1.3 of the predicted": figures["flux_ratio_scatter_over_predicted"] <= 1.3,
        "mean offset under 0.5 arcsec on each axis": max(
            abs(figures["ra_offset_arcsec"]), abs(figures["dec_offset_arcsec"])
        ) < 0.5,
        "all above 10 sigma found": found["above 10"][0] == found["above 10"][1],
        "95% of 7 to 10 sigma found": found["7 to 10"][0] >= 0.95 * found["7 to 10"][1],
        "at most one false detection a tile, none above 6 sigma": figures["most_false_in_a_tile"] <= 1
        and figures["false_above_6_sigma"] == 0,
        "(flux - truth) / error scatters by 0.7 to 1.4": 0.7 <= figures["forced_pull_std"] <= 1.4,
        "every variable source found, no constant one": figures["n_sources"] > 0
        and figures["variables_missed"] == 0
        and figures["constant_called_variable"] == 0,
    }  # fmt: skip


LEGEND = "rms in mJy/beam; found/expected by true signal to noise; flux over truth; offsets in arcsec"
HEADINGS = (
    f"{'tile':20} {'grade':9} {'rms':>6} {'/therm':>6} {'dyn.range':>9} {'>10':>7} {'7-10':>6} {'5-7':>6} {'false':>5} "
    f"{'ratio':>6} {'scatter':>7} {'dRA':>6} {'dDec':>6}"
)


def as_text(tiles: list[TileTruth], summary: dict[str, Any]) -> list[str]:
    lines = [LEGEND, HEADINGS, *(_row(tile) for tile in tiles), ""]
    lines.append(
        f"{summary['n_sources']} detections above 10 sigma: flux ratio {summary['flux_ratio_median']:.3f}, scatter "
        f"{summary['flux_ratio_scatter']:.3f} ({summary['flux_ratio_scatter_over_predicted']:.2f} of what their signal "
        f"to noise predicts), offset {summary['ra_offset_arcsec']:+.2f} {summary['dec_offset_arcsec']:+.2f} arcsec; "
        f"{summary['n_forced_pulls']} forced fluxes of constant sources are off by {summary['forced_pull_std']:.2f} "
        "errors"
    )
    lines += [f"  {'ok  ' if met else 'MISS'} {limit}" for limit, met in summary["limits"].items()]
    return lines


def _row(tile: TileTruth) -> str:
    def found(band: str) -> str:
        return f"{tile.n_found[band]}/{tile.n_expected[band]}"

    damage = f"  {', '.join(tile.damage)}" if tile.damage else ""
    return (
        f"{tile.name:20} {tile.grade:9} {tile.rms_mjy:6.2f} {tile.rms_over_thermal:6.2f} {tile.dynamic_range:9.0f} "
        f"{found('above 10'):>7} {found('7 to 10'):>6} {found('5 to 7'):>6} {tile.n_false:5d} "
        f"{_median(tile.ratios):6.3f} {robust_std(tile.ratios):7.3f} "
        f"{_mean(tile.ra_offsets_arcsec):+6.2f} {_mean(tile.dec_offsets_arcsec):+6.2f}{damage}"
    )


def _median(values: list[float]) -> float:
    return float(np.median(values)) if values else float("nan")


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
