"""Two policies activated in one moment."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection, transaction

from access.models import AuditEntry
from batch.policies import activate_policy
from qa.models import Policy
from qa.policies import PolicyConflict, RuleSpec, create_draft

pytest_plugins = ["tests.batch.installation"]
pytestmark = [
    pytest.mark.parametrize("engine", ["postgres"]),  # SQLite lets one write after the other
    pytest.mark.usefixtures("installation"),
]
NOISE = RuleSpec(
    subject_kind="image", name="noise_high", metric="rms_over_thermal", comparison="gt", limit=1.2, grade="marginal",
    reason="a fifth above the thermal noise",
)  # fmt: skip


def test_of_two_activations_at_once_one_wins_and_the_other_is_told():
    active = Policy.objects.get(is_active=True)
    first, second = (create_draft(name=name, rules=[NOISE], based_on=active) for name in ("one", "two"))

    def attempt() -> str:
        try:
            activate_policy(policy=second)
        except PolicyConflict as error:
            return error.code
        finally:
            connection.close()
        return "active"

    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            activate_policy(policy=first)
            other = pool.submit(attempt)
            until_somebody_waits_for_a_lock()
        assert other.result(timeout=30) == "policy_conflict"
    assert Policy.objects.get(is_active=True) == first
    assert AuditEntry.objects.filter(action="policy.activate").count() == 1


WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def until_somebody_waits_for_a_lock() -> None:
    deadline = time.monotonic() + 30
    with connection.cursor() as cursor:
        while time.monotonic() < deadline:
            cursor.execute(WAITING)
            if cursor.fetchone()[0]:
                return
            time.sleep(0.05)
    pytest.fail("the second activation did not come to wait")
