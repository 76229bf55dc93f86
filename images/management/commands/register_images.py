from __future__ import annotations

import json
from argparse import ArgumentTypeError
from pathlib import Path

from django.core.management.base import CommandError, CommandParser
from tqdm import tqdm

from contimg.commands import ContimgCommand
from images.services import RegistrationReport, register_images


class Command(ContimgCommand):
    help = "Register FITS images of any telescope as external images; files that cannot be used are named and skipped."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("paths", nargs="+", type=_path, metavar="PATH", help="A FITS file, or a folder to search.")
        parser.add_argument("--json", action="store_true", help="Print the result as JSON.")

    def handle(self, *, paths: list[Path], **options) -> None:
        report = register_images(paths=paths, progress=lambda files: tqdm(files, unit="image", disable=None))
        self.stdout.write(json.dumps(_as_dict(report), indent=2) if options["json"] else _as_text(report))
        if report.refused:
            raise CommandError(f"{len(report.refused)} of {_total(report)} refused.")


def _path(text: str) -> Path:
    """`Path("")` would be the current folder, which a script with an unset variable does not mean."""
    if not text:
        raise ArgumentTypeError("an empty path names nothing; say . for the current folder")
    return Path(text)


def _total(report: RegistrationReport) -> int:
    return len(report.registered) + len(report.refused)


def _as_text(report: RegistrationReport) -> str:
    refused = [f"refused {item.path} [{item.code}]: {item.reason}" for item in report.refused]
    return "\n".join([*refused, f"{len(report.registered)} of {_total(report)} registered."])


def _as_dict(report: RegistrationReport) -> dict[str, list[dict[str, object]]]:
    return {
        "registered": [{"id": image.pk, "name": image.name, "checksum": image.checksum} for image in report.registered],
        "refused": [{"path": str(item.path), "code": item.code, "reason": item.reason} for item in report.refused],
    }
