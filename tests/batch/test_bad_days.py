"""What befalls machines, databases and brokers while workers are at work: all is done once, and nobody had to help."""

from __future__ import annotations

import psutil
import pytest

from batch.models import Attempt, Batch
from batch.services import create_batch
from contimg.products import work_folders
from observations.models import SubbandGroup
from tests.batch.installation import Installation, until
from tests.batch.trivial import behave, is_recording, runs
from tests.factories import SubbandGroupFactory

pytest_plugins = ["tests.batch.installation"]
QUICK = {"CONTIMG_LEASE_S": 4, "CONTIMG_SWEEP_S": 1, "CONTIMG_DRAIN_S": 8}


def asked(n: int = 1, how: str = "") -> Batch:
    tiles = [SubbandGroupFactory(size_bytes=0) for _ in range(n)]
    for tile in tiles:
        if how:
            behave(tile, how)
    return create_batch(stage="convert", subjects=[("subband_group", tile.pk) for tile in tiles]).batch


def ended(batch: Batch) -> bool:
    batch.refresh_from_db()
    return batch.n_open == 0


def check_done_once(*batches: Batch) -> None:
    for batch in batches:
        batch.refresh_from_db()
        assert (batch.state, batch.n_done) == ("done", batch.n_total)
        done = Attempt.objects.filter(item__batch=batch, outcome="done")
        assert done.count() == done.values("item").distinct().count() == batch.n_total
    assert set(SubbandGroup.objects.values_list("size_bytes", flat=True)) == {1}, "what is recorded counts"
    assert work_folders() == []


# --- a machine frozen past its lease ---------------------------------------------------------------------------------
class Machine:
    """A worker's supervisor with all the processes that it has at the time of asking."""

    def __init__(self, installation: Installation, name: str) -> None:
        self.process = installation.start("worker", "--processes", "1", log=name)

    def processes(self) -> list[psutil.Process]:
        supervisor = psutil.Process(self.process.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def runs(self, pid: int) -> bool:
        return pid in {process.pid for process in self.processes()}

    def freeze(self) -> list[psutil.Process]:
        frozen = self.processes()
        for process in frozen:
            process.suspend()
        return frozen


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["wait", "wait_recording"])
def test_a_machine_frozen_past_its_lease_and_thawed_writes_nothing(install, moment):
    installation = install("postgres", **QUICK)
    batch = asked(how=moment)
    machines = [Machine(installation, name) for name in ("first", "second")]
    (item,) = batch.items.all()
    until(lambda: is_recording() if moment == "wait_recording" else runs(), within_s=60)
    ((_, pid),) = runs()
    frozen, other = sorted(machines, key=lambda machine: not machine.runs(pid))
    stopped = frozen.freeze()
    assert pid in {process.pid for process in stopped}
    behave(item.group, "sleep 0")

    until(lambda: ended(batch), within_s=90)
    assert [attempt.outcome for attempt in item.attempts.order_by("number")] == ["lost", "done"]
    assert other.runs(runs()[1][1])
    assert all(process.status() == psutil.STATUS_STOPPED for process in stopped), "its lease was over, not its life"
    for process in stopped:
        process.resume()
    until(lambda: not psutil.pid_exists(pid), within_s=60)
    check_done_once(batch)

    other.process.terminate()
    assert other.process.wait(60) == 0
    later = asked()
    until(lambda: ended(later), within_s=60)
    assert frozen.process.poll() is None
    assert frozen.runs(int(later.items.get().attempts.get().worker.split(".")[1]))
    check_done_once(batch, later)
