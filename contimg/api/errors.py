"""RFC 9457 problem details: one shape for every error, whoever raised it.

DRF views come through drf-standardized-errors (`EXCEPTION_HANDLER` stays its own function: its schema support looks for
it) with the two classes here plugged into its settings. What never reaches a view (unknown paths, bad hosts, errors
in middleware) comes through Django's handlers at the end of this module.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import Any

from django.conf import settings
from django.core.exceptions import DisallowedHost, RequestDataTooBig, TooManyFieldsSent
from django.db import InterfaceError, InternalError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.views import csrf, defaults
from drf_standardized_errors.formatter import ExceptionFormatter
from drf_standardized_errors.handler import ExceptionHandler
from drf_standardized_errors.types import ErrorResponse
from rest_framework import serializers
from rest_framework.exceptions import (
    APIException,
    ErrorDetail,
    NotAcceptable,
    NotAuthenticated,
    NotFound,
    Throttled,
    UnsupportedMediaType,
    ValidationError,
)
from rest_framework.renderers import BrowsableAPIRenderer
from rest_framework.response import Response
from rest_framework.settings import api_settings
from structlog.contextvars import bind_contextvars, get_contextvars

from contimg.api.renderers import JSONRenderer
from contimg.api.text import shortened
from contimg.exceptions import ContimgError, InvalidInput

CONTENT_TYPE = "application/problem+json"
AWAY = (OperationalError, InterfaceError, InternalError)  # the last: it takes no writes now
MOST_ERRORS = 100  # named in one answer
_NO_ROW = "There is nothing of this name or number here, or no more; the list has what there is."
_WHO = "This is not for everybody: send a token in the header Authorization, as Bearer contimg_..., or log in."
_DATABASE_AWAY = "The database does not answer now; try again later."
# In quotes it may hold blanks. No part of an address as https://host/a/b, nor a unit as mJy/beam.
_ABSOLUTE_PATH = re.compile(
    r"""(?<=')/[^'\n]+(?=')|(?<=")/[^"\n]+(?=")|(?:file://|(?<![\w/.]))/(?!/)[^\s/'"]+(?:/[^\s/'",;:]+)+"""
)


class ProblemSerializer(serializers.Serializer):
    """The shape of every error, for the schema."""

    class FieldError(serializers.Serializer):
        field = serializers.CharField(allow_null=True)
        code = serializers.CharField()
        detail = serializers.CharField()

        class Meta:
            ref_name = "FieldError"

    type = serializers.CharField(help_text="`urn:contimg:error:` and the code.")
    title = serializers.CharField(help_text="The same for every error of this code.")
    status = serializers.IntegerField()
    detail = serializers.CharField(help_text="What is wrong, why, and what to do.")
    instance = serializers.CharField(help_text="The path that was asked for.")
    code = serializers.CharField(help_text="Stable; docs/errors.md lists them.")
    request_id = serializers.CharField(allow_null=True)
    errors = FieldError(  # type: ignore[assignment]
        many=True, help_text="One for each wrong parameter or field; empty for other errors."
    )

    class Meta:
        ref_name = "Problem"


def problem(
    *, status: int, code: str, detail: str, instance: str, errors: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    bind_contextvars(code=code)  # for the request's line in the log
    return {
        "type": f"urn:contimg:error:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": status,
        "detail": detail,
        "instance": instance,
        "code": code,
        "request_id": get_contextvars().get("request_id"),
        "errors": errors or [],
    }


class _Failure(APIException):
    """One of ours, in the terms of DRF."""

    def __init__(
        self,
        *,
        status: int,
        code: str,
        detail: str,
        retry_after_s: int = ContimgError.retry_after_s,
        wrong: Mapping[str, str] | None = None,
    ) -> None:
        self.status_code, self.wrong = status, wrong or {}
        self.wait = retry_after_s if status == HTTPStatus.SERVICE_UNAVAILABLE else None
        super().__init__(detail, code)


class ProblemHandler(ExceptionHandler):
    def convert_known_exceptions(self, exc: Exception) -> Exception:
        if isinstance(exc, ContimgError):
            detail = exc.for_readers or without_server_paths(str(exc))
            wrong = exc.wrong if isinstance(exc, InvalidInput) else {}
            return _Failure(
                status=exc.status, code=exc.code, detail=detail, retry_after_s=exc.retry_after_s, wrong=wrong
            )
        if isinstance(exc, RequestDataTooBig):
            return _Failure(
                status=413,
                code="request_too_large",
                detail=f"The body is larger than {settings.DATA_UPLOAD_MAX_MEMORY_SIZE} bytes; ask in several.",
            )
        if isinstance(exc, NotAcceptable):
            forms = ", ".join(renderer.media_type for renderer in exc.available_renderers or ())
            return NotAcceptable(f"Accept names no form that this has; there are {forms}.")
        if isinstance(exc, AWAY):
            return _Failure(status=503, code="database_unavailable", detail=_DATABASE_AWAY)
        if isinstance(exc, Http404):
            return NotFound(_NO_ROW)
        if isinstance(exc, UnsupportedMediaType):
            exc.detail = ErrorDetail("A body is to be JSON, with Content-Type: application/json.", exc.default_code)
        elif isinstance(exc, NotAuthenticated):
            exc.detail = ErrorDetail(_WHO, exc.default_code)
        elif isinstance(exc, Throttled):
            wait_s = getattr(exc, "wait", None) or 0
            detail = (
                f"Too many requests; try again in {wait_s:.0f} s. Each token and each address has a limit of its own."
            )
            exc.detail = ErrorDetail(detail, exc.default_code)
        return super().convert_known_exceptions(exc)

    def convert_unhandled_exceptions(self, exc: Exception) -> APIException:
        if isinstance(exc, APIException):
            return exc
        return _Failure(status=500, code="internal_error", detail=_INTERNAL)

    def report_exception(self, exc: APIException, response: Response) -> None:
        """What has a sentence of ours is no fault to trace; the request's line in the log has its status."""
        if not isinstance(self.exc, ContimgError):
            super().report_exception(exc, response)

    def get_headers(self, exc: APIException) -> dict[str, str]:
        return {**super().get_headers(exc), **getattr(exc, "headers", {})}

    def get_response(self, exc: APIException, data: dict[str, Any]) -> Response:
        response = super().get_response(exc, data)
        # A person's browser gets the same content inside the browsable page.
        request = self.context["request"]
        renderer = getattr(request, "accepted_renderer", None)
        if not isinstance(renderer, BrowsableAPIRenderer):
            response.content_type = CONTENT_TYPE
            if request is not None and not isinstance(renderer, JSONRenderer):  # of the schema and its pages
                request.accepted_renderer, request.accepted_media_type = JSONRenderer(), JSONRenderer.media_type
        return response


class ProblemFormatter(ExceptionFormatter):
    def format_error_response(self, error_response: ErrorResponse) -> dict[str, Any]:
        request = self.context["request"]
        wrong = isinstance(self.exc, ValidationError)
        named = error_response.errors[:MOST_ERRORS]
        errors = [_field_error(error) for error in named] if wrong else _of_fields(self.exc)
        return problem(
            status=self.exc.status_code,
            code=InvalidInput.code if wrong else named[0].code,
            detail=shortened(_summary(errors) if wrong else named[0].detail),
            instance=request.path if request else "",
            errors=errors,
        )


def _of_fields(exc: APIException) -> list[dict[str, Any]]:
    named = exc.wrong if isinstance(exc, _Failure) else {}
    code = exc.get_codes()
    return [{"field": shortened(name), "code": code, "detail": shortened(said)} for name, said in named.items()]


def _field_error(error: Any) -> dict[str, Any]:
    path = (error.attr or "").split(".")  # as subjects.0.id
    if path[-1] == api_settings.NON_FIELD_ERRORS_KEY:  # of the whole of it
        path.pop()
    field = ".".join(path) or None
    return {"field": field and shortened(field), "code": error.code, "detail": shortened(error.detail)}


def _summary(errors: list[dict[str, Any]]) -> str:
    return " ".join(f"{e['field']}: {e['detail']}" if e["field"] else e["detail"] for e in errors)


def without_server_paths(detail: str) -> str:
    """Our own sentences may name a file for the operator at the console; over HTTP its last part is enough."""
    return _ABSOLUTE_PATH.sub(lambda found: PurePosixPath(found[0]).name, detail)


# --- outside of DRF views: named in contimg/urls.py -----------------------------------------------------------------
_INTERNAL = "Something went wrong here, not with your request; the log has the details under this request_id."


def _answer(request: HttpRequest, *, status: int, code: str, detail: str, page: Any) -> HttpResponse:
    """A problem for clients and for everything under /api/, Django's page for a person elsewhere."""
    wants_page = request.get_preferred_type([CONTENT_TYPE, "application/json", "text/html"]) == "text/html"
    if wants_page and not request.path.startswith("/api/"):
        return page()
    return _problem_response(request, status=status, code=code, detail=detail)


def _problem_response(request: HttpRequest, *, status: int, code: str, detail: str) -> HttpResponse:
    return JsonResponse(
        problem(status=status, code=code, detail=detail, instance=request.path),
        status=status,
        content_type=CONTENT_TYPE,
    )


def _bad_because(exception: Exception) -> str:
    if isinstance(exception, DisallowedHost):
        return "The Host header is no name of this service; ask under the name that you were given."
    if isinstance(exception, TooManyFieldsSent):
        return f"There are more than {settings.DATA_UPLOAD_MAX_NUMBER_FIELDS} parameters; leave some out."
    return "The request cannot be understood."


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _answer(
        request,
        status=400,
        code=InvalidInput.code,
        detail=_bad_because(exception),
        page=lambda: defaults.bad_request(request, exception),
    )


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _answer(
        request,
        status=403,
        code="permission_denied",
        detail="You may not do this.",
        page=lambda: defaults.permission_denied(request, exception),
    )


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    return _answer(
        request,
        status=403,
        code="permission_denied",
        detail="This is taken from a page of ours only, with its CSRF token and cookie; load the page again.",
        page=lambda: csrf.csrf_failure(request, reason),
    )


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _answer(
        request,
        status=404,
        code="not_found",
        detail="There is nothing at this path; /api/v1/ lists what there is.",
        page=lambda: defaults.page_not_found(request, exception),
    )


def throttled(request: HttpRequest, *, waiting_s: int) -> HttpResponse:
    response = _answer(
        request,
        status=429,
        code="throttled",
        detail=f"Too many attempts; try again in {waiting_s} seconds.",
        page=lambda: render(request, "429.html", {"waiting_s": waiting_s}, status=429),
    )
    response.headers["Retry-After"] = str(waiting_s)
    return response


def method_not_allowed(request: HttpRequest, *, allowed: str) -> HttpResponse:
    detail = f"This path takes no {request.method}; it takes {allowed}."
    response = _problem_response(request, status=405, code="method_not_allowed", detail=detail)
    response.headers["Allow"] = allowed
    return response


def length_required(request: HttpRequest) -> HttpResponse:
    detail = "A body is read whose length is said before: send Content-Length, and not in chunks. Nothing was done."
    return _problem_response(request, status=411, code="length_required", detail=detail)


def precondition_failed(request: HttpRequest) -> HttpResponse:
    detail = "This is not what If-Match or If-Unmodified-Since names: it has changed since; read it again."
    return _problem_response(request, status=412, code="precondition_failed", detail=detail)


def server_error(request: HttpRequest) -> HttpResponse:
    if isinstance(sys.exception(), AWAY):
        response = _answer(
            request,
            status=503,
            code="database_unavailable",
            detail=_DATABASE_AWAY,
            page=lambda: HttpResponse(render_to_string("503.html"), status=503),
        )
        response.headers["Retry-After"] = str(ContimgError.retry_after_s)
        return response
    return _answer(
        request, status=500, code="internal_error", detail=_INTERNAL, page=lambda: defaults.server_error(request)
    )
