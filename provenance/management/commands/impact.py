from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandParser
from django.core.serializers.json import DjangoJSONEncoder

from contimg.commands import ContimgCommand, utc_time
from provenance import impact
from provenance.impact import Impact
from provenance.reach import NAMES, product_of


class Command(ContimgCommand):
    help = "What something has touched: products, points of light curves, published verdicts."

    def add_arguments(self, parser: CommandParser) -> None:
        about = parser.add_subparsers(dest="about", required=True)
        product = about.add_parser("product", help="Of a product and all that was made from it.")
        product.add_argument("kind", choices=NAMES)
        product.add_argument("id", type=int)
        antenna = about.add_parser("antenna", help="Of an antenna's data.")
        antenna.add_argument("name")
        time = about.add_parser("time", help="Of all data of a time.")
        for each, required in ((antenna, False), (time, True)):
            each.add_argument("--from", dest="observed_from", type=utc_time, required=required, help="UTC, inclusive")
            each.add_argument("--until", dest="observed_until", type=utc_time, required=required, help="UTC, exclusive")
        software = about.add_parser("software", help="Of a version of a program or library.")
        software.add_argument("name", help="as in `versions` of a product, such as ducc0")
        software.add_argument("version")
        for each in about.choices.values():
            each.add_argument("--json", action="store_true", dest="as_json", help="print it as JSON")

    def handle(self, *, about: str, as_json: bool, **options: Any) -> None:
        found = _impact(about, options)
        if as_json:
            self.stdout.write(json.dumps(asdict(found), cls=DjangoJSONEncoder))
            return
        for kind, n in found.counts.items():
            self.stdout.write(f"{n:>10}  {kind.replace('_', ' ')}")
        verdicts = ", ".join(f"{n} {grade}" for grade, n in sorted(found.verdicts.items())) or "none"
        self.stdout.write(f"{found.n_measurements:>10}  points of light curves")
        self.stdout.write(f"Verdicts: {verdicts}. Suspect now: {found.n_suspect}. Lenient: {found.n_lenient}.")
        if found.observed_from and found.observed_until:
            self.stdout.write(
                f"Images from {found.observed_from:%Y-%m-%d %H:%M} to {found.observed_until:%Y-%m-%d %H:%M}."
            )


def _impact(about: str, options: dict[str, Any]) -> Impact:
    if about == "product":
        return impact.of_node(kind=options["kind"], pk=product_of(options["kind"], options["id"]).pk)
    if about == "software":
        return impact.of_software(name=options["name"], version=options["version"])
    return impact.of_observations(
        antenna=options.get("name") or "",
        observed_from=options["observed_from"],
        observed_until=options["observed_until"],
    )
