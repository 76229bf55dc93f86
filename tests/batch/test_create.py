"""Batches are made whole or not at all, in a number of statements that does not grow, in the order of observation."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import uuid

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from access.models import AuditEntry
from batch.models import Batch, Item
from batch.services import InvalidParameter, create_batch
from observations.models import SubbandGroup
from tests.batch.installation import PROJECT, until
from tests.factories import ImageFactory, SubbandGroupFactory

pytest_plugins = ["tests.batch.installation"]
N_ITEMS = 10_000
N_KILLS = int(os.environ.get("CONTIMG_TEST_KILLS", "4"))
APPLICATION_NAME = f"contimg test {uuid.uuid4().hex}"
CREATOR = """
import django; django.setup()
from batch.services import create_batch
from observations.models import SubbandGroup
keys = SubbandGroup.objects.values_list("pk", flat=True)
subjects = [("subband_group", pk) for pk in keys]
print("ready", flush=True)
create_batch(stage="convert", subjects=subjects)
print("made", flush=True)
"""


def sessions_of_creators() -> list[tuple[int]]:
    """PostgreSQL carries out what it was sent, also the COMMIT of a client that died since."""
    if connection.vendor != "postgresql":
        return []
    with connection.cursor() as cursor:
        cursor.execute("SELECT pid FROM pg_stat_activity WHERE application_name = %s", [APPLICATION_NAME])
        return cursor.fetchall()


def test_a_creator_killed_at_any_moment_leaves_all_or_nothing(engine, install):
    installation = install(engine)
    SubbandGroup.objects.bulk_create(SubbandGroupFactory.build_batch(N_ITEMS), batch_size=2000)
    chance = random.Random(1)
    n_made = 0
    for _ in range(N_KILLS):
        creator = subprocess.Popen(
            [sys.executable, "-c", CREATOR],
            cwd=PROJECT,
            env=installation.environment | {"PGAPPNAME": APPLICATION_NAME},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert creator.stdout is not None
        assert creator.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0.0, 0.4))
        creator.send_signal(signal.SIGKILL)
        n_made += "made" in creator.communicate()[0]
        until(lambda: not sessions_of_creators())
        n_batches = Batch.objects.count()
        assert n_made <= n_batches <= n_made + 1  # it may die between its commit and saying so
        n_made = n_batches
        assert Item.objects.count() == n_batches * N_ITEMS
        assert AuditEntry.objects.filter(action="batch.create").count() == n_batches


@pytest.mark.django_db
@pytest.mark.parametrize("stage", ["convert", "process"])
def test_the_number_of_statements_does_not_grow(stage, django_assert_max_num_queries):
    for n in (1, 300):
        tiles = SubbandGroupFactory.create_batch(n)
        with django_assert_max_num_queries(22):
            batch = create_batch(stage=stage, subjects=[("subband_group", tile.pk) for tile in tiles]).batch
        assert batch.items.count() == batch.n_total


@pytest.mark.django_db
@pytest.mark.parametrize("key", ["", "x" * 201, "\udcff"])
def test_an_idempotency_key_that_cannot_be_kept_is_refused(key):
    tile = SubbandGroupFactory()
    with pytest.raises(InvalidParameter, match="An idempotency key is text of 1 to 200 characters"):
        create_batch(stage="convert", subjects=[("subband_group", tile.pk)], idempotency_key=key)


@pytest.mark.django_db
@pytest.mark.parametrize("text", ["is_complete=", "observed_at__gte=\udcff"])
def test_a_query_of_the_console_that_is_empty_or_not_text_is_refused(text):
    SubbandGroupFactory()
    with pytest.raises(CommandError, match=r"invalid_query|not_text"):
        call_command("batch", "create", "convert", "--query", "kind=subband_group", text)
    assert not Batch.objects.exists()


@pytest.mark.django_db
def test_filters_given_one_by_one_are_all_meant():
    SubbandGroupFactory.create_batch(2, n_subbands=16)
    SubbandGroupFactory(n_subbands=12)
    call_command(
        "batch", "create", "convert", "--query", "kind=subband_group", "--query", "n_subbands__gte=13",
        "--query", "n_subbands__lte=16",
    )  # fmt: skip
    assert Batch.objects.get().n_total == 2


@pytest.mark.django_db
def test_items_come_in_the_order_of_observation_whatever_was_asked_first():
    first, second, third = SubbandGroupFactory.create_batch(3)
    batch = create_batch(
        stage="convert", subjects=[("subband_group", tile.pk) for tile in (third, first, second)]
    ).batch
    assert list(batch.items.order_by("pk").values_list("group", flat=True)) == [first.pk, second.pk, third.pk]


@pytest.mark.django_db
def test_each_item_of_a_chain_follows_that_of_its_own_tile():
    tiles = SubbandGroupFactory.create_batch(3)
    batch = create_batch(stage="process", subjects=[("subband_group", tile.pk) for tile in tiles]).batch
    followers = batch.items.exclude(after=None).select_related("after")
    assert len(followers) == 15
    assert all(item.group_id == item.after.group_id and item.state == "waiting" for item in followers)


@pytest.mark.django_db
def test_subjects_of_two_kinds_make_one_batch():
    image, tile = ImageFactory(), SubbandGroupFactory()
    batch = create_batch(stage="assess", subjects=[("image", image.pk), ("subband_group", tile.pk)]).batch
    assert {(item.image_id, item.group_id) for item in batch.items.all()} == {(image.pk, None), (None, tile.pk)}
