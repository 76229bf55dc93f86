"""Every alert has its page, every page is found, and their commands are run, but for those that docs/runbooks names."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.urls import resolve

from contimg.products import WORK_FOLDER, products_root
from tests.batch.installation import skip_or_fail
from tests.factories import BatchFactory, CalibrationTableFactory, ImageFactory, ItemFactory
from tests.test_alerts import alerts

pytest_plugins = ["tests.batch.installation", "tests.batch.servers"]
ROOT = Path(settings.BASE_DIR)
FOLDER = ROOT / "docs" / "runbooks"
PAGES = sorted(path for path in FOLDER.glob("*.md") if path.name != "README.md")
SECTIONS = ["What it means", "How to see it", "What to do", "Over when"]
MOST_LINES = 40
MANAGE = "ops/manage "
DBSHELL = f"{MANAGE}dbshell -- "
SUPERUSER = "runuser -u postgres -- "
OF_OTHERS = {"postgresql", "redis-server", "rabbitmq-server", "chrony"}
VERBS = {"status", "start", "stop", "restart", "edit", "enable"}
WITH_FINDINGS = {"doctor", "verify", "index_subbands", "process"}  # which end with 1 when there is one
HARMLESS = {"df", "du", "ls", "uptime", "date", "ps", "ss", "wsclean", "apt-get"}
NOT_RUN = {"systemctl", "rabbitmqctl", "timedatectl", "ping"}  # of a production machine, or they change this one
REPLACED = {
    "ID": "1", "QUARANTINE": "1", "STAGE": "image", "NAME": "wsclean", "VERSION": "3.1", "ANTENNA": "pad1", "PID": "0",
}  # fmt: skip


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def of_program(program: str) -> list[str]:
    """Each once, in the order of the pages."""
    return list(dict.fromkeys(line for page in PAGES for line in commands(page) if line.startswith(program)))


def filled_in(line: str) -> str:
    return re.sub(r"\b[A-Z]+\b", lambda word: REPLACED.get(word[0], word[0]), line)


# --- the pages -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_short_and_says_what_it_means_how_to_see_it_what_to_do_and_when_it_is_over(page):
    text = page.read_text()
    assert len(text.splitlines()) <= MOST_LINES
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS
    assert commands(page)


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_has_a_page_that_says_whom_it_wakes(alert):
    severity = alert["labels"]["severity"]
    text = (ROOT / alert["annotations"]["runbook_url"]).read_text()
    assert text.startswith(f"# {alert['alert']}\n\n{severity.capitalize()}. ")
    assert f"| [{alert['alert']}]({alert['alert']}.md) | {severity} |" in (FOLDER / "README.md").read_text()


def test_every_page_is_in_the_list_and_every_link_leads_to_one():
    linked = {page: set(re.findall(r"\]\(([\w-]+\.md)\)", page.read_text())) for page in [*PAGES, FOLDER / "README.md"]}
    assert linked[FOLDER / "README.md"] == {page.name for page in PAGES}
    assert set().union(*linked.values()) <= {page.name for page in PAGES}


def test_a_bad_day_names_alerts_that_there_are():
    names = {alert["alert"] for alert in alerts()}
    for page in PAGES:
        if page.stem not in names:
            (line,) = re.findall(r"^Alerts: (.*)$", page.read_text(), re.MULTILINE)
            assert set(re.findall(r"\b[A-Z][a-z]+(?:[A-Z][a-z]+)+\b", line)) <= names, page.stem


def addresses() -> Iterator[str]:
    for page in PAGES:
        yield from re.findall(r"/(?:api/v1|health|metrics)[\w/.-]*", page.read_text())


def test_every_address_is_one_of_the_service():
    for address in set(addresses()):
        resolve(filled_in(address.removesuffix(".")))


# --- their commands ------------------------------------------------------------------------------------------------
def test_there_is_no_command_that_nobody_tries():
    tried = [MANAGE, f"{SUPERUSER}psql -c ", "journalctl ", "redis-cli ", "curl "]
    for page in PAGES:
        for line in commands(page):
            assert line.startswith(tuple(tried)) or line.split()[0] in HARMLESS | NOT_RUN, (page.stem, line)


def exit_status(name: str, arguments: list[str]) -> tuple[int, str]:
    try:
        call_command(name, *arguments)
    except SystemExit as ended:
        return int(ended.code or 0), ""
    except CommandError as error:
        return error.returncode, str(error)
    return 0, ""


def test_every_command_of_ours_does_what_it_should(install, tmp_path):
    """On an installation with a failed batch, a table, an image and a raw file of no bytes, in the pages' order."""
    install("sqlite", stages=settings.CONTIMG_STAGES)
    batch = BatchFactory(pk=1, stage="image", n_ready=0, n_failed=1)
    ItemFactory(batch=batch, stage="image", state="failed", error_code="disk_full")
    (products_root() / WORK_FOLDER).mkdir()  # its disk is there
    CalibrationTableFactory(pk=1)
    ImageFactory(versions={"wsclean": "3.1"})
    (raw := tmp_path / "raw").mkdir()
    (raw / "2026-03-20T00:00:00_sb00.hdf5").touch()
    for line in of_program(MANAGE):
        if line.startswith(DBSHELL):
            continue
        name, *arguments = shlex.split(filled_in(line.removeprefix(MANAGE)).replace("DIR", str(raw)))
        status, said = exit_status(name, arguments)
        told = name in WITH_FINDINGS or "[nothing_to_rebuild]" in said  # nothing rests on the table
        assert status == 0 or (status == 1 and told), f"{line}: {said}"
        if name == "pause":  # each page is of another night
            assert exit_status("resume", arguments[:1])[0] == 0


def units(words: list[str]) -> set[str]:
    return {re.sub(r"@.*", "@", word).removesuffix(".service") for word in words}


def our_units() -> set[str]:
    units = (ROOT / "ops" / "systemd").iterdir()
    return {unit.name.removesuffix(".service") for unit in units}


@pytest.mark.parametrize("line", of_program("systemctl "))
def test_systemctl_is_told_of_units_that_there_are(line):
    _, verb, *named = shlex.split(line.replace(" --now", ""))
    assert verb in VERBS
    assert named
    assert units(named) <= our_units() | OF_OTHERS


@pytest.mark.parametrize("line", of_program("journalctl "))
def test_the_journal_is_asked_as_it_can_be(line):
    words = shlex.split(line)
    assert units([b for a, b in pairwise(words) if a == "-u"]) <= our_units() | OF_OTHERS
    if "--vacuum" in line:
        return
    if shutil.which("journalctl") is None:
        skip_or_fail("SKIPPED: journalctl (Debian package systemd) is not installed.")
    done = subprocess.run([*words, "--no-pager", "--lines=1"], capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr  # 1: nothing was found
    assert "option" not in done.stderr
    assert "parse" not in done.stderr


def test_postgresql_does_what_the_service_and_what_its_superuser_ask(private_postgres, install):
    """Those that change something too: the server is the test's own, its roles those of docs/deployment.md."""
    at = private_postgres.url.partition("@")[2].partition("/")[0]
    with psycopg.connect(private_postgres.url, autocommit=True) as server:
        server.execute("CREATE ROLE contimg LOGIN")
        server.execute("CREATE DATABASE contimg OWNER contimg")
    install(f"postgres://contimg@{at}/contimg")
    for line in of_program(DBSHELL):
        assert exit_status("dbshell", shlex.split(filled_in(line.removeprefix(f"{MANAGE}dbshell ")))) == (0, ""), line
    host, _, port = at.partition(":")
    as_superuser = {**os.environ, "PGHOST": host, "PGPORT": port, "PGUSER": "postgres"}
    for line in of_program(SUPERUSER):
        words = shlex.split(filled_in(line if os.geteuid() == 0 else line.removeprefix(SUPERUSER)))
        done_well(words, env=as_superuser, cwd="/")


def done_well(words: list[str], **options: Any) -> str:
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, **options)
    assert done.returncode == 0, (words, done.stderr)
    assert "ERROR" not in done.stderr
    return done.stdout


def test_redis_understands_every_question(private_redis):
    if shutil.which("redis-cli") is None:
        skip_or_fail("SKIPPED: redis-cli (Debian package redis-tools) is not installed.")
    private_redis.start()
    for line in of_program("redis-cli "):
        words = shlex.split(line.replace("redis-cli ", f"redis-cli -u {private_redis.url} "))
        said = done_well(words)
        assert said.strip()
        assert not said.startswith(("ERR", "(error)")), said


@pytest.mark.django_db
@pytest.mark.parametrize("line", of_program("curl "))
def test_what_is_asked_by_http_answers(client, line):
    address = shlex.split(line)[-1]
    assert address.startswith("http://127.0.0.1:8000/")
    assert client.get(address.removeprefix("http://127.0.0.1:8000")).status_code in (200, 503)


@pytest.mark.parametrize("line", [line for program in sorted(HARMLESS) for line in of_program(f"{program} ")])
def test_programs_of_the_system_have_the_options_that_they_are_given(line, tmp_path):
    words = [re.sub(r"^/(var/lib/contimg|data)\b.*", str(tmp_path), word) for word in shlex.split(line)]
    if words[0] == "apt-get":
        words.insert(1, "--simulate")
    if shutil.which(words[0]) is None:
        skip_or_fail(f"SKIPPED: {words[0]} is not installed.")
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    assert not done.stderr
