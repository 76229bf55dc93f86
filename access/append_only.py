"""Triggers that let a table grow and never change, in the dialect of either database.

Migrations call these. SQLite drops a table's triggers whenever Django rebuilds it, so a migration that alters the table
has to end with `install`; tests/access/test_append_only.py fails if one does not.
"""

from __future__ import annotations

from django.db.backends.base.schema import BaseDatabaseSchemaEditor

_SENTENCE = "the audit log is append-only"


def install(schema_editor: BaseDatabaseSchemaEditor, table: str) -> None:
    for statement in _DIALECTS[schema_editor.connection.vendor][0]:
        schema_editor.execute(statement.format(table=table, sentence=_SENTENCE))


def remove(schema_editor: BaseDatabaseSchemaEditor, table: str) -> None:
    for statement in _DIALECTS[schema_editor.connection.vendor][1]:
        schema_editor.execute(statement.format(table=table))


_SQLITE = (
    [
        "CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table} BEGIN SELECT RAISE(ABORT, '{sentence}'); END",
        "CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} BEGIN SELECT RAISE(ABORT, '{sentence}'); END",
        # INSERT OR REPLACE deletes the old row without asking the trigger above.
        "CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} "
        "WHEN EXISTS (SELECT 1 FROM {table} WHERE id = NEW.id) BEGIN SELECT RAISE(ABORT, '{sentence}'); END",
    ],
    [
        "DROP TRIGGER {table}_no_update",
        "DROP TRIGGER {table}_no_delete",
        "DROP TRIGGER {table}_no_replace",
    ],
)
_POSTGRESQL = (
    [
        "CREATE FUNCTION {table}_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION '{sentence}' USING ERRCODE = 'restrict_violation'; END $$",
        "CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table} "
        "FOR EACH ROW EXECUTE FUNCTION {table}_refuse()",
        # An empty table may be truncated: that is how Django empties a test database.
        "CREATE FUNCTION {table}_refuse_truncate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF EXISTS (SELECT 1 FROM {table}) THEN "
        "RAISE EXCEPTION '{sentence}' USING ERRCODE = 'restrict_violation'; END IF; RETURN NULL; END $$",
        "CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION {table}_refuse_truncate()",
    ],
    [
        "DROP TRIGGER {table}_no_change ON {table}",
        "DROP TRIGGER {table}_no_truncate ON {table}",
        "DROP FUNCTION {table}_refuse()",
        "DROP FUNCTION {table}_refuse_truncate()",
    ],
)
_DIALECTS = {"sqlite": _SQLITE, "postgresql": _POSTGRESQL}
