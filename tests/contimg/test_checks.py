from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
from django.core.checks import run_checks

from contimg import checks


def messages() -> list[tuple[str, str]]:
    return [(message.id, message.msg) for message in run_checks(tags=["contimg"])]


def test_the_defaults_are_right():
    assert messages() == []


EDGES = [
    ("CONTIMG_IMAGE_SIZE_PX", [64, 8192, 1280], [62, 8194, 65]),
    ("CONTIMG_PIXEL_ARCSEC", [0.1, 60.0], [0.09, 60.1, float("nan")]),
    ("CONTIMG_ROBUST", [-2.0, 0.0, 2.0], [-2.1, 2.1]),
    ("CONTIMG_NITER", [0, 1_000_000], [-1, 1_000_001]),
    ("CONTIMG_MIN_SUBBANDS", [1, 16], [0, 17]),
    ("CONTIMG_SETTLE_S", [0.0, 600.0], [-1.0, float("inf")]),
    ("CONTIMG_ENGINE_THREADS", [1], [0]),
    ("CONTIMG_SEFD_JY", [0.1], [0.0, -1.0]),
    ("CONTIMG_DEC_STRIP_TOLERANCE_DEG", [0.01, 5.0], [0.0, 5.1]),
    ("CONTIMG_CALIBRATION_VALIDITY_H", [0.5, 720.0], [0.0, 721.0]),
    ("CONTIMG_FLUX_SYSTEMATIC", [0.0, 1.0], [-0.01, 1.01]),
    ("CONTIMG_SPECTRAL_INDEX", [-5, -0.7, 0, 5], [-5.01, 5.01, math.nan]),
    ("CONTIMG_RENDITIONS_MB", [1, 1e6], [0.99, 1.1e6, math.nan]),
    ("CONTIMG_KEEP_LOGS_DAYS", [0.0, 36_500.0], [-1.0, 36_501.0]),
    ("CONTIMG_KEEP_SUPERSEDED_DAYS", [0.0, 36_500.0], [-1.0, 36_501.0, math.nan]),
    ("CONTIMG_KEEP_RAW_SETS_DAYS", [0.0, 36_500.0], [-1.0, 36_501.0]),
    ("CONTIMG_KEEP_RESIDUALS_DAYS", [0.0, 36_500.0], [-1.0, 36_501.0]),
    ("CONTIMG_DB_POOL_SIZE", [1, 1000], [0, 1001]),
    ("CONTIMG_LEASE_S", [2.0, 86_400.0], [1.9, 86_401.0]),
    ("CONTIMG_SWEEP_S", [0.1, 3600.0], [0.0, 3601.0]),
    ("CONTIMG_DRAIN_S", [0.0], [-1.0]),
    ("CONTIMG_QUERY_LIMIT_S", [0.1, 3600.0], [0.09, 3601.0, math.nan]),
    ("CONTIMG_SLOW_QUERY_MS", [1.0, 1e6], [0.0, 1e6 + 1]),
    ("CONTIMG_SLOW_REQUEST_MS", [1.0, 1e6], [0.0, 1e6 + 1]),
    ("CONTIMG_TRACE_SHARE", [0.0, 1.0], [-0.1, 1.1]),
    ("CONTIMG_MAX_TRIES", [1, 1000], [0, 1001]),
    ("CONTIMG_MAX_KILLS", [1, 1000], [0, 1001]),
]


@pytest.fixture
def wide(settings) -> None:
    """So that the edges of the two are not in each other's way."""
    settings.CONTIMG_LEASE_S, settings.CONTIMG_SWEEP_S = 86_400.0, 0.1


def test_a_lease_is_longer_than_the_time_between_sweeps(settings):
    settings.CONTIMG_LEASE_S, settings.CONTIMG_SWEEP_S = 5.0, 5.0
    assert [code for code, _ in messages()] == ["contimg.E006"]
    settings.CONTIMG_SWEEP_S = 4.9
    assert messages() == []


@pytest.mark.parametrize(
    ("given", "is_right"),
    [("", True), ("127.0.0.1:1", True), ("0.0.0.0:65535", True), ("9151", False), (":9151", False), ("host:", False),
     ("host:x", False), ("host:0", False), ("host:65536", False), ("host:٣", False)],
)  # fmt: skip
def test_where_workers_are_scraped_is_an_address_and_a_port(settings, given, is_right):
    settings.CONTIMG_WORKER_METRICS = given
    assert [code for code, _ in messages()] == ([] if is_right else ["contimg.E008"])


@pytest.mark.parametrize(
    ("size_px", "pixel_arcsec", "fits"), [(8192, 60.0, False), (4862, 60.0, False), (4860, 60.0, True)]
)
def test_an_image_whose_corners_are_beyond_the_hemisphere_is_refused_with_both_settings(
    settings, size_px, pixel_arcsec, fits
):
    settings.CONTIMG_IMAGE_SIZE_PX, settings.CONTIMG_PIXEL_ARCSEC = size_px, pixel_arcsec
    if fits:
        assert messages() == []
        return
    ((code, message),) = messages()
    assert code == "contimg.E007"
    assert "CONTIMG_IMAGE_SIZE_PX is" in message
    assert "CONTIMG_PIXEL_ARCSEC 60" in message


def test_every_range_has_its_edges_here():
    assert [name for name, _, _ in EDGES] == [allowed.name for allowed in checks.RANGES]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, good, _ in EDGES for value in good])
def test_a_value_inside_its_range_is_taken(settings, wide, name, value):
    setattr(settings, name, value)
    assert messages() == []


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, _, bad in EDGES for value in bad])
def test_a_value_outside_of_its_range_is_named(settings, wide, name, value):
    setattr(settings, name, value)
    ((code, message),) = messages()
    assert code == "contimg.E002"
    assert name in message


@pytest.mark.parametrize("name", checks.CHOICES)
def test_an_unknown_word_is_named_with_the_known_ones(settings, name):
    setattr(settings, name, "casa")
    ((code, message),) = messages()
    assert code == "contimg.E003"
    assert all(word in message for word in checks.CHOICES[name])


def test_a_missing_imager_is_a_warning(settings):
    settings.CONTIMG_IMAGER = "wsclean"
    settings.CONTIMG_WSCLEAN_BINARY = "no-such-wsclean"
    assert [code for code, _ in messages()] == ["contimg.W001"]


def test_a_folder_that_cannot_be_made_is_named(settings, tmp_path):
    (tmp_path / "file").write_text("")
    settings.CONTIMG_PRODUCTS_ROOT = tmp_path / "file" / "products"
    ((code, message),) = messages()
    assert code == "contimg.E004"
    assert "CONTIMG_PRODUCTS_ROOT" in message


def manage(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("CONTIMG_", "DJANGO_"))}
    return subprocess.run(
        [sys.executable, "manage.py", *arguments], env={**clean, **environment}, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "postgres://me:secret@host:543210/name"),
        ("CONTIMG_REDIS_URL", "redis://:secret@host:abc/0"),
        ("CONTIMG_BROKER_URL", "amqp://me:secret@host:abc//"),
    ],
)
def test_an_address_whose_port_is_none_is_named_and_not_shown(tmp_path, name, value):
    done = manage("check", CONTIMG_VAR_DIR=str(tmp_path), **{name: value})
    assert done.returncode == 1
    assert done.stderr.startswith(f"manage.py: {name} has a host or a port that is none")
    assert len(done.stderr.splitlines()) == 1
    assert "secret" not in done.stderr


def test_what_cannot_be_parsed_is_explained_at_start(tmp_path):
    done = manage("check", CONTIMG_VAR_DIR=str(tmp_path), CONTIMG_ROBUST="half", CONTIMG_DEBUG="perhaps")
    assert done.returncode == 1
    assert "CONTIMG_ROBUST is 'half', which is not a number." in done.stderr
    assert "CONTIMG_DEBUG is 'perhaps', which is not true or false." in done.stderr
    assert "HINT: Set CONTIMG_ROBUST" in done.stderr


@pytest.mark.parametrize("place", ["environment", "file"])
def test_a_misspelt_setting_is_named_with_the_one_that_was_meant(tmp_path, place):
    wrong = {"CONTIMG_IMAGE_SIZ_PX": "512", "CONTIMG_QQQQ_ZZZZZZZZ": "1", "CONTIMG_TEST_POSTGRES": "x"}
    if place == "file":
        (tmp_path / "my.env").write_text("".join(f"{name}={value}\n" for name, value in wrong.items()))
        wrong = {"CONTIMG_ENV_FILE": str(tmp_path / "my.env")}
    done = manage("check", CONTIMG_VAR_DIR=str(tmp_path), **wrong)
    assert done.returncode == 0
    assert done.stderr.count("contimg.W002") == 2
    assert "CONTIMG_IMAGE_SIZ_PX is set, but contimg has no such setting, so it changes nothing." in done.stderr
    assert "HINT: Did you mean CONTIMG_IMAGE_SIZE_PX?" in done.stderr
    assert "CONTIMG_QQQQ_ZZZZZZZZ is set" in done.stderr
    assert "HINT: Remove it from the environment or from .env." in done.stderr


def test_a_deployment_with_a_host_name_has_nothing_to_complain_about(tmp_path):
    done = manage(
        "check", "--deploy", "--fail-level", "WARNING",
        CONTIMG_VAR_DIR=str(tmp_path), CONTIMG_ALLOWED_HOSTS="telescope.example",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
