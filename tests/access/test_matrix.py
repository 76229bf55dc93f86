"""Every role against every address and method of the API: who gets through, who is told why not, and what is noted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.core.signals import request_finished
from django.db import close_old_connections, transaction
from django.urls import reverse
from rest_framework.test import APIClient

from access.models import AuditEntry, Channel
from access.scopes import Scope
from access.services import create_token
from batch import events
from batch.models import State
from contimg.urls import product_actions, router
from qa.models import Policy
from tests import factories
from tests.inside import seen_from_outside

pytestmark = pytest.mark.django_db
OUTSIDE = "192.0.2.7"
METHODS = ("get", "post", "put", "patch", "delete")

READ = frozenset({"read"})
ROLES = {  # what each may do
    "nobody": frozenset(),
    "user": READ,
    "operators": READ | {"operate"},
    "reviewers": READ | {"review"},
    "administrators": frozenset(Scope.values),
    "token read": READ,
    "token operate": READ | {"operate"},
    "token review": READ | {"review"},
    "token admin": frozenset(Scope.values),
}
READERS = ("nobody", "user", "token read")  # whom it makes a difference to that reading is for everybody
INTERNAL = {"administrators", *(role for role in ROLES if role.startswith("token"))}  # tokens and staff, from outside


@dataclass(frozen=True)
class Write:
    """A change: what it needs, what is sent, and the one entry it leaves in the audit log."""

    scope: str
    action: str
    body: Callable[[dict[str, Any]], dict[str, Any]] = lambda world: {}
    also: tuple[str, ...] = ()  # entries of what it leads to
    of: str = ""  # the row it is about, where not the one of the reading


def _batch(world: dict[str, Any]) -> dict[str, Any]:
    return {"stage": "convert", "subjects": [{"kind": "subband_group", "id": world["free tile"].pk}]}


def _image(world: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "image", "id": world["image"].pk}


def _said(about: dict[str, Any]) -> dict[str, Any]:
    return {**about, "verdict": "good"}


RULE = {
    "subject_kind": "image", "name": "noise", "metric": "rms_over_thermal", "comparison": "gt", "limit": 2.0,
    "grade": "poor", "reason": "twice the thermal noise",
}  # fmt: skip


def _flag(world: dict[str, Any]) -> dict[str, Any]:
    return {"antenna": "pad2", "started_at": "2026-03-20T06:00:00Z", "reason": "warm receiver"}


WRITES = {
    ("policy-list", "post"): Write("admin", "policy.draft", lambda world: {"name": "mine", "rules": [RULE]}),
    ("policy-detail", "patch"): Write("admin", "policy.change", lambda world: {"note": "stricter"}),
    ("policy-detail", "delete"): Write("admin", "policy.delete"),
    ("policy-evaluate", "post"): Write("admin", ""),
    ("policy-activate", "post"): Write("admin", "policy.activate", also=("batch.create", "batch.create")),
    ("calibration-table-retire", "post"): Write(
        "operate", "calibration_table.retire", lambda world: {"reason": "bent"}
    ),
    ("image-made-reimage", "post"): Write("operate", "batch.create", of="image"),
    ("assessment-list", "post"): Write("operate", "batch.create", lambda world: {"subjects": [_image(world)]}),
    ("batch-list", "post"): Write("operate", "batch.create", _batch),
    ("batch-cancel", "post"): Write("operate", "batch.cancel"),
    ("batch-retry", "post"): Write("operate", "batch.retry", of="failed batch"),
    ("batch-priority", "post"): Write("operate", "batch.set_priority", lambda world: {"priority": 5}),
    ("item-cancel", "post"): Write("operate", "item.cancel"),
    ("item-retry", "post"): Write("operate", "item.retry", of="failed item"),
    ("antenna-flag-list", "post"): Write("operate", "antenna_flag.add", _flag),
    ("antenna-flag-withdraw", "post"): Write("operate", "antenna_flag.withdraw"),
    ("pause-list", "post"): Write("operate", "stage.pause", lambda world: {"stage": "image", "reason": "hot"}),
    ("pause-detail", "delete"): Write("operate", "stage.resume"),
    ("quarantine-list", "post"): Write(
        "operate", "quarantine.add", lambda world: {"kind": "image", "id": world["image"].pk, "reason": "a satellite"}
    ),
    ("alert-acknowledge", "post"): Write("operate", "alert.acknowledge"),
    ("alert-silence", "post"): Write("operate", "alert.silence", lambda world: {"until": "2999-01-01T00:00:00Z"}),
    ("quarantine-lift", "post"): Write("operate", "quarantine.lift"),
    ("quarantine-reprocess", "post"): Write("operate", "batch.create", of="rebuildable"),
    ("review-list", "post"): Write("review", "review.create", lambda world: _said({"subject": _image(world)})),
    ("review-epoch", "post"): Write("review", "epoch.review", lambda world: _said({"epoch": world["seen epoch"].pk})),
    ("review-withdraw", "post"): Write("admin", "review.withdraw"),  # another's; one's own needs `review` only
}
READS = {"audit-list": "admin", "audit-detail": "admin", "batch-events": "internal", "item-log": "internal"}
READS |= {"review-next": "review", "review-agreement": "review"}
PAGES = ("drift", "impact", "stats")  # that are neither a list nor of a row
OF_NO_ROW = {"review-next", "review-agreement", "review-epoch", *PAGES}
QUERIES = {  # what a reading needs
    "image-cutout": {"ra_deg": 120, "dec_deg": 16, "size_arcsec": 200},
    "drift": {
        "series": "flux_ratio",
        "pointing_dec_deg": 16.1,
        "observed_from": "2026-03-01T00:00:00Z",
        "observed_until": "2026-03-02T00:00:00Z",
    },
    "impact": {"observed_from": "2026-03-01T00:00:00Z", "observed_until": "2026-03-02T00:00:00Z"},
}
NEEDS_A_FILE = {
    "image-fits",
    "image-noise",
    "image-preview",
    "image-cutout",
    "item-log",
    "measurement-set-of-antennas",
    "measurement-set-raster",
    "calibration-table-solutions",
}  # and a factory's row has none


def routes() -> dict[str, dict[str, str]]:
    """By name of the address the methods it has."""
    pages = {name: {"get": name} for name in PAGES}
    return pages | {
        pattern.name: pattern.callback.actions
        for pattern in (*router.urls, *product_actions.urls)
        if hasattr(pattern.callback, "actions") and "format" not in str(pattern.pattern)
    }


@pytest.fixture(autouse=True)
def short_streams(monkeypatch) -> None:
    """They are read to their end."""
    monkeypatch.setattr(events, "SLICE_S", 0.0)


@pytest.fixture
def world() -> dict[str, Any]:
    return make_world()


def make_world() -> dict[str, Any]:
    """A row of each resource, by the first part of its addresses' names."""
    batch = factories.BatchFactory(stage="convert")
    failed = factories.BatchFactory(stage="convert", n_ready=0, n_failed=1)
    entry = AuditEntry.objects.create(channel=Channel.COMMAND, action="made.before")
    return {
        "audit": entry,
        "batch": batch,
        "item": factories.ItemFactory(batch=batch),
        "failed batch": failed,
        "failed item": factories.ItemFactory(batch=failed, state=State.FAILED, attempt=1),
        "free tile": factories.SubbandGroupFactory(),
        "pause": factories.PauseFactory(stage="convert"),
        "worker": factories.WorkerFactory(),
        "alert": factories.AlertFactory(),
        "quarantine": factories.QuarantineFactory(),
        "rebuildable": factories.QuarantineFactory(
            calibration_table=None, image=factories.MosaicFactory(is_suspect=True)
        ),
        "subband-group": factories.SubbandGroupFactory(),
        "measurement-set": factories.MeasurementSetFactory(),
        "calibrator": factories.CalibratorFactory(),
        "calibration-table": factories.CalibrationTableFactory(),
        "antenna-flag": factories.AntennaFlagFactory(),
        "image": factories.ImageFactory(),
        "epoch": factories.MosaicFactory().mosaic_of,
        "source": factories.SourceFactory(),
        "measurement": factories.MeasurementFactory(),
        "reference-catalogue": factories.ReferenceCatalogueFactory(),
        "reference-source": factories.ReferenceSourceFactory(),
        "assessment": factories.AssessmentFactory(),
        "review": factories.ReviewFactory(),
        "seen epoch": factories.MosaicFactory().mosaic_of,
        "policy": _policy(),
    }


def _policy() -> Policy:
    """With a rule of each kind of subject, or it would not be activated."""
    policy = factories.RuleFactory().policy
    for kind, metric in (("calibration_table", "flagged_fraction"), ("epoch", "flux_ratio")):
        factories.RuleFactory(policy=policy, subject_kind=kind, metric=metric)
    return policy


def client_of(role: str) -> APIClient:
    client = APIClient(raise_request_exception=False, REMOTE_ADDR=OUTSIDE)
    if role.startswith("token"):
        _, secret = create_token(user=User.objects.create_superuser("owner"), scope=role.split()[1])
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
    elif role != "nobody":
        user = User.objects.create_user(role, is_staff=role == "administrators")
        user.groups.set(Group.objects.filter(name=role))
        client.force_login(user)
    return client


def expected(role: str, name: str, method: str, *, public: bool) -> str:
    if method not in routes()[name]:
        return "405"
    needed = WRITES[name, method].scope if (name, method) in WRITES else READS.get(name, "read")
    for_everybody = public and needed == "read"
    if for_everybody or (role in INTERNAL if needed == "internal" else needed in ROLES[role]):
        return "yes"
    return "401" if role == "nobody" else "403"


def close(answer: Any) -> None:
    """A stream has to be closed; the database, which Django would then leave, is in the test's transaction."""
    request_finished.disconnect(close_old_connections)
    try:
        answer.close()
    finally:
        request_finished.connect(close_old_connections)


def address_of(name: str, world: dict[str, Any], of: str = "") -> str:
    if name.endswith("-list") or name in OF_NO_ROW:
        return reverse(name)
    kind = next(kind for kind in sorted(world, key=len, reverse=True) if name.startswith(kind))
    return reverse(name, kwargs={"pk": world[of or kind].pk})


def found(client: APIClient, name: str, method: str, world: dict[str, Any]) -> str:
    """What came of the request, which is undone afterwards."""
    write = WRITES.get((name, method), Write("", ""))
    address = address_of(name, world, write.of)
    before = AuditEntry.objects.count()
    with transaction.atomic():
        answer = getattr(client, method)(
            address,
            write.body(world) if method in ("post", "patch") else QUERIES.get(name) if method == "get" else None,
        )
        noted = list(AuditEntry.objects.order_by("id")[before:])
        transaction.set_rollback(True)
    content = b"".join(answer) if answer.streaming else answer.content
    assert seen_from_outside(content, answer.headers) == [], address
    close(answer)
    wanted = [write.action, *write.also] if answer.status_code < 300 and write.action else []
    if [entry.action for entry in noted] != wanted:
        return f"{answer.status_code}, audit {[entry.action for entry in noted]}"
    if answer.status_code < 300 or (answer.status_code in (404, 410) and name in NEEDS_A_FILE):
        return "yes"
    assert answer.json()["code"], address
    return str(answer.status_code)


@pytest.mark.parametrize("n_digits", [19, 20, 5000])
def test_an_id_that_no_database_has_is_not_found(administrator, n_digits):
    of_a_row = [name for name in routes() if not name.endswith("-list") and name not in OF_NO_ROW]
    for name in of_a_row:
        address = reverse(name, args=[7]).replace("/7/", f"/{'9' * n_digits}/")
        assert administrator.get(address, QUERIES.get(name)).status_code in (404, 405), name


def test_the_table_has_every_change_that_the_api_offers():
    offered = {(name, method) for name, methods in routes().items() for method in methods if method != "get"}
    assert offered == set(WRITES) | {(name, "head") for name, method in offered if method == "head"}


@pytest.mark.once
@pytest.mark.parametrize(("role", "public"), [*((role, True) for role in ROLES), *((role, False) for role in READERS)])
def test_each_role_may_do_what_the_table_says_and_each_change_is_noted_once(role, public, world, settings):
    settings.CONTIMG_PUBLIC_READ = public
    client = client_of(role)
    surprises = {}
    for name in routes():
        for method in METHODS:
            wanted, got = expected(role, name, method, public=public), found(client, name, method, world)
            if wanted != got:
                surprises[f"{method.upper()} {name}"] = f"{got} instead of {wanted}"
    assert surprises == {}


@pytest.mark.once
@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ({"headers": {"If-Match": '"1"'}}, "precondition_not_taken"),
        ({"headers": {"Idempotency-Key": "night-7"}}, "header_not_taken"),
        ({"headers": {"Content-Encoding": "gzip"}}, "header_not_taken"),
        ({"query_params": {"dry_run": "1"}}, "unknown_parameter"),
        ({"data": {"dry_run": True}}, "unknown_parameter"),
    ],
)
def test_no_change_is_made_when_something_with_it_would_be_ignored(administrator, world, sent, code):
    for (name, method), write in WRITES.items():
        body = write.body(world) if method in ("post", "patch") else None
        answer = getattr(administrator, method)(address_of(name, world, write.of), **{"data": body, **sent})
        problem = answer.json()
        codes = [problem["code"], *(error["code"] for error in problem["errors"])]
        assert (answer.status_code, codes[-1]) == (400, code), (name, method)
    assert AuditEntry.objects.exclude(pk=world["audit"].pk).count() == 0


def test_an_entry_says_who_did_it_with_which_token_from_where(world):
    client = client_of("token operate")
    answer = client.post(reverse("batch-cancel", kwargs={"pk": world["batch"].pk}), HTTP_X_REQUEST_ID="night-7")
    assert answer.status_code == 200
    entry = AuditEntry.objects.order_by("-id").first()
    assert (entry.action, entry.actor_name, entry.channel) == ("batch.cancel", "owner", "api")
    assert (entry.token.scope, entry.address, entry.request_id) == ("operate", OUTSIDE, "night-7")
    assert entry.object_id == world["batch"].pk
