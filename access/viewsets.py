from __future__ import annotations

from access.filters import AuditFilter
from access.models import AuditEntry
from access.scopes import Scope
from access.serializers import AuditSerializer
from contimg.api.viewsets import ReadOnlyResource


class AuditViewSet(ReadOnlyResource):
    """Every change: who, what, when, from which request."""

    queryset = AuditEntry.objects.for_listing()
    detail_queryset = AuditEntry.objects.for_listing()
    serializer_class = AuditSerializer
    detail_serializer_class = AuditSerializer
    filterset_class = AuditFilter
    orderings = ["at", "id"]
    ordering = "-at"
    required_scopes = {"list": Scope.ADMIN, "retrieve": Scope.ADMIN}
