"""A simulated week through the real pipeline, with its results held against the truth: `manage.py demo`."""

from __future__ import annotations

import resource
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command

from batch.night_facts import Night
from batch.night_report import default_path, write_night_report
from contimg.commands import ContimgCommand
from observations.engines.night_plan import CATALOGUE_FILE, CATALOGUE_HZ, TRUTH_FILE
from observations.models import SubbandGroup
from sources.models import Source


class Command(ContimgCommand):
    needs_migrated_database = False  # it migrates
    help = "Simulate six sidereal days of two tiles, process them, compare with the truth, draw a light curve, report."

    def handle(self, **options: Any) -> None:
        folder = settings.VAR_DIR / "raw"
        with self._step("database"):
            call_command("migrate", verbosity=0)
        if not (folder / TRUTH_FILE).exists():  # the truth is written last: without it the simulation is not whole
            with self._step("simulation"):
                call_command("simulate", folder, tiles=2, nights=6, damage=True)
        if (folder / CATALOGUE_FILE).exists():  # a simulation of an older version has none
            with self._step("reference catalogue"):
                call_command(
                    "import_catalogue", folder / CATALOGUE_FILE, name="simulated", frequency_mhz=CATALOGUE_HZ / 1e6,
                    note="The simulator's sky, before anything was measured.",
                )  # fmt: skip
        with self._step("pipeline"):
            call_command("process", folder, settle_s=0)
        with self._step("comparison with the truth"):
            call_command("compare_with_truth", folder / TRUTH_FILE)
        variable = Source.objects.variable().order_by("-eta").first()
        if variable is not None:
            call_command("light_curve", variable.name, png=settings.VAR_DIR / "light_curve.png")
        with self._step("night reports"):
            self._report_nights()
        processes = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        peak_bytes = max(resource.getrusage(which).ru_maxrss for which in processes) * 1024
        self.stdout.write(f"\nlargest process {peak_bytes / 1e9:.2f} GB; files are in {settings.VAR_DIR}")
        self._invite()

    def _report_nights(self) -> None:
        nights = [Night(day.date()) for day in SubbandGroup.objects.datetimes("observed_at", "day")]
        for night in nights:
            self.stdout.write(f"   {night}: {write_night_report(night=night, path=default_path(night))['headline']}")
        if nights:
            self.stdout.write(f"   open in a browser: {default_path(nights[-1]).resolve().as_uri()}")

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        self.stdout.write(self.style.MIGRATE_HEADING(f"== {name}"))
        started = time.monotonic()
        yield
        self.stdout.write(f"   {name}: {time.monotonic() - started:.0f} s\n")

    def _invite(self) -> None:
        """A user `admin`; its password is shown once and stored only as a hash."""
        users = get_user_model().objects
        if not users.filter(username="admin").exists():
            password = secrets.token_urlsafe(12)
            users.create_superuser("admin", password=password)
            self.stdout.write(f"user: admin   password: {password}   (shown once)")
        self.stdout.write("`make run` serves it all: http://127.0.0.1:8000/ (API under /api/v1/, admin under /admin/)")
