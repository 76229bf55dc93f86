"""Tokens: made, found and revoked. Each change is in the audit log, in the same transaction."""

from __future__ import annotations

import hashlib
import re
import secrets
from datetime import timedelta

from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from access.audit import audit
from access.models import PREFIX_LENGTH, Token
from access.scopes import Scope, scopes_of
from contimg.exceptions import ContimgError, InvalidInput

DEFAULT_DAYS, MAX_DAYS = 365, 3650
SECRET_BYTES = 32
# `contimg_` lets people and scanners of leaked secrets recognize one.
_SHAPE = re.compile(rf"contimg_[a-z]{{{PREFIX_LENGTH}}}_[A-Za-z0-9_-]{{43}}", re.ASCII)
_LETTERS = "abcdefghijkmnpqrstuvwxyz"  # without a digit, so that a prefix is never taken for an id


class UnknownUser(ContimgError):
    code = "unknown_user"
    status = 404


class UnknownToken(ContimgError):
    code = "unknown_token"
    status = 404


class ScopeNotHeld(ContimgError):
    """A token was asked for that would grant more than its user has."""

    code = "scope_not_held"
    status = 403


@transaction.atomic
def create_token(*, user: User, scope: str, days: int = DEFAULT_DAYS, name: str = "") -> tuple[Token, str]:
    """The row, and the token itself, which is shown to its user now and is not stored."""
    check_grantable(user=user, scope=scope)
    if not 1 <= days <= MAX_DAYS:
        raise InvalidInput(f"A token is valid for 1 to {MAX_DAYS} days, not for {days}.")
    if len(name) > (longest := Token._meta.get_field("name").max_length or 0):
        raise InvalidInput(f"The name of a token has at most {longest} characters.")
    prefix = "".join(secrets.choice(_LETTERS) for _ in range(PREFIX_LENGTH))
    secret = f"contimg_{prefix}_{secrets.token_urlsafe(SECRET_BYTES)}"
    token = Token.objects.create(
        user=user,
        name=name,
        prefix=prefix,
        digest=digest_of(secret),
        scope=scope,
        expires_at=timezone.now() + timedelta(days=days),
    )
    audit(
        action="token.create",
        subject=token,
        details={"user": user.get_username(), "scope": scope, "prefix": prefix, "expires_at": token.expires_at},
    )
    return token, secret


def check_grantable(*, user: User, scope: str) -> None:
    """Raises InvalidInput for what is no scope, ScopeNotHeld where the user does not have it himself."""
    if scope not in Scope.values:
        raise InvalidInput(f"{scope!r} is not a scope; choose one of {', '.join(Scope.values)}.")
    name, held = user.get_username(), scopes_of(user)
    if not user.is_active:
        raise ScopeNotHeld(f"The user {name} is not active and can have no token; activate the account first.")
    if scope not in held:
        raise ScopeNotHeld(
            f"The user {name} does not have the scope {scope} (only {', '.join(sorted(held))}); "
            "add the user to a group that has it."
        )


@transaction.atomic
def revoke_token(*, token: Token) -> bool:
    """Was it still valid? Revoking twice changes nothing."""
    moved = Token.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=timezone.now())
    if moved:
        audit(action="token.revoke", subject=token, details={"user": token.user.get_username(), "prefix": token.prefix})
    return bool(moved)


def find_user(*, name: str) -> User:
    user = get_user_model().objects.filter(username=name).first()
    if user is None:
        raise UnknownUser(f"There is no user {name!r}; make one with `manage.py createsuperuser` or in the admin.")
    return user


def find_token(*, text: str) -> Token:
    """By its prefix or its id, as `token list` shows them."""
    by = {"pk": int(text)} if text.isascii() and text.isdigit() and len(text) < 19 else {"prefix": text}
    token = Token.objects.with_user().filter(**by).first()
    if token is None:
        shown = text if len(text) <= PREFIX_LENGTH else "what was given"  # it may be a whole token: say it nowhere
        raise UnknownToken(f"There is no token {shown}; give the prefix or the id that `manage.py token list` shows.")
    return token


def token_of_secret(secret: str) -> Token | None:
    """One indexed look-up by the digest: its time tells nothing of the secret."""
    if not _SHAPE.fullmatch(secret):
        return None
    return Token.objects.with_user().filter(digest=digest_of(secret)).first()


def digest_of(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
