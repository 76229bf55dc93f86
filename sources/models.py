"""Objects on the sky and their fluxes, epoch by epoch."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import NullIf

from images.models import Image
from sources.querysets import MeasurementQuerySet, SourceQuerySet


class Source(models.Model):
    """An object, known by where it is.

    The statistics are over its forced fluxes of current, not rejected images, and are written in the transaction that
    adds a measurement. `eta` and `v` are null, with `statistics_reason`, when they are not defined.
    """

    name = models.CharField(max_length=40, unique=True, help_text="IAU style, from the position at discovery.")
    ra_deg = models.FloatField(help_text="ICRS, weighted mean of the detections.")
    dec_deg = models.FloatField(help_text="ICRS, weighted mean of the detections.")
    position_err_arcsec = models.FloatField()
    healpix = models.BigIntegerField()
    n_measurements = models.PositiveIntegerField(default=0, help_text="Forced fluxes that the statistics use.")
    flux_mean_jy = models.FloatField(null=True)
    flux_max_jy = models.FloatField(null=True)
    eta = models.FloatField(null=True)
    v = models.FloatField(null=True)
    is_variable = models.BooleanField(default=False)
    statistics_reason = models.CharField(max_length=200, blank=True)
    first_seen_at = models.DateTimeField(null=True)
    last_seen_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = SourceQuerySet.as_manager()

    class Meta:
        ordering = ["name", "id"]
        indexes = [
            models.Index(fields=["healpix"], name="source_healpix"),
            models.Index(fields=["is_variable", "eta"], name="source_variable_eta"),
            models.Index(fields=["eta", "id"], name="source_eta"),
            models.Index(fields=["v", "id"], name="source_v"),
            models.Index(fields=["flux_mean_jy", "id"], name="source_flux_mean"),
            models.Index(fields=["last_seen_at", "id"], name="source_last_seen"),
        ]

    def __str__(self) -> str:
        return self.name


class Measurement(models.Model):
    """A flux of a source in one image: fitted where it was found, or forced at its known place.

    `flux_jy` and its error are corrected for the primary beam; `peak_jy_per_beam`, `rms_jy_per_beam` and `snr` are
    apparent, of the flat-noise image.
    """

    source = models.ForeignKey(Source, on_delete=models.CASCADE, related_name="measurements")
    image = models.ForeignKey(Image, on_delete=models.CASCADE, related_name="measurements")
    is_forced = models.BooleanField()
    observed_at = models.DateTimeField(null=True)
    mjd = models.FloatField(null=True)
    ra_deg = models.FloatField()
    dec_deg = models.FloatField()
    position_err_arcsec = models.FloatField(null=True)
    healpix = models.BigIntegerField()
    flux_jy = models.FloatField()
    flux_err_jy = models.FloatField()
    peak_jy_per_beam = models.FloatField()
    rms_jy_per_beam = models.FloatField()
    primary_beam = models.FloatField(help_text="Response of the tile's mean beam at the position.")
    snr = models.GeneratedField(
        expression=F("peak_jy_per_beam") / NullIf(F("rms_jy_per_beam"), 0.0),
        output_field=models.FloatField(null=True),
        db_persist=True,
    )
    upper_limit_jy = models.FloatField(null=True, help_text="3 sigma, for forced fluxes below it.")

    objects = MeasurementQuerySet.as_manager()

    class Meta:
        ordering = ["-observed_at", "-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["source", "image"], condition=Q(is_forced=True), name="measurement_forced_once"
            ),
            models.CheckConstraint(condition=Q(flux_err_jy__gt=0), name="measurement_error_positive"),
        ]
        indexes = [
            models.Index(fields=["observed_at", "id"], name="measurement_observed"),
            models.Index(fields=["healpix"], name="measurement_healpix"),
            models.Index(fields=["source", "observed_at"], name="measurement_source_observed"),
            models.Index(fields=["snr", "id"], name="measurement_snr"),
        ]

    def __str__(self) -> str:
        return f"{self.source_id} in {self.image_id}"


class Catalogue(models.Model):
    """That an image was searched and measured, with what, and how much came of it."""

    image = models.OneToOneField(Image, on_delete=models.CASCADE, related_name="catalogue")
    recipe = models.CharField(max_length=64, unique=True, help_text="Digest of the image, parameters and engine.")
    engine = models.CharField(max_length=30)
    parameters = models.JSONField(default=dict)
    versions = models.JSONField(default=dict)
    n_detected = models.PositiveIntegerField()
    n_forced = models.PositiveIntegerField()
    n_new_sources = models.PositiveIntegerField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-created_at", "-id"]

    def __str__(self) -> str:
        return f"catalogue of {self.image_id}"
