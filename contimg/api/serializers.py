"""Fields and pieces that the serializers of several apps share. Shapes only, no queries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from datetime import datetime
from typing import Any

from rest_framework import serializers

from contimg.api.text import refuse_control_characters, unknown_names
from contimg.mjd import mjd


class FactsSerializer(serializers.ModelSerializer):
    """A model's fields, none of them writable; all of them are therefore required in the schema of the answer."""

    def include_extra_kwargs(
        self, kwargs: MutableMapping[str, Any], extra_kwargs: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        return super().include_extra_kwargs(kwargs, {**extra_kwargs, "read_only": True})


class StrictSerializer(serializers.Serializer):
    """What is asked for. A key that it does not know is refused: it may be a known one misspelt.

    So is a value of another JSON type: DRF takes "yes" for true, "1" for 1 and true for 1.0. And so is a list that is
    too long, before anything is said of each of its elements.
    """

    default_error_messages = {"invalid": "Give a JSON object, as {{...}}.", "null": "Give a JSON object, not null."}

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            self._refuse_unknown(data)
            wrong = {name: [what] for name, field in self.fields.items() if (what := _mistaken(field, data.get(name)))}
            if wrong:
                raise serializers.ValidationError(wrong, code="invalid")
        return super().to_internal_value(data)

    def _refuse_unknown(self, data: Mapping[str, Any]) -> None:
        if unknown := data.keys() - self.fields.keys():
            named = unknown_names(map(str, unknown), kind="key", valid=self.fields)
            raise serializers.ValidationError(named, code="unknown_parameter")


class TextField(serializers.CharField):
    """Text of a request. DRF takes 1 for "1", and control characters for blanks."""

    def run_validation(self, data: Any = serializers.empty) -> Any:
        if isinstance(data, str):
            refuse_control_characters(data)
        elif data is not serializers.empty and data is not None:
            self.fail("invalid")
        return super().run_validation(data)


class WordField(TextField):
    """One of `choices` to the schema. What another word means the service says, which commands call too."""

    def __init__(self, choices: Iterable[Any], **kwargs: Any) -> None:
        self.choices = list(choices)
        super().__init__(**kwargs)


def _mistaken(field: serializers.Field, value: Any) -> str:
    """What to give instead of a value of another type; empty for the right one, and for what the field itself sees."""
    if isinstance(field, serializers.BooleanField):
        return "" if value is None or isinstance(value, bool) else "Say true or false, without quotes."
    if isinstance(field, serializers.ListField) and isinstance(value, list):
        most: int | None = getattr(field, "max_length", None)
        return f"There are {len(value)}; give {most} at most." if most is not None and len(value) > most else ""
    is_number = isinstance(field, serializers.IntegerField | serializers.FloatField)
    return "Give a number, without quotes." if is_number and isinstance(value, str | bool) else ""


class MjdField(serializers.FloatField):
    """A datetime as modified Julian date, for rows that do not store one."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(read_only=True, **kwargs)

    def to_representation(self, value: datetime) -> float:  # type: ignore[override]
        return mjd(value)


class SeparationField(serializers.FloatField):
    """`separation_deg` of a cone search; null in other lists."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            read_only=True, allow_null=True, help_text="From the centre of the cone; null without one.", **kwargs
        )


class FindingSerializer(serializers.Serializer):
    rule = serializers.CharField()
    metric = serializers.CharField()
    value = serializers.FloatField(allow_null=True)
    limit = serializers.FloatField()
    comparison = serializers.CharField()
    outcome = serializers.CharField()
    grade = serializers.CharField()
    reason = serializers.CharField()


class PolicyReferenceSerializer(serializers.Serializer):
    name = serializers.CharField()
    version = serializers.IntegerField()


class VerdictSerializer(serializers.Serializer):
    """The current assessment inside its subject's detail (`current_assessments`, a list of one or none)."""

    id = serializers.IntegerField()
    policy = PolicyReferenceSerializer()
    grade = serializers.CharField()
    created_at = serializers.DateTimeField()
    findings = FindingSerializer(many=True)

    def get_attribute(self, instance: Any) -> Any:
        return next(iter(instance.current_assessments), None)


class ReviewReferenceSerializer(serializers.Serializer):
    """A current review inside its subject's detail (`current_reviews`)."""

    id = serializers.IntegerField()
    reviewer = serializers.CharField(source="reviewer.username")
    verdict = serializers.CharField()
    tags = serializers.ListField(child=serializers.CharField())
    comment = serializers.CharField()
    created_at = serializers.DateTimeField()
