"""Who may call, and what was done."""

from __future__ import annotations

from typing import Any, NoReturn

from django.conf import settings
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from access.querysets import USE_IS_NOTED_EVERY, AuditQuerySet, TokenQuerySet, refuse
from access.scopes import Scope

PREFIX_LENGTH = 8


class Token(models.Model):
    """A secret of 256 random bits that stands for its user, within one scope and until it expires or is revoked.

    Only its SHA-256 is stored. That needs no password hasher: nobody can guess 256 bits, and it is looked up on every
    request. A token is never deleted, because the audit log names it.
    """

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="tokens")
    name = models.CharField(max_length=100, blank=True, help_text="What it is for.")
    prefix = models.CharField(max_length=PREFIX_LENGTH, unique=True, help_text="To recognize it by; not secret.")
    digest = models.CharField(max_length=64, unique=True, help_text="SHA-256 of the whole token.")
    scope = models.CharField(max_length=10, choices=Scope.choices)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True, help_text="To the hour.")

    objects = TokenQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at", "-id"]
        permissions = [
            ("operate", "Scope operate: create, cancel, retry and pause work"),
            ("review", "Scope review: write reviews"),
            ("administer", "Scope admin: everything"),
        ]
        constraints = [
            models.CheckConstraint(condition=Q(scope__in=Scope.values), name="token_known_scope"),
            models.CheckConstraint(condition=Q(expires_at__gt=F("created_at")), name="token_expires_after_creation"),
        ]

    def __str__(self) -> str:
        return f"{self.prefix} ({self.name})" if self.name else self.prefix

    @property
    def is_expired(self) -> bool:
        return self.expires_at <= timezone.now()

    @property
    def is_revoked(self) -> bool:
        return self.revoked_at is not None

    def note_use(self) -> None:
        """Write the time of use, at most once an hour: not a write for every read."""
        now = timezone.now()
        if self.last_used_at is None or self.last_used_at < now - USE_IS_NOTED_EVERY:
            Token.objects.filter(pk=self.pk).not_noted_lately(now).update(last_used_at=now)


class Channel(models.TextChoices):
    API = "api"
    ADMIN = "admin"
    COMMAND = "command"


class AuditEntry(models.Model):
    """One change: who, what, when, from which request. Only ever added.

    Saving an existing entry or deleting one is refused here, in the queryset, and by triggers of the database
    (`access/append_only.py`), which also stop raw SQL. Users and tokens that are named here cannot be deleted; they are
    deactivated or revoked.
    """

    at = models.DateTimeField(default=timezone.now, editable=False)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="audit_entries"
    )
    actor_name = models.CharField(
        max_length=150, blank=True, help_text="The user's name then; for a command, of the user of the machine."
    )
    token = models.ForeignKey(Token, null=True, on_delete=models.PROTECT, related_name="audit_entries")
    channel = models.CharField(max_length=10, choices=Channel.choices)
    action = models.CharField(max_length=60, help_text="`object.verb`, as in `batch.cancel`.")
    object_kind = models.CharField(max_length=60, blank=True)
    object_id = models.BigIntegerField(null=True)
    details = models.JSONField(default=dict, encoder=DjangoJSONEncoder)
    request_id = models.CharField(max_length=128, blank=True)
    address = models.GenericIPAddressField(null=True)

    objects = AuditQuerySet.as_manager()

    class Meta:
        ordering = ["-at", "-id"]
        verbose_name_plural = "audit entries"
        indexes = [
            models.Index(fields=["at", "id"], name="audit_at"),
            models.Index(fields=["object_kind", "object_id", "at", "id"], name="audit_object"),
            models.Index(fields=["actor_name", "at", "id"], name="audit_actor"),
        ]

    def __str__(self) -> str:
        return f"{self.action} by {self.actor_name or 'nobody'}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            refuse()
        super().save(*args, **{**kwargs, "force_insert": True})

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        refuse()
