"""Which form an answer takes. Settings name it, and DRF reads them while it imports its views: import no views here."""

from __future__ import annotations

from collections.abc import Iterable

from rest_framework.exceptions import ValidationError
from rest_framework.negotiation import BaseContentNegotiation, DefaultContentNegotiation
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request


class Negotiation(DefaultContentNegotiation):
    """An unknown `?format=` is a wrong parameter, not a missing page; and so is an empty one."""

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        if request.query_params.get("format") == "":
            self.filter_renderers(renderers, "")
        return super().select_renderer(request, renderers, format_suffix)

    def filter_renderers(self, renderers: Iterable[BaseRenderer], format: str) -> list[BaseRenderer]:
        offered = list(renderers)
        found = [renderer for renderer in offered if renderer.format == format]
        if not found:
            valid = ", ".join(dict.fromkeys(renderer.format for renderer in offered))
            raise ValidationError(
                {"format": f"There is no such format here; valid are {valid}."}, code="unknown_format"
            )
        return found


class FileNegotiation(BaseContentNegotiation):
    """A file is what it is, whatever the Accept header hopes for."""

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        first = next(iter(renderers))
        return first, first.media_type


class FormNegotiation(Negotiation):
    """A file in the form that `?format=` says, else in the first, whatever the Accept header hopes for."""

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        form = request.query_params.get("format")
        first = next(iter(renderers if form is None else self.filter_renderers(renderers, form)))
        return first, first.media_type
