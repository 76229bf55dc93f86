"""Operations of migrations that make and drop an index while others read and write: CONCURRENTLY on PostgreSQL.

Such an index is made outside of a transaction, so the migration has `atomic = False` and holds nothing else. One that
was killed is run again: what it left half made goes first. django.contrib.postgres has the same for PostgreSQL alone,
and cannot be imported without its driver.
"""

from __future__ import annotations

from typing import Any

from django.db.migrations import AddIndex, RemoveIndex
from django.db.migrations.state import ProjectState

POSTGRESQL = "postgresql"


class AddIndexOnline(AddIndex):
    atomic = False

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        _add(schema_editor, to_state.apps.get_model(app_label, self.model_name), self.index)

    def database_backwards(
        self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        _remove(schema_editor, from_state.apps.get_model(app_label, self.model_name), self.index)


class RemoveIndexOnline(RemoveIndex):
    atomic = False

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        model = from_state.apps.get_model(app_label, self.model_name)
        _remove(schema_editor, model, _index_named(from_state, app_label, self))

    def database_backwards(
        self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        model = to_state.apps.get_model(app_label, self.model_name)
        _add(schema_editor, model, _index_named(to_state, app_label, self))


def _index_named(state: ProjectState, app_label: str, operation: RemoveIndex) -> Any:
    return state.models[app_label, operation.model_name_lower].get_index_by_name(operation.name)


def _add(schema_editor: Any, model: Any, index: Any) -> None:
    _remove(schema_editor, model, index)  # a half made one is there, and is not valid
    if schema_editor.connection.vendor == POSTGRESQL:
        schema_editor.add_index(model, index, concurrently=True)
    else:
        schema_editor.add_index(model, index)


def _remove(schema_editor: Any, model: Any, index: Any) -> None:
    """Where it is not there, it has been removed."""
    if schema_editor.connection.vendor == POSTGRESQL:
        schema_editor.remove_index(model, index, concurrently=True)  # IF EXISTS
    else:
        schema_editor.execute(f"DROP INDEX IF EXISTS {schema_editor.quote_name(index.name)}")
