"""What workers cost beside the engines alone: `python benchmarks/workers.py [--nights 6]`, on two idle cores.

The demo's nights of two tiles, one engine thread everywhere, three ways: one process that calls the stages' halves one
after another (no batch, no evidence, no second process); two such processes at once, each with half of the nights; and
`manage.py worker --processes 2` on one batch. CPU is that of all processes with their start and their imports.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from benchmarks.child import adopt_orphans, children_cpu_s  # noqa: E402

NEEDED_SHARE_OF_SPEED_UP, MOST_OVERHEAD = 0.85, 0.10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=6)
    parser.add_argument("--direct", type=Path, metavar="RAW", help=argparse.SUPPRESS)
    parser.add_argument("--workers-until-done", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.direct:
        direct(options.direct)
        return
    if options.workers_until_done:
        workers_until_done()
        return
    adopt_orphans()
    with tempfile.TemporaryDirectory() as name:
        compare(Path(name), options.nights)


def compare(scratch: Path, nights: int) -> None:
    raw = scratch / "raw"
    new = installation(scratch / "simulation")
    manage(new, "simulate", str(raw), "--nights", str(nights), "--tiles", "2", "--verbosity", "0")
    halves = split(raw, scratch)
    here = [sys.executable, __file__, "--direct"]

    one_s, one_cpu_s = timed([([*here, str(raw)], installation(scratch / "one"))])
    both = [([*here, str(half)], installation(scratch / f"half{number}")) for number, half in enumerate(halves)]
    two_s, two_cpu_s = timed(both)
    workers = installation(scratch / "workers")
    manage(workers, "index_subbands", str(raw))
    manage(workers, "batch", "create", "process", "--query", "kind=subband_group")
    workers_s, workers_cpu_s = timed([([sys.executable, __file__, "--workers-until-done"], workers)])
    print(f"{2 * nights} tiles, one engine thread each\n")
    print("| | s | CPU s | speed-up |\n|---|--:|--:|--:|")
    for what, seconds, cpu_s in (
        ("engines alone, one process", one_s, one_cpu_s),
        ("engines alone, two processes at once", two_s, two_cpu_s),
        ("`worker --processes 2`", workers_s, workers_cpu_s),
    ):
        print(f"| {what} | {seconds:.1f} | {cpu_s:.1f} | {one_s / seconds:.2f} |")
    print(
        f"\nshare of the speed-up of two processes: {two_s / workers_s:.2f} (needed {NEEDED_SHARE_OF_SPEED_UP}); "
        f"CPU over two processes {workers_cpu_s / two_cpu_s - 1:+.1%}, over one {workers_cpu_s / one_cpu_s - 1:+.1%} "
        f"(limit {MOST_OVERHEAD:+.0%})"
    )


def installation(folder: Path) -> dict[str, str]:
    """The environment of a new one."""
    folder.mkdir()
    environment = os.environ | {
        "CONTIMG_ENV_FILE": "demo.env", "CONTIMG_VAR_DIR": str(folder), "CONTIMG_ENGINE_THREADS": "1",
        "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "DATABASE_URL": f"sqlite:///{folder}/contimg.sqlite3",
    }  # fmt: skip
    manage(environment, "migrate", "--verbosity", "0")
    return environment


def manage(environment: dict[str, str], *arguments: str) -> None:
    subprocess.run(
        [sys.executable, "manage.py", *arguments], cwd=PROJECT, env=environment, check=True, stdout=subprocess.DEVNULL
    )


def split(raw: Path, scratch: Path) -> list[Path]:
    """The nights in two folders, by turns."""
    halves = [scratch / "first", scratch / "second"]
    for half in halves:
        half.mkdir()
    days = sorted({path.name[:10] for path in raw.glob("*.hdf5")})
    for path in raw.glob("*.hdf5"):
        shutil.copy2(path, halves[days.index(path.name[:10]) % 2])
    return halves


def timed(commands: list[tuple[list[str], dict[str, str]]]) -> tuple[float, float]:
    """Wall and CPU seconds of these, run at once, and of all that they start."""
    before, began = children_cpu_s(), time.perf_counter()
    started = [subprocess.Popen(command, cwd=PROJECT, env=environment) for command, environment in commands]
    statuses = [process.wait() for process in started]
    if any(statuses):
        raise SystemExit("one of them failed")
    seconds = time.perf_counter() - began
    return seconds, children_cpu_s() - before


def _set_up() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "contimg.settings")
    import django

    django.setup()


def direct(raw: Path) -> None:
    """All tiles of a folder through work and record, stage by stage as a batch does it."""
    _set_up()
    from django.db import transaction

    from batch.stages import CHAIN, Job, stages
    from batch.transitions import CALIBRATING
    from contimg.products import workspace
    from observations.models import SubbandGroup
    from observations.services import index_subbands

    index_subbands(folder=raw)
    tiles = list(SubbandGroup.objects.order_by("started_at"))
    parameters = {"lenient": False}
    orders = [(tile, name) for tile in tiles for name in CALIBRATING]
    orders += [(tile, name) for tile in tiles for name in CHAIN if name not in CALIBRATING]
    for tile, name in orders:
        with workspace() as folder:
            record = stages()[name].work(Job(tile=tile, parameters=parameters), folder)
            with transaction.atomic():
                record()


def workers_until_done() -> None:
    """Two workers until the only batch has ended."""
    _set_up()
    from batch.models import Batch

    worker = subprocess.Popen([sys.executable, "manage.py", "worker", "--processes", "2"], cwd=PROJECT)
    batch = Batch.objects.get()
    while batch.n_open:
        time.sleep(0.2)
        batch.refresh_from_db()
    worker.terminate()
    worker.wait()
    if batch.state != "done" or batch.started_at is None or batch.finished_at is None:
        raise SystemExit(f"{batch} is {batch.state}")
    seconds = (batch.finished_at - batch.started_at).total_seconds()
    print(f"the batch itself, from its first item's start to its last one's end: {seconds:.1f} s\n")


if __name__ == "__main__":
    main()
