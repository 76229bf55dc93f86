"""What ops/ starts exists and takes the options that it is given; what it sets are settings."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import get_commands, load_command_class

from tests.batch.installation import skip_or_fail

OPS = Path(settings.BASE_DIR) / "ops"
UNITS = sorted((OPS / "systemd").glob("*.service"))
COMMANDS = {
    "worker": "batch",
    "watch": "batch",
    "night_report": "batch",
    "drift": "qa",
    "verify": "provenance",
    "backup": "provenance",
    "retention": "batch",
    "migrate": "django.core",
}


def values(unit: Path, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", unit.read_text(), re.MULTILINE)


def started() -> list[str]:
    of_units = [line for unit in UNITS for name in ("ExecStartPre", "ExecStart") for line in values(unit, name)]
    return of_units + [line.partition(": ")[2] for line in (OPS / "Procfile").read_text().splitlines()]


@pytest.mark.parametrize("line", started())
def test_each_line_starts_a_command_with_options_it_knows(line):
    program, *arguments = shlex.split(line)
    if program.endswith("granian"):
        options = [argument for argument in arguments if argument.startswith("--")]
        said = subprocess.run(
            [Path(settings.BASE_DIR) / ".venv/bin/granian", "--help"], capture_output=True, text=True, check=True
        )
        assert all(option in said.stdout for option in options)
        assert arguments[-1].replace(":", ".") == settings.WSGI_APPLICATION
        return
    assert arguments[0] == "manage.py"
    name, *arguments = arguments[1:]
    load_command_class(COMMANDS[name], name).create_parser("manage.py", name).parse_args(arguments)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_units_that_run_stages_are_stopped_by_their_supervisor_in_time(unit):
    if unit.stem in ("contimg-web", "contimg-verify", "contimg-report", "contimg-backup", "contimg-retention"):
        return
    assert values(unit, "KillMode") == ["mixed"], "TERM to all would end stages that may finish"
    assert int(values(unit, "TimeoutStopSec")[0]) > settings.CONTIMG_DRAIN_S + 10


def test_the_example_of_an_environment_names_settings():
    names = re.findall(r"^(\w+)=", (OPS / "contimg.env").read_text(), re.MULTILINE)
    assert set(names) <= settings.SETTING_NAMES
    assert len(names) == len(set(names))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_understands_the_units(unit, tmp_path):
    """With the programs of this machine in the place of an installation's, which is not here."""
    if shutil.which("systemd-analyze") is None:
        skip_or_fail("SKIPPED: systemd-analyze (Debian package systemd) is not installed.")
    text = re.sub(r"=/opt/contimg\S*", "=/bin/true", unit.read_text().replace("WorkingDirectory=/opt/contimg\n", ""))
    copy = tmp_path / (f"{unit.stem}data-raw.service" if unit.stem.endswith("@") else unit.name)
    copy.write_text(text.replace("User=contimg\n", ""))
    said = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True)
    assert "contimg" not in said.stderr, said.stderr


def test_the_page_of_deployment_names_files_units_and_commands_that_exist():
    text = (OPS.parent / "docs" / "deployment.md").read_text()
    commands = "\n".join(line for line in text.splitlines() if line.startswith("    "))
    for path in re.findall(r"(?<=\s)(?:ops|requirements)/\S+", commands):
        assert list(OPS.parent.glob(path)), path
    enabled = re.findall(r"\bcontimg-[\w.]+", " ".join(re.findall(r"systemctl enable .*", commands)))
    units = {unit.stem.rstrip("@") for unit in UNITS} - {timer.stem for timer in (OPS / "systemd").glob("*.timer")}
    assert set(enabled) == units | {timer.name for timer in (OPS / "systemd").glob("*.timer")}
    asked = set(re.findall(r"^    ops/manage (\w+)", text, re.MULTILINE))
    assert asked
    assert asked <= get_commands().keys()
