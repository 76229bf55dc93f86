"""Every way verdicts are read."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Self

from django.db import models
from django.db.models import Exists, OuterRef, Q
from django.db.models.functions import Cast

from contimg.querysets import related


class AssessmentQuerySet(models.QuerySet):
    def current(self) -> Self:
        return self.filter(is_current=True)

    def with_findings(self) -> Self:
        return self.select_related("policy").prefetch_related("findings")

    def for_listing(self) -> Self:
        return self.select_related("policy").defer("metrics")

    def of_kinds(self, kinds: list[str]) -> Self:
        """Verdicts on subjects of these kinds; a kind is named as the foreign key to it."""
        wanted = Q(pk__in=[])
        for kind in kinds:
            wanted |= Q(**{f"{kind}__isnull": False})
        return self.filter(wanted)

    def objected_by(self, rule: str) -> Self:
        """Verdicts in which this rule warned or failed."""
        findings = related(self.model, "findings")
        return self.filter(Exists(findings.filter(assessment=OuterRef("pk"), rule=rule, outcome__in=("warn", "fail"))))


class ReviewQuerySet(models.QuerySet):
    def current(self) -> Self:
        return self.filter(is_current=True)

    def with_reviewer(self) -> Self:
        return self.select_related("reviewer")

    def with_links(self) -> Self:
        return self.select_related("reviewer", "image", "calibration_table")

    def tagged(self, tags: list[str]) -> Self:
        """Those with any of these tags. SQLite cannot ask what is in a list of JSON; its text has the tag in quotes."""
        wanted = [Q(tags_text__contains=f'"{tag}"') for tag in tags]
        return self.alias(tags_text=Cast("tags", models.TextField())).filter(reduce(or_, wanted, Q()))


class AlertQuerySet(models.QuerySet):
    def open(self) -> Self:
        return self.filter(acknowledged_at=None)
