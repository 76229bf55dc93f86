"""Reading to the right without importing from there: what a model's `related_name`s give."""

from __future__ import annotations

from typing import Any

from django.db.models import Model, Prefetch


def related(model: type[Model], name: str) -> Any:
    """The manager of the model behind a reverse relation."""
    target: Any = model._meta.get_field(name).related_model
    return target._default_manager


def current_assessments(model: type[Model]) -> Prefetch:
    """The current verdict with its findings, as the list `current_assessments` (of one, or empty)."""
    verdicts = related(model, "assessments").current().with_findings()
    return Prefetch("assessments", verdicts, to_attr="current_assessments")


def current_reviews(model: type[Model]) -> Prefetch:
    """What people say of it now, newest first, as the list `current_reviews`."""
    return Prefetch("reviews", related(model, "reviews").current().with_reviewer(), to_attr="current_reviews")
