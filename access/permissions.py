"""Who may do what over HTTP: the one permission class of every view.

A view says which scope each action needs, in one place. What it does not name needs `read` when it only reads and
`admin` when it writes, so that a forgotten one is closed:

    class BatchViewSet(ReadOnlyResource):
        required_scopes = {"create": "operate", "cancel": "operate"}     # by action

    class ReloadView(APIView):
        required_scopes = {"post": "admin"}                              # by method, where there are no actions

`read` is given to everybody while CONTIMG_PUBLIC_READ is on. Settings name this class, and DRF reads them while it
imports its views: import no views here.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from rest_framework.exceptions import PermissionDenied
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from access.models import Token
from access.scopes import Scope, is_allowed


class InsufficientScope(PermissionDenied):
    """Known, and may not do this. The header is that of RFC 6750."""

    default_code = "insufficient_scope"

    def __init__(self, *, needed: str, token: Token | None) -> None:
        if token is None:
            who = "you do not have it; ask an administrator to put you into a group that has"
        else:
            who = f"the token has {token.scope}, and never more than its user; use one that has it"
        super().__init__(f"This needs the scope {needed}: {who}.")
        self.headers = {"WWW-Authenticate": f'Bearer realm="contimg", error="insufficient_scope", scope="{needed}"'}


class HasScope(BasePermission):
    def has_permission(self, request: Request, view: Any) -> bool:
        if request.method not in view.allowed_methods:
            return True  # nobody may: that is a 405, not a 401
        needed = required_scope(view, str(request.method))
        if needed == Scope.READ and settings.CONTIMG_PUBLIC_READ:
            return True
        token = request.auth if isinstance(request.auth, Token) else None
        if is_allowed(user=request.user, token=token, scope=needed):
            return True
        view.check_throttles(request)  # DRF counts only what is permitted, after this
        if request.user.is_authenticated:
            raise InsufficientScope(needed=needed, token=token)
        return False  # DRF's 401


def required_scope(view: Any, method: str) -> str:
    """The scope that this method of the view needs."""
    declared = getattr(view, "required_scopes", {})
    action = (getattr(view, "action_map", None) or {}).get(method.lower(), method.lower())
    return declared.get(action, Scope.READ if method in SAFE_METHODS else Scope.ADMIN)
