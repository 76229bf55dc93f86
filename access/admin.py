"""Tokens, the audit log, and people: what is done to users and groups here is audited."""

from __future__ import annotations

from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.db import models
from django.db.models import QuerySet
from django.http import HttpRequest

from access.audit import audit
from access.models import AuditEntry, Token
from access.querysets import kind_of
from access.services import DEFAULT_DAYS, MAX_DAYS, check_grantable, create_token, revoke_token
from contimg.admin import FactsAdmin, link
from contimg.exceptions import ContimgError


class AuditedAdmin(admin.ModelAdmin):
    """Writes to the audit log what Django's admin writes to its own: which fields were changed, never their values."""

    def log_addition(self, request: HttpRequest, object: models.Model, message: Any) -> Any:
        audit(action=f"{kind_of(object)}.create", subject=object, details={"changes": message})
        return super().log_addition(request, object, message)

    def log_change(self, request: HttpRequest, object: models.Model, message: Any) -> Any:
        audit(action=f"{kind_of(object)}.change", subject=object, details={"changes": message})
        return super().log_change(request, object, message)

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        for row in queryset:
            audit(action=f"{kind_of(row)}.delete", subject=row, details={"name": str(row)})
        return super().log_deletions(request, queryset)


admin.site.unregister([User, Group])


@admin.register(User)
class AuditedUserAdmin(AuditedAdmin, UserAdmin):
    pass


@admin.register(Group)
class AuditedGroupAdmin(AuditedAdmin, GroupAdmin):
    pass


class TokenForm(forms.ModelForm):
    days = forms.IntegerField(min_value=1, max_value=MAX_DAYS, initial=DEFAULT_DAYS, help_text="How long it is valid.")

    class Meta:
        model = Token
        fields = ["user", "scope", "name"]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if "user" in cleaned and "scope" in cleaned:
            try:
                check_grantable(user=cleaned["user"], scope=cleaned["scope"])
            except ContimgError as error:
                raise forms.ValidationError(str(error), code=error.code) from error
        return cleaned


@admin.register(Token)
class TokenAdmin(admin.ModelAdmin):
    """Made, shown once, and revoked; never edited or deleted."""

    list_display = ["prefix", "name", link("user"), "scope", "created_at", "expires_at", "revoked_at", "last_used_at"]
    list_filter = ["scope", "revoked_at"]
    list_select_related = ["user"]
    search_fields = ["prefix", "name", "user__username"]
    show_full_result_count = False
    actions = ["revoke"]
    form = TokenForm
    shown: ClassVar[list[str]] = [
        "prefix", "name", "user", "scope", "created_at", "expires_at", "revoked_at", "last_used_at",
    ]  # fmt: skip

    def get_fields(self, request: HttpRequest, obj: Token | None = None) -> Any:
        return ["user", "scope", "name", "days"] if obj is None else self.shown

    def get_readonly_fields(self, request: HttpRequest, obj: Token | None = None) -> Any:
        return [] if obj is None else self.shown

    def has_change_permission(self, request: HttpRequest, obj: Token | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Token | None = None) -> bool:
        return False

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("access.change_token")

    def save_model(self, request: HttpRequest, obj: Token, form: Any, change: bool) -> None:
        wanted = form.cleaned_data
        made, secret = create_token(
            user=wanted["user"], scope=wanted["scope"], days=wanted["days"], name=wanted["name"]
        )
        obj.__dict__.update(made.__dict__)
        self.message_user(request, f"The token, shown this once: {secret}", messages.WARNING)

    @admin.action(description="Revoke selected tokens", permissions=["revoke"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[Token]) -> None:
        revoked = sum(revoke_token(token=token) for token in queryset.select_related("user"))
        self.message_user(request, f"{revoked} tokens revoked.")


@admin.register(AuditEntry)
class AuditEntryAdmin(FactsAdmin):
    list_display = ["at", "action", "actor_name", "object_kind", "object_id", "channel", link("token"), "address"]
    list_filter = ["channel", "action"]
    list_select_related = ["token"]
    search_fields = ["=actor_name", "=action", "=request_id"]

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("access.view_auditentry")

    def has_module_permission(self, request: HttpRequest) -> bool:
        return request.user.has_module_perms("access")
