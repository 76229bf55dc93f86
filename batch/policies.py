"""Another policy: activated, with the batches that judge all current images and epochs by it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import QuerySet

from batch.models import Batch, StageName
from batch.services import create_batch
from calibration.models import CalibrationTable
from images.models import Image
from observations.models import Epoch
from qa.models import Policy
from qa.policies import activate
from qa.services import assess_calibration_table

TABLES_AT_ONCE = 500
MOST_SUBJECTS = 30_000  # of a batch: SQLite takes 32 766 parameters


@dataclass(frozen=True)
class Activated:
    """The policy, the batches that judge by it, and how many tables were judged again at once."""

    policy: Policy
    batches: list[Batch]
    n_tables: int

    def __str__(self) -> str:
        told = f"{self.policy} is active. {self.n_tables} calibration tables were judged again"
        keys = ", ".join(str(batch.pk) for batch in self.batches)
        if not keys:
            return f"{told}; there are no images."
        return f"{told}. Images and epochs are judged by batch {keys}, which a worker runs."


@transaction.atomic
def activate_policy(*, policy: Policy, actor: User | None = None) -> Activated:
    """Activate, judge every table again from its stored metrics, and make `assess` batches over what is current.

    A mosaic is judged with its epoch, which stays lenient where it was. All of it or nothing. A batch takes
    MOST_SUBJECTS; more are several batches. Raises PolicyConflict and what is wrong with the rules, as
    `qa.policies.activate`.
    """
    active = activate(policy=policy, actor=actor)
    images = Image.objects.current().exclude(kind=Image.Kind.MOSAIC)
    epochs = Epoch.objects.filter(pk__in=Image.objects.current().mosaics().values("mosaic_of"))
    batches = [
        *_assess_all("image", images, actor),
        *_assess_all("epoch", epochs.filter(is_lenient=False), actor),
        *_assess_all("epoch", epochs.filter(is_lenient=True), actor, lenient=True),
    ]
    return Activated(active, batches, _assess_tables())


def _assess_tables() -> int:
    n, after = 0, 0
    tables = CalibrationTable.objects.select_related("flag_table").order_by("pk")
    while some := list(tables.filter(pk__gt=after)[:TABLES_AT_ONCE]):
        for table in some:
            assess_calibration_table(table=table)
        n, after = n + len(some), some[-1].pk
    return n


def _assess_all(
    kind: str, rows: QuerySet[Image] | QuerySet[Epoch], owner: User | None, *, lenient: bool = False
) -> Iterator[Batch]:
    after = 0
    while keys := list(rows.order_by("pk").filter(pk__gt=after).values_list("pk", flat=True)[:MOST_SUBJECTS]):
        subjects = [(kind, key) for key in keys]
        yield create_batch(
            stage=StageName.ASSESS, subjects=subjects, parameters={"lenient": lenient}, owner=owner
        ).batch
        after = keys[-1]
