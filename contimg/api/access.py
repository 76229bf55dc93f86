"""Who may read and write. Settings name it, and DRF reads them while it imports its views: import no views here."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from rest_framework.authentication import SessionAuthentication
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request


class Session(SessionAuthentication):
    """Names a scheme, so that a missing login is a 401 and not a 403."""

    def authenticate_header(self, request: Request) -> str:
        return "Session"


class ReadIsPublic(BasePermission):
    """Reading needs a login only when CONTIMG_PUBLIC_READ is off; writing always does."""

    def has_permission(self, request: Request, view: Any) -> bool:
        if request.method not in view.allowed_methods:
            return True  # nobody may: that is a 405, not a 401
        if settings.CONTIMG_PUBLIC_READ and request.method in SAFE_METHODS:
            return True
        return bool(request.user and request.user.is_authenticated)
