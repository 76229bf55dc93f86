"""What is steered in the admin on pages of our own: policies tried and activated, products put in quarantine."""

from __future__ import annotations

import pytest
from django.urls import reverse

from access.models import AuditEntry
from batch.models import Batch
from provenance.models import Quarantine
from qa.models import Policy
from qa.policies import RuleSpec, create_draft
from qa.services import assess_image
from tests.factories import ImageFactory, MeasurementFactory, UserFactory

pytestmark = pytest.mark.django_db
NOISE = RuleSpec(
    subject_kind="image", name="noise_high", metric="rms_over_thermal", comparison="gt", limit=1.2, grade="marginal",
    reason="a fifth above the thermal noise",
)  # fmt: skip


@pytest.fixture
def staff(client):
    """Who looks and may change nothing."""
    client.force_login(UserFactory(is_staff=True))
    return client


def said(answer) -> list[str]:
    return [str(message) for message in answer.context["messages"]]


# --- policies -------------------------------------------------------------------------------------------------------
def try_url(policy: Policy, kind: str = "image") -> str:
    return reverse("admin:qa_policy_try", args=[policy.pk, kind])


def test_a_draft_is_tried_and_activated(admin_client):
    assess_image(image=ImageFactory(peak_jy_per_beam=1.25, rms_jy_per_beam=0.0013, thermal_rms_jy_per_beam=0.001))
    draft = create_draft(name="mine", rules=[NOISE], based_on=Policy.objects.get(is_active=True))
    page = admin_client.get(try_url(draft)).content.decode()
    assert "1 judged, 1 with another grade" in page
    assert "Activate" in page
    done = admin_client.post(try_url(draft), follow=True)
    assert said(done) == [
        "mine 1 is active. 0 calibration tables were judged again. Images and epochs are judged by batch "
        f"{Batch.objects.get().pk}, which a worker runs."
    ]
    assert Policy.objects.get(is_active=True) == draft
    assert AuditEntry.objects.get(action="policy.activate").actor.username == "admin"
    assert "Activate" not in admin_client.get(try_url(draft)).content.decode()


def test_a_kind_without_rules_is_told_and_one_that_is_none_is_not_found(admin_client):
    draft = create_draft(name="mine", rules=[NOISE])
    assert "[invalid_policy]" in admin_client.get(try_url(draft, "epoch")).content.decode()
    assert admin_client.get(try_url(draft, "telescope")).status_code == 404


def test_who_is_no_administrator_tries_and_does_not_activate(staff):
    draft = create_draft(name="mine", rules=[NOISE])
    assert "Activate" not in staff.get(try_url(draft)).content.decode()
    assert staff.post(try_url(draft)).status_code == 403
    assert not Policy.objects.get(pk=draft.pk).is_active


# --- quarantine -----------------------------------------------------------------------------------------------------
PUT = "admin:provenance_quarantine_put"


def test_an_image_is_put_in_quarantine_from_its_own_page(admin_client):
    image = MeasurementFactory().image
    page = admin_client.get(reverse("admin:images_image_change", args=[image.pk])).content.decode()
    assert f"{reverse(PUT)}?kind=image&amp;id={image.pk}" in page
    form = admin_client.get(reverse(PUT), {"kind": "image", "id": image.pk}).content.decode()
    assert f'value="{image.pk}"' in form
    body = {"kind": "image", "id": image.pk, "reason": "a satellite <b>"}
    done = admin_client.post(reverse(PUT), body, follow=True)
    row = Quarantine.objects.get()
    assert (row.image, row.reason, row.created_by.username) == (image, "a satellite <b>", "admin")
    assert "<b>" not in done.content.decode().partition("a satellite ")[2][:20]
    assert "[already_quarantined]" in said(admin_client.post(reverse(PUT), body))[0]


@pytest.mark.parametrize(
    ("body", "words"),
    [({"kind": "image", "id": 10**30, "reason": "x"}, "There is no image"), ({"kind": "image", "id": 1}, "required")],
)
def test_what_cannot_be_quarantined_is_told(admin_client, body, words):
    assert words in admin_client.post(reverse(PUT), body).content.decode()
    assert not Quarantine.objects.exists()


def test_who_may_not_operate_puts_nothing_in_quarantine(staff):
    body = {"kind": "image", "id": ImageFactory().pk, "reason": "x"}
    assert (staff.get(reverse(PUT)).status_code, staff.post(reverse(PUT), body).status_code) == (403, 403)
    assert not Quarantine.objects.exists()
