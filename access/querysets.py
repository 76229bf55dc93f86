"""Every way tokens and the audit log are read; the log refuses to be written any other way than by a new row."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, NoReturn, Self

from django.db import models
from django.db.models import Q
from django.utils import timezone

from contimg.exceptions import ContimgError

USE_IS_NOTED_EVERY = timedelta(hours=1)


class AppendOnly(ContimgError):
    """The audit log takes new entries only."""

    code = "append_only"
    status = 409


class TokenQuerySet(models.QuerySet):
    def with_user(self) -> Self:
        return self.select_related("user")

    def usable(self) -> Self:
        return self.filter(revoked_at=None, expires_at__gt=timezone.now(), user__is_active=True)

    def not_noted_lately(self, now: datetime) -> Self:
        """Tokens whose last use was written more than an hour ago, or never."""
        return self.filter(Q(last_used_at=None) | Q(last_used_at__lt=now - USE_IS_NOTED_EVERY))


class AuditQuerySet(models.QuerySet):
    def for_listing(self) -> Self:
        return self.select_related("token")

    def of(self, subject: models.Model) -> Self:
        return self.filter(object_kind=kind_of(subject), object_id=subject.pk)

    def update(self, **kwargs: Any) -> NoReturn:
        refuse()

    def delete(self) -> NoReturn:
        refuse()

    def _raw_delete(self, using: str | None) -> NoReturn:
        refuse()


def kind_of(row: models.Model) -> str:
    """`calibration_table`, as the API names kinds of subjects."""
    return str(row._meta.verbose_name).replace(" ", "_")


def refuse() -> NoReturn:
    raise AppendOnly("The audit log cannot be changed: its entries are neither edited nor deleted; write a new one.")
