from __future__ import annotations

from typing import Any

from rest_framework import serializers

from contimg.api.parameters import ChoiceParameter
from contimg.api.serializers import FactsSerializer, StrictSerializer, TextField
from contimg.models import Grade
from provenance.models import NODE_COLUMNS, Quarantine
from provenance.reach import NAMES


class NodeReferenceSerializer(serializers.Serializer):
    kind = serializers.ChoiceField(NAMES)
    id = serializers.IntegerField()


class NodeSerializer(NodeReferenceSerializer):
    """A product; null is what its kind does not have."""

    name = serializers.CharField()
    grade = serializers.ChoiceField(Grade.choices, allow_null=True)
    is_suspect = serializers.BooleanField(allow_null=True)
    item = serializers.IntegerField(allow_null=True, help_text="That made it; null for what no batch made.")
    attempt = serializers.IntegerField(allow_null=True)
    recipe = serializers.CharField(allow_null=True)
    checksum = serializers.CharField(allow_null=True)
    parameters = serializers.JSONField(allow_null=True)
    versions = serializers.JSONField(allow_null=True)
    created_at = serializers.DateTimeField(allow_null=True)


class EdgeSerializer(serializers.Serializer):
    """From what was made to what it was made from."""

    relation = serializers.ChoiceField(["derived_from", "calibrated_with", "coadded_from", "measured_on"])

    def get_fields(self) -> dict[str, Any]:
        return {"from": NodeReferenceSerializer(), "to": NodeReferenceSerializer(), **super().get_fields()}


class GraphSerializer(serializers.Serializer):
    nodes = NodeSerializer(many=True)
    edges = EdgeSerializer(many=True)
    left_out = serializers.DictField(
        child=serializers.IntegerField(), help_text="By kind, how many more there are than are shown."
    )


class ImpactSerializer(serializers.Serializer):
    counts = serializers.DictField(child=serializers.IntegerField(), help_text="Products reached, by kind.")
    products = serializers.DictField(
        child=serializers.ListField(child=serializers.IntegerField()), help_text="Ids of the first thousand of each."
    )
    n_measurements = serializers.IntegerField(help_text="Fluxes measured in them: points of light curves.")
    n_lenient = serializers.IntegerField(help_text="Images made with what failed its gate.")
    n_suspect = serializers.IntegerField(help_text="Images that are suspect now.")
    observed_from = serializers.DateTimeField(allow_null=True)
    observed_until = serializers.DateTimeField(allow_null=True)
    verdicts = serializers.DictField(child=serializers.IntegerField(), help_text="Current verdicts on them, by grade.")
    epochs = serializers.ListField(child=serializers.CharField(), help_text="Whose mosaics they are in.")


class ImpactAskedSerializer(serializers.Serializer):
    antenna = TextField(required=False, max_length=20, help_text="Its name.")
    observed_from = serializers.DateTimeField(required=False, help_text="Inclusive.")
    observed_until = serializers.DateTimeField(required=False, help_text="Exclusive.")
    software = TextField(required=False, max_length=100, help_text="As in `versions`, such as ducc0.")
    version = TextField(required=False, max_length=100)


class QuarantinedSerializer(serializers.Serializer):
    kind = serializers.ChoiceField(NODE_COLUMNS, source="node_kind")
    id = serializers.IntegerField(source="node.pk")
    name = serializers.CharField(source="node")


class QuarantineSerializer(FactsSerializer):
    product = QuarantinedSerializer(source="*")
    created_by = serializers.CharField(source="created_by.username", default=None, allow_null=True)
    lifted_by = serializers.CharField(source="lifted_by.username", default=None, allow_null=True)

    class Meta:
        model = Quarantine
        fields = ["id", "product", "reason", "created_by", "created_at", "lifted_by", "lifted_at"]


class NewQuarantineSerializer(StrictSerializer):
    kind = ChoiceParameter(NODE_COLUMNS)
    id = serializers.IntegerField(min_value=1, max_value=2**63 - 1)
    reason = TextField(max_length=300)
