"""Logins and failed logins are audited, whichever door they come through."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.dispatch import receiver

from access.audit import audit


@receiver(user_logged_in)
def _logged_in(user: User, **kwargs: Any) -> None:
    audit(action="login.success", subject=user, actor=user)


@receiver(user_logged_out)
def _logged_out(user: User | None, **kwargs: Any) -> None:
    if user is not None:
        audit(action="login.end", subject=user, actor=user)


@receiver(user_login_failed)
def _login_failed(credentials: dict[str, Any], **kwargs: Any) -> None:
    """A name that nobody has is not written down: people type their password there."""
    name = str(credentials.get("username") or "")
    audit(action="login.failure", subject=get_user_model().objects.filter(username=name).first())
