from __future__ import annotations

import pytest
from django.urls import reverse

from tests import factories

MODELS = [pytest.param(make, id=make._meta.model.__name__) for make in factories.ALL]


def admin_url(row, page: str, *args) -> str:
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_{page}", args=args)


FACTS = [
    made for made in MODELS if made.id not in ("Token", "AntennaFlag")
]  # made there: tests/access/test_admin.py, and
# tests/calibration/test_antenna_flags.py


@pytest.mark.django_db
@pytest.mark.parametrize("make", FACTS)
def test_facts_are_looked_at_and_never_added_changed_or_deleted_by_hand(admin_client, make):
    row = make()
    change = admin_url(row, "change", row.pk)
    page = admin_client.get(change)
    assert page.status_code == 200
    assert b'name="_save"' not in page.content
    assert admin_client.post(change, {"name": "x"}).status_code == 403
    assert admin_client.get(admin_url(row, "add")).status_code == 403
    assert admin_client.post(admin_url(row, "delete", row.pk), {"post": "yes"}).status_code == 403
    assert type(row).objects.filter(pk=row.pk).exists()


@pytest.mark.django_db
@pytest.mark.parametrize("make", MODELS)
def test_every_changelist_can_be_searched_and_sorted_by_every_column(admin_client, make):
    row = make()
    changelist = admin_url(row, "changelist")
    for column in range(1, 11):
        assert admin_client.get(changelist, {"o": f"-{column}", "q": "x"}).status_code == 200


@pytest.mark.django_db
def test_an_image_shows_its_preview_its_grade_and_what_hangs_on_it(admin_client):
    image = factories.ImageFactory(preview_path="previews/1.png", grade="poor")
    preview = reverse("image-preview", args=[image.pk])
    changelist = admin_client.get(admin_url(image, "changelist")).content.decode()
    assert preview in changelist
    assert 'class="grade grade-poor"' in changelist
    assert admin_url(image.measurement_set, "change", image.measurement_set_id) in changelist
    detail = admin_client.get(admin_url(image, "change", image.pk)).content.decode()
    assert preview in detail
    assert f"/admin/qa/assessment/?image__id__exact={image.pk}" in detail


@pytest.mark.django_db
def test_links_between_rows_lead_somewhere(admin_client):
    import re

    factories.AppliedTableFactory(table=factories.CalibrationTableFactory())
    rows = [make() for make in factories.ALL]
    for row in rows:
        page = admin_client.get(admin_url(row, "change", row.pk)).content.decode()
        for link in set(re.findall(r'href="(/admin/[a-z]+/[a-z]+/[^"]*)"', page)):
            if "/history/" not in link:
                assert admin_client.get(link.replace("&amp;", "&")).status_code == 200, link


def test_an_epoch_shows_its_gates_with_why(admin_client):
    epoch = factories.EpochFactory(grade="poor")
    verdict = factories.AssessmentFactory(image=None, epoch=epoch, grade="poor")
    factories.FindingFactory(assessment=verdict, gate="flux_scale", outcome="fail", reason="a step of <15%>")
    factories.FindingFactory(assessment=verdict, gate="noise", outcome="pass")
    page = admin_client.get(admin_url(epoch, "change", epoch.pk)).content.decode()
    assert "<div>flux_scale: <b>fail</b> a step of &lt;15%&gt;</div><div>noise: <b>pass</b> </div>" in page


@pytest.mark.django_db
def test_an_assessment_shows_its_findings(admin_client):
    finding = factories.FindingFactory(rule="noise above thermal", outcome="warn")
    page = admin_client.get(admin_url(finding.assessment, "change", finding.assessment_id)).content.decode()
    assert "noise above thermal" in page
    assert "outcome-warn" in page


@pytest.mark.django_db
def test_nothing_is_shown_without_a_login(client):
    response = client.get(admin_url(factories.ImageFactory(), "changelist"))
    assert response.status_code == 302
    assert "/admin/login/" in response.headers["Location"]


@pytest.mark.django_db
def test_an_item_shows_its_state_once_and_its_error_at_the_top(admin_client):
    item = factories.ItemFactory(state="failed", error_code="all_flagged", error_detail="Nothing is left.")
    page = admin_client.get(admin_url(item, "change", item.pk)).content.decode()
    assert [page.count(f"field-{name}") for name in ("state_badge", "state ", 'state"', "error_code")] == [1, 0, 0, 1]
    assert page.index("Nothing is left.") < page.index("field-batch")
