"""Images of the sky: tiles and mosaics that contimg made, and external ones that it was given."""

from __future__ import annotations

from django.db import models
from django.db.models import Case, ExpressionWrapper, F, Q, Value, When
from django.db.models.functions import NullIf

from contimg.models import Grade, GradeSource
from contimg.sky import MAX_RADIUS_DEG
from images.querysets import ImageQuerySet
from observations.models import DataRoot, Epoch, MeasurementSet

# Nobody knows yet whether what is not judged is good; a verdict of marginal is known to need a look.
REVIEW_ORDER = (Grade.POOR, Grade.MARGINAL, Grade.UNKNOWN, Grade.GOOD, Grade.EXCELLENT)

# The columns of the files that an image may have beside its own.
COMPANIONS = ("flat_noise_path", "residual_path", "primary_beam_path", "noise_path", "preview_path")


class Image(models.Model):
    """One FITS image.

    For a tile `path` is the primary-beam-corrected image; `rms_jy_per_beam`, `peak_jy_per_beam` and the dynamic range
    are of the flat-noise image, where noise means something. For a mosaic `path` is corrected too, `noise_path` its
    noise sigma_M, `rms_jy_per_beam` the median of that and `peak_jy_per_beam` the value of the most significant pixel.
    An external image is measured as it came.
    Paths are relative to the products root; an external file that was not copied is relative to `root`.
    """

    class Kind(models.TextChoices):
        TILE = "tile"
        MOSAIC = "mosaic"
        EXTERNAL = "external"

    kind = models.CharField(max_length=10, choices=Kind.choices)
    name = models.CharField(max_length=200)
    measurement_set = models.ForeignKey(
        MeasurementSet, null=True, blank=True, on_delete=models.PROTECT, related_name="images"
    )
    mosaic_of = models.ForeignKey(
        Epoch, null=True, blank=True, on_delete=models.PROTECT, related_name="mosaics", help_text="For a mosaic."
    )
    root = models.ForeignKey(DataRoot, null=True, blank=True, on_delete=models.PROTECT, related_name="images")
    path = models.CharField(max_length=500)
    flat_noise_path = models.CharField(max_length=500, blank=True, help_text="Before primary-beam correction.")
    residual_path = models.CharField(max_length=500, blank=True)
    primary_beam_path = models.CharField(max_length=500, blank=True)
    noise_path = models.CharField(max_length=500, blank=True, help_text="The noise at each pixel of a mosaic.")
    preview_path = models.CharField(max_length=500, blank=True)
    size_bytes = models.BigIntegerField()
    checksum = models.CharField(max_length=64, help_text="SHA-256 of the data, dates and history left out.")
    recipe = models.CharField(max_length=64, unique=True)
    parameters = models.JSONField(default=dict)
    versions = models.JSONField(default=dict)
    engine = models.CharField(max_length=30, blank=True, help_text="The imager; empty for external images.")

    observed_at = models.DateTimeField(null=True, blank=True)
    mjd = models.FloatField(null=True)
    epoch = models.DateTimeField(null=True, blank=True, help_text="The UTC hour that it belongs to.")
    ra_deg = models.FloatField(help_text="ICRS, image centre.")
    dec_deg = models.FloatField(help_text="ICRS, image centre.")
    pointing_dec_deg = models.FloatField(
        null=True, help_text="Apparent declination of the pointing (the dec strip); null for external images."
    )
    healpix = models.BigIntegerField()
    radius_deg = models.FloatField(help_text="From the centre to the farthest corner.")
    frequency_hz = models.FloatField(null=True)
    bandwidth_hz = models.FloatField(null=True)
    width_px = models.PositiveIntegerField()
    height_px = models.PositiveIntegerField()
    pixel_arcsec = models.FloatField()
    bmaj_arcsec = models.FloatField(null=True)
    bmin_arcsec = models.FloatField(null=True)
    bpa_deg = models.FloatField(null=True)
    unit = models.CharField(max_length=20, blank=True, help_text="BUNIT; empty when the file does not say.")
    rms_jy_per_beam = models.FloatField(null=True)
    peak_jy_per_beam = models.FloatField(null=True)
    dynamic_range = models.GeneratedField(
        expression=F("peak_jy_per_beam") / NullIf(F("rms_jy_per_beam"), 0.0),
        output_field=models.FloatField(null=True),
        db_persist=True,
    )
    thermal_rms_jy_per_beam = models.FloatField(
        null=True, help_text="Expected from the system temperature and the imaging weights."
    )
    finite_fraction = models.FloatField()
    is_primary_beam_corrected = models.BooleanField(default=False)
    missing_subbands = models.JSONField(default=list)
    metrics = models.JSONField(default=dict, help_text="What the imager measured beyond the columns.")
    grade = models.CharField(max_length=10, choices=Grade.choices, default=Grade.UNKNOWN)
    grade_source = models.CharField(max_length=10, choices=GradeSource.choices, default=GradeSource.POLICY)
    is_suspect = models.BooleanField(default=False, help_text="It, or something it was made from, is quarantined.")
    is_epoch_rejected = models.BooleanField(default=False, help_text="A tile whose epoch did not pass its gates.")
    is_lenient = models.BooleanField(default=False, help_text="Made with what failed its gate, on request.")
    is_current = models.BooleanField(default=True, help_text="The newest version of this tile or mosaic.")
    is_accepted = models.GeneratedField(
        expression=ExpressionWrapper(
            Q(is_current=True, is_suspect=False, is_epoch_rejected=False) & ~Q(grade=Grade.POOR),
            output_field=models.BooleanField(),
        ),
        output_field=models.BooleanField(),
        db_persist=True,
        help_text="What is measured in it counts in light curves and statistics.",
    )
    is_disputed = models.BooleanField(default=False, help_text="Its current reviews do not agree on the verdict.")
    review_rank = models.GeneratedField(
        expression=Case(
            When(Q(is_current=False) | Q(is_suspect=True) | Q(kind="external"), then=Value(None)),
            When(is_disputed=True, then=Value(0)),
            When(grade_source=GradeSource.REVIEW, then=Value(None)),
            *(When(grade=grade, then=Value(rank)) for rank, grade in enumerate(REVIEW_ORDER, start=1)),
            output_field=models.SmallIntegerField(null=True),
        ),
        output_field=models.SmallIntegerField(null=True),
        db_persist=True,
        help_text="In the queue of reviewers: 0 disputed, then what nobody reviewed, worst first; null: not in it.",
    )
    n_measurements = models.PositiveIntegerField(default=0, help_text="Fluxes measured in it, fitted and forced.")
    created_at = models.DateTimeField(auto_now_add=True)

    objects = ImageQuerySet.as_manager()

    class Meta:
        ordering = ["-observed_at", "-id"]
        constraints = [
            models.UniqueConstraint(fields=["path"], condition=Q(root__isnull=True), name="image_product_once"),
            models.UniqueConstraint(fields=["root", "path"], name="image_external_file_once"),
            models.CheckConstraint(
                condition=Q(rms_jy_per_beam__isnull=True) | Q(rms_jy_per_beam__gte=0), name="image_rms_not_negative"
            ),
            models.CheckConstraint(
                condition=Q(kind="tile", measurement_set__isnull=False) | ~Q(kind="tile"),
                name="image_tile_has_measurement_set",
            ),
            models.CheckConstraint(
                condition=Q(kind="mosaic", mosaic_of__isnull=False) | (~Q(kind="mosaic") & Q(mosaic_of__isnull=True)),
                name="image_mosaic_has_epoch",
            ),
            models.UniqueConstraint(
                fields=["mosaic_of"], condition=Q(is_current=True), name="image_one_current_mosaic"
            ),
            models.CheckConstraint(
                condition=Q(ra_deg__gte=0, ra_deg__lt=360, dec_deg__gte=-90, dec_deg__lte=90), name="image_on_the_sky"
            ),
        ]
        indexes = [
            models.Index(fields=["observed_at", "id"], name="image_observed"),
            models.Index(fields=["kind", "observed_at", "id"], name="image_kind_observed"),
            models.Index(fields=["grade", "observed_at", "id"], name="image_grade_observed"),
            models.Index(fields=["healpix"], name="image_healpix"),
            models.Index(fields=["radius_deg"], condition=Q(radius_deg__gt=MAX_RADIUS_DEG), name="image_wide"),
            models.Index(fields=["rms_jy_per_beam", "id"], name="image_rms"),
            models.Index(fields=["dynamic_range", "id"], name="image_dynamic_range"),
            models.Index(fields=["name", "id"], name="image_name"),
            models.Index(fields=["created_at", "id"], name="image_created"),
            # What is rare of a flag, in the order of the list.
            models.Index(fields=["observed_at", "id"], condition=Q(is_suspect=True), name="image_suspect"),
            models.Index(fields=["observed_at", "id"], condition=Q(is_lenient=True), name="image_lenient"),
            models.Index(fields=["observed_at", "id"], condition=Q(is_disputed=True), name="image_disputed"),
            models.Index(fields=["observed_at", "id"], condition=Q(is_current=False), name="image_older"),
            models.Index(
                fields=["observed_at", "id"], condition=Q(is_primary_beam_corrected=False), name="image_uncorrected"
            ),
            models.Index(fields=["kind", "pointing_dec_deg", "observed_at"], name="image_strip"),
            models.Index(
                F("review_rank"),
                F("observed_at").desc(),
                F("id").desc(),
                condition=Q(review_rank__isnull=False),
                name="image_review_queue",
            ),
        ]

    def __str__(self) -> str:
        return self.name


class ImageEdge(models.Model):
    """One of the four sides of a mosaic or an external image: a plane through it, and the image on the inner side.

    A direction (ICRS unit vector) is on the inner side when its product with the normal is not below the offset.
    Without edges are tiles, images older than edges are, and those that four planes do not bound (very wide ones).
    """

    image = models.ForeignKey(Image, on_delete=models.CASCADE, related_name="edges")
    number = models.PositiveSmallIntegerField()
    normal_x = models.FloatField()
    normal_y = models.FloatField()
    normal_z = models.FloatField()
    offset = models.FloatField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["image", "number"], name="image_edge_once")]

    def __str__(self) -> str:
        return f"Edge {self.number} of {self.image}"


class MosaicTile(models.Model):
    """A tile that a mosaic is made of."""

    mosaic = models.ForeignKey(Image, on_delete=models.CASCADE, related_name="mosaic_tiles")
    tile = models.ForeignKey(Image, on_delete=models.PROTECT, related_name="in_mosaics")
    rms_jy_per_beam = models.FloatField(help_text="Its noise at the mosaic's beam, before primary-beam correction.")

    class Meta:
        ordering = ["mosaic", "tile__observed_at", "tile"]
        constraints = [
            models.CheckConstraint(condition=~Q(mosaic=F("tile")), name="mosaic_not_from_itself"),
            models.UniqueConstraint(fields=["mosaic", "tile"], name="mosaic_tile_once"),
        ]

    def __str__(self) -> str:
        return f"{self.tile} in {self.mosaic}"
