"""Objects on the sky and their fluxes, epoch by epoch."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import NullIf

from images.models import Image
from sources.querysets import MeasurementQuerySet, ReferenceSourceQuerySet, SourceQuerySet

BRIGHTEST_JY = 1e9  # of no source; the largest double of PostgreSQL is infinity


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
    is_stale = models.BooleanField(
        default=False, help_text="What it was measured in became suspect, or is no longer: statistics are to come."
    )
    first_seen_at = models.DateTimeField(null=True)
    last_seen_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = SourceQuerySet.as_manager()

    class Meta:
        ordering = ["name", "id"]
        indexes = [
            models.Index(fields=["healpix"], name="source_healpix"),
            models.Index(fields=["is_variable", "eta"], name="source_variable_eta"),
            models.Index(fields=["name", "id"], condition=Q(is_variable=True), name="source_variable"),
            models.Index(fields=["eta", "id"], name="source_eta"),
            models.Index(fields=["v", "id"], name="source_v"),
            models.Index(fields=["flux_mean_jy", "id"], name="source_flux_mean"),
            models.Index(fields=["last_seen_at", "id"], name="source_last_seen"),
            models.Index(fields=["id"], condition=Q(is_stale=True), name="source_stale"),
        ]

    def __str__(self) -> str:
        return self.name


class Measurement(models.Model):
    """A flux of a source in one image: fitted where it was found, or forced at its known place.

    `flux_jy` and its error are corrected for the primary beam; `peak_jy_per_beam`, `rms_jy_per_beam` and `snr` are
    apparent, of the flat-noise image.
    """

    # Without indexes of their own: some below begin with them.
    source = models.ForeignKey(Source, on_delete=models.CASCADE, related_name="measurements", db_index=False)
    image = models.ForeignKey(Image, on_delete=models.CASCADE, related_name="measurements", db_index=False)
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
            models.Index(fields=["image", "observed_at", "id"], name="measurement_image_observed"),
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


class Comparison(models.Model):
    """An image held against a reference catalogue: the flux scale, positions and completeness.

    Fluxes are forced at the catalogue's places, so that what is not seen counts too. A ratio is ours over the
    catalogue's at our frequency. Null, with `reason`, is what could not be said.
    """

    image = models.OneToOneField(Image, on_delete=models.CASCADE, related_name="comparison")
    catalogue = models.ForeignKey(
        "ReferenceCatalogue", null=True, blank=True, on_delete=models.SET_NULL, related_name="comparisons"
    )
    recipe = models.CharField(max_length=64, help_text="Digest of the image, the catalogue's file and the parameters.")
    parameters = models.JSONField(default=dict, help_text="Limits, and the spectral index assumed.")
    n_expected = models.PositiveIntegerField(help_text="Sources of the catalogue that the image should show.")
    n_matched = models.PositiveIntegerField(help_text="Of those, sources with a flux ratio.")
    flux_ratio = models.FloatField(null=True, help_text="Median.")
    flux_ratio_scatter = models.FloatField(null=True, help_text="1.4826 x MAD.")
    flux_ratio_gradient_per_deg = models.FloatField(null=True, help_text="Of the ratio across the image, its length.")
    flux_ratio_gradient_sigma = models.FloatField(null=True, help_text="Its length over its error.")
    ra_offset_arcsec = models.FloatField(null=True, help_text="Median of ours minus the catalogue's, on the sky.")
    dec_offset_arcsec = models.FloatField(null=True, help_text="Median of ours minus the catalogue's.")
    completeness = models.FloatField(null=True, help_text="Share of the expected sources seen above 5 sigma.")
    completeness_by_flux = models.JSONField(default=list, help_text="[from_jy, to_jy, n expected, n seen] by flux.")
    matches = models.JSONField(
        default=list, help_text="[row, ra_deg, dec_deg, expected_jy, flux_jy, flux_err_jy] of each expected source."
    )
    brightest_expected_jy = models.FloatField(
        null=True, help_text="Apparent flux of the brightest source that the catalogue has in the image."
    )
    brightest_alone_jy = models.FloatField(null=True, help_text="The same of the sources with a flux ratio.")
    brightest_measured_jy = models.FloatField(null=True, help_text="What was measured of the brightest of these.")
    reason = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-created_at", "-id"]

    def __str__(self) -> str:
        return f"comparison of {self.image_id}"


class ReferenceCatalogue(models.Model):
    """Sources that somebody else measured, such as NVSS, as one file gave them.

    The file's checksum and `parameters` (which column was what, in which unit, and the frame) say what its rows are.
    Importing another file, or the same in another way, replaces the rows and keeps this one.
    """

    name = models.CharField(max_length=50, unique=True)
    frequency_hz = models.FloatField(null=True, help_text="Of its fluxes.")
    epoch_jyear = models.FloatField(null=True, help_text="Of its positions, as a Julian year.")
    note = models.CharField(max_length=300, blank=True, help_text="Where it is from, such as the paper.")
    checksum = models.CharField(max_length=64, help_text="SHA-256 of the file.")
    parameters = models.JSONField(default=dict, help_text="Column and unit of each quantity, and the frame.")
    n_rows = models.PositiveIntegerField(help_text="In the file.")
    n_sources = models.PositiveIntegerField(help_text="Rows that were taken.")
    left_out = models.JSONField(default=dict, help_text="Rows that were not, by reason.")
    created_at = models.DateTimeField(auto_now_add=True)
    imported_at = models.DateTimeField(help_text="When its rows were written.")

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=Q(frequency_hz__isnull=True) | Q(frequency_hz__gt=0), name="reference_frequency_positive"
            ),
        ]

    def __str__(self) -> str:
        return self.name


class ReferenceSource(models.Model):
    """A row of a reference catalogue; null where the file says nothing."""

    catalogue = models.ForeignKey(
        ReferenceCatalogue,
        on_delete=models.CASCADE,
        related_name="sources",
        db_index=False,  # those below begin with it
    )
    row = models.PositiveIntegerField(help_text="In the file, from 1.")
    designation = models.CharField(max_length=60, blank=True, help_text="As the file names it.")
    ra_deg = models.FloatField(help_text="ICRS, [0, 360).")
    dec_deg = models.FloatField(help_text="ICRS.")
    position_err_arcsec = models.FloatField(null=True, help_text="Of one coordinate; that of the declination if two.")
    healpix = models.BigIntegerField()
    flux_jy = models.FloatField()
    flux_err_jy = models.FloatField(null=True)
    spectral_index = models.FloatField(null=True, help_text="As the file defines its sign.")
    major_arcsec = models.FloatField(null=True, help_text="As the file defines it.")
    minor_arcsec = models.FloatField(null=True, help_text="As the file defines it.")

    objects = ReferenceSourceQuerySet.as_manager()

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(fields=["catalogue", "row"], name="reference_source_row_once"),
            models.CheckConstraint(condition=Q(ra_deg__gte=0, ra_deg__lt=360), name="reference_source_ra"),
            models.CheckConstraint(condition=Q(dec_deg__gte=-90, dec_deg__lte=90), name="reference_source_dec"),
            models.CheckConstraint(
                condition=Q(flux_jy__gt=0, flux_jy__lt=BRIGHTEST_JY), name="reference_source_flux_positive"
            ),
            models.CheckConstraint(
                condition=Q(flux_err_jy__isnull=True) | Q(flux_err_jy__gt=0), name="reference_source_error_positive"
            ),
        ]
        indexes = [
            models.Index(fields=["healpix"], name="reference_source_healpix"),
            models.Index(fields=["flux_jy", "id"], name="reference_source_flux"),
            models.Index(fields=["catalogue", "flux_jy", "id"], name="reference_catalogue_flux"),
        ]

    def __str__(self) -> str:
        return self.designation or f"row {self.row}"
