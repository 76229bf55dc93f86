from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.core.serializers.json import DjangoJSONEncoder

from contimg.commands import ContimgCommand
from sources.models import Source
from sources.services import find_source, light_curve

BAR_WIDTH = 40


class Command(ContimgCommand):
    help = "Print the light curve of a source, and plot it with --png."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("source", metavar='NAME|"RA DEC"', help="A name, or a position in degrees or sexagesimal.")
        parser.add_argument("--png", type=Path, metavar="FILE", help="Write a plot of it.")
        parser.add_argument("--json", action="store_true", help="Print it as JSON, as the API gives it.")

    def handle(self, *, source: str, png: Path | None, **options) -> None:
        if png is not None and png.suffix.lower() != ".png":
            raise CommandError(f"{png.name!r} does not end in .png, and the plot is a PNG; give it such a name.")
        found = find_source(text=source)
        curve = light_curve(source=found)
        self.stdout.write(_as_json(curve) if options["json"] else _as_text(found, curve))
        if png is not None:
            _plot(found, curve, png)
            self.stderr.write(f"Plotted to {png}.")


def _plot(source: Source, curve: dict[str, Any], png: Path) -> None:
    from sources.engines.light_curve_plot import draw  # here: matplotlib takes half a second

    try:
        draw(light_curve=curve, name=source.name, is_variable=source.is_variable, path=png)
    except OSError as error:
        raise CommandError(f"{png} cannot be written ({error.strerror}).") from error


def _as_json(curve: dict[str, Any]) -> str:
    return json.dumps(curve, cls=DjangoJSONEncoder, indent=2)


def _as_text(source: Source, curve: dict[str, Any]) -> str:
    highest = max((abs(point["flux_jy"]) + point["flux_err_jy"] for point in curve["points"]), default=0.0)
    place = f"RA {source.ra_deg:.5f}  Dec {source.dec_deg:+.5f}  +- {source.position_err_arcsec:.2f} arcsec"
    columns = f"{'UTC':19}  {'status':8}  {'flux mJy':>9}  {'error':>7}  {'SNR':>6}  {'limit':>7}  {'grade':9}  "
    scale = f"0 mJy{f'{1e3 * highest:.4g} mJy':>{BAR_WIDTH - 4}}"
    gaps = [f"{_time(gap['observed_at'])}  no flux: {gap['reason']} ({gap['name']})" for gap in curve["not_covered"]]
    points = [_line(point, highest) for point in curve["points"]]
    summary = _summary(source, curve["statistics"])
    return "\n".join([f"{source.name}  {place}", "", columns + scale, *points, *gaps, "", summary])


def _line(point: dict[str, Any], highest: float) -> str:
    return (
        f"{_time(point['observed_at'])}  {point['status']:8}  {1e3 * point['flux_jy']:9.3f}"
        f"  {1e3 * point['flux_err_jy']:7.3f}  {_number(point['snr'], '6.1f')}  {_limit(point):>7}"
        f"  {point['grade']:9}  {_bar(point, highest)}"
    ).rstrip()


def _bar(point: dict[str, Any], highest: float) -> str:
    """A mark at the flux between dashes of one error; limits as an arrow from the limit down."""
    if highest <= 0:
        return ""
    column = [" "] * (BAR_WIDTH + 1)

    def at(flux: float) -> int:
        return min(max(round(BAR_WIDTH * flux / highest), 0), BAR_WIDTH)

    flux, error = point["flux_jy"], point["flux_err_jy"]
    for index in range(at(flux - error), at(flux + error) + 1):
        column[index] = "-"
    mark = {"rejected": "x", "detected": "*", "forced": "o"}[point["status"]]
    column[at(flux)] = "<" if point["upper_limit_jy"] is not None else mark
    return "".join(column)


def _limit(point: dict[str, Any]) -> str:
    return "" if point["upper_limit_jy"] is None else f"<{1e3 * point['upper_limit_jy']:.2f}"


def _time(time: Any) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S}" if time is not None else "unknown".ljust(19)


def _number(value: float | None, form: str) -> str:
    return "-".rjust(int(form.split(".")[0])) if value is None else f"{value:{form}}"


def _summary(source: Source, statistics: dict[str, Any]) -> str:
    if statistics["mean_jy"] is None:
        return f"N = 0. {statistics['reason']}"
    eta = "undefined" if statistics["eta"] is None else f"{statistics['eta']:.3g}"
    v = "undefined" if statistics["v"] is None else f"{statistics['v']:.3g}"
    verdict = "variable" if source.is_variable else "not variable"
    said = f"N = {statistics['n']}  mean {1e3 * statistics['mean_jy']:.4g} mJy  eta = {eta}  V = {v}: {verdict}."
    return f"{said} {statistics['reason']}".strip()
