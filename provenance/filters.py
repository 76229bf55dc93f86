from __future__ import annotations

from contimg.api.filters import BOUNDS, NULLABLE_BOUNDS, ListFilter
from provenance.models import NODE_COLUMNS, Quarantine


class QuarantineFilter(ListFilter):
    class Meta:
        model = Quarantine
        fields = {**{column: ["exact"] for column in NODE_COLUMNS}, "created_at": BOUNDS, "lifted_at": NULLABLE_BOUNDS}
