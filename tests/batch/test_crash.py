"""Workers and their children killed with -9 at random moments: the night ends as one that nobody disturbed.

`CONTIMG_TEST_KILLS=100` is the long run, on every courier and of the main job; by default there are a few kills in one
night.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from batch.models import Attempt, Batch, Item, State
from batch.services import create_batch
from batch.stages import CHAIN
from observations.models import SubbandGroup
from tests.batch.installation import Installation, of_courier
from tests.batch.nights import PLAN, SETTINGS, simulate
from tests.batch.undisturbed import check_as_undisturbed, content, orphans

pytest_plugins = ["tests.batch.installation"]
N_KILLS = int(os.environ.get("CONTIMG_TEST_KILLS", "5"))
N_NIGHTS = 3 if N_KILLS > 5 else 1  # of two tiles each: 12 items a night
QUICK = {"CONTIMG_LEASE_S": 4, "CONTIMG_SWEEP_S": 1, "CONTIMG_MAX_KILLS": 1000, "CONTIMG_MAX_TRIES": 1000}


@pytest.fixture(scope="module")
def nights(tmp_path_factory) -> Path:
    return simulate(tmp_path_factory.mktemp("nights"), replace(PLAN, nights=N_NIGHTS))


@pytest.fixture(scope="module")
def expected() -> dict[str, dict]:
    """What the first, undisturbed run of this module made."""
    return {}


@pytest.fixture
def undisturbed(nights, expected, install) -> dict[str, list]:
    if not expected:
        installation = install("sqlite", stages="batch.stages.STAGES", **SETTINGS)
        assert installation.start("process", str(nights), "--settle-s", "0").wait() == 0, installation.said()
        expected.update(content())
        assert len(expected["Image"]) == 2 * N_NIGHTS
        assert orphans(installation) == set()
    return expected


def killed(installation: Installation, chance: random.Random) -> bool:
    """One process of the installation, whichever, is killed; False when there was none left to kill."""
    processes = installation.processes()
    if not processes:
        return False
    with contextlib.suppress(psutil.NoSuchProcess):
        chance.choice(processes).kill()
    return True


def disturb(start: Callable[[], subprocess.Popen], is_over: Callable[[], bool], installation: Installation) -> int:
    """Kill at random moments until all kills are used up or all is done; returns how many there were.

    What was started is started again when it is gone, as systemd would.
    """
    chance, n = random.Random(20261124), 0
    main = start()
    give_up = time.monotonic() + 600 + 20 * N_KILLS
    while not is_over():
        assert time.monotonic() < give_up, "it did not end in time"
        with contextlib.suppress(subprocess.TimeoutExpired):
            main.wait(chance.uniform(0.5, 5.0))
        if n < N_KILLS:
            n += killed(installation, chance)
        if main.poll() is not None and not is_over():
            main = start()
    return n


@pytest.mark.slow
@pytest.mark.parametrize("courier", ["sqlite", "rabbitmq", "redis"])  # with a broker the database is PostgreSQL
def test_workers_killed_at_random_do_every_item_exactly_once(courier, nights, undisturbed, install):
    installation = of_courier(courier, install, stages="batch.stages.STAGES", **QUICK, **SETTINGS)
    assert installation.start("index_subbands", str(nights)).wait() == 0, installation.said()
    subjects = [("subband_group", pk) for pk in SubbandGroup.objects.values_list("pk", flat=True)]
    batch = create_batch(stage="process", subjects=subjects).batch
    assert batch.n_total == N_NIGHTS * 2 * len(CHAIN)

    def is_over() -> bool:
        batch.refresh_from_db()
        return batch.n_open == 0

    n = disturb(lambda: installation.start("worker", "--processes", "2"), is_over, installation)
    installation.kill_all()

    assert Batch.objects.get().state == "done", installation.said()
    done = Item.objects.filter(state=State.DONE)
    assert done.count() == batch.n_total
    outcomes = Counter(Attempt.objects.values_list("outcome", flat=True))
    assert outcomes["done"] == Attempt.objects.filter(outcome="done").values("item").distinct().count() == batch.n_total
    print(f"{courier}: {n} kills, {batch.n_total} items, attempts {dict(outcomes)}")
    check_as_undisturbed(installation, undisturbed)


@pytest.mark.slow
def test_the_main_job_killed_and_repeated_ends_as_an_undisturbed_run(nights, undisturbed, install):
    installation = install("sqlite", stages="batch.stages.STAGES", **QUICK, **SETTINGS)
    runs = []

    def start():
        runs.append(installation.start("process", str(nights), "--settle-s", "0"))
        return runs[-1]

    disturb(start, lambda: runs[-1].poll() == 0, installation)
    check_as_undisturbed(installation, undisturbed)
