"""Tokens: shown once, stored as a digest, within their user's rights, and refused with the reason."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from django.contrib.auth.models import Group, User
from django.core.management import call_command
from django.core.management.base import CommandError
from django.utils import timezone
from rest_framework.test import APIClient

from access.models import AuditEntry, Token
from access.services import create_token

pytestmark = pytest.mark.django_db
AUDIT, IMAGES = "/api/v1/audit/", "/api/v1/images/"


@pytest.fixture
def owner() -> User:
    user = User.objects.create_user("owner")
    user.groups.add(Group.objects.get(name="administrators"))
    return user


def ask(header: str, address: str = AUDIT):
    return APIClient(raise_request_exception=False).get(address, HTTP_AUTHORIZATION=header)


def code_of(answer) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code", "")


def test_a_token_is_shown_once_and_stored_as_a_digest(owner, capsys):
    call_command("token", "create", "--user", "owner", "--scope", "admin", "--name", "console")
    said = capsys.readouterr()
    secret = said.out.strip()
    assert ask(f"Bearer {secret}").status_code == 200
    assert secret not in said.err
    stored = json.dumps([list(map(str, row)) for row in Token.objects.values_list()])
    noted = json.dumps([list(map(str, row)) for row in AuditEntry.objects.values_list()])
    assert secret not in stored + noted
    assert secret.rpartition("_")[2] not in stored + noted
    call_command("token", "list")
    assert secret not in capsys.readouterr().out


@pytest.mark.parametrize(
    "header",
    ["Bearer", "Bearer ", "Bearer contimg_abc", "Bearer " + "x" * 8000, "Bearer é",
     "bearer contimg_aaaaaaaa_" + "A" * 43,
     "Bearer contimg_aaaaaaaa_' OR 1=1 --", "Bearer a b", "Bearer \x00"],
)  # fmt: skip
def test_a_header_that_is_no_token_is_refused_also_where_everybody_may_read(owner, header):
    assert code_of(ask(header, IMAGES)) == (401, "token_invalid")


def test_another_scheme_is_as_good_as_none(owner):
    assert ask("Basic b3duZXI6eA==", IMAGES).status_code == 200
    assert code_of(ask("Basic b3duZXI6eA==")) == (401, "not_authenticated")


def test_an_expired_a_revoked_and_a_deactivated_user_s_token_say_so(owner):
    token, secret = create_token(user=owner, scope="admin", days=1)
    past = timezone.now() - timedelta(days=2)
    Token.objects.filter(pk=token.pk).update(created_at=past, expires_at=past + timedelta(days=1))
    assert code_of(ask(f"Bearer {secret}")) == (401, "token_expired")

    token, secret = create_token(user=owner, scope="admin")
    call_command("token", "revoke", token.prefix)
    assert code_of(ask(f"Bearer {secret}")) == (401, "token_revoked")

    _, secret = create_token(user=owner, scope="admin")
    User.objects.filter(pk=owner.pk).update(is_active=False)
    assert code_of(ask(f"Bearer {secret}")) == (401, "token_invalid")


def test_a_token_grants_no_more_than_its_user_has_now(owner):
    _, secret = create_token(user=owner, scope="admin")
    owner.groups.clear()
    assert code_of(ask(f"Bearer {secret}")) == (403, "insufficient_scope")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["create", "--user", "nobody", "--scope", "read"], "There is no user 'nobody'"),
        (["create", "--user", "plain", "--scope", "admin"], "does not have the scope admin"),
        (["create", "--user", "owner", "--scope", "everything"], "is not a scope"),
        (["create", "--user", "owner", "--scope", "read", "--days", "0"], "valid for 1 to 3650 days"),
        (["revoke", "zzzzzzzz"], "There is no token zzzzzzzz"),
    ],
)
def test_the_command_refuses_with_a_sentence(owner, arguments, sentence):
    User.objects.create_user("plain")
    with pytest.raises(CommandError, match=sentence):
        call_command("token", *arguments)
    assert not Token.objects.exists()


def test_revoking_twice_is_noted_once(owner, capsys):
    token, _ = create_token(user=owner, scope="read")
    call_command("token", "revoke", str(token.pk))
    call_command("token", "revoke", str(token.pk))
    assert "was revoked before" in capsys.readouterr().out
    assert AuditEntry.objects.filter(action="token.revoke").count() == 1


def test_use_is_noted_to_the_hour(owner, django_assert_num_queries):
    token, secret = create_token(user=owner, scope="read")
    assert ask(f"Bearer {secret}", IMAGES).status_code == 200
    token.refresh_from_db()
    first = token.last_used_at
    assert first is not None
    ask(f"Bearer {secret}", IMAGES)
    token.refresh_from_db()
    assert token.last_used_at == first
