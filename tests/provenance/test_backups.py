"""A service that was destroyed and restored is the same service: rows, products and answers."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from rest_framework.test import APIClient

from contimg import dumps
from contimg.products import products_root
from contimg.urls import router
from images.models import Image
from observations.models import DataRoot, MeasurementSet
from provenance.backups import BackupDamaged, Manifest, read_backup, remove_older
from tests.batch.installation import PROJECT, run_sql, until
from tests.factories import AttemptFactory, ImageFactory, OutputFactory, digest
from tests.test_query_budgets import make_rows

pytest_plugins = ["tests.batch.installation"]
FAR_AHEAD = "batch.9999_of_a_newer_contimg"


def backup(folder: Path, *options: str) -> Path:
    out = StringIO()
    call_command("backup", str(folder), "--json", *options, stdout=out)
    return Path(json.loads(out.getvalue())["path"])


def restored(path: Path) -> dict:
    out = StringIO()
    call_command("restore", str(path), "--json", stdout=out)
    return json.loads(out.getvalue())


def write_manifest(path: Path, manifest: Manifest, **changed: Any) -> None:
    """With these changes, as another contimg would have written it."""
    (path / "manifest.json").write_text(json.dumps(asdict(replace(manifest, **changed).sealed())))


def destroy(url: str) -> None:
    """The place stays, as an empty one: of SQLite not even the file, and a log of it that nothing belongs to."""
    connection.close()
    if url.startswith("sqlite:///"):
        path = Path(url.removeprefix("sqlite:///"))
        path.unlink()
        Path(f"{path}-wal").write_bytes(b"what a database left behind that was killed")
    else:
        connection.close_pool()
        name = url.rpartition("/")[2]
        run_sql(f"DROP DATABASE {name} WITH (FORCE)")
        run_sql(f"CREATE DATABASE {name}")


def answers() -> dict[str, bytes]:
    """Of every list, and of a detail of each."""
    cache.clear()
    api = APIClient()
    api.force_authenticate(User.objects.get(username="root"))
    said = {}
    for prefix, _, _ in router.registry:
        page = api.get(f"/api/v1/{prefix}/?limit=5")
        assert page.status_code == 200, (prefix, page.content)
        said[prefix] = page.content
        url = f"/api/v1/{prefix}/{page.json()['results'][0]['id']}/"
        said[url] = api.get(url).content
    return said


def write_product(relative: str, content: bytes) -> dict[str, object]:
    path = products_root() / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {"path": relative, "size_bytes": len(content)}


def fill() -> None:
    User.objects.create_superuser("root")
    for _, _, basename in router.registry:
        make_rows(basename, 2)
    MeasurementSet.objects.update(size_bytes=4)
    for path in MeasurementSet.objects.values_list("path", flat=True):
        write_product(path, b"data")


@contextmanager
def at_most_bytes(n: int) -> Iterator[None]:
    """No file of this process grows beyond."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def n_rows() -> dict[str, int]:
    return dumps.dumper(connection).count_rows()


def test_a_destroyed_service_is_restored_to_the_same(installation, tmp_path):
    fill()
    before, rows = answers(), n_rows()
    checksums = sorted(MeasurementSet.objects.values_list("path", "checksum"))
    path = backup(tmp_path / "backups")
    assert {file.name for file in path.iterdir()} == {
        "manifest.json",
        "products.csv",
        *read_backup(path).manifest.files,
    }
    assert path.stat().st_mode & 0o077 == 0, "others of the machine read no password hashes"

    destroy(installation.database_url)
    told = restored(path)

    assert n_rows() == rows == told["rows"]
    assert sorted(MeasurementSet.objects.values_list("path", "checksum")) == checksums
    after = answers()
    assert after.keys() == before.keys()
    assert [url for url in before if after[url] != before[url]] == []
    assert told["unapplied"] == []
    images = set(Image.objects.values_list("path", flat=True))
    assert images <= set(told["missing"]), "no image was written to disk"
    assert not {path for path, _ in checksums} & set(told["missing"])
    DataRoot.objects.create(path="/the next one gets a key of its own")

    with pytest.raises(CommandError, match="place_not_empty"):
        restored(path)
    assert DataRoot.objects.filter(path__startswith="/the next").exists()


def test_a_backup_names_what_its_attempt_recorded_of_the_companions_of_an_image(installation, tmp_path):
    image = ImageFactory(preview_path="images/one.png", residual_path="images/one_residual.fits")
    recorded = {"kind": "preview", "name": "images/one.png", "size_bytes": 7, "checksum": digest("preview")}
    attempt = AttemptFactory(evidence={"inputs": [], "outputs": [recorded]})
    OutputFactory(attempt=attempt, measurement_set=None, image=image)
    listed = (backup(tmp_path) / "products.csv").read_text().splitlines()
    assert f"preview,{image.pk},,images/one.png,7,{digest('preview')}" in listed
    assert f"residual,{image.pk},,images/one_residual.fits,," in listed
    assert f"image,{image.pk},,{image.path},1000,{image.checksum}" in listed


@pytest.fixture
def writer() -> Iterator[tuple[threading.Event, threading.Thread, threading.Event]]:
    """Somebody who adds two rows in each transaction: that he has begun, his thread, and that he is to stop."""
    begun, stopping = threading.Event(), threading.Event()

    def write() -> None:
        n = 0
        while not stopping.is_set():
            with transaction.atomic():
                DataRoot.objects.bulk_create([DataRoot(path=f"/{n}/a"), DataRoot(path=f"/{n}/b")])
            n += 1
            begun.set()
        connection.close()

    thread = threading.Thread(target=write)
    try:
        yield begun, thread, stopping
    finally:
        stopping.set()
        if thread.ident:
            thread.join()


def test_a_backup_is_of_one_moment_while_others_write(installation, writer, tmp_path):
    begun, thread, stopping = writer
    thread.start()
    assert begun.wait(10)
    before = DataRoot.objects.count()
    paths = [backup(tmp_path) for _ in range(3)]
    after = DataRoot.objects.count()
    stopping.set()
    thread.join()
    counts = [read_backup(path).manifest.rows["observations_dataroot"] for path in paths]
    assert before <= counts[0] <= counts[-1] <= after
    assert after > before
    assert all(n % 2 == 0 for n in counts)
    destroy(installation.database_url)
    restored(paths[-1])
    assert DataRoot.objects.count() == counts[-1]


def test_one_that_is_killed_half_way_leaves_nothing_that_looks_whole(install, tmp_path):
    installation = install("sqlite")
    folder = tmp_path / "backups"
    process = installation.start("backup", str(folder))
    (half,) = until(lambda: list(folder.glob(".contimg-*")), every_s=0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert half.is_dir()
    assert list(folder.glob("contimg-*")) == []
    with pytest.raises(CommandError, match="not_a_backup"):
        restored(half)
    whole = backup(folder)
    assert list(folder.iterdir()) == [whole], "what was left behind is gone"


DYING_HALF_WAY = """
import os, sys, django
from pathlib import Path
django.setup()
from provenance.backups import restore

def told(step, done, total):
    if step == "Restoring" and done >= total / 2:
        os._exit(9)  # as a kill: nothing is cleared up

restore(path=Path(sys.argv[1]), told=told)
"""


def test_a_restore_that_is_killed_half_way_leaves_the_place_empty(installation, tmp_path):
    path = backup(tmp_path)
    destroy(installation.database_url)
    said = subprocess.run(
        [sys.executable, "-c", DYING_HALF_WAY, path], env=installation.environment, cwd=PROJECT, capture_output=True
    )
    assert said.returncode == 9, said.stderr
    until(lambda: connection.introspection.table_names() == [])
    time.sleep(0.2)  # psql has seen the end of its input
    assert connection.introspection.table_names() == []
    assert restored(path)["unapplied"] == []


def test_every_damaged_byte_of_a_manifest_is_noticed(install, tmp_path):
    install("sqlite")
    path = backup(tmp_path)
    whole = (path / "manifest.json").read_bytes()
    for at in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF if at % 2 else 0x7F
        (path / "manifest.json").write_bytes(damaged)
        with pytest.raises(BackupDamaged):
            read_backup(path)


@pytest.mark.parametrize("name", ["database", "products.csv", "manifest.json"])
def test_a_damaged_backup_is_refused_before_anything_is_written(name, install, tmp_path):
    url = install("sqlite").database_url
    path = backup(tmp_path)
    destroy(url)
    damaged = next(file for file in path.iterdir() if file.name.startswith(name))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 0x7F
    damaged.write_bytes(content)
    with pytest.raises(CommandError, match=r"backup_damaged|dump_damaged"):
        restored(path)
    assert connection.introspection.table_names() == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": 5}, {"rows": {"qa_rule": "many"}}, {"rows": None}, {"migrations": None}, {"migrations": [1]},
        {"files": {}}, {"files": {"products.csv": {}}}, {"files": []},
        {"files": {"a": {}, "products.csv": {}}}, {"n_products": "all"}, {"made_at": 3}, {"database": None},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_a_manifest_that_a_hand_has_damaged_is_refused_before_anything_is_written(wrong, tmp_path):
    """Also by the next `backup --keep`, which leaves such a folder alone."""
    whole = {
        "format": 1, "contimg": "1", "made_at": "2026-03-10", "installation": "1f", "database": "sqlite",
        "migrations": [], "rows": {}, "n_products": 0,
        "files": {name: {"size_bytes": 1} for name in ("database.sqlite3", "products.csv")},
    }  # fmt: skip
    folder = tmp_path / "contimg-20260310T061000Z-1f2e3d4c"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps(whole))
    assert read_backup(folder).size_bytes == 2
    (folder / "manifest.json").write_text(json.dumps(whole | wrong))
    with pytest.raises(BackupDamaged):
        read_backup(folder)
    assert remove_older(folder=tmp_path, keep=0, installation="1f") == []


def test_rows_that_are_not_those_of_the_manifest_are_not_kept(installation, tmp_path):
    path = backup(tmp_path)
    destroy(installation.database_url)
    manifest = read_backup(path).manifest
    write_manifest(path, manifest, rows=manifest.rows | {"qa_rule": manifest.rows["qa_rule"] + 1})
    with pytest.raises(CommandError, match=r"qa_rule has \d+ of \d+.*dump_damaged"):
        restored(path)
    assert connection.introspection.table_names() == []
    assert [file for file in installation.folder.iterdir() if file.name.startswith(".contimg.sqlite3")] == []


@contextmanager
def somebody_who_may_not_create_tables() -> Iterator[dict[str, object]]:
    """The settings of the same database as a role of PostgreSQL that does not own it."""
    role = f"contimg_weak_{uuid.uuid4().hex[:8]}"
    run_sql(f"CREATE ROLE {role} LOGIN PASSWORD '{role}'")
    try:
        yield {"USER": role, "PASSWORD": role}
    finally:
        run_sql(f"DROP ROLE {role}")


def test_a_restore_whose_psql_is_refused_says_what_it_said(install, tmp_path, monkeypatch):
    installation = install("postgres")
    path = backup(tmp_path)
    destroy(installation.database_url)
    with somebody_who_may_not_create_tables() as weak:
        for name, value in weak.items():
            monkeypatch.setitem(connection.settings_dict, name, value)
        with pytest.raises(CommandError, match=r"permission denied for schema public.*\[restore_failed\]"):
            restored(path)
        monkeypatch.undo()
        connection.close()
        connection.close_pool()
    assert connection.introspection.table_names() == []


def test_of_two_restores_at_once_one_is_done_and_the_other_is_refused_in_a_sentence(install, tmp_path):
    installation = install("postgres")
    path = backup(tmp_path)
    destroy(installation.database_url)
    both = [installation.start("restore", str(path), log=f"{n}") for n in range(2)]
    codes = [process.wait(60) for process in both]
    assert sorted(codes) == [0, 1]
    said = installation.said(f"{codes.index(1)}")
    assert "restore_failed" in said or "place_not_empty" in said
    assert "Traceback" not in said
    assert n_rows() == read_backup(path).manifest.rows


def test_a_backup_of_a_newer_contimg_or_of_another_database_is_refused(install, tmp_path):
    url = install("sqlite").database_url
    path = backup(tmp_path)
    destroy(url)
    whole = read_backup(path).manifest
    for other in ({"migrations": [*whole.migrations, FAR_AHEAD]}, {"database": "postgresql"}, {"format": 2}):
        write_manifest(path, whole, **other)
        with pytest.raises(CommandError, match="backup_does_not_fit"):
            restored(path)
    write_manifest(path, whole, migrations=whole.migrations[1:])
    assert restored(path)["unapplied"] == whole.migrations[:1]


def test_only_older_backups_of_this_installation_are_removed(install, tmp_path):
    install("sqlite")
    first = backup(tmp_path)
    (tmp_path / "contimg-of-somebody").mkdir()
    foreign = shutil.copytree(first, tmp_path / "contimg-20200101T000000Z-00000000")
    write_manifest(foreign, read_backup(foreign).manifest, installation="another")
    second, third = backup(tmp_path), backup(tmp_path, "--keep", "2")
    assert sorted(tmp_path.glob("*contimg-*")) == sorted([tmp_path / "contimg-of-somebody", foreign, second, third])


def test_a_database_without_tables_has_nothing_to_back_up(install, tmp_path):
    destroy(install("sqlite").database_url)
    with pytest.raises(CommandError, match="not_migrated"):
        backup(tmp_path)
    assert list(tmp_path.glob("*contimg-*")) == []


def test_a_full_disk_leaves_nothing(install, tmp_path):
    """The size of the file is limited as a full disk would: SQLite says so in its own words."""
    install("sqlite")
    with pytest.raises(CommandError, match="dump_failed"), at_most_bytes(100_000):
        backup(tmp_path)
    assert list(tmp_path.glob("*contimg-*")) == []


@pytest.mark.parametrize("said", ["", "pg_dump (PostgreSQL) 9.6.24"])
def test_a_client_that_is_missing_or_older_than_the_server_is_named(said, install, tmp_path, monkeypatch):
    install("postgres")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("pg_dump", "pg_restore", "psql") if said else ():
        (programs / name).write_text(f"#!/bin/sh\necho '{said}'\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/bin" if said else str(programs))
    with pytest.raises(CommandError, match=r"postgresql-client-.*database_client_missing"):
        backup(tmp_path / "backups")
    assert list((tmp_path / "backups").iterdir()) == []


def test_no_password_is_on_a_command_line(install, tmp_path, monkeypatch):
    install("postgres")
    monkeypatch.setitem(connection.settings_dict, "PASSWORD", "of nobody else's business")
    found = dumps.dumper(connection)
    with found._started("echo", stdout=-1) as process:
        assert b"business" not in process.stdout.read()
