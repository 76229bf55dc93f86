from __future__ import annotations

from django.contrib import admin

from contimg.admin import FactsAdmin
from provenance.models import NODE_COLUMNS, Quarantine


@admin.register(Quarantine)
class QuarantineAdmin(FactsAdmin):
    list_display = ["id", "node", "reason", "created_by", "created_at", "lifted_at"]
    list_filter = ["created_at", "lifted_at"]
    list_select_related = [*NODE_COLUMNS, "created_by"]
    search_fields = ["reason"]
