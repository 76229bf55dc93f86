"""Django's own middleware, where its answers are none of ours."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponsePermanentRedirect
from django.http.response import HttpResponseBase
from django.middleware.common import CommonMiddleware
from django.middleware.http import ConditionalGetMiddleware
from django.utils.cache import get_conditional_response, set_response_etag
from django.utils.http import escape_leading_slashes

from contimg.api.deprecation import told_again
from contimg.api.errors import length_required, method_not_allowed, precondition_failed


class ToTheSlash(HttpResponsePermanentRedirect):
    """Followed with the same method and body: after a 301 a POST becomes a GET, whose answer looks like success."""

    status_code = HTTPStatus.PERMANENT_REDIRECT


class AddressMiddleware(CommonMiddleware):
    """Refuses a host, a number of parameters or a form of body that is not taken, and leads to the slash."""

    response_redirect_class = ToTheSlash

    def __call__(self, request: HttpRequest) -> Any:
        return length_required(request) if _has_unread_body(request) else super().__call__(request)

    def process_request(self, request: HttpRequest) -> HttpResponsePermanentRedirect | None:
        _ = request.GET  # Django raises what is wrong with it when it is first read: in a view that would be a fault
        return super().process_request(request)

    def get_full_path_with_slash(self, request: HttpRequest) -> str:
        """Without Django's error in debug, which is about the 301."""
        return escape_leading_slashes(request.get_full_path(force_append_slash=True))


def _has_unread_body(request: HttpRequest) -> bool:
    """In chunks, or in HTTP/2 without a length: Django takes it for no body at all, and the defaults would be done."""
    meta = request.META
    may = "HTTP_TRANSFER_ENCODING" in meta or meta.get("SERVER_PROTOCOL") == "HTTP/2"
    return may and not meta.get("CONTENT_LENGTH") and bool(meta["wsgi.input"].read(1))


class ConditionalMiddleware(ConditionalGetMiddleware):
    """A 412 in the shape of every error, where Django's is empty; and both it and a 304 say what is deprecated as the
    whole answer does, since clients that send ETags see nothing else. HEAD is answered as GET (RFC 9110, 9.3.2), which
    Django's leaves alone; and a method that an address without DRF does not take is a problem too."""

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        if not response.has_header("Last-Modified"):  # then the RFC has it ignored, and Django answers 412
            request.META.pop("HTTP_IF_UNMODIFIED_SINCE", None)
        answer = super().process_response(request, response)
        if request.method == "HEAD" and isinstance(response, HttpResponse):  # a stream has no version of its own
            if self.needs_etag(response) and not response.has_header("ETag"):
                set_response_etag(response)
            answer = get_conditional_response(request, etag=response.headers.get("ETag"), response=response) or response
        if isinstance(answer, HttpResponseNotAllowed):
            answer = method_not_allowed(request, allowed=answer.headers["Allow"])
        if answer.status_code == HTTPStatus.PRECONDITION_FAILED:
            answer = precondition_failed(request)
        return told_again(answer, of=response)
