"""What an action takes behind the `?`, read as strictly as the filters of a list are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request

from contimg.api.filters import NUMBER, refuse_unknown

_WHOLE = re.compile(r"[-+]?[0-9]+")


class NumberParameter(serializers.FloatField):
    """As lists read it: neither NaN nor infinite, nor 1_000. `above` and `below` do not belong to the range."""

    default_error_messages = {"invalid": "Give a number such as 1000, -0.5 or 1e-3."}

    def __init__(self, *, above: float | None = None, below: float | None = None, **kwargs: Any) -> None:
        self.above, self.below = above, below
        super().__init__(**kwargs)

    def to_internal_value(self, data: Any) -> float:
        if not NUMBER.fullmatch(str(data).strip()):
            self.fail("invalid")
        value = super().to_internal_value(data)
        if self.above is not None and value <= self.above:
            raise ValidationError(f"Ensure this value is greater than {self.above:g}.", code="min_value")
        if self.below is not None and value >= self.below:
            raise ValidationError(f"Ensure this value is less than {self.below:g}.", code="max_value")
        return value


class WholeNumberParameter(serializers.IntegerField):
    default_error_messages = {"invalid": "Give a whole number such as 100."}

    def to_internal_value(self, data: Any) -> int:
        if not _WHOLE.fullmatch(str(data).strip()):
            self.fail("invalid")
        return super().to_internal_value(data)


class ChoiceParameter(serializers.ChoiceField):
    """Whose refusal names what there is."""

    def __init__(self, choices: Any, **kwargs: Any) -> None:
        super().__init__(choices, **kwargs)
        self.error_messages["invalid_choice"] = f"{{input}} is not one of {', '.join(self.choices)}."


class PointSerializer(serializers.Serializer):
    ra_deg = NumberParameter(min_value=0, below=360, help_text="ICRS [0, 360).")
    dec_deg = NumberParameter(min_value=-90, max_value=90, help_text="ICRS [-90, 90].")


def parameters_of(
    request: Request, serializer: type[serializers.Serializer[Any]], besides: Iterable[str] = ()
) -> Mapping[str, Any]:
    """Without those `besides`, which others read, as a paginator does.

    Raises ValidationError, which names every one that is unknown, repeated, empty, missing or out of its range.
    """
    names = list(serializer().fields)
    refuse_unknown(request, ["format", *names, *besides])
    given = {name: request.query_params[name] for name in names if name in request.query_params}
    if empty := [name for name, value in given.items() if not value.strip()]:
        message = "There is nothing behind the sign =; leave the parameter out, or give it a value."
        raise ValidationError(dict.fromkeys(empty, message), code="empty_parameter")
    asked = serializer(data=given)
    asked.is_valid(raise_exception=True)
    return asked.validated_data
