"""What is written is true: error codes, settings and commands in the documents and in the code are the same."""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.apps import apps
from django.conf import settings
from django.core import validators
from django.core.management import get_commands
from django.forms import ChoiceField, Field
from rest_framework import exceptions as drf

from contimg.api.errors import problem
from contimg.exceptions import ContimgError

ROOT = Path(settings.BASE_DIR)
OURS = [app.name for app in apps.get_app_configs() if Path(app.path).parent == ROOT]
ERRORS = "docs/errors.md"
PIPELINE, HTTP, PARAMETER = "Of the data and the pipeline", "Of HTTP", "Of one parameter"


# --- the documents -----------------------------------------------------------------------------------------------
def section(document: str, title: str) -> str:
    """The text below a second-level heading, its own subsections with it."""
    text = (ROOT / document).read_text()
    found = re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"{document} has no section {title!r}"
    return found[1]


def rows(document: str, title: str) -> list[list[str]]:
    """The cells of the rows whose first cell begins with something in backticks."""
    lines = [line for line in section(document, title).splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))] for line in lines]


def names(document: str, title: str) -> list[str]:
    """The first word in backticks of each row."""
    return [re.match(r"`([^`\s]+)", row[0])[1] for row in rows(document, title)]


def table(document: str, title: str) -> dict[str, list[str]]:
    return dict(zip(names(document, title), rows(document, title), strict=True))


# --- the code ----------------------------------------------------------------------------------------------------
def every_error() -> list[type[ContimgError]]:
    for app in OURS:
        for module in pkgutil.walk_packages(importlib.import_module(app).__path__, f"{app}."):
            if ".migrations" not in module.name:
                importlib.import_module(module.name)
    family = [ContimgError]
    for error in family:
        family += error.__subclasses__()
    return [error for error in family if error.__module__.split(".")[0] in OURS]


def calls(path: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))


def constants(call: ast.Call) -> dict[str, object]:
    return {k.arg: k.value.value for k in call.keywords if k.arg and isinstance(k.value, ast.Constant)}


def api_calls_with_code() -> list[dict[str, object]]:
    sources = (ROOT / "contimg" / "api").glob("*.py")
    return [found for path in sources for found in map(constants, calls(path)) if isinstance(found.get("code"), str)]


def http_statuses() -> dict[str, int]:
    """Codes of whole answers: those of DRF's exceptions and those that contimg/api writes."""
    every_error()  # imports every module, and with it every exception that has a subclass there
    known: list[type[drf.APIException]] = [drf.APIException]
    for error in known:
        known += error.__subclasses__()
    codes = {
        error.default_code: error.status_code
        for error in known
        if error.__module__.split(".")[0] in ("rest_framework", *OURS) and error is not drf.ValidationError
    }
    codes.pop(drf.APIException.default_code, None)
    return (
        codes
        | {str(found["code"]): int(str(found["status"])) for found in api_calls_with_code() if "status" in found}
        | statuses_of_the_proxy()
    )


def statuses_of_the_proxy() -> dict[str, int]:
    """What nginx says itself, each the shape of an error of ours."""
    said = re.findall(r"return (\d+) '(\{.*\})'", (ROOT / "ops/nginx/contimg.conf").read_text())
    problems = [(int(status), json.loads(text)) for status, text in said]
    for status, found in problems:
        shape = problem(status=status, code=found["code"], detail=found["detail"], instance="")
        assert found == {**shape, "request_id": None}
    return {found["code"]: status for status, found in problems}


def parameter_codes() -> set[str]:
    return {str(found["code"]) for found in api_calls_with_code() if "status" not in found}


FORM_CODES = {
    *Field.default_error_messages,
    *ChoiceField.default_error_messages,
    validators.MinValueValidator.code,
    validators.MaxValueValidator.code,
    validators.ProhibitNullCharactersValidator.code,
}


def our_commands() -> set[str]:
    return {name for name, app in get_commands().items() if app in OURS}


# --- errors ------------------------------------------------------------------------------------------------------
def test_every_error_of_ours_is_documented_and_every_documented_one_exists():
    documented = names(ERRORS, PIPELINE)
    assert sorted(set(documented)) == sorted(documented), "a code is there twice"
    assert set(documented) == {error.code for error in every_error()}


def test_the_documents_have_the_status_of_each_error_and_say_whether_it_passes():
    written = table(ERRORS, PIPELINE)
    for error in every_error():
        assert written[error.code][1:3] == [str(error.status), "no" if error.permanent else "yes"], error


def test_every_error_says_its_meaning_and_what_to_do():
    for title, n_cells in ((PIPELINE, 5), (HTTP, 5), (PARAMETER, 2)):
        for row in rows(ERRORS, title):
            assert len(row) == n_cells, row
            assert all(row), row


def test_every_answer_of_http_is_documented_with_its_status_and_every_documented_one_exists():
    assert {code: int(row[1]) for code, row in table(ERRORS, HTTP).items()} == http_statuses()


def test_every_code_of_a_parameter_is_documented_and_every_documented_one_exists():
    documented = set(names(ERRORS, PARAMETER))
    assert parameter_codes() <= documented
    assert documented <= parameter_codes() | FORM_CODES


# --- settings and commands ----------------------------------------------------------------------------------------
def test_every_setting_is_in_the_readme_and_every_one_there_is_read():
    assert set(names("README.md", "Settings")) == settings.SETTING_NAMES


def test_the_settings_of_the_demo_exist():
    lines = (ROOT / "demo.env").read_text().splitlines()
    assert {line.split("=")[0] for line in lines if line and not line.startswith("#")} <= settings.SETTING_NAMES


def test_only_the_settings_module_reads_the_environment():
    readers = [
        str(path.relative_to(ROOT))
        for app in OURS
        for path in sorted((ROOT / app).rglob("*.py"))
        if re.search(r"os\.environ(\.get\(|\[)|os\.getenv", path.read_text()) and path.name != "settings.py"
    ]
    assert readers == []


def test_every_command_is_in_the_readme_and_every_one_there_exists():
    assert set(names("README.md", "Commands")) == our_commands()


# --- the edges ---------------------------------------------------------------------------------------------------
def test_at_most_two_handlers_catch_whatever_comes():
    """The worker's edge, and that of registering files from anywhere; each says why."""
    broad = [
        f"{path.relative_to(ROOT)}:{handler.lineno}"
        for app in OURS
        for path in sorted((ROOT / app).rglob("*.py"))
        for handler in ast.walk(ast.parse(path.read_text()))
        if isinstance(handler, ast.ExceptHandler) and _is_broad(handler)
    ]
    assert len(broad) <= 2, broad


def _is_broad(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    return bool({"Exception", "BaseException"} & {ast.unparse(one) for one in ast.walk(handler.type)})


@pytest.mark.parametrize("word", ["TO" + "DO", "FIX" + "ME", "HA" + "CK"])
def test_nothing_is_put_off(word):
    found = [
        str(path.relative_to(ROOT)) for path in tracked_files() if re.search(rf"\b{word}\b".encode(), path.read_bytes())
    ]
    assert found == []


# --- what must not be written ---------------------------------------------------------------------------------------
def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("This is no checkout (git does not list its files), so what is in them was not looked at.")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("needle", ["../" + "shared", "/" + "work/"])
def test_nothing_names_a_place_outside_of_the_project(needle):
    found = [str(path.relative_to(ROOT)) for path in tracked_files() if needle.encode() in path.read_bytes()]
    assert found == []
