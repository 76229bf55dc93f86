"""How far reviewers agree with each other, and with the policy."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Count, F, QuerySet
from django.utils import timezone

from contimg.models import Grade
from qa.models import Review, SubjectKind

USUAL_SPAN = timedelta(days=365)
RANKS = {Grade.POOR: 0, Grade.MARGINAL: 1, Grade.GOOD: 2, Grade.EXCELLENT: 3}
Verdicts = tuple[str, str]  # of the one and of the other


@dataclass(frozen=True)
class Agreement:
    """Of two on the subjects that both judged; `other` is None for the policy."""

    reviewer: str
    other: str | None
    n: int
    exact: float
    within_one_grade: float
    kappa: float | None


@dataclass(frozen=True)
class Agreements:
    since: datetime
    reviewers: list[Agreement]
    with_policy: list[Agreement]


def agreements(*, since: datetime | None = None) -> Agreements:
    """By current reviews written since a time, by default in the last year. Four queries, whatever there is.

    A subject counts for each pair of its reviewers, and for each of them with its current assessment, where that has
    a grade: a policy that knows nothing does not disagree.
    """
    since = since or timezone.now() - USUAL_SPAN
    pairs: dict[tuple[str, str | None], Counter[Verdicts]] = defaultdict(Counter)
    recent = Review.objects.current().filter(created_at__gte=since).order_by()
    for kind in (SubjectKind.IMAGE, SubjectKind.CALIBRATION_TABLE):
        for one, other, verdict, second, n in _of_two_reviewers(recent, kind, since):
            names, verdicts = ((one, other), (verdict, second)) if one < other else ((other, one), (second, verdict))
            pairs[names][verdicts] += n
        for one, verdict, grade, n in _with_policy(recent, kind):
            pairs[one, None][verdict, grade] += n
    judged = [agreement(*names, counts) for names, counts in sorted(pairs.items(), key=lambda item: str(item[0]))]
    return Agreements(
        since, [one for one in judged if one.other is not None], [one for one in judged if one.other is None]
    )


def _of_two_reviewers(recent: QuerySet[Review], kind: str, since: datetime) -> Iterable[tuple[str, str, str, str, int]]:
    others = f"{kind}__reviews"
    both = recent.filter(  # in one call, or each condition would be of another review
        **{
            f"{others}__is_current": True,
            f"{others}__created_at__gte": since,
            f"{others}__reviewer__gt": F("reviewer"),
        }
    )
    columns = ("reviewer__username", f"{others}__reviewer__username", "verdict", f"{others}__verdict")
    return both.values_list(*columns).annotate(n=Count("pk"))


def _with_policy(recent: QuerySet[Review], kind: str) -> Iterable[tuple[str, str, str, int]]:
    judged = recent.filter(**{f"{kind}__assessments__is_current": True, f"{kind}__assessments__grade__in": list(RANKS)})
    return judged.values_list("reviewer__username", "verdict", f"{kind}__assessments__grade").annotate(n=Count("pk"))


def agreement(reviewer: str, other: str | None, counts: Mapping[Verdicts, int]) -> Agreement:
    """Of two whose pairs of verdicts were counted, of which there is one at least."""
    n = sum(counts.values())
    exact = sum(count for (one, two), count in counts.items() if one == two) / n
    near = sum(count for (one, two), count in counts.items() if abs(RANKS[Grade(one)] - RANKS[Grade(two)]) <= 1) / n
    return Agreement(reviewer, other, n, exact, near, _kappa(counts, n, exact))


def _kappa(counts: Mapping[Verdicts, int], n: int, exact: float) -> float | None:
    """(p_o - p_e) / (1 - p_e), with p_o the share of equal verdicts and p_e the share expected of two who judge by
    chance, each as often with each grade as they do (Cohen 1960, Educ. Psychol. Meas. 20, 37, equation 1).

    1: they agree, 0: no better than chance. None where both only ever gave one grade, the same: nothing is known then.
    """
    first, second = Counter[str](), Counter[str]()
    for (one, two), count in counts.items():
        first[one] += count
        second[two] += count
    by_chance = sum(first[grade] * second[grade] for grade in first)  # times n squared, and exact
    return None if by_chance == n * n else (exact - by_chance / n**2) / (1 - by_chance / n**2)
