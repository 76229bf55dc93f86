"""Verdicts: versioned rules, what they found, and the grade that follows."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q

from calibration.models import CalibrationTable
from contimg.models import Grade
from images.models import Image
from observations.models import Epoch
from qa.querysets import AlertQuerySet, AssessmentQuerySet, ReviewQuerySet

MOST_COMMENT_CHARACTERS = 1000


class SubjectKind(models.TextChoices):
    IMAGE = "image"
    CALIBRATION_TABLE = "calibration_table"
    EPOCH = "epoch"


class Gate(models.TextChoices):
    """What an epoch has to pass before its tiles count."""

    FLUX_SCALE = "flux_scale"
    COMPLETENESS = "completeness"
    NOISE = "noise"


class Policy(models.Model):
    """A version of the rules. A draft until it is activated, and never changed from then on."""

    name = models.CharField(max_length=50)
    version = models.PositiveIntegerField()
    is_active = models.BooleanField(default=False)
    author = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="policies"
    )
    note = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    activated_at = models.DateTimeField(null=True, blank=True, help_text="First; empty: a draft.")

    class Meta:
        ordering = ["name", "-version"]
        verbose_name_plural = "policies"
        constraints = [
            models.UniqueConstraint(fields=["name", "version"], name="policy_version_once"),
            models.UniqueConstraint(fields=["is_active"], condition=Q(is_active=True), name="policy_one_active"),
            models.CheckConstraint(
                condition=Q(is_active=False) | Q(activated_at__isnull=False), name="policy_active_was_activated"
            ),
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
    gate = models.CharField(max_length=12, choices=Gate.choices, blank=True, help_text="Of an epoch: which it is of.")
    reason = models.CharField(max_length=300, help_text="Why this limit, and its source.")

    class Meta:
        ordering = ["policy", "subject_kind", "id"]
        constraints = [
            models.UniqueConstraint(fields=["policy", "subject_kind", "name"], name="rule_name_once_in_policy"),
            models.CheckConstraint(
                condition=Q(grade__in=[Grade.GOOD, Grade.MARGINAL, Grade.POOR]), name="rule_caps_the_grade"
            ),
            models.CheckConstraint(
                condition=Q(gate="") | Q(subject_kind=SubjectKind.EPOCH), name="rule_gate_is_of_an_epoch"
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
    epoch = models.ForeignKey(Epoch, null=True, blank=True, on_delete=models.CASCADE, related_name="assessments")
    grade = models.CharField(max_length=10, choices=Grade.choices)
    metrics = models.JSONField(default=dict)
    circumstances = models.JSONField(default=dict, help_text="By metric: why it was skipped, and where the worst is.")
    is_current = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = AssessmentQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at", "-id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(image__isnull=False, calibration_table__isnull=True, epoch__isnull=True)
                | Q(image__isnull=True, calibration_table__isnull=False, epoch__isnull=True)
                | Q(image__isnull=True, calibration_table__isnull=True, epoch__isnull=False),
                name="assessment_exactly_one_subject",
            ),
            models.UniqueConstraint(
                fields=["image"], condition=Q(is_current=True), name="assessment_one_current_per_image"
            ),
            models.UniqueConstraint(
                fields=["calibration_table"], condition=Q(is_current=True), name="assessment_one_current_per_table"
            ),
            models.UniqueConstraint(
                fields=["epoch"], condition=Q(is_current=True), name="assessment_one_current_per_epoch"
            ),
        ]
        indexes = [models.Index(fields=["created_at", "id"], name="assessment_created")]

    def __str__(self) -> str:
        return f"{self.grade} by {self.policy_id}"

    @property
    def subject_kind(self) -> str:
        return next(kind for kind in SubjectKind if getattr(self, f"{kind}_id") is not None)

    @property
    def subject_id(self) -> int:
        return getattr(self, f"{self.subject_kind}_id")


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
    gate = models.CharField(max_length=12, choices=Gate.choices, blank=True)
    outcome = models.CharField(max_length=5, choices=Outcome.choices)
    grade = models.CharField(max_length=10, choices=Grade.choices)
    reason = models.CharField(max_length=300)
    where = models.CharField(max_length=60, blank=True, help_text="What a worst value is of, such as an antenna.")

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.rule}: {self.outcome}"


class Review(models.Model):
    """What a person says of an image or a calibration table. It changes no assessment; the grade is then the review's.

    Of several reviewers the newest one's verdict is the grade. A reviewer's earlier review stays and is not current.
    """

    class Tag(models.TextChoices):
        ARTIFACT = "artifact"
        RFI = "rfi", "RFI"
        BAD_CALIBRATION = "bad_calibration"
        BAD_DECONVOLUTION = "bad_deconvolution"
        BRIGHT_SOURCE = "bright_source"
        IONOSPHERE = "ionosphere"
        OTHER = "other"

    image = models.ForeignKey(Image, null=True, blank=True, on_delete=models.CASCADE, related_name="reviews")
    calibration_table = models.ForeignKey(
        CalibrationTable, null=True, blank=True, on_delete=models.CASCADE, related_name="reviews"
    )
    reviewer = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="reviews")
    verdict = models.CharField(max_length=10, choices=Grade.choices)
    tags = models.JSONField(default=list, blank=True)
    comment = models.CharField(max_length=MOST_COMMENT_CHARACTERS, blank=True)
    is_current = models.BooleanField(default=True, help_text="This reviewer's newest, not withdrawn.")
    created_at = models.DateTimeField(auto_now_add=True)

    objects = ReviewQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at", "-id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(image__isnull=False, calibration_table__isnull=True)
                | Q(image__isnull=True, calibration_table__isnull=False),
                name="review_exactly_one_subject",
            ),
            models.CheckConstraint(condition=~Q(verdict=Grade.UNKNOWN), name="review_says_something"),
            models.UniqueConstraint(
                fields=["image", "reviewer"], condition=Q(is_current=True), name="review_one_current_per_image"
            ),
            models.UniqueConstraint(
                fields=["calibration_table", "reviewer"],
                condition=Q(is_current=True),
                name="review_one_current_per_table",
            ),
        ]
        indexes = [models.Index(fields=["created_at", "id"], name="review_created")]

    def __str__(self) -> str:
        return f"{self.verdict} by {self.reviewer_id}"

    @property
    def subject_kind(self) -> str:
        return SubjectKind.CALIBRATION_TABLE if self.image_id is None else SubjectKind.IMAGE

    @property
    def subject_id(self) -> int:
        return getattr(self, f"{self.subject_kind}_id")

    @property
    def subject(self) -> Image | CalibrationTable:
        return getattr(self, self.subject_kind)


class Alert(models.Model):
    """That a series of a dec strip left its control limits or stepped. Acknowledged by staff, silenced until a time."""

    class Kind(models.TextChoices):
        LIMIT = "limit", "outside its control limits"
        STEP = "step", "a step"

    series = models.CharField(max_length=40, help_text="As qa.drift names it.")
    pointing_dec_deg = models.FloatField(help_text="Apparent declination of the pointing (the dec strip).")
    antenna = models.CharField(max_length=20, blank=True)
    kind = models.CharField(max_length=5, choices=Kind.choices)
    observed_at = models.DateTimeField(help_text="Of the first value that is out.")
    value = models.FloatField()
    expected = models.FloatField(help_text="Median of the series before.")
    lower_limit = models.FloatField(null=True)
    upper_limit = models.FloatField(null=True)
    n = models.PositiveIntegerField(help_text="Values that the limits rest on.")
    created_at = models.DateTimeField(auto_now_add=True)
    acknowledged_at = models.DateTimeField(null=True, blank=True)
    acknowledged_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="acknowledged_alerts"
    )
    note = models.CharField(max_length=500, blank=True)
    silenced_until = models.DateTimeField(null=True, blank=True, help_text="No new alert of this series before.")

    objects = AlertQuerySet.as_manager()

    class Meta:
        ordering = ["-observed_at", "-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["series", "pointing_dec_deg", "antenna", "kind", "observed_at"], name="alert_once"
            )
        ]
        indexes = [models.Index(fields=["observed_at", "id"], name="alert_observed")]

    def __str__(self) -> str:
        return f"{self.series} {self.kind} at {self.observed_at:%Y-%m-%d %H:%M}"
