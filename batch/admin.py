"""Batches, items and their attempts: looked at, steered through `batch.services`, never edited by hand.

Policies and quarantines are here too, because what is done to them makes batches.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, cast

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ActionForm
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from batch.blame import lift_and_recompute, plan, quarantine_and_recompute, reprocess
from batch.logs import read_log
from batch.models import OUTPUT_COLUMNS, Attempt, Batch, Item, Output, Pause, Worker
from batch.policies import activate_policy
from batch.services import (
    MAX_PRIORITY,
    cancel_batch,
    cancel_item,
    close_breaker,
    resume,
    retry_batch,
    retry_item,
    set_priority,
)
from contimg.admin import EMPTY, FactsAdmin, FactsInline, Steered, badge, change_url, link, links, number, page
from contimg.exceptions import ContimgError
from contimg.models import BreakerState, BreakerStateQuerySet, Grade
from provenance.models import NODE_COLUMNS, Quarantine
from qa.models import Policy, Rule, SubjectKind
from qa.policies import Evaluation, evaluate

LOG_TAIL_BYTES = 20_000
MOST_CHANGES_SHOWN = 50


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


@admin.register(BreakerState)
class BreakerAdmin(Steered):
    list_display = ["breaker", "process", "is_open", "error", "changed_at", "seen_at", "is_asked"]
    list_filter = ["breaker", "is_open"]
    search_fields = ["=process"]
    actions = ["close"]

    @admin.action(description="Close: ask again at once", permissions=["operate"])
    def close(self, request: HttpRequest, queryset: BreakerStateQuerySet) -> None:
        self.each(request, queryset.open(), lambda row: close_breaker(breaker=row), "will be closed in a second")


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


class QuarantineForm(forms.Form):
    kind = forms.ChoiceField(choices=[(kind, kind.replace("_", " ")) for kind in NODE_COLUMNS])
    id = forms.IntegerField()
    reason = forms.CharField(widget=forms.Textarea({"rows": 3}), help_text="Who finds it suspect will read it.")


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

    def get_urls(self) -> list[Any]:
        put = self.admin_site.admin_view(self.put_page)
        return [path("put/", put, name="provenance_quarantine_put"), *super().get_urls()]

    def put_page(self, request: HttpRequest) -> HttpResponse:
        """Which product is suspect and why; then the row, with what can be rebuilt."""
        if not self.has_operate_permission(request):
            raise PermissionDenied
        asked = request.POST if request.method == "POST" else None
        form = QuarantineForm(asked, initial={name: request.GET.get(name, "") for name in ("kind", "id")})
        if form.is_valid():
            said, actor = form.cleaned_data, cast(User, request.user)
            try:
                row, _ = quarantine_and_recompute(kind=said["kind"], pk=said["id"], reason=said["reason"], actor=actor)
            except ContimgError as error:
                self.message_user(request, f"{error} [{error.code}]", messages.ERROR)
            else:
                self.message_user(request, "It and all that was made from it is suspect, and counts nowhere now.")
                return redirect(change_url(row))
        return page(self, request, "batch/put_in_quarantine.html", {"title": "Put in quarantine", "form": form})


class RuleInline(FactsInline):
    model = Rule
    fields = ["subject_kind", "name", "metric", "comparison", "limit", "grade", "reason"]


@admin.display(description="evaluation")
def _try(policy: Policy) -> SafeString:
    return format_html('<a href="{}">what it says of what was measured</a>', _try_url(policy, SubjectKind.IMAGE))


def _try_url(policy: Policy, kind: str) -> str:
    return reverse("admin:qa_policy_try", args=[policy.pk, kind])


def _shown(found: Evaluation) -> dict[str, Any]:
    confusion = [(old, [(new, row[new]) for new in Grade.values]) for old, row in found.confusion.items()]
    changes = found.changes[:MOST_CHANGES_SHOWN]
    return {"found": found, "grades": Grade.values, "confusion": confusion, "changes": changes}


@admin.register(Policy)
class PolicyAdmin(FactsAdmin):
    list_display = ["__str__", "is_active", _try, "created_at", "note"]
    list_filter = ["is_active", "name"]
    search_fields = ["name", "note"]
    extra_facts = (_try, links("assessments", "qa.assessment", "policy"))
    inlines = [RuleInline]

    def get_urls(self) -> list[Any]:
        tried = self.admin_site.admin_view(self.try_page)
        return [path("<int:pk>/try/<slug:kind>/", tried, name="qa_policy_try"), *super().get_urls()]

    def try_page(self, request: HttpRequest, pk: int, kind: str) -> HttpResponse:
        """What it would say of all that was measured, as `policy evaluate`; and the button that activates it."""
        if kind not in SubjectKind.values:
            raise Http404
        policy = get_object_or_404(Policy, pk=pk)
        may_activate = request.user.has_perm("access.administer") and not policy.is_active
        if request.method == "POST":
            if not may_activate:
                raise PermissionDenied
            return self._activated(request, policy)
        shown = {
            "title": f"{policy}: evaluation", "policy": policy, "policy_url": change_url(policy), "kind": kind,
            "kinds": [(each, _try_url(policy, each)) for each in SubjectKind.values], "may_activate": may_activate,
        }  # fmt: skip
        try:
            shown |= _shown(evaluate(policy=policy, kind=kind))
        except ContimgError as error:  # it has no rules for them
            shown["problem"] = f"{error} [{error.code}]"
        return page(self, request, "batch/try_policy.html", shown)

    def _activated(self, request: HttpRequest, policy: Policy) -> HttpResponse:
        try:
            done = activate_policy(policy=policy, actor=cast(User, request.user))
        except ContimgError as error:
            self.message_user(request, f"{error} [{error.code}]", messages.ERROR)
            return redirect(change_url(policy))
        self.message_user(request, str(done))
        return redirect("admin:batch_batch_changelist")
