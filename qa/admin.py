from __future__ import annotations

import re
from datetime import timedelta
from typing import Any, cast

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import path
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from calibration.models import CalibrationTable
from contimg.admin import (
    EMPTY,
    FactsAdmin,
    FactsInline,
    Steered,
    badge,
    change_url,
    grade_badge,
    link,
    page,
    preview_picture,
)
from contimg.exceptions import ContimgError
from images.models import Image
from observations.models import Epoch
from qa.agreement import agreements
from qa.drift import acknowledge, silence
from qa.models import MOST_COMMENT_CHARACTERS, Alert, Assessment, Finding, Review, Rule
from qa.reviews import VERDICTS, NoSuchSubject, images_of, queue, review, review_epoch, withdraw


@admin.display(description="outcome", ordering="outcome")
def _outcome(finding: Finding) -> SafeString:
    return format_html('<span class="outcome-{}">{}</span>', finding.outcome, finding.outcome)


@admin.register(Rule)
class RuleAdmin(FactsAdmin):
    list_display = ["name", link("policy"), "subject_kind", "metric", "comparison", "limit", grade_badge]
    list_filter = ["subject_kind", "grade", "policy"]
    list_select_related = ["policy"]
    search_fields = ["name", "metric"]


class FindingInline(FactsInline):
    model = Finding
    fields = ["rule", "metric", "value", "comparison", "limit", _outcome, "grade", "reason"]


@admin.register(Assessment)
class AssessmentAdmin(FactsAdmin):
    list_display = ["id", "subject", grade_badge, link("policy"), "is_current", "created_at"]
    list_filter = ["grade", "is_current", "policy"]
    list_select_related = ["policy", "image", "calibration_table", "epoch"]
    search_fields = ["image__name", "calibration_table__set_name"]
    inlines = [FindingInline]

    @admin.display(description="subject")
    def subject(self, assessment: Assessment) -> SafeString:
        row = assessment.image or assessment.calibration_table or assessment.epoch
        return format_html('<a href="{}">{}</a>', change_url(row), row)


@admin.register(Finding)
class FindingAdmin(FactsAdmin):
    list_display = ["id", "rule", "value", "comparison", "limit", _outcome, link("assessment"), "reason"]
    list_filter = ["outcome", "rule"]
    list_select_related = ["assessment"]
    search_fields = ["rule", "metric"]


REVIEWED: dict[str, Any] = {model._meta.model_name or "": model for model in (Image, CalibrationTable, Epoch)}


class ReviewForm(forms.Form):
    verdict = forms.ChoiceField(choices=[(grade.value, grade.label) for grade in VERDICTS], widget=forms.RadioSelect)
    tags = forms.MultipleChoiceField(choices=Review.Tag.choices, required=False, widget=forms.CheckboxSelectMultiple)
    comment = forms.CharField(required=False, max_length=MOST_COMMENT_CHARACTERS, widget=forms.Textarea({"rows": 3}))


@admin.register(Review)
class ReviewAdmin(FactsAdmin):
    """Besides the list of reviews: the page on which they are written, the way through the queue, and agreement."""

    list_display = [
        "thumbnail",
        "subject",
        "verdict_badge",
        "tagged",
        "comment",
        "reviewer",
        "is_current",
        "created_at",
    ]
    list_display_links = ["created_at"]
    actions = ["withdraw"]
    list_filter = ["verdict", "is_current", "reviewer"]
    list_select_related = ["reviewer", "image", "calibration_table"]
    search_fields = ["comment", "image__name", "calibration_table__set_name"]

    def has_review_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("access.review")

    @admin.display(description="subject")
    def subject(self, review: Review) -> SafeString:
        return format_html('<a href="{}">{}</a>', change_url(review.subject), review.subject)

    @admin.display(description="preview")
    def thumbnail(self, review: Review) -> SafeString | str:
        return EMPTY if review.image is None else preview_picture(review.image, "preview-small")

    @admin.display(description="tags", ordering="tags")
    def tagged(self, review: Review) -> str:
        return ", ".join(review.tags)

    @admin.display(description="verdict", ordering="verdict")
    def verdict_badge(self, review: Review) -> SafeString:
        return badge(review.verdict)

    @admin.action(description="Withdraw", permissions=["review"])
    def withdraw(self, request: HttpRequest, queryset: QuerySet[Review]) -> None:
        reviewer = _reviewer(request)
        if not reviewer.has_perm("access.administer"):
            others = queryset.exclude(reviewer=reviewer).count()
            queryset = queryset.filter(reviewer=reviewer)
            if others:
                self.message_user(request, f"{others} are of others and stay; an administrator may withdraw them.")
        rows = queryset.select_related("image", "calibration_table")
        self.each(request, rows, lambda row: withdraw(review=row), "reviews are withdrawn")

    def get_urls(self) -> list[Any]:
        def at(route: str, view: Any, name: str) -> Any:
            return path(route, self.admin_site.admin_view(view), name=name)

        return [
            at("next/", self.next_page, "qa_review_next"),
            at("agreement/", self.agreement_page, "qa_review_agreement"),
            at("write/<slug:kind>/<int:pk>/", self.write_page, "qa_review_write"),
            *super().get_urls(),
        ]

    def next_page(self, request: HttpRequest) -> HttpResponse:
        left = request.GET.get("after", "")
        after = int(left) if re.fullmatch(r"[0-9]{1,18}", left) else None
        try:
            image = queue(reviewer=_reviewer(request), after=after).first()
        except NoSuchSubject:  # deleted while somebody looked at it
            image = queue(reviewer=_reviewer(request)).first()
        if image is None:
            self.message_user(request, "Nothing waits for your review.")
            return redirect("admin:qa_review_changelist")
        return redirect("admin:qa_review_write", "image", image.pk)

    def agreement_page(self, request: HttpRequest) -> HttpResponse:
        _reviewer(request)
        found = agreements()
        shown = {"since": found.since, "rows": [*found.reviewers, *found.with_policy]}
        return page(self, request, "qa/agreement.html", {"title": "Agreement of reviewers", **shown})

    def write_page(self, request: HttpRequest, kind: str, pk: int) -> HttpResponse:
        """Of an image, a calibration table, or all images of an epoch at once; then on to the next of the queue."""
        reviewer = _reviewer(request)
        if kind not in REVIEWED:
            raise Http404
        subject: Any = get_object_or_404(REVIEWED[kind], pk=pk)
        form = ReviewForm(request.POST if request.method == "POST" else None)
        if form.is_valid() and self._written(request, subject, reviewer, form.cleaned_data):
            return redirect("admin:qa_review_next" if "_next" in request.POST else change_url(subject))
        shown: dict[str, Any] = {"subject": subject, "subject_url": change_url(subject), "form": form}
        if isinstance(subject, Epoch):
            shown["images"] = images_of(epoch=subject)
        else:
            shown["images"] = [subject] if isinstance(subject, Image) else []
            shown["assessment"] = subject.assessments.current().with_findings().first()
            shown["reviews"] = subject.reviews.current().with_reviewer()
        return page(self, request, "qa/write_review.html", {"title": f"Review of {subject}", **shown})

    def _written(self, request: HttpRequest, subject: Any, reviewer: User, said: dict[str, Any]) -> bool:
        """Whether it was; why not is told."""
        try:
            if isinstance(subject, Epoch):
                n = len(review_epoch(epoch=subject, reviewer=reviewer, **said))
                self.message_user(request, f"{n} images of the epoch {subject} are {said['verdict']} now.")
            else:
                review(subject=subject, reviewer=reviewer, **said)
                self.message_user(request, f"{subject} is {said['verdict']} now.")
        except ContimgError as error:
            self.message_user(request, f"{error} [{error.code}]", messages.ERROR)
            return False
        return True


def _reviewer(request: HttpRequest) -> User:
    """Raises PermissionDenied."""
    if not (isinstance(request.user, User) and request.user.has_perm("access.review")):
        raise PermissionDenied
    return request.user


@admin.register(Alert)
class AlertAdmin(Steered):
    list_display = [
        "__str__", "pointing_dec_deg", "antenna", "value", "expected", "acknowledged_at", "silenced_until"
    ]  # fmt: skip
    list_filter = ["series", "kind", "acknowledged_at"]
    search_fields = ["series", "antenna", "note"]
    actions = ["acknowledge", "silence_for_a_week"]

    @admin.action(description="Acknowledge", permissions=["operate"])
    def acknowledge(self, request: HttpRequest, queryset: QuerySet[Alert]) -> None:
        by = cast(User, request.user)
        self.each(request, queryset, lambda alert: acknowledge(alert=alert, actor=by), "alerts are acknowledged")

    @admin.action(description="Silence their series for a week", permissions=["operate"])
    def silence_for_a_week(self, request: HttpRequest, queryset: QuerySet[Alert]) -> None:
        until = timezone.now() + timedelta(days=7)
        self.each(request, queryset, lambda alert: silence(alert=alert, until=until), "alerts are silenced")
