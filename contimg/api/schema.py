"""OpenAPI as it really is: errors are problem+json, and reading is open when CONTIMG_PUBLIC_READ says so."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from drf_spectacular.authentication import SessionScheme
from drf_standardized_errors.openapi import AutoSchema
from rest_framework.permissions import SAFE_METHODS

from contimg.api.errors import CONTENT_TYPE


class Schema(AutoSchema):
    def get_auth(self) -> list[dict[str, Any]]:
        is_open = settings.CONTIMG_PUBLIC_READ and self.method in SAFE_METHODS
        return [*super().get_auth(), *([{}] if is_open else [])]

    def _get_response_for_code(
        self, serializer: Any, status_code: str, media_types: Any = None, direction: str = "response"
    ) -> dict[str, Any]:
        if int(status_code) >= 400:
            media_types = [CONTENT_TYPE]
        return super()._get_response_for_code(serializer, status_code, media_types, direction)

    def _get_error_response_examples(self) -> list[Any]:
        return []  # theirs are of their own shape


class OurSessionScheme(SessionScheme):
    target_class = "contimg.api.access.Session"
