"""Django's own middleware, where its answers are none of ours."""

from __future__ import annotations

from http import HTTPStatus

from django.http import HttpRequest, HttpResponsePermanentRedirect
from django.http.response import HttpResponseBase
from django.middleware.common import CommonMiddleware
from django.middleware.http import ConditionalGetMiddleware
from django.utils.http import escape_leading_slashes

from contimg.api.deprecation import told_again
from contimg.api.errors import precondition_failed


class ToTheSlash(HttpResponsePermanentRedirect):
    """Followed with the same method and body: after a 301 a POST becomes a GET, whose answer looks like success."""

    status_code = HTTPStatus.PERMANENT_REDIRECT


class SlashMiddleware(CommonMiddleware):
    response_redirect_class = ToTheSlash

    def get_full_path_with_slash(self, request: HttpRequest) -> str:
        """Without Django's error in debug, which is about the 301."""
        return escape_leading_slashes(request.get_full_path(force_append_slash=True))


class ConditionalMiddleware(ConditionalGetMiddleware):
    """A 412 in the shape of every error, where Django's is empty; and both it and a 304 say what is deprecated as the
    whole answer does, since clients that send ETags see nothing else."""

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        if not response.has_header("Last-Modified"):  # then the RFC has it ignored, and Django answers 412
            request.META.pop("HTTP_IF_UNMODIFIED_SINCE", None)
        answer = super().process_response(request, response)
        if answer.status_code == HTTPStatus.PRECONDITION_FAILED:
            answer = precondition_failed(request)
        return told_again(answer, of=response)
