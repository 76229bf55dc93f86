"""What is not for everybody outside the API: metrics, the details of health, and guessing passwords."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from access.models import Token
from access.throttles import count_login
from contimg.addresses import is_trusted
from contimg.api.errors import AWAY, throttled
from contimg.api.negotiation import FileNegotiation


class IsInternal(BasePermission):
    """A trusted address (asked first: it needs no database), a token of any scope, or a session of staff."""

    message = "This is for trusted addresses, tokens and staff; use one of these."

    def has_permission(self, request: Request, view: Any) -> bool:
        if request.method not in view.allowed_methods or is_inside(request):  # the first is a 405 for all
            return True
        view.check_throttles(request)  # DRF counts only what is permitted, after this
        return False


def is_inside(request: Request) -> bool:
    if is_trusted(request):
        return True
    return isinstance(request.auth, Token) or bool(getattr(request.user, "is_staff", False))


class InternalView(APIView):
    """`answer` is a Django view, and what it says is given as it is."""

    permission_classes = [IsInternal]
    throttle_classes = []  # scraped by machines, and refused to others
    content_negotiation_class = FileNegotiation
    schema = None
    answer: Callable[[HttpRequest], HttpResponse]
    # While the database is away nobody's token can be looked up, and who watches has to hear of it: without secrets.
    answer_to_anybody: Callable[[HttpRequest], HttpResponse]

    def get(self, request: Request) -> HttpResponse:
        return type(self).answer(request._request)

    def handle_exception(self, exc: Exception) -> Any:
        if isinstance(exc, AWAY):
            return type(self).answer_to_anybody(self.request._request)
        return super().handle_exception(exc)


def throttled_login(login: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """A login, a few attempts a minute for each address and for each name."""

    @functools.wraps(login)
    def view(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if request.method == "POST":
            waiting_s = count_login(request, request.POST.get("username", ""))
            if waiting_s is not None:
                return throttled(request, waiting_s=waiting_s)
        return login(request, *args, **kwargs)

    return view
