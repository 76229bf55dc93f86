from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser
from tqdm import tqdm

from contimg.commands import ContimgCommand
from sources.comparison import chosen_catalogue
from sources.reference import Import, Outcome, import_catalogue

SENTENCES = {
    Outcome.IMPORTED: "{name} was imported.",
    Outcome.REPLACED: "{name} was there with other rows or read in another way; all of them were replaced.",
    Outcome.DESCRIBED: "{name} has these rows already; its frequency, epoch or note was changed.",
    Outcome.UNCHANGED: "{name} has these rows already; nothing was changed.",
}


class Command(ContimgCommand):
    help = (
        "Import a reference catalogue (FITS, VOTable, ECSV, CSV; gzip too). Columns and units are taken from the file"
        " where it says them; the options go before it. Another file under the same name replaces its rows."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        from sources.engines.reference import FRAMES, ROLES, ROLES_WITH_UNIT  # here: astropy takes half a second

        parser.add_argument("file", type=Path, metavar="FILE")
        parser.add_argument("--name", required=True, help="Of the catalogue, such as NVSS.")
        parser.add_argument("--frequency-mhz", type=float, metavar="MHZ", help="Of its fluxes.")
        parser.add_argument("--epoch", type=float, metavar="YEAR", help="Of its positions, as a Julian year.")
        parser.add_argument("--note", default="", help="Where it is from, such as the paper.")
        parser.add_argument(
            "--frame", choices=list(FRAMES), help="Of its positions: fk5 is J2000, fk4 is B1950. Else icrs."
        )
        for role, facts in ROLES.items():
            parser.add_argument(f"--{role}-column", metavar="NAME", help=f"The column of the {facts.what}.")
        for role in ROLES_WITH_UNIT:
            also = ", hourangle or sexagesimal" if role == "ra" else ""
            unit = ROLES[role].unit
            parser.add_argument(f"--{role}-unit", metavar="UNIT", help=f"Its unit, such as {unit}{also}.")
        parser.add_argument("--json", action="store_true", help="Print the result as JSON.")

    def handle(self, *, file: Path, name: str, **options) -> None:
        mhz = options["frequency_mhz"]
        done = import_catalogue(
            path=file,
            name=name,
            columns=_by_role(options, "_column"),
            units=_by_role(options, "_unit"),
            frame=options["frame"],
            frequency_hz=None if mhz is None else mhz * 1e6,
            epoch_jyear=options["epoch"],
            note=options["note"],
            progress=_bar,
        )
        self.stdout.write(json.dumps(_as_dict(done), indent=2) if options["json"] else _as_text(done))


def _by_role(options: dict[str, Any], end: str) -> dict[str, str]:
    given = {option: value for option, value in options.items() if option.endswith(end) and value is not None}
    return {option.removesuffix(end).replace("_", "-"): value for option, value in given.items()}


def _bar(steps: Iterable[Any], what: str) -> Iterable[Any]:
    return tqdm(steps, desc=what, unit="block", disable=None)


def _as_text(done: Import) -> str:
    catalogue, chosen = done.catalogue, chosen_catalogue()
    read_as = ", ".join(_column(role, one) for role, one in catalogue.parameters["columns"].items())
    left_out = ", ".join(f"{n} {reason.replace('_', ' ')}" for reason, n in catalogue.left_out.items())
    return "\n".join(
        [
            f"Read as {read_as}; {catalogue.parameters['frame'].upper()}.",
            f"{SENTENCES[done.outcome].format(name=catalogue.name)} {catalogue.n_sources} of {catalogue.n_rows} rows"
            f" taken{f'; left out: {left_out}' if left_out else ''}.",
            f"Images are held against {chosen.catalogue.name if chosen.catalogue else f'none: {chosen.reason}'}"
            " (CONTIMG_REFERENCE_CATALOGUE says which).",
        ]
    )


def _column(role: str, chosen: dict[str, str | None]) -> str:
    unit = f" ({chosen['unit']})" if chosen["unit"] else ""
    return f"{role} = {chosen['column']}{unit}"


def _as_dict(done: Import) -> dict[str, object]:
    catalogue = done.catalogue
    return {
        "id": catalogue.pk,
        "name": catalogue.name,
        "outcome": done.outcome,
        "n_rows": catalogue.n_rows,
        "n_sources": catalogue.n_sources,
        "left_out": catalogue.left_out,
        "parameters": catalogue.parameters,
        "checksum": catalogue.checksum,
    }
