"""Reading to the right without importing from there: what a product's `related_name`s give."""

from __future__ import annotations

from django.db.models import Model, Prefetch


def current_assessments(model: type[Model]) -> Prefetch:
    """The current verdict with its findings, as the list `current_assessments` (of one, or empty)."""
    assessments = model._meta.get_field("assessments").related_model._default_manager
    return Prefetch("assessments", assessments.current().with_findings(), to_attr="current_assessments")
