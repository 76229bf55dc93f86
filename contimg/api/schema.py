"""OpenAPI as it really is: errors are problem+json, and reading is open when CONTIMG_PUBLIC_READ says so."""

from __future__ import annotations

from typing import Any

from django import forms
from django.conf import settings
from django_filters import Filter
from drf_spectacular.authentication import SessionScheme
from drf_spectacular.contrib.django_filters import DjangoFilterExtension
from drf_spectacular.extensions import (
    OpenApiAuthenticationExtension,
    OpenApiSerializerExtension,
    OpenApiSerializerFieldExtension,
)
from drf_standardized_errors.openapi import AutoSchema
from rest_framework.fields import ChoiceField
from rest_framework.permissions import SAFE_METHODS

from contimg.api.errors import CONTENT_TYPE
from contimg.api.exports import RENDERERS
from contimg.api.text import TEXT, TEXT_NOT_BLANK


class Schema(AutoSchema):
    def get_auth(self) -> list[dict[str, Any]]:
        is_open = settings.CONTIMG_PUBLIC_READ and self.method in SAFE_METHODS and self._declared_scope() is None
        return [*super().get_auth(), *([{}] if is_open else [])]

    def get_request_serializer(self) -> Any:
        return getattr(self.view, "bodies", {}).get(getattr(self.view, "action", None))

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


class FilterLimits(DjangoFilterExtension):
    """What the form of the filters refuses: numbers outside of the range, text that is too long or blank."""

    target_class = "contimg.api.filters.Filtering"
    priority = 1

    def resolve_filter_field(
        self, auto_schema: Any, model: Any, filterset_class: Any, field_name: str, filter_field: Filter
    ) -> list[dict[str, Any]]:
        parameters = super().resolve_filter_field(auto_schema, model, filterset_class, field_name, filter_field)
        for parameter in parameters:
            is_list = parameter["schema"]["type"] == "array"
            parameter["schema"].update({"minItems": 1} if is_list else _limits_of(filter_field.field))
            if deprecated := filterset_class.deprecated.get(field_name):
                parameter |= {"deprecated": True, "description": str(deprecated)}
        return parameters


def _limits_of(field: Any) -> dict[str, Any]:
    if isinstance(field, forms.CharField):
        return {"maxLength": field.max_length, "pattern": TEXT_NOT_BLANK}
    if isinstance(field, forms.IntegerField):
        return {"minimum": field.min_value, "maximum": field.max_value} | _open_ends(field)
    return {}


def _open_ends(field: Any) -> dict[str, Any]:
    above, below = getattr(field, "above", None), getattr(field, "below", None)
    return ({} if above is None else {"minimum": above, "exclusiveMinimum": True}) | (
        {} if below is None else {"maximum": below, "exclusiveMaximum": True}
    )


class OpenRange(OpenApiSerializerFieldExtension):
    target_class = "contimg.api.parameters.NumberParameter"

    def map_serializer_field(self, auto_schema: Any, direction: str) -> dict[str, Any]:
        mapped = auto_schema._map_serializer_field(self.target, direction, bypass_extensions=True)
        return mapped | _open_ends(self.target)


class Text(OpenApiSerializerFieldExtension):
    target_class = "contimg.api.serializers.TextField"

    def map_serializer_field(self, auto_schema: Any, direction: str) -> dict[str, Any]:
        mapped = auto_schema._map_serializer_field(self.target, direction, bypass_extensions=True)
        return mapped | {"pattern": TEXT if self.target.allow_blank else TEXT_NOT_BLANK}


class Word(OpenApiSerializerFieldExtension):
    target_class = "contimg.api.serializers.WordField"

    def map_serializer_field(self, auto_schema: Any, direction: str) -> dict[str, Any]:
        choice = ChoiceField(self.target.choices, allow_blank=self.target.allow_blank)
        return auto_schema._map_serializer_field(choice, direction)


class StrictBody(OpenApiSerializerExtension):
    """Unknown keys are refused."""

    target_class = "contimg.api.serializers.StrictSerializer"
    match_subclasses = True

    def map_serializer(self, auto_schema: Any, direction: str) -> dict[str, Any]:
        mapped = auto_schema._map_serializer(self.target, direction, bypass_extensions=True)
        return mapped | {"additionalProperties": False}
