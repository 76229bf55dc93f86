"""OpenAPI as it really is: errors are problem+json, and reading is open when CONTIMG_PUBLIC_READ says so."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from drf_spectacular.authentication import SessionScheme
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_standardized_errors.openapi import AutoSchema
from rest_framework.permissions import SAFE_METHODS

from contimg.api.errors import CONTENT_TYPE
from contimg.api.exports import RENDERERS


class Schema(AutoSchema):
    def get_auth(self) -> list[dict[str, Any]]:
        is_open = settings.CONTIMG_PUBLIC_READ and self.method in SAFE_METHODS and self._declared_scope() is None
        return [*super().get_auth(), *([{}] if is_open else [])]

    def get_description(self) -> str:  # type: ignore[override]
        scope = self._declared_scope()
        return super().get_description() + (f"\n\nNeeds the scope `{scope}`." if scope else "")

    def _declared_scope(self) -> str | None:
        return getattr(self.view, "required_scopes", {}).get(getattr(self.view, "action", None))

    def _get_response_for_code(
        self, serializer: Any, status_code: str, media_types: Any = None, direction: str = "response"
    ) -> dict[str, Any]:
        if int(status_code) >= 400:
            media_types = [CONTENT_TYPE]
        response = super()._get_response_for_code(serializer, status_code, media_types, direction)
        for renderer in RENDERERS:  # whole lists
            if renderer.media_type in response.get("content", {}):
                response["content"][renderer.media_type] = {"schema": {"type": "string"}}
        return response

    def _get_error_response_examples(self) -> list[Any]:
        return []  # theirs are of their own shape


class OurSessionScheme(SessionScheme):
    target_class = "access.authentication.Session"


class OurTokenScheme(OpenApiAuthenticationExtension):
    target_class = "access.authentication.TokenAuthentication"
    name = "bearerAuth"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return {"type": "http", "scheme": "bearer", "description": "Made with `manage.py token create`."}
