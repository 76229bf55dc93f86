from __future__ import annotations

import json
from typing import Any

from django.core.management.base import CommandParser
from django.core.serializers.json import DjangoJSONEncoder

from access.models import Token
from access.scopes import Scope
from access.services import DEFAULT_DAYS, MAX_DAYS, create_token, find_token, find_user, revoke_token
from contimg.commands import ContimgCommand


class Command(ContimgCommand):
    help = "Make, list and revoke the tokens that programs call the API with."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        create = verbs.add_parser("create", help="Make a token; it is the last line printed, and shown only now.")
        create.add_argument("--user", required=True, metavar="NAME", help="Whom it stands for.")
        create.add_argument("--scope", required=True, help=f"What it may do: {', '.join(Scope.values)}.")
        create.add_argument("--days", type=int, default=DEFAULT_DAYS, help=f"Valid for, 1 to {MAX_DAYS}.")
        create.add_argument("--name", default="", metavar="LABEL", help="What it is for.")
        listing = verbs.add_parser("list", help="All tokens, the newest first.")
        revoke = verbs.add_parser("revoke", help="End a token now.")
        revoke.add_argument("token", metavar="PREFIX|ID", help="As `token list` shows it.")
        for verb in (create, listing, revoke):
            verb.add_argument("--json", action="store_true", help="Print it as JSON.")

    def handle(self, *, verb: str, **options: Any) -> None:
        {"create": self._create, "list": self._list, "revoke": self._revoke}[verb](options)

    def _create(self, options: dict[str, Any]) -> None:
        token, secret = create_token(
            user=find_user(name=options["user"]), scope=options["scope"], days=options["days"], name=options["name"]
        )
        if options["json"]:
            self._print({**_facts(token), "token": secret})
        else:
            self.stderr.write(f"{_line(token)}. It is shown only now:", self.style.NOTICE)
            self.stdout.write(secret)

    def _list(self, options: dict[str, Any]) -> None:
        tokens = Token.objects.with_user()
        if options["json"]:
            self._print([_facts(token) for token in tokens])
        else:
            for token in tokens:
                self.stdout.write(_line(token))

    def _revoke(self, options: dict[str, Any]) -> None:
        token = find_token(text=options["token"])
        was_valid = revoke_token(token=token)
        token.refresh_from_db(fields=["revoked_at"])
        if options["json"]:
            self._print(_facts(token))
        else:
            self.stdout.write(f"Token {token.prefix} {'is revoked' if was_valid else 'was revoked before'}.")

    def _print(self, facts: Any) -> None:
        self.stdout.write(json.dumps(facts, cls=DjangoJSONEncoder, indent=2))


def _facts(token: Token) -> dict[str, Any]:
    return {
        "id": token.pk,
        "prefix": token.prefix,
        "name": token.name,
        "user": token.user.get_username(),
        "scope": token.scope,
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "revoked_at": token.revoked_at,
        "last_used_at": token.last_used_at,
    }


def _line(token: Token) -> str:
    if token.revoked_at is not None:
        state = f"revoked {token.revoked_at:%Y-%m-%d}"
    else:
        state = f"{'expired' if token.is_expired else 'until'} {token.expires_at:%Y-%m-%d}"
    name = f" ({token.name})" if token.name else ""
    return f"{token.prefix}  {token.scope:7}  {token.user.get_username()}  {state}{name}"
