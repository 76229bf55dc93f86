"""What every admin page of ours has in common: facts are looked at, never edited, added or deleted by hand."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any, ClassVar
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.db import models
from django.db.models import QuerySet
from django.db.models.constants import LOOKUP_SEP
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from contimg.exceptions import ContimgError

admin.site.site_header = "contimg"
admin.site.site_title = "contimg"
admin.site.index_title = "Operations"
admin.site.enable_nav_sidebar = False  # the tables are wide

EMPTY = "–"
Column = Callable[[Any], SafeString | str]


class ReadOnly:
    """For model admins and inlines."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class FactsAdmin(ReadOnly, admin.ModelAdmin):
    """Shows each field of a row once, JSON readably, after `extra_facts` (names or callables, as in `list_display`)."""

    show_full_result_count = False  # a count of the whole table on every search
    show_facets = admin.ShowFacets.NEVER  # one count of it for every filter
    list_per_page = 50
    extra_facts: tuple[str | Column, ...] = ()
    left_out: tuple[str, ...] = ()  # fields that the extra facts show in another way

    class Media:
        css = {"all": ["contimg/admin.css"]}

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return True  # for all staff; the site itself lets in nobody else

    def has_module_permission(self, request: HttpRequest) -> bool:
        return True

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        shown = [f for f in self.opts.fields if f.name not in (*self.extra_facts, *self.left_out)]
        facts = [json_text(f.name) if isinstance(f, models.JSONField) else f.name for f in shown]
        return [*self.extra_facts, *facts]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        return self.get_fields(request, obj)

    def each(self, request: HttpRequest, rows: QuerySet[Any], act: Callable[[Any], object], done: str) -> None:
        """Tell what became of each row; one that cannot be does not keep the others from it."""
        n, reasons = 0, dict[str, None]()  # what is wrong with all of them is said once
        for row in rows:
            try:
                act(row)
                n += 1
            except ContimgError as error:
                reasons[f"{error} [{error.code}]"] = None
        for reason in reasons:
            self.message_user(request, reason, messages.WARNING)
        self.message_user(request, f"{n} {done}.")


class Steered(FactsAdmin):
    """Facts with actions for who may operate."""

    def has_operate_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("access.operate")


class FactsInline(ReadOnly, admin.TabularInline):
    extra = 0
    fields: ClassVar[Any] = None  # names and callables

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        return list(self.get_fields(request, obj))


@functools.cache  # the same object each time: the admin compares `fields` with `readonly_fields`
def json_text(field: str) -> Column:
    @admin.display(description=field.replace("_", " "))
    def shown(row: Any) -> SafeString:
        value = getattr(row, field)
        text = json.dumps(value)
        return format_html('<pre class="facts">{}</pre>', text if len(text) < 80 else json.dumps(value, indent=1))

    return shown


def link(path: str, description: str | None = None) -> Column:
    """A column that links to the row at the end of `path` (`image`, `image__measurement_set`).

    Each step has to be in `list_select_related`, and so has what the target's `__str__` reads.
    """

    @admin.display(description=description or path.rsplit(LOOKUP_SEP)[-1].replace("_", " "), ordering=path)
    def shown(row: Any) -> SafeString | str:
        target: Any = row
        for step in path.split(LOOKUP_SEP):
            target = getattr(target, step)
            if target is None:
                return EMPTY
        return format_html('<a href="{}">{}</a>', change_url(target), target)

    return shown


def links(name: str, model_label: str, by: str) -> Column:
    """A link to the changelist of `model_label` (`app.model`) filtered to the rows whose `by` is this one."""

    @admin.display(description=name)
    def shown(row: Any) -> SafeString:
        url = reverse(f"admin:{model_label.replace('.', '_')}_changelist")
        return format_html('<a href="{}?{}__id__exact={}">show</a>', url, by, row.pk)

    return shown


def preview_picture(image: Any, style: str) -> SafeString | str:
    if not image.preview_path:
        return EMPTY
    url = reverse("image-preview", args=[image.pk])
    return format_html('<img class="{}" src="{}" alt="{}" loading="lazy">', style, url, image.name)


@admin.display(description="review")
def write_review(row: Any) -> SafeString:
    """A link to the page on which a reviewer says what he thinks of an image, a calibration table or an epoch."""
    return format_html('<a href="{}">write</a>', reverse("admin:qa_review_write", args=[row._meta.model_name, row.pk]))


def put_in_quarantine(kind: str) -> Column:
    """A link to the page on which an operator says why this product is suspect."""

    @admin.display(description="quarantine")
    def shown(row: Any) -> SafeString:
        asked = f"{reverse('admin:provenance_quarantine_put')}?{urlencode({'kind': kind, 'id': row.pk})}"
        return format_html('<a href="{}">put in quarantine</a>', asked)

    return shown


def page(model_admin: admin.ModelAdmin, request: HttpRequest, template: str, shown: dict[str, Any]) -> HttpResponse:
    """A page of a model's admin that Django has not; `shown` has its title."""
    context = {**model_admin.admin_site.each_context(request), "opts": model_admin.opts, "media": model_admin.media}
    return TemplateResponse(request, template, {**context, **shown})


def change_url(row: Any) -> str:
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=[row.pk])


def badge(grade: str) -> SafeString:
    return format_html('<span class="grade grade-{}">{}</span>', grade, grade)


@admin.display(description="grade", ordering="grade")
def grade_badge(row: Any) -> SafeString:
    return badge(row.grade)


def number(field: str, spec: str, *, scale: float = 1, description: str) -> Column:
    """A column with a float in readable digits; zero is a value, null a dash."""

    @admin.display(description=description, ordering=field)
    def shown(row: Any) -> str:
        value = getattr(row, field)
        return EMPTY if value is None else format(value * scale, spec)

    return shown
