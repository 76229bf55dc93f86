"""Another policy: activated, with the batch that judges all current images by it."""

from __future__ import annotations

from dataclasses import dataclass

from django.contrib.auth.models import User
from django.db import transaction

from batch.models import Batch, StageName
from batch.services import create_batch
from calibration.models import CalibrationTable
from images.models import Image
from qa.models import Policy
from qa.policies import activate
from qa.services import assess_calibration_table

TABLES_AT_ONCE = 500
MOST_IMAGES = 30_000  # of a batch: SQLite takes 32 766 parameters


@dataclass(frozen=True)
class Activated:
    """The policy, the batches that judge the current images by it, and how many tables were judged again at once."""

    policy: Policy
    batches: list[Batch]
    n_tables: int


@transaction.atomic
def activate_policy(*, policy: Policy, actor: User | None = None) -> Activated:
    """Activate, judge every table again from its stored metrics, and make `assess` batches over all current images.

    All of it or nothing. A batch takes MOST_IMAGES images; more images are several batches. Raises PolicyConflict and
    what is wrong with the rules, as `qa.policies.activate`.
    """
    active = activate(policy=policy, actor=actor)
    return Activated(active, _assess_current_images(actor), _assess_tables())


def _assess_tables() -> int:
    n, after = 0, 0
    tables = CalibrationTable.objects.order_by("pk")
    while some := list(tables.filter(pk__gt=after)[:TABLES_AT_ONCE]):
        for table in some:
            assess_calibration_table(table=table)
        n, after = n + len(some), some[-1].pk
    return n


def _assess_current_images(owner: User | None) -> list[Batch]:
    batches: list[Batch] = []
    after = 0
    images = Image.objects.filter(is_current=True).order_by("pk")
    while keys := list(images.filter(pk__gt=after).values_list("pk", flat=True)[:MOST_IMAGES]):
        made = create_batch(stage=StageName.ASSESS, subjects=[("image", pk) for pk in keys], owner=owner)
        batches.append(made.batch)
        after = keys[-1]
    return batches
