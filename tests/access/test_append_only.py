"""The audit log only grows: whatever asks, by the ORM or by SQL, and what was rolled back is not in it."""

from __future__ import annotations

import pytest
from django.db import DatabaseError, connection, transaction

from access.audit import audit
from access.models import AuditEntry
from access.querysets import AppendOnly
from batch.services import create_batch
from tests.factories import SubbandGroupFactory

pytestmark = pytest.mark.django_db
TABLE = AuditEntry._meta.db_table


@pytest.mark.parametrize(
    "statement",
    [
        f"UPDATE {TABLE} SET action = 'nothing'",  # noqa: S608 - the name of our own table
        f"DELETE FROM {TABLE}",  # noqa: S608
        f"INSERT OR REPLACE INTO {TABLE} SELECT * FROM {TABLE}",  # noqa: S608
        f"TRUNCATE {TABLE} CASCADE",
    ],
)
def test_sql_can_only_add(statement):
    audit(action="batch.create")
    only = {"INSERT OR REPLACE": "sqlite", "TRUNCATE": "postgresql"}
    vendor = next((vendor for words, vendor in only.items() if statement.startswith(words)), connection.vendor)
    if vendor != connection.vendor:
        pytest.skip(f"a statement of {vendor}")
    connection.check_constraints()  # or PostgreSQL truncates nothing for another reason
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
    assert AuditEntry.objects.get().action == "batch.create"


def test_the_orm_can_only_add():
    entry = audit(action="batch.create")
    entry.action = "nothing"
    for change in (entry.save, entry.delete, AuditEntry.objects.all().delete):
        with pytest.raises(AppendOnly):
            change()
    with pytest.raises(AppendOnly):
        AuditEntry.objects.update(action="nothing")
    assert AuditEntry.objects.get().action == "batch.create"


class TurnedBack(Exception):
    pass


def test_what_is_rolled_back_was_not_done():
    tile = SubbandGroupFactory()

    def make_and_turn_back() -> None:
        with transaction.atomic():
            create_batch(stage="convert", subjects=[("subband_group", tile.pk)])
            raise TurnedBack

    with pytest.raises(TurnedBack):
        make_and_turn_back()
    assert not AuditEntry.objects.exists()
