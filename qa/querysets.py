"""Every way verdicts are read."""

from __future__ import annotations

from typing import Self

from django.db import models
from django.db.models import Exists, OuterRef, Q

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

    def with_links(self) -> Self:
        return self.select_related("reviewer", "image", "calibration_table")


class AlertQuerySet(models.QuerySet):
    def open(self) -> Self:
        return self.filter(acknowledged_at=None)
