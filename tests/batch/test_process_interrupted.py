"""Ctrl-C on `process`, as an operator presses it, TERM, and a terminal that is closed."""

from __future__ import annotations

import signal
from datetime import timedelta

import pytest

from access.models import AuditEntry
from batch.models import Batch, Item
from observations.models import SubbandGroup
from tests.batch.installation import inherited, until
from tests.batch.trivial import behave
from tests.observations.subband_files import NIGHT, write_tile

pytest_plugins = ["tests.batch.installation"]


@pytest.mark.parametrize(
    ("number", "workers"),
    [(signal.SIGINT, "1"), (signal.SIGINT, "0"), (signal.SIGTERM, "1"), (signal.SIGTERM, "0"), (signal.SIGHUP, "1")],
)
def test_one_line_says_how_far_it_came_and_the_same_command_goes_on(install, tmp_path, number, workers):
    installation = install("sqlite")
    (raw := tmp_path / "raw").mkdir()
    for hour in range(2):
        write_tile(raw, NIGHT + timedelta(hours=hour))
    assert installation.start("index_subbands", str(raw)).wait() == 0
    _, second = SubbandGroup.objects.order_by("started_at")
    behave(second, "sleep 60")
    with inherited(number, signal.SIG_DFL):
        process = installation.start("process", str(raw), "--settle-s", "0", "--workers", workers, log="process")
    until(lambda: Item.objects.running().filter(group=second).exists(), within_s=60)
    process.send_signal(number)
    assert process.wait(30) == 130
    said = installation.said("process")
    batch = Batch.objects.get()
    counts = f"{batch.n_done} done, {batch.n_cancelled} cancelled" if batch.n_done else f"{batch.n_cancelled} cancelled"
    assert said.endswith(f"Stopped; batch {batch.pk}: {counts}. Run it again to go on.\n")
    assert "Traceback" not in said
    assert batch.n_open == 0
    assert [entry.object_id for entry in AuditEntry.objects.filter(action="batch.cancel")] == [batch.pk]
    assert installation.processes() == []

    behave(second, "sleep 0")
    again = installation.start("process", str(raw), "--settle-s", "0", "--workers", workers, log="again")
    assert again.wait(60) == 0, installation.said("again")
