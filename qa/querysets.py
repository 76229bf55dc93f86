"""Every way verdicts are read."""

from __future__ import annotations

from typing import Self

from django.db import models


class AssessmentQuerySet(models.QuerySet):
    def current(self) -> Self:
        return self.filter(is_current=True)

    def with_findings(self) -> Self:
        return self.select_related("policy").prefetch_related("findings")
