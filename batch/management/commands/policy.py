"""Versions of the rules from the console: the same services as the API's."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser
from django.core.serializers.json import DjangoJSONEncoder
from rest_framework.exceptions import ValidationError

from batch.policies import activate_policy
from batch.serializers import ActivatedSerializer
from contimg.commands import ContimgCommand, utc_time
from contimg.exceptions import InvalidInput
from contimg.models import Grade
from qa.models import Policy, SubjectKind
from qa.policies import Evaluation, InvalidPolicy, RuleSpec, create_draft, evaluate
from qa.serializers import NewPolicySerializer, PolicyDetailSerializer, PolicySerializer
from qa.services import active_policy

MOST_SHOWN = 20


class UnknownPolicy(InvalidInput):
    code = "unknown_policy"
    status = 404


class Command(ContimgCommand):
    help = "List, show, draft, evaluate and activate versions of the quality rules."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        verbs.add_parser("list", help="Every version, the newest first.")
        shown = verbs.add_parser("show", help="The rules of one.")
        shown.add_argument("id", type=int, nargs="?", help="the active one when not given")
        draft = verbs.add_parser("draft", help="A new version, as the body of POST policies/.")
        draft.add_argument("file", type=Path, help='JSON: {"name", "rules", "note", "based_on"}')
        trying = verbs.add_parser("evaluate", help="What it would say of what was measured; changes nothing.")
        trying.add_argument("id", type=int)
        trying.add_argument("--kind", choices=SubjectKind.values, default=SubjectKind.IMAGE.value)
        trying.add_argument("--from", dest="observed_from", type=utc_time, help="UTC, inclusive")
        trying.add_argument("--until", dest="observed_until", type=utc_time, help="UTC, exclusive")
        activated = verbs.add_parser("activate", help="It judges from now on; images and epochs by batches.")
        activated.add_argument("id", type=int)
        for parser_of_verb in verbs.choices.values():
            parser_of_verb.add_argument("--json", action="store_true", dest="as_json", help="print it as JSON")

    def handle(self, *, verb: str, **options: Any) -> None:
        getattr(self, f"_{verb}")(**options)

    def _list(self, *, as_json: bool, **options: Any) -> None:
        policies = Policy.objects.order_by("-created_at", "-id")
        if as_json:
            self._print(PolicySerializer(policies, many=True).data)
            return
        for policy in policies:
            self.stdout.write(f"{policy.pk:6d}  {policy}  {_state(policy)}  {policy.note}")

    def _show(self, *, id: int | None, as_json: bool, **options: Any) -> None:
        self._show_policy(active_policy() if id is None else _policy(id), as_json)

    def _draft(self, *, file: Path, as_json: bool, **options: Any) -> None:
        asked = NewPolicySerializer(data=_read(file))
        try:
            asked.is_valid(raise_exception=True)
        except ValidationError as error:
            raise InvalidPolicy(f"{file} is no policy: {json.dumps(error.detail)}.") from error
        given = dict(asked.validated_data)
        rules = [RuleSpec(**rule) for rule in given.pop("rules")]
        self._show_policy(create_draft(**given, rules=rules), as_json)

    def _evaluate(
        self,
        *,
        id: int,
        kind: str,
        observed_from: datetime | None,
        observed_until: datetime | None,
        as_json: bool,
        **_: Any,
    ) -> None:
        found = evaluate(policy=_policy(id), kind=kind, observed_from=observed_from, observed_until=observed_until)
        if as_json:
            self._print(found.as_json())
        else:
            self._show_evaluation(found)

    def _activate(self, *, id: int, as_json: bool, **options: Any) -> None:
        done = activate_policy(policy=_policy(id))
        if as_json:
            self._print(ActivatedSerializer(done).data)
            return
        self.stdout.write(str(done))

    def _show_policy(self, policy: Policy, as_json: bool) -> None:
        if as_json:
            self._print(PolicyDetailSerializer(policy).data)
            return
        self.stdout.write(f"{policy.pk}: {policy}, {_state(policy)}. {policy.note}")
        for rule in policy.rules.all():
            self.stdout.write(f"  {rule.subject_kind:18} {rule.grade:9} {rule}  ({rule.reason})")

    def _show_evaluation(self, found: Evaluation) -> None:
        self.stdout.write(f"{found.n_judged} judged, {found.n_changed} with another grade; rows old, columns new:")
        self.stdout.write(" " * 10 + "".join(f"{grade:>11}" for grade in Grade.values))
        for old, row in found.confusion.items():
            self.stdout.write(f"{old:10}" + "".join(f"{row[new]:11d}" for new in Grade.values))
        if found.n_not_judged:
            self.stdout.write(f"{found.n_not_judged} are too old to be judged again; assess them first.")
        for metric, n in found.never_measured.items():
            self.stdout.write(f"{metric} was never measured of {n}; assess them again to have it.")
        for rule, outcomes in found.by_rule.items():
            self.stdout.write(f"  {rule:32} " + ", ".join(f"{n} {outcome}" for outcome, n in outcomes.items() if n))
        for change in found.changes[:MOST_SHOWN]:
            self.stdout.write(f"  {found.kind} {change.id}: {change.old} -> {change.new} ({', '.join(change.rules)})")
        if found.n_changed > MOST_SHOWN:
            self.stdout.write(f"  and {found.n_changed - MOST_SHOWN} more; --json lists up to 1000.")

    def _print(self, data: Any) -> None:
        self.stdout.write(json.dumps(data, indent=2, cls=DjangoJSONEncoder))


def _policy(key: int) -> Policy:
    policy = Policy.objects.filter(pk=key).first()
    if policy is None:
        raise UnknownPolicy(f"There is no policy {key}; `policy list` shows what there is.")
    return policy


def _state(policy: Policy) -> str:
    return "active" if policy.is_active else "draft" if policy.activated_at is None else "replaced"


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except OSError as error:
        raise InvalidPolicy(f"{file} cannot be read ({error.strerror}); see its name and permissions.") from error
    except ValueError as error:
        raise InvalidPolicy(f"{file} is not JSON: {error}.") from error
