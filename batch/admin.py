"""Batches, items and their attempts: looked at, steered through `batch.services`, never edited by hand."""

from __future__ import annotations

import re
from typing import Any, ClassVar, cast

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ActionForm
from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from batch.blame import lift_and_recompute, plan, reprocess
from batch.logs import read_log
from batch.models import OUTPUT_COLUMNS, Attempt, Batch, Item, Output, Pause, Worker
from batch.services import (
    MAX_PRIORITY,
    cancel_batch,
    cancel_item,
    resume,
    retry_batch,
    retry_item,
    set_priority,
)
from contimg.admin import EMPTY, FactsAdmin, FactsInline, Steered, badge, change_url, link, links, number
from provenance.models import NODE_COLUMNS, Quarantine

LOG_TAIL_BYTES = 20_000


@admin.display(description="state", ordering="state")
def state_badge(row: Batch | Item) -> SafeString:
    return badge(row.state)


@admin.display(description="progress")
def progress_bar(row: Batch | Item) -> SafeString:
    return format_html(
        '<progress value="{}" max="1"></progress> {}%', f"{row.progress:.3f}", f"{100 * row.progress:.0f}"
    )


class PriorityForm(ActionForm):
    """Without limits of its own: the admin takes a form that is not valid for one in which nothing was chosen."""

    priority = forms.CharField(required=False, widget=forms.NumberInput)


@admin.register(Batch)
class BatchAdmin(Steered):
    list_display = [
        "__str__", state_badge, progress_bar, "created_at", "n_total", "n_running", "n_failed", "n_quarantined",
        "finished_at", "priority", link("owner"),
    ]  # fmt: skip
    list_filter = ["state", "stage", "created_at"]
    list_select_related = ["owner"]
    search_fields = ["=idempotency_key", "owner__username"]
    extra_facts = (state_badge, progress_bar, links("items", "batch.item", "batch"))
    left_out = ("state",)
    action_form = PriorityForm
    actions = ["cancel", "retry_failed", "change_priority"]

    @admin.action(description="Cancel", permissions=["operate"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Batch]) -> None:
        self.each(request, queryset, lambda batch: cancel_batch(batch=batch), "batches are being cancelled")

    @admin.action(description="Retry what failed or was cancelled", permissions=["operate"])
    def retry_failed(self, request: HttpRequest, queryset: QuerySet[Batch]) -> None:
        self.each(request, queryset, lambda batch: retry_batch(batch=batch), "batches are tried again")

    @admin.action(description="Change priority to", permissions=["operate"])
    def change_priority(self, request: HttpRequest, queryset: QuerySet[Batch]) -> None:
        given = request.POST.get("priority", "")
        if not re.fullmatch(r"[+-]?[0-9]{1,9}", given):
            self.message_user(request, f"Give a priority from {-MAX_PRIORITY} to {MAX_PRIORITY}.", messages.ERROR)
            return
        priority = int(given)
        self.each(
            request, queryset, lambda batch: set_priority(batch=batch, priority=priority),
            f"batches have the priority {priority}",
        )  # fmt: skip


class AttemptInline(FactsInline):
    model = Attempt
    fields: ClassVar[Any] = [
        "details", "outcome", "worker", "started_at", number("duration_s", ".1f", description="duration (s)"),
        number("cpu_s", ".1f", description="CPU (s)"),
        number("peak_memory_bytes", ".2f", scale=1e-9, description="peak memory (GB)"), "error_code", "error_detail",
    ]  # fmt: skip

    @admin.display(description="details")
    def details(self, attempt: Attempt) -> SafeString:
        return format_html('<a href="{}">evidence and log</a>', change_url(attempt))


@admin.register(Item)
class ItemAdmin(Steered):
    list_display = [
        "__str__", link("batch"), state_badge, progress_bar, "attempt", "worker", "error_code", "started_at",
        "finished_at",
    ]  # fmt: skip
    list_filter = ["state", "stage"]
    list_select_related = ["batch", "group", "measurement_set__group", "image__measurement_set__group", "epoch"]
    search_fields = ["=error_code", "=measurement_set__name", "=image__name"]
    extra_facts = (state_badge, progress_bar, "error_code", "error_detail")
    left_out = ("state", "progress")  # shown as a badge and a bar
    inlines = [AttemptInline]
    actions = ["cancel", "retry"]

    @admin.action(description="Cancel", permissions=["operate"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Item]) -> None:
        self.each(request, queryset, lambda item: cancel_item(item=item), "items are being cancelled")

    @admin.action(description="Retry", permissions=["operate"])
    def retry(self, request: HttpRequest, queryset: QuerySet[Item]) -> None:
        self.each(request, queryset, lambda item: retry_item(item=item), "items are tried again")


@admin.register(Attempt)
class AttemptAdmin(FactsAdmin):
    list_display = ["__str__", link("item"), "outcome", "worker", "started_at", "finished_at", "error_code"]
    list_filter = ["outcome", "stage"]
    list_select_related = [
        "item__group",
        "item__measurement_set__group",
        "item__image__measurement_set__group",
        "item__epoch",
    ]
    search_fields = ["=worker", "=error_code"]
    extra_facts = ("log",)

    @admin.display(description="end of the log")
    def log(self, attempt: Attempt) -> SafeString | str:
        text = read_log(attempt=attempt, most_bytes=LOG_TAIL_BYTES).text
        return format_html('<pre class="facts">{}</pre>', text) if text else EMPTY


@admin.register(Pause)
class PauseAdmin(Steered):
    list_display = ["__str__", "reason", "paused_by", "created_at"]
    actions = ["lift"]

    @admin.action(description="Resume", permissions=["operate"])
    def lift(self, request: HttpRequest, queryset: QuerySet[Pause]) -> None:
        n = resume(names=list(queryset.values_list("stage", flat=True)))
        self.message_user(request, f"{n} pauses lifted.")


@admin.register(Worker)
class WorkerAdmin(FactsAdmin):
    list_display = ["name", "host", "pid", "n_processes", "stages", "started_at", "seen_at", "stopped_at"]
    list_filter = ["host"]
    search_fields = ["=name", "=host"]


@admin.register(Output)
class OutputAdmin(FactsAdmin):
    list_display = ["id", link("attempt"), *OUTPUT_COLUMNS.values()]
    list_select_related = ["attempt", *OUTPUT_COLUMNS.values()]
    search_fields = ["image__name", "measurement_set__name"]


@admin.display(description="plan to rebuild")
def _plan(row: Quarantine) -> SafeString:
    planned = plan(row=row)
    kept = format_html_join("", "<li>{}: {}</li>", ((one.tile.name, one.reason) for one in planned.not_rebuilt))
    return format_html(
        "{} tiles and {} mosaics can be made again; {} tiles stay suspect.<ul>{}</ul>",
        len(planned.tiles), len(planned.epochs), len(planned.not_rebuilt), kept,
    )  # fmt: skip


@admin.register(Quarantine)
class QuarantineAdmin(Steered):
    list_display = ["id", "product", "reason", "created_by", "created_at", "lifted_at"]
    list_filter = ["created_at", "lifted_at"]
    list_select_related = [*NODE_COLUMNS, "created_by"]
    search_fields = ["reason"]
    extra_facts = (_plan,)
    actions = ["lift", "reprocess"]

    @admin.display(description="product")
    def product(self, row: Quarantine) -> SafeString:
        return format_html('<a href="{}">{} {}</a>', change_url(row.node), row.node_kind.replace("_", " "), row.node)

    @admin.action(description="Lift", permissions=["operate"])
    def lift(self, request: HttpRequest, queryset: QuerySet[Quarantine]) -> None:
        actor = cast(User, request.user)
        self.each(request, queryset, lambda row: lift_and_recompute(row=row, actor=actor), "lifted")

    @admin.action(description="Rebuild what can be rebuilt", permissions=["operate"])
    def reprocess(self, request: HttpRequest, queryset: QuerySet[Quarantine]) -> None:
        owner = cast(User, request.user)
        self.each(request, queryset, lambda row: reprocess(row=row, owner=owner), "are being rebuilt; see the batches")
