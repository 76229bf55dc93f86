"""Durable work: what was asked (Batch), one unit of it (Item), one try of it (Attempt), and who is working (Worker)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import or_
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Case, F, Q, Value, When

from batch.querysets import AttemptQuerySet, BatchQuerySet, ItemQuerySet, WorkerQuerySet
from calibration.models import CalibrationTable, FlagTable
from images.models import Image
from observations.models import Epoch, MeasurementSet, SubbandGroup
from qa.models import Assessment
from sources.models import Catalogue


class State(models.TextChoices):
    """Of an item."""

    WAITING = "waiting"
    READY = "ready"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    QUARANTINED = "quarantined"


class BatchState(models.TextChoices):
    READY = "ready"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


OPEN = (State.WAITING, State.READY, State.RUNNING)
ENDED = (State.DONE, State.FAILED, State.CANCELLED, State.QUARANTINED)
UNFINISHED = (State.FAILED, State.CANCELLED, State.QUARANTINED)  # what a retry takes up again


class StageName(models.TextChoices):
    """`process` is the chain of a tile, `mosaic` begins that of an epoch; `statistics` are of an image's sources."""

    PROCESS = "process"
    CONVERT = "convert"
    CALIBRATE = "calibrate"
    APPLY = "apply"
    IMAGE = "image"
    ASSESS = "assess"
    PHOTOMETRY = "photometry"
    MOSAIC = "mosaic"
    STATISTICS = "statistics"


_N_OPEN = F("n_waiting") + F("n_ready") + F("n_running")


class Batch(models.Model):
    """What somebody asked for. Its counts are moved in the transaction that moves an item, and its state follows.

    `ready` until the first item runs, `running` while any can still run, then `failed` (any failed or quarantined),
    `cancelled` (some cancelled, none failed) or `done`.
    """

    stage = models.CharField(max_length=20, choices=StageName.choices)
    parameters = models.JSONField(default=dict)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="batches"
    )
    priority = models.SmallIntegerField(default=0, help_text="Higher runs first.")
    idempotency_key = models.CharField(max_length=200, null=True, blank=True, unique=True)
    request_digest = models.CharField(max_length=64, blank=True, help_text="Of what the idempotency key stands for.")
    query = models.JSONField(null=True, blank=True, help_text="What the subjects were chosen by, when not one by one.")
    run_by = models.CharField(
        max_length=100, blank=True, help_text="The process that made it to run it itself; empty: it is for any worker."
    )
    traceparent = models.CharField(
        max_length=60, blank=True, default="", db_default="",
        help_text="The span that made it, as W3C Trace Context has it; empty: not traced.",
    )  # fmt: skip
    n_waiting = models.PositiveIntegerField(default=0)
    n_ready = models.PositiveIntegerField(default=0)
    n_running = models.PositiveIntegerField(default=0)
    n_done = models.PositiveIntegerField(default=0)
    n_failed = models.PositiveIntegerField(default=0)
    n_cancelled = models.PositiveIntegerField(default=0)
    n_quarantined = models.PositiveIntegerField(default=0)
    n_total = models.PositiveIntegerField()
    raw_bytes = models.FloatField(null=True, help_text="Mean size of the raw files of a subject's tile.")
    state = models.GeneratedField(
        expression=Case(
            When(Q(n_waiting__gt=0) | Q(n_ready__gt=0) | Q(n_running__gt=0), then=Case(
                When(started_at__isnull=True, then=Value("ready")), default=Value("running"))),
            When(Q(n_failed__gt=0) | Q(n_quarantined__gt=0), then=Value("failed")),
            When(n_cancelled__gt=0, then=Value("cancelled")),
            default=Value("done"),
        ),
        output_field=models.CharField(max_length=11),
        db_persist=True,
    )  # fmt: skip
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    changed_at = models.DateTimeField(auto_now_add=True, help_text="When an item last moved.")

    objects = BatchQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at", "-id"]
        verbose_name_plural = "batches"
        constraints = [
            models.CheckConstraint(
                condition=Q(
                    n_total=_N_OPEN + F("n_done") + F("n_failed") + F("n_cancelled") + F("n_quarantined"),
                    n_total__gt=0,
                ),
                name="batch_counts_add_up",
            ),
        ]
        indexes = [
            models.Index(fields=["created_at", "id"], name="batch_created"),
            models.Index(fields=["state", "created_at", "id"], name="batch_state"),
        ]

    def __str__(self) -> str:
        return f"batch {self.pk} ({self.stage})"

    @property
    def n_open(self) -> int:
        return self.n_waiting + self.n_ready + self.n_running

    @property
    def progress(self) -> float:
        """The share of items that have ended, from 0 to 1."""
        return (self.n_total - self.n_open) / self.n_total


# The words of the API for what an item can be about, and the column that holds it.
SUBJECT_COLUMNS = {"subband_group": "group", "measurement_set": "measurement_set", "image": "image", "epoch": "epoch"}


# The products of stages, and the column of Output that names one.
OUTPUT_COLUMNS: dict[type[models.Model], str] = {
    MeasurementSet: "measurement_set",
    FlagTable: "flag_table",
    CalibrationTable: "calibration_table",
    Image: "image",
    Assessment: "assessment",
    Catalogue: "catalogue",
}


def _only(column: str, columns: Iterable[str]) -> Q:
    return Q(**{f"{other}__isnull": other != column for other in columns})


class Item(models.Model):
    """One stage on one subject.

        waiting --release--> ready --claim--> running --record--> done
           ^  |                ^ ^               |
           |  |                | +--hand back----+--> failed, cancelled or quarantined
           |  +--its predecessor failed-----------------> failed (dependency_failed)
           +--calibration is missing-------------+        A mosaic waits while anything is open for a tile of its epoch.
        waiting, ready ---cancel---> cancelled        failed, cancelled, quarantined ---retry---> ready or waiting

    Every arrow is one conditional UPDATE in `batch.transitions`. A claim raises `attempt`; whatever a worker writes
    afterwards is written only where `attempt` is still its own, so one that lost its lease writes nothing.
    """

    # Each change of state writes an entry into every index: the keys that are mostly empty have partial ones, and
    # `item_batch_state` serves the batch's.
    batch = models.ForeignKey(Batch, on_delete=models.CASCADE, related_name="items", db_index=False)
    stage = models.CharField(max_length=20, choices=StageName.choices)
    after = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.CASCADE, related_name="followers", db_index=False,
        help_text="The item that has to be done first.",
    )  # fmt: skip
    group = models.ForeignKey(
        SubbandGroup, null=True, blank=True, on_delete=models.PROTECT, related_name="items", db_index=False
    )
    measurement_set = models.ForeignKey(
        MeasurementSet, null=True, blank=True, on_delete=models.PROTECT, related_name="items", db_index=False
    )
    image = models.ForeignKey(
        Image, null=True, blank=True, on_delete=models.PROTECT, related_name="items", db_index=False
    )
    epoch = models.ForeignKey(
        Epoch, null=True, blank=True, on_delete=models.PROTECT, related_name="items", db_index=False
    )
    writes_to = models.CharField(
        max_length=40, help_text="Items that write to the same thing never run at the same time."
    )
    state = models.CharField(max_length=11, choices=State.choices, default=State.READY)
    priority = models.SmallIntegerField(default=0)
    attempt = models.PositiveIntegerField(default=0, help_text="The number of the newest try.")
    tries_from = models.PositiveIntegerField(default=0, help_text="Tries up to this number are forgiven by a retry.")
    worker = models.CharField(max_length=100, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True, help_text="Until when its worker is believed alive.")
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    not_before = models.DateTimeField(null=True, blank=True, help_text="A retry waits until then.")
    reserved_bytes = models.BigIntegerField(default=0, help_text="Disk that the running stage may fill.")
    progress = models.FloatField(default=0, help_text="Of the stage, from 0 to 1.")
    error_code = models.CharField(max_length=50, blank=True)
    error_detail = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    changed_at = models.DateTimeField(auto_now_add=True)

    objects = ItemQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(
                condition=reduce(or_, (_only(column, SUBJECT_COLUMNS.values()) for column in SUBJECT_COLUMNS.values())),
                name="item_exactly_one_subject",
            ),
            models.UniqueConstraint(
                fields=["writes_to"], condition=Q(state=State.RUNNING), name="item_one_writer_at_a_time"
            ),
            models.CheckConstraint(
                condition=~Q(state=State.RUNNING) | Q(lease_until__isnull=False), name="item_running_has_a_lease"
            ),
        ]
        indexes = [
            models.Index(fields=["after"], condition=Q(after__isnull=False), name="item_after"),
            models.Index(fields=["group"], condition=Q(group__isnull=False), name="item_group"),
            models.Index(
                fields=["measurement_set"], condition=Q(measurement_set__isnull=False), name="item_measurement_set"
            ),
            models.Index(fields=["image"], condition=Q(image__isnull=False), name="item_image"),
            models.Index(fields=["epoch"], condition=Q(epoch__isnull=False), name="item_epoch"),
            # `state` comes first, constant as it is: SQLite would else choose `item_state` and sort all that is ready.
            models.Index(fields=["state", "-priority", "id"], condition=Q(state=State.READY), name="item_claimable"),
            models.Index(fields=["lease_until"], condition=Q(state=State.RUNNING), name="item_leases"),
            models.Index(
                fields=["epoch"], condition=Q(state=State.WAITING, stage=StageName.MOSAIC), name="item_waiting_mosaics"
            ),
            models.Index(fields=["batch", "id"], name="item_batch"),
            models.Index(fields=["batch", "state", "stage"], name="item_batch_state"),
            models.Index(fields=["state", "id"], name="item_state"),
            models.Index(fields=["batch", "changed_at"], name="item_batch_changed"),
        ]

    def __str__(self) -> str:
        return f"{self.stage} of {self.subject}"

    @property
    def subject(self) -> Any:
        return self.group or self.measurement_set or self.image or self.epoch

    @property
    def tile(self) -> SubbandGroup | None:
        """The tile that the subject is or is of; None for an epoch and for an image from elsewhere."""
        measurement_set = self.image.measurement_set if self.image else self.measurement_set
        return measurement_set.group if measurement_set else self.group

    @property
    def subject_kind(self) -> str:
        return next(kind for kind, column in SUBJECT_COLUMNS.items() if getattr(self, f"{column}_id") is not None)

    @property
    def subject_id(self) -> int:
        return getattr(self, f"{SUBJECT_COLUMNS[self.subject_kind]}_id")


class Attempt(models.Model):
    """One try of an item, with the evidence of what it read and wrote.

    `evidence` is {"inputs": [...], "outputs": [...]}, each entry with kind, name, size_bytes and checksum.
    One that did not succeed has no outputs.
    """

    class Outcome(models.TextChoices):
        RUNNING = "running"
        DONE = "done"
        FAILED = "failed"
        CANCELLED = "cancelled"
        LOST = "lost", "lost: its worker or its process was killed"
        RETURNED = "returned", "returned: handed back without a verdict"

    item = models.ForeignKey(Item, on_delete=models.CASCADE, related_name="attempts")
    number = models.PositiveIntegerField()
    outcome = models.CharField(max_length=9, choices=Outcome.choices, default=Outcome.RUNNING)
    stage = models.CharField(max_length=20, choices=StageName.choices)
    worker = models.CharField(max_length=100)
    host = models.CharField(max_length=100)
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)
    duration_s = models.FloatField(null=True, blank=True)
    input_bytes = models.BigIntegerField(default=0, help_text="Size of what it reads: attempts of a size are compared.")
    exit_code = models.IntegerField(null=True, blank=True, help_text="Of the child process; 0 when it returned.")
    signal = models.CharField(max_length=20, blank=True, help_text="What ended the child process, as SIGKILL.")
    peak_memory_bytes = models.BigIntegerField(null=True, blank=True)
    cpu_s = models.FloatField(null=True, blank=True)
    engine = models.CharField(max_length=40, blank=True)
    versions = models.JSONField(default=dict)
    log_path = models.CharField(max_length=200, blank=True, help_text="Relative to the folder of logs.")
    evidence = models.JSONField(default=dict)
    error_code = models.CharField(max_length=50, blank=True)
    error_detail = models.CharField(max_length=500, blank=True)

    objects = AttemptQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        constraints = [models.UniqueConstraint(fields=["item", "number"], name="attempt_number_once_per_item")]
        indexes = [
            models.Index(fields=["stage", "outcome", "-id"], name="attempt_recent"),
            models.Index(fields=["finished_at"], name="attempt_finished"),
        ]

    def __str__(self) -> str:
        return f"attempt {self.number} of item {self.item_id}"


class Output(models.Model):
    """That an attempt made a product; written in the transaction that records both."""

    attempt = models.ForeignKey(Attempt, on_delete=models.CASCADE, related_name="made")
    measurement_set = models.ForeignKey(
        MeasurementSet, null=True, blank=True, on_delete=models.CASCADE, related_name="made_by"
    )
    flag_table = models.ForeignKey(FlagTable, null=True, blank=True, on_delete=models.CASCADE, related_name="made_by")
    calibration_table = models.ForeignKey(
        CalibrationTable, null=True, blank=True, on_delete=models.CASCADE, related_name="made_by"
    )
    image = models.ForeignKey(Image, null=True, blank=True, on_delete=models.CASCADE, related_name="made_by")
    assessment = models.ForeignKey(Assessment, null=True, blank=True, on_delete=models.CASCADE, related_name="made_by")
    catalogue = models.ForeignKey(Catalogue, null=True, blank=True, on_delete=models.CASCADE, related_name="made_by")

    class Meta:
        ordering = ["id"]
        constraints = [
            models.CheckConstraint(
                condition=reduce(or_, (_only(column, OUTPUT_COLUMNS.values()) for column in OUTPUT_COLUMNS.values())),
                name="output_exactly_one_product",
            ),
        ]

    def __str__(self) -> str:
        return f"output of attempt {self.attempt_id}"


class Pause(models.Model):
    """No item of this stage is claimed while the row is there; an empty stage means all."""

    stage = models.CharField(max_length=20, blank=True, unique=True)
    reason = models.CharField(max_length=200, blank=True)
    paused_by = models.CharField(max_length=150, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.stage or "all stages"


class Worker(models.Model):
    """A supervisor of worker processes that is, or was, alive. `seen_at` is its heartbeat."""

    name = models.CharField(max_length=100, unique=True)
    host = models.CharField(max_length=100)
    pid = models.PositiveIntegerField()
    n_processes = models.PositiveSmallIntegerField()
    stages = models.JSONField(default=list, help_text="Empty: all of them.")
    started_at = models.DateTimeField(auto_now_add=True)
    seen_at = models.DateTimeField()
    stopped_at = models.DateTimeField(null=True, blank=True)

    objects = WorkerQuerySet.as_manager()

    class Meta:
        ordering = ["-seen_at"]

    def __str__(self) -> str:
        return self.name
