"""How fast a folder of subband files is indexed: `python benchmarks/indexing.py [FILES]`.

Times depend on the machine and its load, so each is given beside a reference of the same run: opening every file with
h5py and closing it again. The files are header-only (4 KB of arrays), the disk cache is warm.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def make_files(folder: Path, n_files: int) -> list[Path]:
    from tests.observations.subband_files import NIGHT, TILE_S, write_subband

    starts = [(NIGHT + timedelta(seconds=TILE_S * (i // 16)), i % 16) for i in range(n_files)]
    return [write_subband(folder, subband, start, skew_s=5.0 * subband) for start, subband in starts]


def open_each(paths: list[Path]) -> None:
    import h5py

    for path in paths:
        with h5py.File(path, "r", locking=False):
            pass


def main(n_files: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        os.environ |= {"CONTIMG_VAR_DIR": scratch, "DJANGO_SETTINGS_MODULE": "contimg.settings"}
        os.environ.setdefault("DATABASE_URL", f"sqlite:///{scratch}/bench.sqlite3")
        import django

        django.setup()
        from django.core.management import call_command
        from django.db import connection

        from observations.models import SubbandGroup
        from observations.services import index_subbands

        call_command("migrate", verbosity=0)
        folder = Path(scratch, "raw")
        paths = make_files(folder, n_files)
        reference = seconds(lambda: open_each(paths))
        print(f"{n_files} files, {connection.vendor}")
        print(f"{'step':<22}{'s':>8}{'files/min':>12}{'x reference':>13}")
        steps = {
            "first scan": lambda: index_subbands(folder=folder),
            "scan again": lambda: index_subbands(folder=folder),
        }
        for name, took in [("reference (h5py open)", reference), *((name, seconds(s)) for name, s in steps.items())]:
            print(f"{name:<22}{took:>8.2f}{60 * n_files / took:>12.0f}{took / reference:>13.1f}")
        print(
            f"{SubbandGroup.objects.count()} groups, {SubbandGroup.objects.filter(is_complete=True).count()} complete"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 6000)
