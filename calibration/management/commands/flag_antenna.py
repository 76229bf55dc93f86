"""What staff know to be bad: `manage.py flag_antenna pad042 2026-03-20T06:00Z --reason "warm receiver"`."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from datetime import datetime
from typing import Any

from django.core.management.base import CommandError

from calibration.models import AntennaFlag
from calibration.staff_flags import Change, add, withdraw
from contimg.commands import ContimgCommand, not_empty, utc_time

ALL = "all"


class Command(ContimgCommand):
    help = "Flag an antenna's data from a time on, for the next flagging of the tiles of that time."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("antenna", nargs="?", type=not_empty, help=f"its name, or {ALL!r}")
        parser.add_argument("start", nargs="?", type=utc_time, help="ISO 8601, UTC; inclusive")
        parser.add_argument("end", nargs="?", type=utc_time, help="exclusive; until withdrawn when not given")
        parser.add_argument("--reason", default="", help="what the others should know; needed")
        parser.add_argument("--withdraw", type=int, metavar="ID", help="the next flagging does not use this flag")
        parser.add_argument("--list", action="store_true", help="the flags in use")
        parser.add_argument("--json", action="store_true")

    def handle(
        self, *, antenna: str | None, start: datetime | None, end: datetime | None, reason: str, **options: Any
    ) -> None:
        asked = [antenna is not None, options["withdraw"] is not None, options["list"]]
        if sum(asked) != 1:
            raise CommandError("Give an antenna and a start, or --withdraw ID, or --list.")
        if options["list"]:
            self._write_list(as_json=options["json"])
        elif antenna is None:
            self._write(withdraw(flag=_flag(options["withdraw"])), as_json=options["json"])
        elif start is None:
            raise CommandError("Say from when on: give a start after the antenna.")
        else:
            name = "" if antenna == ALL else antenna
            self._write(add(antenna=name, started_at=start, ended_at=end, reason=reason), as_json=options["json"])

    def _write_list(self, *, as_json: bool) -> None:
        flags = AntennaFlag.objects.in_use()
        if as_json:
            self.stdout.write(json.dumps([_facts(flag) for flag in flags], indent=1))
            return
        for flag in flags:
            until = f"until {flag.ended_at:%Y-%m-%d %H:%M}" if flag.ended_at else "until withdrawn"
            self.stdout.write(f"{flag.pk}: {flag} {until}: {flag.reason}")

    def _write(self, change: Change, *, as_json: bool) -> None:
        if as_json:
            self.stdout.write(json.dumps({**_facts(change.flag), "n_tiles": change.n_tiles}, indent=1))
            return
        done = "Withdrawn" if change.flag.withdrawn_at else "Flagged"
        self.stdout.write(f"{done} ({change.flag.pk}): {change.flag}. {change}")


def _flag(pk: int) -> AntennaFlag:
    flag = AntennaFlag.objects.filter(pk=pk).first() if 0 < pk < 2**63 else None
    if flag is None:
        raise CommandError(f"There is no antenna flag {pk}; `flag_antenna --list` shows those in use.")
    return flag


def _facts(flag: AntennaFlag) -> dict[str, Any]:
    return {
        "id": flag.pk,
        "antenna": flag.antenna,
        "started_at": flag.started_at.isoformat(),
        "ended_at": flag.ended_at and flag.ended_at.isoformat(),
        "reason": flag.reason,
        "withdrawn_at": flag.withdrawn_at and flag.withdrawn_at.isoformat(),
    }
