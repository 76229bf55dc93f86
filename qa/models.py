"""Verdicts: versioned rules, what they found, and the grade that follows."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from calibration.models import CalibrationTable
from contimg.models import Grade
from images.models import Image
from qa.querysets import AssessmentQuerySet


class SubjectKind(models.TextChoices):
    IMAGE = "image"
    CALIBRATION_TABLE = "calibration_table"


class Policy(models.Model):
    """A version of the rules. Never changed once used; a new threshold is a new version."""

    name = models.CharField(max_length=50)
    version = models.PositiveIntegerField()
    is_active = models.BooleanField(default=False)
    note = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name", "-version"]
        verbose_name_plural = "policies"
        constraints = [
            models.UniqueConstraint(fields=["name", "version"], name="policy_version_once"),
            models.UniqueConstraint(fields=["is_active"], condition=Q(is_active=True), name="policy_one_active"),
        ]

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class Rule(models.Model):
    """One threshold: when `metric` `comparison` `limit` is true, the grade is at best `grade`.

    A rule that caps at marginal is a warning, one that caps at poor a failure; dynamic range has a ladder of three.
    """

    class Comparison(models.TextChoices):
        ABOVE = "gt", ">"
        AT_LEAST = "ge", "≥"
        BELOW = "lt", "<"
        AT_MOST = "le", "≤"

    policy = models.ForeignKey(Policy, on_delete=models.CASCADE, related_name="rules")
    subject_kind = models.CharField(max_length=20, choices=SubjectKind.choices)
    name = models.CharField(max_length=60)
    metric = models.CharField(max_length=60)
    comparison = models.CharField(max_length=2, choices=Comparison.choices)
    limit = models.FloatField()
    grade = models.CharField(max_length=10, choices=Grade.choices, help_text="What the subject is at best.")
    reason = models.CharField(max_length=300, help_text="Why this limit, and its source.")

    class Meta:
        ordering = ["policy", "subject_kind", "id"]
        constraints = [
            models.UniqueConstraint(fields=["policy", "subject_kind", "name"], name="rule_name_once_in_policy"),
            models.CheckConstraint(
                condition=Q(grade__in=[Grade.GOOD, Grade.MARGINAL, Grade.POOR]), name="rule_caps_the_grade"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name}: {self.metric} {self.get_comparison_display()} {self.limit:g}"


class Assessment(models.Model):
    """The verdict of all rules of a policy on one subject. Old ones stay; exactly one is current."""

    policy = models.ForeignKey(Policy, on_delete=models.PROTECT, related_name="assessments")
    image = models.ForeignKey(Image, null=True, blank=True, on_delete=models.CASCADE, related_name="assessments")
    calibration_table = models.ForeignKey(
        CalibrationTable, null=True, blank=True, on_delete=models.CASCADE, related_name="assessments"
    )
    grade = models.CharField(max_length=10, choices=Grade.choices)
    metrics = models.JSONField(default=dict)
    is_current = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = AssessmentQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at", "-id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(image__isnull=False, calibration_table__isnull=True)
                | Q(image__isnull=True, calibration_table__isnull=False),
                name="assessment_exactly_one_subject",
            ),
            models.UniqueConstraint(
                fields=["image"], condition=Q(is_current=True), name="assessment_one_current_per_image"
            ),
            models.UniqueConstraint(
                fields=["calibration_table"], condition=Q(is_current=True), name="assessment_one_current_per_table"
            ),
        ]
        indexes = [models.Index(fields=["created_at", "id"], name="assessment_created")]

    def __str__(self) -> str:
        return f"{self.grade} by {self.policy_id}"

    @property
    def subject_kind(self) -> str:
        return SubjectKind.IMAGE if self.image_id is not None else SubjectKind.CALIBRATION_TABLE

    @property
    def subject_id(self) -> int | None:
        return self.image_id if self.image_id is not None else self.calibration_table_id


class Finding(models.Model):
    """What one rule said: value, limit and outcome, also when it passed or could not speak."""

    class Outcome(models.TextChoices):
        PASS = "pass"  # noqa: S105
        WARN = "warn"
        FAIL = "fail"
        SKIP = "skip"

    assessment = models.ForeignKey(Assessment, on_delete=models.CASCADE, related_name="findings")
    rule = models.CharField(max_length=60)
    metric = models.CharField(max_length=60)
    value = models.FloatField(null=True)
    comparison = models.CharField(max_length=2)
    limit = models.FloatField()
    outcome = models.CharField(max_length=5, choices=Outcome.choices)
    grade = models.CharField(max_length=10, choices=Grade.choices)
    reason = models.CharField(max_length=300)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.rule}: {self.outcome}"
