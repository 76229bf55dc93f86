"""The base of every resource: what it shows in a list and in detail, how it is filtered and ordered."""

from __future__ import annotations

import builtins
import functools
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar

from django.db.models import QuerySet
from django.urls import reverse
from rest_framework.permissions import SAFE_METHODS
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import APIRootView, DefaultRouter
from rest_framework.serializers import BaseSerializer
from rest_framework.settings import api_settings
from rest_framework.viewsets import GenericViewSet, ReadOnlyModelViewSet

from contimg.api.deprecation import Deprecation, announce
from contimg.api.exports import RENDERERS, export
from contimg.api.filters import refuse_unknown
from contimg.api.reuse import reused
from contimg.api.rows import shown_by
from contimg.api.serializers import StrictSerializer
from contimg.exceptions import InvalidInput

PRECONDITIONS = ("If-Match", "If-None-Match", "If-Unmodified-Since")


class PreconditionNotTaken(InvalidInput):
    """Refused, because a write that ignores it is the lost update that its sender wants to be safe from."""

    code = "precondition_not_taken"


class HeaderNotTaken(InvalidInput):
    """Refused, because the request would be understood as another than its sender means."""

    code = "header_not_taken"


class WithNothingIgnored(GenericViewSet):
    """Refuses what it would not heed: parameters and bodies that an action does not take, preconditions of a write."""

    # What an action takes behind the `?` besides `format`; None for a list, whose filters say it.
    query_parameters: ClassVar[Sequence[str] | None] = ()
    # By action what its body is; that of another write has to be empty.
    bodies: ClassVar[Mapping[str, type[StrictSerializer]]] = {}
    # The resource that a write makes, where that is another: its name among the addresses.
    makes: ClassVar[str] = ""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if self.action is not None and request.method not in SAFE_METHODS:
            _refuse_headers(request)
            if self.action not in self.bodies:
                self.asked_of(request)
        # None is the action of a method that there is not, metadata that of OPTIONS.
        if self.query_parameters is not None and self.action not in (None, "list", "metadata"):
            refuse_unknown(request, ["format", *self.query_parameters])

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        """Says where what was made is (RFC 9110, 10.2.2); of several it says nothing."""
        final: Any = super().finalize_response(request, response, *args, **kwargs)
        if final.status_code == HTTPStatus.CREATED and "id" in final.data:
            made = reverse(f"{self.makes or self.basename}-detail", args=[final.data["id"]])
            final.headers["Location"] = request.build_absolute_uri(made)
        return final

    def asked_of(self, request: Request) -> dict[str, Any]:
        """What the body of this write says. Raises ValidationError."""
        asked = self.body_serializer()(data={} if request.data is None else request.data)
        asked.is_valid(raise_exception=True)
        return dict(asked.validated_data)

    def body_serializer(self) -> type[StrictSerializer]:
        return self.bodies.get(str(self.action), StrictSerializer)

    def get_serializer_class(self) -> type[BaseSerializer[Any]]:
        """Of the browsable page's form too, which is filled from it."""
        is_write = self.request is not None and self.request.method not in SAFE_METHODS
        return self.body_serializer() if is_write else super().get_serializer_class()


def _refuse_headers(request: Request) -> None:
    for name in PRECONDITIONS:
        if name in request.headers:
            raise PreconditionNotTaken(
                f"{name} is taken by GET and HEAD only, and nothing was done; leave it out."
                " What a change depends on is looked at when it is made, and answered with 409."
            )
    if "Idempotency-Key" in request.headers:
        raise HeaderNotTaken(
            "Idempotency-Key is no header here, and nothing was done; a batch takes idempotency_key in its body."
        )
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise HeaderNotTaken("The body is to come as it is, and nothing was done; leave out Content-Encoding.")


class ReadOnlyResource(WithNothingIgnored, ReadOnlyModelViewSet):
    """`queryset` and `serializer_class` are of the list; `ordering` is its default among `orderings`.

    `required_scopes` says which scope an action needs; where it says nothing, reading needs `read` and writing `admin`.
    """

    # A database reads digits of other scripts too; of thousands of digits Python makes no number.
    lookup_value_regex = "[0-9]{1,19}"
    detail_queryset: ClassVar[QuerySet[Any]]
    detail_serializer_class: ClassVar[type[BaseSerializer[Any]]]
    orderings: ClassVar[list[str]]
    ordering: ClassVar[str]
    required_scopes: ClassVar[Mapping[str, str]] = {}
    # For how long the answers of its list and detail hold while the database is the same; see contimg/api/reuse.py.
    reusable_s: ClassVar[float] = 0
    is_exported: ClassVar[bool] = False  # its list can be had whole, as CSV and VOTable

    def get_queryset(self) -> QuerySet[Any]:
        if self.action == "retrieve":
            return self.detail_queryset.all()
        rows = _rows(type(self)) if self.action == "list" else None
        return super().get_queryset() if rows is None else rows.all()

    def get_renderers(self) -> builtins.list[BaseRenderer]:
        if self.action == "metadata":  # JSON, also of a file
            default: Any = api_settings.DEFAULT_RENDERER_CLASSES  # classes, which the settings name
            return [renderer() for renderer in default]
        # Also of a method that there is not, which is then refused for what it is, and not for its format.
        exports = RENDERERS if self.is_exported and self.action in ("list", None) else ()
        return [*super().get_renderers(), *(renderer() for renderer in exports)]

    def list(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        if isinstance(request.accepted_renderer, RENDERERS):
            return export(request, self.filter_queryset(self.get_queryset()), self.get_serializer())
        return self._reused(lambda: self.make_list(request, *args, **kwargs))

    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        return self._reused(lambda: self.make_detail(request, *args, **kwargs))

    def deprecated_used(self) -> builtins.list[Deprecation]:
        """By this request."""
        if self.action != "list" and self.query_parameters is not None:
            return []
        filters: Mapping[str, Deprecation] = getattr(getattr(self, "filterset_class", None), "deprecated", {})
        return [filters[name] for name in filters if name in self.request.query_params]

    def audience(self) -> Any:
        """Of what about the caller the answer follows, besides user and token; for what is reused."""
        return None

    def _reused(self, make: Callable[[], Response]) -> Any:
        return reused(self.request, make, for_s=self.reusable_s, audience=self.audience())

    def make_list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        if _rows(type(self)) is None:
            return super().list(request, *args, **kwargs)
        return self.get_paginated_response(self.paginate_queryset(self.filter_queryset(self.get_queryset())))

    def make_detail(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return super().retrieve(request, *args, **kwargs)

    def get_serializer_class(self) -> type[BaseSerializer[Any]]:
        return self.detail_serializer_class if self.action == "retrieve" else super().get_serializer_class()

    def filter_queryset(self, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return super().filter_queryset(queryset) if self.action == "list" else queryset

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        final: Any = super().finalize_response(request, response, *args, **kwargs)
        announce(final, self.deprecated_used())
        return final


@functools.cache
def _rows(viewset: Any) -> QuerySet[Any] | None:
    """What the list shows, as rows of one query; None when that takes instances."""
    names = getattr(viewset.serializer_class(), "fields", {})
    # A cursor is made of what the last row shows.
    return shown_by(viewset.serializer_class, viewset.queryset) if names.keys() >= set(viewset.orderings) else None


class ApiRoot(APIRootView):
    """Every list, the totals, drift and impact, and how to use it all: `docs` to try it, `schema` for OpenAPI."""


class Router(DefaultRouter):
    """Actions with a file's name, such as `preview.png`, have no slash after it."""

    include_format_suffixes = False
    APIRootView = ApiRoot
    pages: Sequence[str] = ()  # names of addresses that the root lists besides the resources

    def get_api_root_view(self, api_urls: Any = None) -> Any:
        listed = {prefix: f"{basename}-list" for prefix, _, basename in self.registry}
        return self.APIRootView.as_view(api_root_dict=listed | {name: name for name in self.pages})

    def _get_dynamic_route(self, route: Any, action: Any) -> Any:
        made = super()._get_dynamic_route(route, action)
        return made._replace(url=made.url.replace("{trailing_slash}", "")) if "." in action.url_path else made
