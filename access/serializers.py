from __future__ import annotations

from rest_framework import serializers

from access.models import AuditEntry
from contimg.api.serializers import FactsSerializer


class AuditObjectSerializer(serializers.Serializer):
    kind = serializers.CharField(source="object_kind")
    id = serializers.IntegerField(source="object_id", allow_null=True)


class AuditSerializer(FactsSerializer):
    actor = serializers.CharField(source="actor_name", help_text="A user; for a command, the user of the machine.")
    token = serializers.CharField(source="token.prefix", default=None, allow_null=True, help_text="Its prefix.")
    object = AuditObjectSerializer(source="*")
    details = serializers.DictField()

    class Meta:
        model = AuditEntry
        fields = ["id", "at", "actor", "token", "channel", "action", "object", "details", "request_id", "address"]
