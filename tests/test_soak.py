"""A minute of `benchmarks/soak.py` in CI, less elsewhere; CONTIMG_TEST_SOAK_S says how long."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.batch.installation import skip_or_fail

SECONDS = float(os.environ.get("CONTIMG_TEST_SOAK_S") or (60 if os.environ.get("CI") == "true" else 40))


@pytest.mark.slow
def test_nothing_fails_grows_or_is_lost_under_load_while_processes_and_servers_die():
    from benchmarks import soak

    if not sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        skip_or_fail("SKIPPED: no PostgreSQL server is installed that could be started and stopped.")
    assert soak.run(seconds=SECONDS, database="postgres", with_faults=True, fault_every_s=SECONDS / 8) == []
