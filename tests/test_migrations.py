"""A database with data in it goes to the newest schema and back, and older code works on while it goes there."""

from __future__ import annotations

import logging
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings
from django.db import DatabaseError, connection, transaction
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from django_migration_linter import MigrationLinter
from django_migration_linter.sql_analyser import analyse_sql_statements

from contimg.urls import router
from tests.batch.installation import PATIENCE, until
from tests.test_query_budgets import make_rows

pytest_plugins = ["tests.batch.installation"]
OURS = [app.label for app in apps.get_app_configs() if Path(app.path).parent == Path(settings.BASE_DIR)]
LOADER = MigrationLoader(None)
MIGRATIONS = sorted(key for key in LOADER.disk_migrations if key[0] in OURS)
logging.getLogger("django_migration_linter").setLevel(logging.WARNING)
EXCEPTIONS = tomllib.loads(Path(__file__).with_name("migrations.toml").read_text())
# What cannot be taken back, by the name of its migration, and why.
IRREVERSIBLE: dict[str, str] = {}
# The linter has an opinion about the name of a variable.
MATTERS_OF_TASTE = {"RUNPYTHON_MODEL_VARIABLE_NAME"}
LONGEST_STALL_S = 2.0 * PATIENCE  # the migrations run in this process too


def newest() -> dict[str, tuple[str, str]]:
    """The newest migration of each app that has more than one."""
    leaves = {app: LOADER.graph.leaf_nodes(app)[0] for app in OURS if LOADER.graph.leaf_nodes(app)}
    return {app: leaf for app, leaf in leaves.items() if parent_of(leaf) is not None}


def a_step_back() -> list[tuple[str, str]]:
    """What is there without each app's newest migration and whatever depends on it."""
    undone = {key for leaf in newest().values() for key in LOADER.graph.backwards_plan(leaf)}
    left: list[tuple[str, str]] = []
    for key in newest().values():
        before: tuple[str, str] | None = key
        while before in undone:
            before = parent_of(before)
        assert before, f"of {key[0]} nothing is left"
        left.append(before)
    return left


def parent_of(key: tuple[str, str]) -> tuple[str, str] | None:
    """Migrations of an app are one line (django-linear-migrations)."""
    return next((parent for parent in LOADER.disk_migrations[key].dependencies if parent[0] == key[0]), None)


def migrate_to(targets: list[tuple[str, str]]) -> Any:
    """Returns the models of then."""
    executor = MigrationExecutor(connection)
    return executor.migrate(targets).apps


def to_the_newest() -> list[tuple[str, str]]:
    return MigrationExecutor(connection).loader.graph.leaf_nodes()


def contents() -> dict[tuple[str, Any], str]:
    """Every row of every table of ours, by its columns' names and not their order."""
    found = {}
    for model in apps.get_models(include_auto_created=True):
        if model._meta.app_label in OURS:
            columns = sorted(field.attname for field in model._meta.concrete_fields)
            found |= {(model._meta.label, row[0]): repr(row) for row in model._base_manager.values_list("pk", *columns)}
    return found


# --- back and forth --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("key", MIGRATIONS, ids=".".join)
def test_every_migration_can_be_taken_back_or_says_why_not(key):
    irreversible = [operation for operation in LOADER.disk_migrations[key].operations if not operation.reversible]
    assert bool(irreversible) == (".".join(key) in IRREVERSIBLE), irreversible


def test_a_filled_database_goes_one_step_back_and_forward_again_while_older_code_works(installation, engine):
    """It has all that it had; on SQLite without others, as docs/workers.md has it."""
    for _, _, basename in router.registry:
        make_rows(basename, 2)
    before = contents()
    then = migrate_to(a_step_back())
    assessment = of_an_older_policy(then)
    with working(OldCode(then)) if engine == "postgres" else nullcontext():
        migrate_to(to_the_newest())
    row = apps.get_model("qa", "Assessment").objects.get(pk=assessment)
    assert row.circumstances == {"worst": "103"}
    assert row.metrics == {"rms": 1.0, "dynamic_range_at_thermal_noise": pytest.approx(180.0)}
    after = contents()
    assert {key: (row, after.get(key)) for key, row in before.items() if after.get(key) != row} == {}


def of_an_older_policy(then: Any) -> int:
    """A verdict as it was kept before qa 0005: with the noise limit of its policy in what could be reached."""
    return then.get_model("qa", "Assessment").objects.create(
        policy=then.get_model("qa", "Policy").objects.get(is_active=True),
        image=then.get_model("images", "Image").objects.first(), grade="good", is_current=False, metrics={"rms": 1.0},
        circumstances={"reach": {"dynamic_range": [100.0, 30.0]}, "worst": "103"},
    ).pk  # fmt: skip


class OldCode(threading.Thread):
    """Reads whole rows, writes them back and adds others, by the models of then, until it is told to stop."""

    def __init__(self, then: Any) -> None:
        super().__init__()
        self.then, self.stopping, self.errors = then, threading.Event(), list[Exception]()
        self.n, self.longest_s = 0, 0.0

    def run(self) -> None:
        while not self.stopping.is_set() and not self.errors:
            began = time.monotonic()
            try:
                self.work()
            except DatabaseError as error:
                self.errors.append(error)
            self.longest_s, self.n = max(self.longest_s, time.monotonic() - began), self.n + 1
        connection.close()

    @transaction.atomic
    def work(self) -> None:
        for label in ("observations.SubbandGroup", "observations.MeasurementSet", "images.Image", "batch.Item"):
            row = self.then.get_model(label)._base_manager.first()
            row.save()
            row.pk = None
            for unique in ("path", "recipe", "writes_to"):
                if hasattr(row, unique):
                    setattr(row, unique, f"{unique} {self.n}")
            row.is_current = False
            row.save(force_insert=True)


@contextmanager
def working(old: OldCode) -> Iterator[None]:
    """It worked before, meanwhile and at the end, and never had to wait for long."""
    old.start()
    try:
        until(lambda: old.n)
        n_before = old.n
        yield
    finally:
        old.stopping.set()
        old.join()
    assert old.errors == []
    assert old.n > n_before
    assert old.longest_s < LONGEST_STALL_S


# --- linting ---------------------------------------------------------------------------------------------------------
def objections(linter: MigrationLinter, key: tuple[str, str]) -> set[str]:
    migration = LOADER.disk_migrations[key]
    errors, _, warnings = analyse_sql_statements(linter.sql_analyser_class, linter.get_sql(*key), [])
    of_data, _, warned = linter.analyse_data_migration(migration)
    return {issue.code for issue in (*errors, *warnings, *of_data, *warned)} - MATTERS_OF_TASTE


def test_the_linter_has_no_objection_to_a_migration_but_to_those_that_are_explained(install):
    """To its SQL for PostgreSQL, where other processes serve meanwhile."""
    install("postgres")
    linter = MigrationLinter(settings.BASE_DIR, no_cache=True, no_output=True, analyser_string="postgresql")
    explained = {name: set(codes) for of in EXCEPTIONS.values() for name, codes in of.items()}
    found = {".".join(key): objections(linter, key) for key in MIGRATIONS}
    assert {name: said for name, said in found.items() if said - explained.get(name, set())} == {}
    assert {name for name in explained if not found[name]} == set(), "nothing is to be explained any more"


def test_an_index_that_was_made_half_is_made_again(install):
    """As a kill leaves it: there, and not valid."""
    install("postgres")
    migrate_to([("images", "0007_not_from_itself")])  # the next one makes that index
    with connection.cursor() as cursor:
        cursor.execute("CREATE INDEX image_lenient ON images_image (observed_at)")
        cursor.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'image_lenient'::regclass")
        migrate_to(to_the_newest())
        cursor.execute(
            "SELECT indisvalid, pg_get_indexdef(indexrelid) FROM pg_index WHERE indexrelid = 'image_lenient'::regclass"
        )
        is_valid, definition = cursor.fetchone()
    assert is_valid
    assert "WHERE is_lenient" in definition
