"""Filters named as the field. A parameter that the list does not know, or a value that it cannot read, is refused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

import django_filters
from django import forms
from django.db import models
from django.db.models import QuerySet
from django_filters import BaseInFilter, ChoiceFilter
from django_filters.fields import BaseCSVField
from django_filters.rest_framework import BooleanFilter, DjangoFilterBackend, FilterSet, IsoDateTimeFilter
from rest_framework.exceptions import ValidationError
from rest_framework.filters import BaseFilterBackend
from rest_framework.renderers import BrowsableAPIRenderer
from rest_framework.request import Request
from rest_framework.views import APIView

from contimg.api import pagination
from contimg.api.deprecation import Deprecation
from contimg.api.text import MOST_FILTER_CHARACTERS, MOST_NAMED, refuse_control_characters, unknown_names
from contimg.sky import MAX_RADIUS_DEG, PositionQuerySet

# For times, and for `dec_deg` where the name alone is the centre of a cone.
BOUNDS = ["lt", "lte", "gt", "gte"]
NULLABLE_BOUNDS = [*BOUNDS, "isnull"]
RANGE = ["exact", *BOUNDS]
NULLABLE_RANGE = [*RANGE, "isnull"]


class StrictBooleanField(forms.Field):
    """django-filter's own reads an unknown word as "no filter"."""

    widget = forms.Select(choices=[("", "---------"), ("true", "true"), ("false", "false")])

    def to_python(self, value: Any) -> bool | None:
        if value in self.empty_values:
            return None
        if str(value).lower() not in ("true", "false"):
            raise forms.ValidationError("Say true or false.", code="invalid")
        return str(value).lower() == "true"


class StrictBooleanFilter(BooleanFilter):
    field_class = StrictBooleanField

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"widget": StrictBooleanField.widget, **kwargs})


NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_WHOLE = re.compile(r"[-+]?[0-9]+(\.0*)?")


class _AsWritten:
    """Python reads 1_000 and digits of other scripts as numbers, which elsewhere are a slip of the keyboard."""

    form, sentence = NUMBER, "Give a number such as 1000, -0.5 or 1e-3."

    def to_python(self, value: Any) -> Any:
        if value and not self.form.fullmatch(str(value).strip()):
            raise forms.ValidationError(self.sentence, code="invalid")
        return super().to_python(value)  # type: ignore[misc]


MOST = 1e50


class NumberField(_AsWritten, forms.DecimalField):
    """`above` and `below` do not belong to the range."""

    def __init__(self, *, above: float | None = None, below: float | None = None, **kwargs: Any) -> None:
        self.above, self.below = above, below
        super().__init__(**kwargs)

    def validate(self, value: Any) -> None:
        super().validate(value)
        if value is not None and self.above is not None and value <= self.above:
            raise forms.ValidationError(f"Ensure this value is greater than {self.above:g}.", code="min_value")
        if value is not None and self.below is not None and value >= self.below:
            raise forms.ValidationError(f"Ensure this value is less than {self.below:g}.", code="max_value")


class IntegerField(_AsWritten, forms.IntegerField):
    form, sentence = _WHOLE, "Give a whole number such as 100."


class NumberFilter(django_filters.NumberFilter):
    """Beyond 1e308 a float is infinite; nothing that is measured comes near."""

    field_class: type[forms.Field] = NumberField

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"min_value": -MOST, "max_value": MOST, **kwargs})

    def get_max_validator(self) -> None:
        return None  # theirs knows one side only


class IntegerFilter(NumberFilter):
    """Only integers that a database has: SQLite fails on larger ones compared with a foreign key."""

    field_class = IntegerField

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"min_value": -(2**63), "max_value": 2**63 - 1, **kwargs})


class TextField(forms.CharField):
    def to_python(self, value: Any) -> str | None:
        refuse_control_characters(str(value or ""))  # some of which are stripped as blanks
        if "\ufffd" in str(value):  # what Django makes of bytes that are no text
            raise forms.ValidationError("This is not percent-encoded UTF-8.", code="not_utf_8")
        return super().to_python(value)


class TextFilter(django_filters.CharFilter):
    field_class = TextField

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"max_length": MOST_FILTER_CHARACTERS, **kwargs})


class UtcTimeField(IsoDateTimeFilter.field_class):
    default_error_messages = {
        "invalid": "Give a time such as 2026-03-20T08:30:00Z or a day such as 2026-03-20; percent-encode a plus sign."
    }

    def clean(self, value: Any) -> datetime | None:
        time = super().clean(value)
        try:
            return time and time.astimezone(UTC)
        except OverflowError as error:  # year 1 or 9999 moved out of the calendar by its offset
            raise forms.ValidationError("In UTC this is outside of the calendar.", code="outside_calendar") from error


class TimeFilter(IsoDateTimeFilter):
    field_class = UtcTimeField


class _ChoicesField(BaseCSVField):
    def clean(self, value: list[str] | None) -> list[str] | None:
        if value and "" in value:
            raise forms.ValidationError("There is nothing between two commas.", code="invalid_choice")
        return super().clean(value)


class ChoicesFilter(BaseInFilter, ChoiceFilter):
    """One choice or several separated by commas."""

    base_field_class = _ChoicesField

    def __init__(self, *, choices: type[models.TextChoices], **kwargs: Any) -> None:
        messages = {"invalid_choice": f"%(value)s is not one of {', '.join(choices.values)}."}
        super().__init__(choices=choices.choices, null_label=None, error_messages=messages, **kwargs)


class ListFilter(FilterSet):
    """The base of every list's filters.

    Only the filters that are asked for are made: the 60 of images, with their form, took 6 ms of each request.
    """

    together: ClassVar[Sequence[frozenset[str]]] = ()  # names that mean something only together
    deprecated: ClassVar[Mapping[str, Deprecation]] = {}  # by name

    FILTER_DEFAULTS = {
        **FilterSet.FILTER_DEFAULTS,
        models.BooleanField: {"filter_class": StrictBooleanFilter},
        models.CharField: {"filter_class": TextFilter},
        models.DateTimeField: {"filter_class": TimeFilter},
        models.FloatField: {"filter_class": NumberFilter},
        models.ForeignKey: {"filter_class": IntegerFilter},  # no query for the choices
        models.PositiveIntegerField: {"filter_class": IntegerFilter},
        models.PositiveSmallIntegerField: {"filter_class": IntegerFilter},
        models.SmallIntegerField: {"filter_class": IntegerFilter},
    }

    def __init__(
        self, data: Any = None, queryset: Any = None, *, request: Any = None, prefix: str | None = None
    ) -> None:
        is_form_shown = isinstance(getattr(request, "accepted_renderer", None), BrowsableAPIRenderer)
        if data is not None and not is_form_shown:
            self.base_filters = self._asked_for(set(data))
        super().__init__(data, queryset, request=request, prefix=prefix)

    def _asked_for(self, names: set[str]) -> dict[str, django_filters.Filter]:
        names = names.union(*(group for group in self.together if group & names))
        return {name: filter_ for name, filter_ in self.base_filters.items() if name in names}

    @classmethod
    def filter_for_lookup(cls, field: models.Field[Any, Any], lookup_type: str) -> Any:
        if lookup_type == "isnull":
            return StrictBooleanFilter, {}
        if isinstance(field, models.GeneratedField):
            field = field.output_field or field
        return super().filter_for_lookup(field, lookup_type)


class PartFilter(NumberFilter):
    """One of several numbers that mean something only together."""

    def filter(self, qs: QuerySet[Any], value: Any) -> QuerySet[Any]:
        return qs


CONE = ("ra_deg", "dec_deg", "radius_deg")
POINT = ("covers_ra_deg", "covers_dec_deg")


class ConeForm(forms.Form):
    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        cone = {name: cleaned.get(name) for name in CONE}
        given = [name for name, value in cone.items() if value is not None]
        if given and len(given) < 3:
            for name in [name for name in CONE if name not in given and name not in self.errors]:
                self.add_error(name, forms.ValidationError(_ALL_OF_CONE, code="incomplete_cone"))
        return cleaned


_ALL_OF_CONE = "A cone search takes ra_deg, dec_deg and radius_deg together."


class ConeFilter(ListFilter):
    """For resources with a position: nearest first, true great-circle distance."""

    together: ClassVar[Sequence[frozenset[str]]] = (frozenset(CONE),)

    ra_deg = PartFilter(min_value=0, below=360, help_text="ICRS [0, 360), centre of the cone.")
    dec_deg = PartFilter(min_value=-90, max_value=90, help_text="ICRS [-90, 90], centre of the cone.")
    radius_deg = PartFilter(above=0, max_value=MAX_RADIUS_DEG, help_text="(0, 10], radius of the cone.")

    def get_form_class(self) -> type[forms.Form]:
        return type("ConeFilterForm", (ConeForm, super().get_form_class()), {})

    def filter_queryset(self, queryset: PositionQuerySet) -> QuerySet[Any]:
        values = self.form.cleaned_data
        if values.get("radius_deg") is not None:
            queryset = queryset.within_cone(
                ra_deg=float(values["ra_deg"]),
                dec_deg=float(values["dec_deg"]),
                radius_deg=float(values["radius_deg"]),
            )
        return super().filter_queryset(queryset)


class PointForm(forms.Form):
    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        missing = [name for name in POINT if cleaned.get(name) is None]
        if len(missing) == 1 and not self.errors.keys() & set(POINT):
            message = "A point takes covers_ra_deg and covers_dec_deg together."
            self.add_error(missing[0], forms.ValidationError(message, code="incomplete_point"))
        return cleaned


class CoversFilter(ConeFilter):
    """For resources with a footprint, whose queryset has `covering`."""

    together = (*ConeFilter.together, frozenset(POINT))

    covers_ra_deg = PartFilter(
        min_value=0,
        below=360,
        help_text="ICRS [0, 360), of a point that the image covers, blank pixels included. Right to a pixel for images"
        " of up to 5 degrees, and of any size in TAN, SIN and STG; wider ones in other projections to a hundredth of"
        " their size. Those that are not bounded by four circles on the sky (all-sky images) cover their"
        " circumscribed circle.",
    )
    covers_dec_deg = PartFilter(min_value=-90, max_value=90, help_text="ICRS [-90, 90], of that point.")

    def get_form_class(self) -> type[forms.Form]:
        return type("CoversFilterForm", (PointForm, super().get_form_class()), {})

    def filter_queryset(self, queryset: Any) -> QuerySet[Any]:
        values = self.form.cleaned_data
        if values.get("covers_ra_deg") is not None:
            point = {"ra_deg": float(values["covers_ra_deg"]), "dec_deg": float(values["covers_dec_deg"])}
            queryset = queryset.covering(**point)
        return super().filter_queryset(queryset)


def refuse_unknown(request: Request, valid: Iterable[str]) -> None:
    """A parameter that means nothing here, or is given twice, of which one would be ignored."""
    unknown = [name for name in request.query_params if name not in valid]
    if unknown:
        named = unknown_names(unknown, kind="parameter", valid=sorted(valid))
        raise ValidationError(named, code="unknown_parameter")
    repeated = [name for name, values in request.query_params.lists() if len(values) > 1]
    if repeated:
        message = "This is given more than once; give it once, and several choices, where it takes them, with commas."
        raise ValidationError(dict.fromkeys(repeated[:MOST_NAMED], message), code="repeated_parameter")


class Filtering(DjangoFilterBackend):
    def filter_queryset(self, request: Request, queryset: QuerySet[Any], view: APIView) -> QuerySet[Any]:
        filters = self.get_filterset_class(view, queryset).base_filters
        refuse_unknown(request, [*filters, "ordering", "format", *pagination.PARAMETERS])
        # The form of the browsable page sends every field, also those that nobody filled in.
        if not isinstance(request.accepted_renderer, BrowsableAPIRenderer):
            if request.query_params.keys().isdisjoint(filters):
                return queryset
            empty = [
                name for name in filters if name in request.query_params and not request.query_params[name].strip()
            ]
            if empty:
                message = "There is nothing behind the sign =; leave the parameter out, or give it a value."
                raise ValidationError(dict.fromkeys(empty, message), code="empty_parameter")
        return super().filter_queryset(request, queryset, view)


class Ordering(BaseFilterBackend):
    """`?ordering=` by one of the view's `orderings`; else by `ordering`, or by distance in a cone."""

    def filter_queryset(self, request: Request, queryset: QuerySet[Any], view: Any) -> QuerySet[Any]:
        is_cone = "separation_deg" in queryset.query.annotations
        valid = [*_both_ways(view.orderings), *(_both_ways(["separation_deg"]) if is_cone else [])]
        wanted = request.query_params.get("ordering", "separation_deg" if is_cone else view.ordering)
        if wanted not in valid:
            raise ValidationError(
                {"ordering": f"This list cannot be ordered so; valid are {', '.join(valid)}."}, code="unknown_ordering"
            )
        return queryset.order_by(wanted, "-id" if wanted.startswith("-") else "id")

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        has_cone = issubclass(view.filterset_class, ConeFilter)
        default = f"`{view.ordering}`, in a cone search `separation_deg`" if has_cone else f"`{view.ordering}`"
        return [
            {
                "name": "ordering",
                "in": "query",
                "required": False,
                "description": f"By this field, with `-` the other way round; by default {default}. Nulls come last.",
                "schema": {
                    "type": "string",
                    "enum": _both_ways([*view.orderings, *(["separation_deg"] if has_cone else [])]),
                },
            }
        ]


def _both_ways(names: list[str]) -> list[str]:
    return [way + name for name in names for way in ("", "-")]
