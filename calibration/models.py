"""Calibrators, flags, calibration tables, and which tables were applied to what."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import F, Q

from calibration.querysets import AntennaFlagQuerySet, CalibrationTableQuerySet, CalibratorQuerySet
from contimg.models import Grade, GradeSource, Product
from observations.models import MeasurementSet


class Calibrator(models.Model):
    """A point source of known flux: log10(S/Jy) = sum_i a_i (log10(nu/GHz))^i, with the paper it is from.

    One that turns out to be no point is retired, not deleted: tables were solved on it.
    """

    name = models.CharField(max_length=50, unique=True)
    ra_deg = models.FloatField(help_text="ICRS")
    dec_deg = models.FloatField(help_text="ICRS")
    healpix = models.BigIntegerField()
    flux_coefficients = models.JSONField(help_text="a_0, a_1, ... of log10(S/Jy) in log10(nu/GHz).")
    reference = models.CharField(max_length=300)
    is_retired = models.BooleanField(
        default=False, help_text="Neither solved on nor subtracted from images; `reference` says why."
    )

    objects = CalibratorQuerySet.as_manager()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class FlagTable(Product):
    """The flags of one raw measurement set (HDF5: one boolean per row, channel and polarization)."""

    measurement_set = models.ForeignKey(MeasurementSet, on_delete=models.PROTECT, related_name="flag_tables")
    flagged_fraction = models.FloatField()
    antenna_fractions = models.JSONField(help_text="Flagged fraction by antenna name.")
    channel_fractions = models.JSONField(help_text="Flagged fraction by channel, frequency ascending.")
    calibrator = models.ForeignKey(
        Calibrator,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="flag_tables",
        help_text="The calibrator in this tile that was solved on; null when there is none.",
    )

    class Meta:
        ordering = ["-created_at", "-id"]
        constraints = [models.UniqueConstraint(fields=["recipe"], name="flag_table_recipe_once")]
        indexes = [models.Index(fields=["id"], condition=Q(is_suspect=True), name="flag_table_suspect")]

    def __str__(self) -> str:
        return f"flags of {self.measurement_set_id}"


class CalibrationTable(Product):
    """One solution: delays K, bandpass B or gains G, valid for a time and a dec strip.

    The tables solved together share `set_name`. `grade` follows the current assessment and is written with it.
    """

    class Kind(models.TextChoices):
        DELAY = "K", "delay K"
        BANDPASS = "B", "bandpass B"
        GAIN = "G", "gain G"

    kind = models.CharField(max_length=1, choices=Kind.choices)
    set_name = models.CharField(max_length=100)
    source_measurement_set = models.ForeignKey(MeasurementSet, on_delete=models.PROTECT, related_name="solved_tables")
    flag_table = models.ForeignKey(FlagTable, on_delete=models.PROTECT, related_name="solved_tables")
    calibrator = models.ForeignKey(Calibrator, on_delete=models.PROTECT, related_name="tables")
    solved_at = models.DateTimeField(help_text="When the calibrator was observed (middle of its tile, UTC).")
    valid_from = models.DateTimeField()
    valid_until = models.DateTimeField()
    dec_deg = models.FloatField(help_text="Apparent declination of the strip.")
    reference_antenna = models.CharField(max_length=20)
    solver = models.CharField(max_length=50)
    version = models.CharField(max_length=50)
    metrics = models.JSONField(default=dict)
    grade = models.CharField(max_length=10, choices=Grade.choices, default=Grade.UNKNOWN)
    grade_source = models.CharField(max_length=10, choices=GradeSource.choices, default=GradeSource.POLICY)
    is_retired = models.BooleanField(default=False)

    objects = CalibrationTableQuerySet.as_manager()

    class Meta:
        ordering = ["-valid_from", "-id"]
        constraints = [
            models.UniqueConstraint(fields=["recipe"], name="calibration_table_recipe_once"),
            models.UniqueConstraint(fields=["set_name", "kind"], name="calibration_table_set_kind_once"),
            models.CheckConstraint(
                condition=Q(valid_until__gt=F("valid_from")), name="calibration_table_valid_interval"
            ),
        ]
        indexes = [
            models.Index(fields=["valid_from", "valid_until"], name="table_validity"),
            models.Index(fields=["created_at", "id"], name="table_created"),
            models.Index(fields=["id"], condition=Q(is_suspect=True), name="table_suspect"),
        ]

    def __str__(self) -> str:
        return f"{self.set_name} {self.kind}"


class AppliedTable(models.Model):
    """That a table was applied to make a calibrated measurement set."""

    measurement_set = models.ForeignKey(MeasurementSet, on_delete=models.CASCADE, related_name="applied_tables")
    table = models.ForeignKey(CalibrationTable, on_delete=models.PROTECT, related_name="applications")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["measurement_set", "table"], name="table_applied_once")]

    def __str__(self) -> str:
        return f"table {self.table_id} on {self.measurement_set_id}"


class AppliedFlags(models.Model):
    """That a flag table's flags were set in a calibrated measurement set."""

    measurement_set = models.OneToOneField(MeasurementSet, on_delete=models.CASCADE, related_name="applied_flags")
    flag_table = models.ForeignKey(FlagTable, on_delete=models.PROTECT, related_name="applications")

    class Meta:
        verbose_name_plural = "applied flags"

    def __str__(self) -> str:
        return f"flags {self.flag_table_id} on {self.measurement_set_id}"


class AntennaFlag(models.Model):
    """What staff know to be bad: the data of an antenna, or of all, from a time until another.

    The next flagging of a tile that it overlaps uses it. It is withdrawn, never deleted: tiles were flagged by it.
    """

    antenna = models.CharField(max_length=20, blank=True, help_text="Its name; empty for all antennas.")
    started_at = models.DateTimeField(help_text="UTC, inclusive.")
    ended_at = models.DateTimeField(null=True, blank=True, help_text="UTC, exclusive; empty: until withdrawn.")
    reason = models.CharField(max_length=300)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="antenna_flags"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    withdrawn_at = models.DateTimeField(null=True, blank=True)
    withdrawn_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="withdrawn_antenna_flags",
    )

    objects = AntennaFlagQuerySet.as_manager()

    class Meta:
        ordering = ["-started_at", "-id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(ended_at__isnull=True) | Q(ended_at__gt=F("started_at")), name="antenna_flag_interval"
            ),
            models.CheckConstraint(condition=~Q(reason=""), name="antenna_flag_has_a_reason"),
        ]
        indexes = [models.Index(fields=["started_at", "id"], name="antenna_flag_started")]

    def __str__(self) -> str:
        return f"{self.antenna or 'all antennas'} from {self.started_at:%Y-%m-%d %H:%M}"
