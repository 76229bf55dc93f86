"""What every stored product has in common (abstract: the tables are in the apps), and which installation this is."""

import uuid
from datetime import timedelta
from typing import Self

from django.db import models
from django.db.models.functions import Now

UNHEARD = timedelta(minutes=1)


class Installation(models.Model):
    """One row, made with the table: whose files these are, where several installations have a folder in common."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    key = models.UUIDField(default=uuid.uuid4)

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(id=1), name="installation_only_one")]

    def __str__(self) -> str:
        return str(self.key)


class BreakerStateQuerySet(models.QuerySet):
    def open(self) -> Self:
        """Of processes that were heard of lately: one that ended with an open breaker says nothing more of it."""
        return self.filter(is_open=True, seen_at__gte=Now() - UNHEARD)


class BreakerState(models.Model):
    """What a process has found of something outside of it (see `contimg.breakers`), for others to see."""

    breaker = models.CharField(max_length=50)
    process = models.CharField(max_length=150)
    is_open = models.BooleanField()
    error = models.CharField(max_length=500, blank=True, help_text="Why it opened.")
    changed_at = models.DateTimeField()
    seen_at = models.DateTimeField(null=True, help_text="When an open one last said so; it does every 10 s.")
    is_asked = models.BooleanField(default=False, help_text="Somebody wants it closed; the process looks each second.")

    objects = BreakerStateQuerySet.as_manager()

    class Meta:
        ordering = ["breaker", "process"]
        constraints = [models.UniqueConstraint(fields=["breaker", "process"], name="breaker_once_per_process")]

    def __str__(self) -> str:
        return f"{self.breaker} of {self.process}"


class Product(models.Model):
    """A file (or CASA directory) that an engine made, immutable once recorded.

    `recipe` identifies what it was made from: a digest over the inputs' recipes, the parameters and the engine.
    The same recipe is the same product, so asking twice for one does the work once.
    `checksum` is over content only: timestamps and history are left out, so two runs can be compared.
    """

    path = models.CharField(max_length=500, unique=True, help_text="Relative to the products root.")
    size_bytes = models.BigIntegerField()
    checksum = models.CharField(max_length=64, help_text="SHA-256 of the content, timestamps left out.")
    recipe = models.CharField(max_length=64, help_text="Digest of inputs, parameters and engine.")
    parameters = models.JSONField(default=dict)
    versions = models.JSONField(default=dict, help_text="Engine and library versions that made it.")
    is_suspect = models.BooleanField(default=False, help_text="It, or something it was made from, is quarantined.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        abstract = True


class Grade(models.TextChoices):
    EXCELLENT = "excellent"
    GOOD = "good"
    MARGINAL = "marginal"
    POOR = "poor"
    UNKNOWN = "unknown"


class GradeSource(models.TextChoices):
    """Whose verdict a grade is: a reviewer's comes before the policy's."""

    POLICY = "policy"
    REVIEW = "review"


def suspect_if(any_suspect: bool) -> dict[str, bool]:
    """A column of what was made from suspect products. Never false: what is there may be quarantined itself."""
    return {"is_suspect": True} if any_suspect else {}
