"""Who is calling: a token, else a session. Settings name these; DRF reads them while it imports its views, so that no
view may be imported here."""

from __future__ import annotations

import structlog
from django.contrib.auth.models import User
from django.db import OperationalError
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from access.models import Token
from access.services import token_of_secret
from access.throttles import count_bad_token

logger = structlog.get_logger("contimg.access")
SCHEME = "bearer"


class TokenInvalid(AuthenticationFailed):
    default_code = "token_invalid"
    default_detail = "This is not a token of this installation, or its user is not active; ask for a new one."


class TokenExpired(AuthenticationFailed):
    default_code = "token_expired"
    default_detail = "The token has expired; ask for a new one."


class TokenRevoked(AuthenticationFailed):
    default_code = "token_revoked"
    default_detail = "The token was revoked; ask for a new one."


class TokenAuthentication(BaseAuthentication):
    """`Authorization: Bearer contimg_...`. A token that is no good is refused also where none is needed."""

    def authenticate(self, request: Request) -> tuple[User, Token] | None:
        secret = _bearer(request)
        if secret is None:
            return None
        token = token_of_secret(secret)
        refusal = _refusal(token)
        if token is None or refusal is not None:
            count_bad_token(request)
            raise refusal or TokenInvalid()
        _note_use(token)
        return token.user, token

    def authenticate_header(self, request: Request) -> str:
        failed = ', error="invalid_token"' if _bearer(request) is not None else ""
        return f'Bearer realm="contimg"{failed}'


class Session(SessionAuthentication):
    """The login of the admin; writing takes the CSRF token."""


def _bearer(request: Request) -> str | None:
    """What is given as a token. "" also of a header that is not ASCII, which the server hands on as nothing."""
    given = request.headers.get("Authorization")
    scheme, _, secret = (given or "").partition(" ")
    return secret.strip() if given == "" or scheme.lower() == SCHEME else None


def _refusal(token: Token | None) -> AuthenticationFailed | None:
    if token is None or not token.user.is_active:
        return TokenInvalid()
    if token.is_revoked:
        return TokenRevoked()
    return TokenExpired() if token.is_expired else None


def _note_use(token: Token) -> None:
    try:
        token.note_use()
    except OperationalError:  # a locked database; reading does not fail for it
        logger.warning("token_use_not_noted", token=token.prefix)
