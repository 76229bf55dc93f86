from __future__ import annotations

from access.models import AuditEntry, Channel
from contimg.api.filters import BOUNDS, ChoicesFilter, IntegerFilter, ListFilter, TextFilter


class AuditFilter(ListFilter):
    actor = TextFilter(field_name="actor_name", help_text="The name of a user.")
    channel = ChoicesFilter(choices=Channel)
    object_id = IntegerFilter()

    class Meta:
        model = AuditEntry
        fields = {"action": ["exact"], "object_kind": ["exact"], "request_id": ["exact"], "at": BOUNDS}
