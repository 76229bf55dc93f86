"""The base of every resource: what it shows in a list and in detail, how it is filtered and ordered."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db.models import QuerySet
from rest_framework.routers import DefaultRouter
from rest_framework.serializers import BaseSerializer
from rest_framework.viewsets import ReadOnlyModelViewSet


class ReadOnlyResource(ReadOnlyModelViewSet):
    """`queryset` and `serializer_class` are of the list; `ordering` is its default among `orderings`."""

    detail_queryset: ClassVar[QuerySet[Any]]
    detail_serializer_class: ClassVar[type[BaseSerializer[Any]]]
    orderings: ClassVar[list[str]]
    ordering: ClassVar[str]

    def get_queryset(self) -> QuerySet[Any]:
        return self.detail_queryset.all() if self.action == "retrieve" else super().get_queryset()

    def get_serializer_class(self) -> type[BaseSerializer[Any]]:
        return self.detail_serializer_class if self.action == "retrieve" else super().get_serializer_class()

    def filter_queryset(self, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return super().filter_queryset(queryset) if self.action == "list" else queryset


class Router(DefaultRouter):
    """Actions with a file's name, such as `preview.png`, have no slash after it."""

    include_format_suffixes = False

    def _get_dynamic_route(self, route: Any, action: Any) -> Any:
        made = super()._get_dynamic_route(route, action)
        return made._replace(url=made.url.replace("{trailing_slash}", "")) if "." in action.url_path else made
