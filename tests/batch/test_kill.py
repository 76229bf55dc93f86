"""Killed with -9 at random moments and run again, the main job ends with what an undisturbed run makes."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.batch.nights import SETTINGS

pytest_plugins = ["tests.batch.nights"]
PROJECT = Path(__file__).resolve().parents[2]
N_KILLS = int(os.environ.get("CONTIMG_TEST_KILLS", "10"))

# Everything that must come out the same: contents and numbers, but no keys, times of writing or paths.
QUESTIONS = {
    "groups": "select started_at, n_files, n_subbands from observations_subbandgroup",
    "sets": """select name, is_calibrated, recipe, checksum, flagged_fraction, is_current
        from observations_measurementset""",
    "flags": "select recipe, checksum from calibration_flagtable",
    "tables": "select set_name, kind, recipe, checksum, grade from calibration_calibrationtable",
    "applied": """select s.recipe, t.recipe from calibration_appliedtable a
        join observations_measurementset s on s.id = a.measurement_set_id
        join calibration_calibrationtable t on t.id = a.table_id""",
    "images": "select name, recipe, checksum, rms_jy_per_beam, grade, is_current from images_image",
    "assessments": "select grade, is_current, image_id is null from qa_assessment",
    "findings": "select rule, value, outcome from qa_finding",
    "sources": "select name, ra_deg, dec_deg, n_measurements, eta, is_variable from sources_source",
    "measurements": """select s.name, i.recipe, m.is_forced, m.flux_jy, m.flux_err_jy from sources_measurement m
        join sources_source s on s.id = m.source_id join images_image i on i.id = m.image_id""",
    "catalogues": "select recipe, n_detected, n_forced, n_new_sources from sources_catalogue",
}


class Installation:
    """A database and products of its own, driven by the real command in a real process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "contimg.settings",
            "CONTIMG_VAR_DIR": str(folder),
            "DATABASE_URL": f"sqlite:///{folder}/contimg.sqlite3",
            **{name: str(value) for name, value in SETTINGS.items()},
        }
        self.environment.pop("CONTIMG_PRODUCTS_ROOT", None)
        self.start("migrate", "--verbosity", "0").wait()

    def start(self, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", "manage.py", *arguments],
            cwd=PROJECT,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def content(self) -> dict[str, list]:
        with sqlite3.connect(self.folder / "contimg.sqlite3") as database:
            return {name: sorted(database.execute(sql).fetchall(), key=repr) for name, sql in QUESTIONS.items()}

    def orphans(self) -> set[str]:
        """Product files that no row names."""
        with sqlite3.connect(self.folder / "contimg.sqlite3") as database:
            named = {
                row[0]
                for table, column in (
                    ("observations_measurementset", "path"),
                    ("calibration_flagtable", "path"),
                    ("calibration_calibrationtable", "path"),
                    *(
                        ("images_image", f"{kind}path")
                        for kind in ("", "flat_noise_", "residual_", "primary_beam_", "preview_")
                    ),
                )
                for row in database.execute(f"select {column} from {table}")  # noqa: S608
            }
        products = self.folder / "products"
        return {str(path.relative_to(products)) for path in _products(products)} - named


def _products(folder: Path):
    for path in folder.iterdir():
        if path.is_dir() and not (path / "table.dat").exists():
            yield from _products(path) if not path.name.startswith(".") else []
        elif not path.name.startswith("."):
            yield path


@pytest.mark.slow
def test_killed_ten_times_at_random_moments_it_ends_as_an_undisturbed_run(night, tmp_path):
    undisturbed, disturbed = Installation(tmp_path / "undisturbed"), Installation(tmp_path / "disturbed")
    assert undisturbed.start("process", str(night), "--settle-s", "0").wait() == 0
    expected = undisturbed.content()
    assert len(expected["images"]) == 4

    chance = random.Random(20261123)
    for _ in range(N_KILLS):
        run = disturbed.start("process", str(night), "--settle-s", "0")
        try:
            run.wait(timeout=chance.uniform(1.0, 6.0))
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
    assert disturbed.start("process", str(night), "--settle-s", "0").wait() == 0

    found = disturbed.content()
    for name, rows in expected.items():
        assert Counter(found[name]) == Counter(rows), name
    sweep = "from batch.sweeper import sweep_files; sweep_files()"
    assert disturbed.start("shell", "-v0", "-c", sweep).wait() == 0
    assert disturbed.orphans() == set()
