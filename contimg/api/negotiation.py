"""Which form an answer takes. Settings name it, and DRF reads them while it imports its views: import no views here."""

from __future__ import annotations

from collections.abc import Sequence

from rest_framework.exceptions import ValidationError
from rest_framework.negotiation import BaseContentNegotiation, DefaultContentNegotiation
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request


class Negotiation(DefaultContentNegotiation):
    """An unknown `?format=` is a wrong parameter, not a missing page."""

    def filter_renderers(self, renderers: Sequence[BaseRenderer], format: str) -> list[BaseRenderer]:
        found = [renderer for renderer in renderers if renderer.format == format]
        if not found:
            valid = ", ".join(renderer.format for renderer in renderers)
            raise ValidationError(
                {"format": f"There is no such format here; valid are {valid}."}, code="unknown_format"
            )
        return found


class FileNegotiation(BaseContentNegotiation):
    """A file is what it is, whatever the Accept header hopes for."""

    def select_renderer(
        self, request: Request, renderers: list[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        return renderers[0], renderers[0].media_type
