"""Two machines: workers in checkouts, folders and process groups of their own, that share database and products."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from batch.models import Attempt, Batch
from batch.services import create_batch
from contimg.products import work_folders
from observations.models import SubbandGroup
from tests.batch.installation import PROJECT, Installation, of_courier, until
from tests.batch.trivial import behave, runs
from tests.factories import SubbandGroupFactory

pytest_plugins = ["tests.batch.installation"]
N_TILES = 12


def own_host_name(name: str) -> list[str]:
    """What a command is begun with to see another host name, where this user may give it one."""
    prefix = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', name]
    allowed = shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True).returncode == 0
    return prefix if allowed else []


class Machine:
    def __init__(self, name: str, shared: Installation, folder: Path) -> None:
        self.folder = folder / name
        for package in PROJECT.glob("*/__init__.py"):
            source = package.parent
            shutil.copytree(source, self.folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(PROJECT / "manage.py", self.folder)
        (self.folder / "var").mkdir()
        self.prefix = own_host_name(name)
        environment = {**shared.environment, "CONTIMG_VAR_DIR": str(self.folder / "var")}
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, sys.executable, "manage.py", "worker", "--processes", "1"],
                cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def lose_power(self) -> None:
        """All of it at once: the supervisor, its worker and the stage's process, which lead groups of their own."""
        gone = [*psutil.Process(self.process.pid).children(recursive=True), self.process]
        for process in gone:
            process.send_signal(signal.SIGSTOP)
        for process in gone:
            process.kill()
        self.process.wait()


@pytest.fixture(params=["postgres", "redis"])
def shared(request, install) -> Installation:
    return of_courier(request.param, install, CONTIMG_LEASE_S=4, CONTIMG_SWEEP_S=1, CONTIMG_DRAIN_S=8)


@pytest.fixture
def machines(shared, tmp_path):
    both = [Machine(name, shared, tmp_path) for name in ("north", "south")]
    yield both
    for machine in both:
        if machine.process.poll() is None:
            os.killpg(machine.process.pid, signal.SIGTERM)
            machine.process.wait(30)


def test_two_machines_share_the_work_and_one_that_loses_power_loses_none_of_it(shared, machines):
    tiles = [SubbandGroupFactory(size_bytes=0) for _ in range(N_TILES)]
    for tile in tiles:
        behave(tile, "sleep 0.6")
    batch = create_batch(stage="convert", subjects=[("subband_group", tile.pk) for tile in tiles]).batch
    north, south = machines
    until(lambda: Attempt.objects.filter(outcome="done").values("worker").distinct().count() == 2, within_s=90)
    until(lambda: Attempt.objects.filter(outcome="running").values("worker").distinct().count() == 2)
    north.lose_power()
    until(lambda: Batch.objects.get().n_open == 0, within_s=60)

    assert Batch.objects.get().state == "done", south.folder.joinpath("log").read_text()
    assert set(SubbandGroup.objects.values_list("size_bytes", flat=True)) == {1}, "each was recorded once"
    lost = Attempt.objects.get(outcome="lost")
    assert lost.error_code == "worker_lost"
    again = Attempt.objects.get(item=lost.item, outcome="done")
    assert again.worker != lost.worker
    if north.prefix:
        assert (lost.host, again.host) == ("north", "south")
        assert (again.started_at - lost.started_at).total_seconds() < 4 + 1 + 8
    assert len(runs()) - batch.n_total in (0, 1), "the lost item may have been taken and not begun"
    assert work_folders() == []
    assert (shared.folder / "logs").is_dir()
    assert all((shared.folder / "logs" / path).is_file() for path in Attempt.objects.values_list("log_path", flat=True))
    assert not (south.folder / "var" / "products").exists()
