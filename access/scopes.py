"""What may be done: four scopes, and who has which. A token has one, a user those that follow from his groups.

read      see what is not public (and everything, where CONTIMG_PUBLIC_READ is off)
operate   create, cancel, retry and pause work; includes read
review    write reviews; includes read
admin     everything
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib.auth.models import AnonymousUser, Permission
from django.db import models
from django.db.models import Q

if TYPE_CHECKING:
    from django.contrib.auth.models import User

    from access.models import Token


class Scope(models.TextChoices):
    READ = "read"
    OPERATE = "operate"
    REVIEW = "review"
    ADMIN = "admin"


INCLUDES = {
    Scope.READ: frozenset({Scope.READ}),
    Scope.OPERATE: frozenset({Scope.READ, Scope.OPERATE}),
    Scope.REVIEW: frozenset({Scope.READ, Scope.REVIEW}),
    Scope.ADMIN: frozenset(Scope),
}
# Permissions on the model Token; migration 0002 gives them to the groups operators, reviewers and administrators.
PERMISSIONS = {"operate": Scope.OPERATE, "review": Scope.REVIEW, "administer": Scope.ADMIN}


def scopes_of(user: User | AnonymousUser) -> frozenset[Scope]:
    """What the user may do now: reading for everybody who is active, the rest from permissions. One query at most."""
    if not user.is_active:  # nobody's AnonymousUser neither
        return frozenset()
    if user.is_superuser:
        return INCLUDES[Scope.ADMIN]
    held = Permission.objects.filter(
        Q(user=user) | Q(group__user=user), content_type__app_label="access", codename__in=PERMISSIONS
    )
    codenames = set(held.values_list("codename", flat=True))
    return INCLUDES[Scope.READ].union(*(INCLUDES[PERMISSIONS[name]] for name in codenames))


def is_allowed(*, user: User | AnonymousUser, token: Token | None, scope: str) -> bool:
    """May this caller do what needs this scope? A token never grants more than its user has now."""
    if token is not None and scope not in INCLUDES[Scope(token.scope)]:
        return False
    if scope == Scope.READ:
        return user.is_active  # no query
    return scope in scopes_of(user)
