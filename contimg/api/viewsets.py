"""The base of every resource: what it shows in a list and in detail, how it is filtered and ordered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from django.db.models import QuerySet
from django.utils.cache import get_conditional_response, set_response_etag
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import DefaultRouter
from rest_framework.serializers import BaseSerializer
from rest_framework.viewsets import ReadOnlyModelViewSet

from contimg.api.filters import refuse_unknown


class ReadOnlyResource(ReadOnlyModelViewSet):
    """`queryset` and `serializer_class` are of the list; `ordering` is its default among `orderings`.

    `required_scopes` says which scope an action needs; where it says nothing, reading needs `read` and writing `admin`.
    """

    lookup_value_regex = "[0-9]+"  # a database reads digits of other scripts too
    detail_queryset: ClassVar[QuerySet[Any]]
    detail_serializer_class: ClassVar[type[BaseSerializer[Any]]]
    orderings: ClassVar[list[str]]
    ordering: ClassVar[str]
    required_scopes: ClassVar[Mapping[str, str]] = {}
    # What an action takes behind the `?` besides `format`; None for a list, whose filters say it.
    query_parameters: ClassVar[Sequence[str] | None] = ()

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        # None is the action of a method that there is not, metadata that of OPTIONS.
        if self.query_parameters is not None and self.action not in (None, "list", "metadata"):
            refuse_unknown(request, ["format", *self.query_parameters])

    def get_queryset(self) -> QuerySet[Any]:
        return self.detail_queryset.all() if self.action == "retrieve" else super().get_queryset()

    def get_serializer_class(self) -> type[BaseSerializer[Any]]:
        return self.detail_serializer_class if self.action == "retrieve" else super().get_serializer_class()

    def filter_queryset(self, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return super().filter_queryset(queryset) if self.action == "list" else queryset

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        """HEAD has the headers of GET (RFC 9110, 9.3.2); Django's ConditionalGetMiddleware sees only to GET."""
        final = super().finalize_response(request, response, *args, **kwargs)
        if request.method == "HEAD" and isinstance(final, Response):
            final.add_post_render_callback(lambda rendered: _conditional(request, rendered))
        return final


def _conditional(request: Request, response: Any) -> Any:
    etag = set_response_etag(response).headers["ETag"]
    return get_conditional_response(request, etag=etag, response=response)


class Router(DefaultRouter):
    """Actions with a file's name, such as `preview.png`, have no slash after it."""

    include_format_suffixes = False

    def _get_dynamic_route(self, route: Any, action: Any) -> Any:
        made = super()._get_dynamic_route(route, action)
        return made._replace(url=made.url.replace("{trailing_slash}", "")) if "." in action.url_path else made
