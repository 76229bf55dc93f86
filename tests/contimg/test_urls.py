from __future__ import annotations

import io
import subprocess
import sys

import pytest
from django.core.management import call_command
from django.test import Client

from contimg.urls import router
from tests import factories

# What version 1 promises of each list.
FIELDS = {
    "images": "id, kind, name, observed_at, mjd, epoch, ra_deg, dec_deg, frequency_hz, bandwidth_hz, width_px,"
    "height_px, pixel_arcsec, bmaj_arcsec, bmin_arcsec, bpa_deg, rms_jy_per_beam, peak_jy_per_beam, dynamic_range,"
    "is_primary_beam_corrected, grade, grade_source, is_suspect, measurement_set, created_at",
    "epochs": "id, started_at, dec_deg, mosaic, grade",
    "measurement-sets": "id, name, observed_at, mjd, duration_s, ra_deg, dec_deg, frequency_hz, n_antennas, n_channels,"
    "flagged_fraction, size_bytes, is_calibrated, calibrated_from",
    "subband-groups": "id, observed_at, mjd, ra_deg, dec_deg, n_subbands, missing_subbands, duplicate_subbands,"
    "is_complete, size_bytes, measurement_set",
    "calibration-tables": "id, kind, set_name, valid_from, valid_until, dec_deg, reference_antenna,"
    "source_measurement_set, grade, is_retired, created_at",
    "antenna-flags": "id, antenna, started_at, ended_at, reason, created_by, created_at, withdrawn_at, withdrawn_by",
    "sources": "id, name, ra_deg, dec_deg, n_measurements, flux_mean_jy, flux_max_jy, eta, v, is_variable,"
    "first_seen_at, last_seen_at",
    "measurements": "id, source, image, observed_at, mjd, ra_deg, dec_deg, flux_jy, flux_err_jy, peak_jy_per_beam,"
    "rms_jy_per_beam, snr, is_forced, upper_limit_jy",
    "reference-catalogues": "id, name, frequency_hz, epoch_jyear, note, n_sources, created_at, imported_at",
    "reference-sources": "id, catalogue, row, designation, ra_deg, dec_deg, position_err_arcsec, flux_jy, flux_err_jy,"
    "spectral_index, major_arcsec, minor_arcsec",
    "assessments": "id, subject, policy, grade, is_current, created_at",
    "calibrators": "id, name, ra_deg, dec_deg, reference, is_retired",
    "policies": "id, name, version, is_active",
    "reviews": "id, subject, reviewer, verdict, tags, comment, is_current, created_at",
    "batches": "id, stage, state, parameters, priority, idempotency_key, owner, created_at, started_at, finished_at,"
    "counts, progress, eta_s",
    "items": "id, batch, stage, subject, state, attempt, worker, progress, error, started_at, finished_at",
    "pauses": "id, stage, reason, paused_by, created_at",
    "workers": "id, name, host, n_processes, stages, started_at, seen_at, stopped_at, is_alive",
    "alerts": "id, series, pointing_dec_deg, antenna, kind, observed_at, value, expected, lower_limit, upper_limit, n,"
    "created_at, acknowledged_at, acknowledged_by, note, silenced_until",
    "quarantines": "id, product, reason, created_by, created_at, lifted_by, lifted_at",
    "audit": "id, at, actor, token, channel, action, object, details, request_id, address",
}


def test_every_resource_has_its_promised_fields_here():
    assert set(FIELDS) == {prefix for prefix, _, _ in router.registry}


@pytest.mark.django_db
@pytest.mark.parametrize(("prefix", "basename"), [(prefix, basename) for prefix, _, basename in router.registry])
def test_lists_and_details_have_the_promised_fields(administrator, prefix, basename):
    from tests.test_query_budgets import make_rows

    pk = make_rows(basename, 1)
    promised = {field.strip() for field in FIELDS[prefix].split(",")}
    assert promised <= set(administrator.get(f"/api/v1/{prefix}/").json()["results"][0])
    assert promised <= set(administrator.get(f"/api/v1/{prefix}/{pk}/").json())


@pytest.mark.django_db
def test_the_root_lists_every_resource(api):
    listed = api.get("/api/v1/").json()
    pages = {"stats", "drift", "impact", "schema", "docs", "redoc"}
    assert set(listed) == {prefix for prefix, _, _ in router.registry} | pages
    assert all(address == f"http://testserver/api/v1/{name}/" for name, address in listed.items())


@pytest.mark.django_db
@pytest.mark.parametrize("prefix", [prefix for prefix, _, _ in router.registry])
def test_a_browser_can_browse_every_list(administrator, prefix):
    factories.ImageFactory()
    response = administrator.get(f"/api/v1/{prefix}/?limit=1", headers={"accept": "text/html"})
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/html")


@pytest.mark.django_db
def test_an_answer_that_the_caller_has_is_not_sent_again(api):
    row = factories.ImageFactory()
    for url in ("/api/v1/images/", f"/api/v1/images/{row.pk}/"):
        first = api.get(url)
        again = api.get(url, headers={"if-none-match": first.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")
        row.is_suspect = not row.is_suspect
        row.save()
        assert api.get(url, headers={"if-none-match": first.headers["ETag"]}).status_code == 200


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["", "{pk}/", "?limit=2000", "999999/"])
def test_head_has_the_headers_of_get(api, path):
    url = "/api/v1/images/" + path.format(pk=factories.ImageFactory().pk)
    headers = {"x-request-id": "abc"}
    got, headed = api.get(url, headers=headers), api.head(url, headers=headers)
    assert (headed.status_code, headed.headers) == (got.status_code, got.headers)
    assert "ETag" in headed.headers
    assert headed.content == b""
    if headed.status_code == 200:
        assert api.head(url, headers={"if-none-match": headed.headers["ETag"]}).status_code == 304


def test_the_openapi_schema_is_valid_without_a_warning():
    call_command("spectacular", "--validate", "--fail-on-warn", stdout=io.StringIO())


@pytest.mark.django_db
def test_the_schema_and_its_pages_are_served_without_a_network(client):
    assert client.get("/api/v1/schema/").status_code == 200
    page = client.get("/api/v1/docs/").content.decode()
    assert "/static/drf_spectacular_sidecar/" in page
    assert "https://cdn" not in page


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["schema", "docs", "redoc"])
@pytest.mark.parametrize("method", ["options", "post", "delete"])
def test_the_schema_and_its_pages_are_read_only_and_say_so_as_all_do(api, path, method):
    answer = getattr(api, method)(f"/api/v1/{path}/")
    assert (answer.status_code, answer.headers["Content-Type"]) == (405, "application/problem+json")
    assert answer.json()["code"] == "method_not_allowed"


@pytest.mark.django_db
def test_a_missing_csrf_token_is_a_problem_for_a_client_and_a_page_for_a_person():
    client = Client(enforce_csrf_checks=True)
    answer = client.post("/api/auth/login/", headers={"accept": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")
    page = client.post("/admin/login/", headers={"accept": "text/html"})
    assert (page.status_code, page.headers["Content-Type"]) == (403, "text/html; charset=utf-8")


@pytest.mark.django_db
def test_the_start_page_counts_and_shows_the_latest_images(client):
    image = factories.ImageFactory(preview_path="previews/1.png")
    factories.ImageFactory()
    page = client.get("/").content.decode()
    assert "<b>2</b>images" in page
    assert page.count("<figure>") == 1
    assert f"/api/v1/images/{image.pk}/preview.png" in page


@pytest.mark.django_db
def test_the_start_page_of_a_private_installation_shows_nothing_without_a_login(client, settings, admin_client):
    settings.CONTIMG_PUBLIC_READ = False
    assert "log in" in client.get("/").content.decode()
    assert "What is here" in admin_client.get("/").content.decode()


def test_a_web_process_imports_no_engine():
    script = (
        "import django; django.setup();"
        "import sys, contimg.urls;"
        "print([name for name in sys.modules if '.engines.' in name"
        " or name in ('pyuvdata', 'casacore', 'ducc0', 'bdsf', 'photutils', 'matplotlib', 'astropy', 'scipy')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_web_process_has_loaded_what_its_answers_need_and_froze_it():
    script = (
        "import gc, sys, contimg.wsgi;"
        "print({'contimg.urls', 'sources.viewsets', 'cdshealpix', 'astropy.coordinates'} <= set(sys.modules),"
        " gc.get_freeze_count() > 100_000)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True True"


def test_a_child_of_a_worker_loads_nothing_of_the_api_or_the_admin():
    script = (
        "import sys, django; django.setup(); import batch.work;"
        "print([name for name in sys.modules if name.startswith('contimg.api') or name == 'rest_framework.views'"
        " or name in ('batch.admin', 'batch.services', 'astropy')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.django_db
@pytest.mark.parametrize("form", ["*/*", "application/fits", "image/png"])
@pytest.mark.parametrize("address", ["images/1/cutout/", "images/1/fits/", "sources/1/light-curve/", "sources/"])
def test_what_options_says_is_json_and_called_so(api, address, form):
    answer = api.options(f"/api/v1/{address}", HTTP_ACCEPT=form)
    assert answer.headers["Content-Type"].split(";")[0] in ("application/json", "application/problem+json")
    assert answer.json()
