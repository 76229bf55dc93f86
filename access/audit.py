"""The audit log's one writer: every service that changes something calls `audit`."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from typing import Any

from django.contrib.auth.models import User
from django.db import models
from django.http import HttpRequest
from django.urls import reverse
from structlog.contextvars import get_contextvars

from access.models import AuditEntry, Channel, Token
from access.querysets import kind_of
from contimg.addresses import client_address
from contimg.observability import current_request


def audit(
    *,
    action: str,
    subject: models.Model | None = None,
    details: Mapping[str, Any] | None = None,
    actor: User | None = None,
) -> AuditEntry:
    """Write one entry, in the caller's transaction: what is rolled back was not done, and is not in the log.

    `action` is `object.verb` (`batch.cancel`), `subject` the row it was done to, `details` what was asked for or
    changed, as JSON and without secrets. Who did it is the user and token of the current request, so that a service
    does not have to ask; a command is written with the name of the machine's user. Give `actor` where it is somebody
    else (a login). The request's id is that of the logs, also where a worker has bound one.

        audit(action="batch.cancel", subject=batch, details={"items": n_cancelled})
    """
    request = current_request.get()
    user = actor or _user_of(request)
    return AuditEntry.objects.create(
        action=action,
        actor=user,
        actor_name=user.get_username() if user else ("" if request else machine_user()),
        token=_token_of(request),
        object_kind=kind_of(subject) if subject else "",
        object_id=subject.pk if subject else None,
        details=dict(details or {}),
        request_id=get_contextvars().get("request_id", ""),
        channel=_channel_of(request),
        address=_address_of(request),
    )


def _user_of(request: HttpRequest | None) -> User | None:
    user: Any = getattr(request, "user", None)
    return user if user is not None and user.is_authenticated else None


def _token_of(request: HttpRequest | None) -> Token | None:
    auth = getattr(request, "auth", None)  # set by DRF on Django's request as well as on its own
    return auth if isinstance(auth, Token) else None


def _channel_of(request: HttpRequest | None) -> Channel:
    if request is None:
        return Channel.COMMAND
    return Channel.ADMIN if request.path.startswith(reverse("admin:index")) else Channel.API


def _address_of(request: HttpRequest | None) -> str | None:
    address = client_address(request) if request else None
    return str(address) if address else None


def machine_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return ""
