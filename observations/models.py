"""Raw data and measurement sets: what the telescope wrote and what was made of it, up to visibilities."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import count
from pathlib import Path

from django.conf import settings
from django.db import models
from django.db.models import ExpressionWrapper, F, Q
from django.utils import timezone

from contimg.models import Grade, Product
from observations.querysets import EpochQuerySet, MeasurementSetQuerySet, SubbandFileQuerySet, SubbandGroupQuerySet

N_SUBBANDS = 16
SHOWN_FILES = 6  # in a sentence


class DataRoot(models.Model):
    """A folder outside contimg that holds input files. Read only: nothing is ever written below it."""

    path = models.CharField(max_length=500, unique=True)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.path


class SubbandGroup(models.Model):
    """A tile's up-to-16 subband files.

    The times are from the files' headers; the times in file names differ by up to tens of seconds within one tile.
    `missing_subbands` and `duplicate_subbands` are moved with the membership, in one transaction.
    """

    started_at = models.DateTimeField(help_text="Start of the first integration (UTC).")
    observed_at = models.DateTimeField(help_text="Middle of the tile (UTC).")
    duration_s = models.FloatField()
    ra_deg = models.FloatField(help_text="ICRS, where the array pointed at mid-tile.")
    dec_deg = models.FloatField(help_text="ICRS, where the array pointed at mid-tile.")
    pointing_dec_deg = models.FloatField(help_text="Apparent declination of the meridian pointing (the dec strip).")
    healpix = models.BigIntegerField()
    n_files = models.PositiveSmallIntegerField()
    n_subbands = models.PositiveSmallIntegerField(help_text="Different subbands present.")
    missing_subbands = models.JSONField(default=list)
    duplicate_subbands = models.JSONField(default=list)
    is_complete = models.GeneratedField(
        expression=ExpressionWrapper(Q(n_subbands=N_SUBBANDS, n_files=N_SUBBANDS), output_field=models.BooleanField()),
        output_field=models.BooleanField(),
        db_persist=True,
    )
    size_bytes = models.BigIntegerField()
    last_file_at = models.DateTimeField(help_text="When the newest of its files was last written.")
    files_changed_at = models.DateTimeField(
        default=timezone.now, help_text="When indexing last found files that had come, gone or changed."
    )
    is_suspect = models.BooleanField(default=False, help_text="It is quarantined.")
    created_at = models.DateTimeField(auto_now_add=True)

    objects = SubbandGroupQuerySet.as_manager()

    class Meta:
        ordering = ["-observed_at", "-id"]
        indexes = [
            models.Index(fields=["observed_at", "id"], name="group_observed"),
            models.Index(fields=["observed_at", "id"], condition=Q(is_suspect=True), name="group_suspect"),
            models.Index(fields=["observed_at", "id"], condition=Q(is_complete=False), name="group_incomplete"),
            models.Index(fields=["healpix"], name="group_healpix"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        """The tile's name: the start of its first integration, to the second."""
        return self.started_at.strftime("%Y-%m-%dT%H:%M:%S")

    def is_of_strip(self, dec_deg: float) -> bool:
        return abs(self.pointing_dec_deg - dec_deg) <= settings.CONTIMG_DEC_STRIP_TOLERANCE_DEG

    @property
    def is_overfull(self) -> bool:
        """A subband is there twice and the headers cannot say which is meant; such a group is not processed."""
        return bool(self.duplicate_subbands)

    @property
    def duplicate_files(self) -> list[str]:
        """The files of the subbands that are there twice."""
        return names_of(self.files.all(), self.duplicate_subbands)


class Epoch(models.Model):
    """A UTC hour of one dec strip, whose tiles make one mosaic.

    Its tiles are those of the strip observed from `tiles_from` to before `tiles_until`: the hour and two tiles of
    overlap on each side (`SubbandGroup.objects.in_epoch`). A row is made when the hour's first tile is indexed.
    """

    started_at = models.DateTimeField(help_text="Beginning of the UTC hour.")
    tiles_from = models.DateTimeField()
    tiles_until = models.DateTimeField()
    dec_deg = models.FloatField(help_text="Apparent declination of the pointing (the dec strip).")
    grade = models.CharField(
        max_length=10, choices=Grade.choices, default=Grade.UNKNOWN, help_text="Of its gates; poor: it did not pass."
    )
    is_lenient = models.BooleanField(default=False, help_text="It did not pass, and its tiles count on request.")
    created_at = models.DateTimeField(auto_now_add=True)

    objects = EpochQuerySet.as_manager()

    class Meta:
        ordering = ["-started_at", "-id"]
        constraints = [models.UniqueConstraint(fields=["started_at", "dec_deg"], name="epoch_once_per_strip")]
        indexes = [models.Index(fields=["grade", "started_at", "id"], name="epoch_grade_started")]

    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        return f"{self.started_at:%Y-%m-%dT%H} dec {self.dec_deg:.2f}"

    def has(self, tile: SubbandGroup) -> bool:
        """Whether the tile is one of its tile set."""
        return self.tiles_from <= tile.observed_at < self.tiles_until and tile.is_of_strip(self.dec_deg)


class SubbandFile(models.Model):
    """One UVH5 file as found on disk; a row with `error_code` is a file that could not be read, kept to say so."""

    root = models.ForeignKey(DataRoot, on_delete=models.PROTECT, related_name="subband_files")
    relative_path = models.CharField(max_length=500)
    group = models.ForeignKey(SubbandGroup, null=True, blank=True, on_delete=models.PROTECT, related_name="files")
    subband = models.PositiveSmallIntegerField(null=True, help_text="0..15; 0 is the highest frequency.")
    named_at = models.DateTimeField(null=True, help_text="Time in the file's name.")
    started_at = models.DateTimeField(null=True, help_text="Start of the first integration, from the header.")
    duration_s = models.FloatField(null=True)
    pointing_dec_deg = models.FloatField(null=True, help_text="Apparent declination, from the header.")
    frequency_hz = models.FloatField(null=True, help_text="Centre of the subband.")
    n_antennas = models.PositiveSmallIntegerField(null=True)
    n_channels = models.PositiveSmallIntegerField(null=True)
    n_integrations = models.PositiveSmallIntegerField(null=True)
    size_bytes = models.BigIntegerField()
    modified_at = models.DateTimeField()
    error_code = models.CharField(max_length=50, blank=True)
    error_detail = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = SubbandFileQuerySet.as_manager()

    class Meta:
        ordering = ["root", "relative_path"]
        constraints = [
            models.UniqueConstraint(fields=["root", "relative_path"], name="subband_file_once"),
            models.CheckConstraint(
                condition=~Q(error_code="") | Q(started_at__isnull=False, subband__isnull=False),
                name="subband_file_read_or_refused",
            ),
            models.CheckConstraint(
                condition=Q(error_code="") | Q(group__isnull=True), name="subband_file_refused_has_no_group"
            ),
        ]
        indexes = [models.Index(fields=["started_at"], name="subband_file_started")]

    def __str__(self) -> str:
        return Path(self.relative_path).name

    @property
    def path(self) -> Path:
        return Path(self.root.path, self.relative_path)


class MeasurementSet(Product):
    """Visibilities on disk in CASA format: raw (made from a group) or calibrated (made from a raw one)."""

    group = models.ForeignKey(SubbandGroup, on_delete=models.PROTECT, related_name="measurement_sets")
    calibrated_from = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.PROTECT, related_name="calibrated_sets"
    )
    name = models.CharField(max_length=100)
    observed_at = models.DateTimeField(help_text="Middle of the tile (UTC).")
    mjd = models.FloatField()
    duration_s = models.FloatField()
    integration_s = models.FloatField()
    ra_deg = models.FloatField(help_text="Phase centre, ICRS.")
    dec_deg = models.FloatField(help_text="Phase centre, ICRS.")
    pointing_dec_deg = models.FloatField(help_text="Apparent declination of the pointing (the dec strip).")
    healpix = models.BigIntegerField()
    frequency_hz = models.FloatField(help_text="Mean of the channel centres.")
    bandwidth_hz = models.FloatField(help_text="Sum of the channel widths.")
    n_antennas = models.PositiveSmallIntegerField()
    n_channels = models.PositiveIntegerField()
    antennas = models.JSONField(default=list, help_text="Names of the antennas with data.")
    flagged_fraction = models.FloatField(null=True)
    is_calibrated = models.GeneratedField(
        expression=ExpressionWrapper(Q(calibrated_from__isnull=False), output_field=models.BooleanField()),
        output_field=models.BooleanField(),
        db_persist=True,
    )
    is_lenient = models.BooleanField(default=False, help_text="Made with tables that failed their gate, on request.")
    is_current = models.BooleanField(default=True, help_text="The newest version of this tile's set of this kind.")

    objects = MeasurementSetQuerySet.as_manager()

    class Meta:
        ordering = ["-observed_at", "-id"]
        constraints = [
            models.CheckConstraint(condition=~Q(calibrated_from=F("pk")), name="measurement_set_not_from_itself"),
            models.UniqueConstraint(fields=["recipe"], name="measurement_set_recipe_once"),
            models.UniqueConstraint(
                fields=["group"],
                condition=Q(is_current=True, calibrated_from__isnull=True),
                name="measurement_set_one_current_raw",
            ),
            models.UniqueConstraint(
                fields=["group"],
                condition=Q(is_current=True, calibrated_from__isnull=False),
                name="measurement_set_one_current_calibrated",
            ),
        ]
        indexes = [
            models.Index(fields=["observed_at", "id"], name="ms_observed"),
            models.Index(fields=["observed_at", "id"], condition=Q(is_suspect=True), name="ms_suspect"),
            models.Index(fields=["observed_at", "id"], condition=Q(is_lenient=True), name="ms_lenient"),
            models.Index(fields=["observed_at", "id"], condition=Q(is_current=False), name="ms_older"),
            models.Index(fields=["healpix"], name="ms_healpix"),
            models.Index(fields=["flagged_fraction", "id"], name="ms_flagged"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def missing_subbands(self) -> list[int]:
        """Those that it was made without; its group may have got them since."""
        return (self.calibrated_from or self).parameters.get("missing_subbands", [])


def names_of(files: Iterable[SubbandFile], subbands: Sequence[int]) -> list[str]:
    """The files of these subbands, by subband; with as much of their root's path as tells it from the others."""
    chosen = [file for file in files if file.subband in subbands]
    roots = _told_apart({file.root.path for file in chosen})
    named = [(file.subband, str(Path(roots[file.root.path], file.relative_path))) for file in chosen]
    return [name for _, name in sorted(named)]


def _told_apart(paths: Collection[str]) -> dict[str, str]:
    """The shortest tails that differ, of equally many parts: `disk1/raw` and `disk2/raw`; nothing of a single path."""
    parts = {path: Path(path).parts for path in paths}
    n = next(n for n in count() if len({_tail(of, n) for of in parts.values()}) == len(parts))
    return {path: str(Path(*_tail(of, n))) for path, of in parts.items()}


def _tail(parts: tuple[str, ...], n: int) -> tuple[str, ...]:
    return parts[max(0, len(parts) - n) :]


def name_files(names: Sequence[str]) -> str:
    """The first few; a copied tile has 32."""
    shown = ", ".join(names[:SHOWN_FILES])
    return shown if len(names) <= SHOWN_FILES else f"{shown} and {len(names) - SHOWN_FILES} more"
