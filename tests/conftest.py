from __future__ import annotations

from pathlib import Path

import pytest
from rest_framework.test import APIClient

pytest_plugins = ["tests.science"]


@pytest.fixture(autouse=True)
def products_root(tmp_path: Path, settings) -> Path:
    """Every test has its own, empty products root."""
    settings.CONTIMG_PRODUCTS_ROOT = tmp_path / "products"
    settings.CONTIMG_PRODUCTS_ROOT.mkdir()
    return settings.CONTIMG_PRODUCTS_ROOT


@pytest.fixture
def api() -> APIClient:
    """Reads as anybody may, and answers errors as a server would instead of raising them."""
    return APIClient(raise_request_exception=False)
