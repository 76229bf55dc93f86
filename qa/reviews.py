"""Reviewing: what people say of images and calibration tables, and the grade that follows.

A review changes no assessment. The grade of a subject is that of its newest current review, and `grade_source` says so;
where nobody reviewed it, that of its current assessment. A product made anew is another row: a review belongs to the
version that its reviewer saw.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Exists, OuterRef

from access.audit import audit
from access.querysets import kind_of
from calibration.models import CalibrationTable
from contimg.exceptions import ContimgError, InvalidInput
from contimg.models import Grade, GradeSource
from images.models import Image
from images.querysets import ImageQuerySet
from observations.models import Epoch
from qa.models import MOST_COMMENT_CHARACTERS, Assessment, Review
from sources.services import lock_sources, refresh_statistics

Subject = Image | CalibrationTable
VERDICTS = [grade for grade in Grade if grade != Grade.UNKNOWN]


class InvalidReview(InvalidInput):
    """A verdict or a tag that there is not, or a comment that is too long."""

    code = "invalid_review"


class NoSuchSubject(ContimgError):
    """What is to be reviewed is not there, or not any more."""

    code = "no_such_subject"
    status = 404


class NothingToReview(ContimgError):
    """An epoch without a current tile or mosaic."""

    code = "nothing_to_review"
    status = 409


class ReviewNotCurrent(ContimgError):
    """A review that was withdrawn, or replaced by a newer one of the same reviewer."""

    code = "review_not_current"
    status = 409


# --- write --------------------------------------------------------------------------------------------------------
@transaction.atomic
def review(*, subject: Subject, reviewer: User, verdict: str, tags: Iterable[str] = (), comment: str = "") -> Review:
    """Record what a reviewer says of a subject, in place of what he said before; its grade goes with it.

    Raises InvalidReview and NoSuchSubject.
    """
    [made] = _review([subject], reviewer, _checked(verdict, tags, comment))
    audit(action="review.create", subject=made, details=_told(made))
    return made


@transaction.atomic
def review_epoch(
    *, epoch: Epoch, reviewer: User, verdict: str, tags: Iterable[str] = (), comment: str = ""
) -> list[Review]:
    """The same review of each current tile of the epoch's own hour and strip, and of its mosaic; all or none.

    As many queries for a hundred tiles as for one. Raises InvalidReview and NothingToReview.
    """
    said = _checked(verdict, tags, comment)
    subjects = images_of(epoch=epoch)
    if not subjects:
        raise NothingToReview(f"Epoch {epoch} has neither a current tile nor a mosaic; process its tiles first.")
    made = _review(subjects, reviewer, said)
    audit(action="epoch.review", subject=epoch, details={**said, "images": [row.image_id for row in made]})
    return made


@transaction.atomic
def withdraw(*, review: Review) -> Review:
    """Take a review back: the grade is that of the newest other one, else that of the current assessment.

    Raises ReviewNotCurrent.
    """
    before = _lock([review.subject])
    if not Review.objects.current().filter(pk=review.pk).update(is_current=False):
        raise ReviewNotCurrent(
            f"Review {review.pk} does not count any more: it was withdrawn, or its reviewer has written a newer one."
        )
    review.is_current = False
    _settle([review.subject], before)
    audit(action="review.withdraw", subject=review, details=_told(review))
    return review


def settle_grade(*, subject: Subject) -> None:
    """Give a subject the grade it has now, after an assessment: a review's where there is one.

    In the caller's transaction, which sees to the statistics of sources. Raises NoSuchSubject.
    """
    _lock([subject])
    _set_grades([subject])


def images_of(*, epoch: Epoch) -> list[Image]:
    """The current tiles of the epoch's own hour and strip, in the order of time, and its mosaic."""
    tolerance = settings.CONTIMG_DEC_STRIP_TOLERANCE_DEG
    strip = (epoch.dec_deg - tolerance, epoch.dec_deg + tolerance)
    tiles = Image.objects.tiles().current().filter(epoch=epoch.started_at, pointing_dec_deg__range=strip)
    mosaic = Image.objects.mosaics().current().filter(mosaic_of=epoch)
    return [*tiles.order_by("observed_at", "id"), *mosaic]


def _checked(verdict: str, tags: Iterable[str], comment: str) -> dict[str, Any]:
    """The columns of a review; each tag once. Raises InvalidReview."""
    given = list(dict.fromkeys(tags))
    unknown = [str(tag) for tag in given if tag not in Review.Tag.values]
    if verdict not in VERDICTS:
        raise InvalidReview(f"A review says {', '.join(VERDICTS)}; {verdict!r} is none of these.")
    if unknown:
        raise InvalidReview(f"There is no tag {', '.join(unknown)}; there are {', '.join(Review.Tag.values)}.")
    if len(comment) > MOST_COMMENT_CHARACTERS:
        raise InvalidReview(
            f"The comment has {len(comment)} characters, and {MOST_COMMENT_CHARACTERS} are kept; shorten it."
        )
    return {"verdict": str(verdict), "tags": [str(tag) for tag in given], "comment": comment}


def _told(review: Review) -> dict[str, Any]:
    """For the audit log."""
    subject = {"kind": review.subject_kind, "id": review.subject_id}
    return {"subject": subject, "verdict": review.verdict, "tags": review.tags}


def _review(subjects: Sequence[Subject], reviewer: User, said: dict[str, Any]) -> list[Review]:
    before = _lock(subjects)
    column = kind_of(subjects[0])
    Review.objects.current().filter(reviewer=reviewer, **{f"{column}__in": subjects}).update(is_current=False)
    made = Review.objects.bulk_create(Review(**{column: subject}, reviewer=reviewer, **said) for subject in subjects)
    _settle(subjects, before)
    return made


def _lock(subjects: Sequence[Subject]) -> dict[int, str]:
    """Until the transaction ends nobody else reviews or judges these. Their grades, by id. Raises NoSuchSubject."""
    lock_sources()  # first: who records a catalogue holds it when he writes to the images
    model = type(subjects[0])
    keys = [subject.pk for subject in subjects]
    before = dict(model.objects.filter(pk__in=keys).order_by("pk").select_for_update().values_list("pk", "grade"))
    if missing := set(keys) - before.keys():
        raise NoSuchSubject(
            f"There is no {kind_of(subjects[0]).replace('_', ' ')} {min(missing)} any more; look at the list of what"
            " there is."
        )
    return before


def _settle(subjects: Sequence[Subject], before: dict[int, str]) -> None:
    """The grades, and the statistics of what was measured in images that count from now on, or no longer."""
    _set_grades(subjects)
    turned = [one for one in subjects if (before[one.pk] == Grade.POOR) != (one.grade == Grade.POOR)]
    if images := [one for one in turned if isinstance(one, Image)]:
        refresh_statistics(images=images)


def _set_grades(subjects: Sequence[Subject]) -> None:
    column = kind_of(subjects[0])
    verdicts = defaultdict(list)
    reviews = Review.objects.current().filter(**{f"{column}__in": subjects}).order_by("-created_at", "-id")
    for key, verdict in reviews.values_list(column, "verdict"):
        verdicts[key].append(verdict)
    judged = Assessment.objects.current().filter(**{f"{column}__in": subjects})
    policy_grades = dict(judged.values_list(column, "grade"))
    for subject in subjects:
        said = verdicts[subject.pk]
        subject.grade = said[0] if said else policy_grades.get(subject.pk, Grade.UNKNOWN)
        subject.grade_source = GradeSource.REVIEW if said else GradeSource.POLICY
        if isinstance(subject, Image):
            subject.is_disputed = len(set(said)) > 1
    fields = ["grade", "grade_source", *(["is_disputed"] if column == "image" else [])]
    manager: Any = type(subjects[0]).objects
    manager.bulk_update(subjects, fields)


# --- read ---------------------------------------------------------------------------------------------------------
def queue(*, reviewer: User, after: int | None = None) -> ImageQuerySet:
    """What waits for this reviewer: disputed images that he has not reviewed, then those that nobody has.

    Worst first and newest first, walked along one index; from behind the image `after` on, which he leaves for now.
    Raises NoSuchSubject.
    """
    his = Review.objects.current().filter(image=OuterRef("pk"), reviewer=reviewer)
    waiting = Image.objects.in_review_queue().exclude(Exists(his))
    if after is None:
        return waiting
    left = find_subject(kind="image", key=after)
    return waiting.behind_in_review_queue(left) if isinstance(left, Image) else waiting


def find_subject(*, kind: str, key: int) -> Subject:
    """Raises NoSuchSubject."""
    model: type[Subject] = Image if kind == "image" else CalibrationTable
    subject = model.objects.filter(pk=key).first()
    if subject is None:
        raise NoSuchSubject(f"There is no {kind.replace('_', ' ')} {key}; look at the list of what there is.")
    return subject
