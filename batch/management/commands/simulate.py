"""Make simulated raw data: `manage.py simulate DIR --tiles 2 --nights 6`."""

from __future__ import annotations

import re
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from tqdm import tqdm

from calibration.models import Calibrator
from contimg.commands import ContimgCommand
from contimg.products import require_writable
from observations.engines.failures import MEANING, Failure, Kind

RANGES = {
    "tiles": (1, 1000),
    "nights": (1, 1000),
    "antennas": (3, 117),
    "channels": (1, 48),
    "integrations": (2, 240),
    "sources": (1, 2000),
    "flux_min_jy": (1e-6, 0.4),
    "spacing_s": (310, 86_000),
    "seed": (0, 2**31),
}


class Command(ContimgCommand):
    help = "Write simulated drift tiles (UVH5 subband files) with the truth about them in truth.json."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.formatter_class = ArgumentDefaultsHelpFormatter
        parser.add_argument("folder", type=Path, metavar="DIR")
        parser.add_argument("--tiles", type=int, default=2, help="tiles a night; the first is the calibrator's")
        parser.add_argument("--nights", type=int, default=1, help="sidereal days")
        parser.add_argument("--start", type=datetime.fromisoformat, default=datetime(2026, 3, 20), help="UTC")
        parser.add_argument("--spacing-s", type=float, default=3600.0, help="from tile to tile")
        parser.add_argument("--calibrator", default="3C286", help="name of a known calibrator")
        parser.add_argument("--antennas", type=int, default=40, help="dishes of the array")
        parser.add_argument("--channels", type=int, default=4, help="per subband, of the true 48")
        parser.add_argument("--integrations", type=int, default=24, help="per tile, of 12.9 s")
        parser.add_argument("--sources", type=int, default=30, help="per tile")
        parser.add_argument("--flux-min-jy", type=float, default=0.015, help="faintest source at 1.4 GHz")
        parser.add_argument("--seed", type=int, default=1, help="of everything that is random")
        parser.add_argument("--damage", action="store_true", help="spoil three tiles, as a real night would")
        parser.add_argument(
            "--failure", action="append", default=[], metavar="KIND[:FIRST[-LAST]]",
            help="of the tiles FIRST (1 when not given) to LAST (the last), counted from 0 over all nights; may be "
            "given again. Kinds: " + "; ".join(f"{kind}: {text}" for kind, text in MEANING.items()),
        )  # fmt: skip

        parser.add_argument(
            "--only", metavar="FIRST[-LAST]", help="write these tiles only, counted from 0 over all nights"
        )

    def handle(self, folder: Path, **options: Any) -> None:
        from observations.engines.night_plan import (
            CATALOGUE_FILE,
            TRUTH_FILE,
            NightPlan,
            plan_nights,
            write_catalogue,
            write_truth,
        )
        from observations.engines.simulator import Instrument, SkySource, simulate_tile

        _refuse_impossible(options)
        if (folder / TRUTH_FILE).exists():
            raise CommandError(f"{folder} already holds a simulation; choose another folder or remove it.")
        calibrator = Calibrator.objects.in_use().filter(name=options["calibrator"]).first()
        if calibrator is None:
            known = ", ".join(Calibrator.objects.in_use().values_list("name", flat=True))
            raise CommandError(f"There is no calibrator {options['calibrator']!r}; known are {known}.")
        require_writable(folder, named_by="DIR")
        instrument = Instrument(
            n_antennas=options["antennas"],
            channels_per_subband=options["channels"],
            n_integrations=options["integrations"],
            sefd_jy=settings.CONTIMG_SEFD_JY,
            seed=options["seed"],
        )
        plan = NightPlan(
            nights=options["nights"],
            tiles=options["tiles"],
            start=options["start"].replace(tzinfo=UTC),
            spacing_s=options["spacing_s"],
            sources_per_tile=options["sources"],
            flux_min_jy=options["flux_min_jy"],
            variable=options["nights"] > 1,
            damage=options["damage"],
            failures=tuple(_failure(text) for text in options["failure"]),
            seed=options["seed"],
        )
        source = SkySource(
            calibrator.name,
            calibrator.ra_deg,
            calibrator.dec_deg,
            flux_jy=0.0,
            flux_coefficients=tuple(calibrator.flux_coefficients),
        )
        tiles = plan_nights(instrument, plan, source)
        written = tiles[_only(options["only"], len(tiles))] if options["only"] is not None else tiles
        for tile in tqdm(written, desc="simulating", unit="tile", disable=options["verbosity"] == 0 or None):
            simulate_tile(instrument, tile, folder)
        write_catalogue(folder / CATALOGUE_FILE, tiles)
        write_truth(folder / TRUTH_FILE, instrument, plan, tiles)
        self.stdout.write(
            f"{len(written)} tiles in {folder}; what is true about them is in {TRUTH_FILE}, "
            f"their sky as a reference catalogue in {CATALOGUE_FILE}"
        )


def _only(text: str, n_tiles: int) -> slice:
    found = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", text)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (-1, -1)
    if not 0 <= first <= last < n_tiles:
        raise CommandError(f"--only {text!r} is not FIRST[-LAST] among the tiles 0 to {n_tiles - 1}.")
    return slice(first, last + 1)


def _failure(text: str) -> Failure:
    found = re.fullmatch(r"([a-z_]+)(?::([0-9]{1,6})(?:-([0-9]{1,6}))?)?", text)
    if found is None or found[1] not in list(Kind):
        raise CommandError(f"--failure {text!r} is not KIND[:FIRST[-LAST]] with one of {', '.join(Kind)}.")
    first, last = (None if number is None else int(number) for number in found.groups()[1:])
    if first is not None and last is not None and last < first:
        raise CommandError(f"--failure {text!r} ends before it begins; exchange the two.")
    return Failure(Kind(found[1]), 1 if first is None else first, last)


def _refuse_impossible(options: dict[str, Any]) -> None:
    for name, (low, high) in RANGES.items():
        if not low <= options[name] <= high:
            raise CommandError(f"--{name.replace('_', '-')} {options[name]} is not from {low:g} to {high:g}.")
