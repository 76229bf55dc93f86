"""A batch that is run by the process that asked for it, while others have their hands in it."""

from __future__ import annotations

import pytest
from django.db import transaction

from batch import transitions
from batch.models import Worker
from batch.runner import run_batch
from batch.services import create_batch
from contimg.products import this_process
from tests.factories import SubbandGroupFactory

pytest_plugins = ["tests.batch.installation"]
pytestmark = pytest.mark.usefixtures("installation")


def test_it_does_not_end_between_the_end_of_an_item_and_what_follows_it():
    """Somebody else has recorded the first stage, and has not looked yet what that releases."""
    batch = create_batch(stage="process", subjects=[("subband_group", SubbandGroupFactory(size_bytes=0).pk)]).batch
    held = transitions.claim(worker="elsewhere.1.2", host="elsewhere")
    assert held is not None
    with transaction.atomic():
        transitions.finish(held)
        transitions.count_finished(held)
    batch.refresh_from_db()
    assert (batch.n_ready, batch.n_running, batch.n_waiting) == (0, 0, 5)
    seen = []
    ended = run_batch(batch=batch, n_workers=1, watch=lambda batch: seen.append(Worker.objects.alive().count()))
    assert (ended.state, ended.n_done) == ("done", 6)
    assert max(seen) == 1, "it is seen among the workers while it runs"
    assert Worker.objects.get(name=this_process()).stopped_at is not None
