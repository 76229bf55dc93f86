from __future__ import annotations

import itertools
from datetime import timedelta

import pytest
from django.contrib.auth.models import Group, User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from rest_framework.test import APIClient

from access.models import AuditEntry
from contimg.models import Grade
from images.models import Image
from qa.agreement import agreement, agreements
from qa.models import Assessment, Review
from qa.reviews import (
    InvalidReview,
    NoSuchSubject,
    NothingToReview,
    ReviewNotCurrent,
    queue,
    review,
    review_epoch,
    withdraw,
)
from qa.services import assess_calibration_table, assess_image
from sources.services import light_curve, refresh_statistics
from tests.factories import (
    AssessmentFactory,
    CalibrationTableFactory,
    EpochFactory,
    FindingFactory,
    ImageFactory,
    MeasurementFactory,
    MosaicFactory,
    ReviewFactory,
    SourceFactory,
    SubbandGroupFactory,
    UserFactory,
)

pytestmark = pytest.mark.django_db
URL = "/api/v1/reviews/"


def shown(subject) -> tuple[str, str]:
    subject.refresh_from_db()
    return subject.grade, subject.grade_source


def say(subject, verdict: str, reviewer=None, **more) -> Review:
    return review(subject=subject, reviewer=reviewer or UserFactory(), verdict=verdict, **more)


def verdicts(image, *given: str):
    for verdict in given:
        say(image, verdict)
    return image


@pytest.fixture
def reviewer() -> User:
    user = UserFactory(username="vera")
    user.groups.add(Group.objects.get(name="reviewers"))
    return user


@pytest.fixture
def client_of_reviewer(reviewer) -> APIClient:
    client = APIClient(raise_request_exception=False)
    client.force_login(reviewer)
    return client


# --- the grade ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("make", [ImageFactory, CalibrationTableFactory])
def test_the_newest_review_is_the_grade_until_all_are_withdrawn(make):
    subject = make(grade="good")
    column = "image" if make is ImageFactory else "calibration_table"
    AssessmentFactory(**{"image": None, column: subject}, grade="excellent")
    first, second = say(subject, "poor"), say(subject, "marginal")
    assert shown(subject) == ("marginal", "review")
    withdraw(review=second)
    assert shown(subject) == ("poor", "review")
    withdraw(review=first)
    assert shown(subject) == ("excellent", "policy")
    assert Assessment.objects.get().grade == "excellent"


@pytest.mark.parametrize(
    ("make", "prefix"), [(ImageFactory, "images"), (CalibrationTableFactory, "calibration-tables")]
)
def test_what_nobody_has_reviewed_is_found_by_the_source_of_its_grade(api, make, prefix):
    reviewed, other = make(), make()
    url = f"/api/v1/{prefix}/?grade_source=policy"
    made = say(reviewed, "good")
    assert [row["id"] for row in api.get(url).json()["results"]] == [other.pk]
    withdraw(review=made)
    assert {row["id"] for row in api.get(url).json()["results"]} == {reviewed.pk, other.pk}


def test_what_was_never_assessed_is_unknown_again_when_its_review_is_withdrawn():
    image = ImageFactory(grade="good")
    withdraw(review=say(image, "poor"))
    assert shown(image) == ("unknown", "policy")


def test_a_reviewer_has_one_current_review_and_the_earlier_one_stays():
    image, vera = ImageFactory(), UserFactory()
    first, second = say(image, "good", vera), say(image, "poor", vera, tags=["rfi", "other", "rfi"], comment="stripes")
    assert list(Review.objects.order_by("id").values_list("pk", "is_current")) == [(first.pk, False), (second.pk, True)]
    assert second.tags == ["rfi", "other"]
    image.refresh_from_db()
    assert not image.is_disputed
    with pytest.raises(ReviewNotCurrent, match=f"Review {first.pk} does not count any more"):
        withdraw(review=first)


def test_assessing_again_keeps_the_grade_of_a_review():
    image = ImageFactory(peak_jy_per_beam=1.25)
    table = CalibrationTableFactory(metrics={})
    for subject in (image, table):
        say(subject, "marginal")
    assert assess_image(image=image).grade == "excellent"
    assert assess_calibration_table(table=table).grade == "unknown"
    assert shown(image) == shown(table) == ("marginal", "review")
    assert image.is_accepted


def test_a_review_decides_what_counts_in_light_curves_and_statistics():
    source, image = SourceFactory(), ImageFactory(grade="good")
    other = ImageFactory(grade="good")
    for one, flux_jy in ((image, 0.05), (other, 0.07)):
        MeasurementFactory(source=source, image=one, flux_jy=flux_jy, is_forced=False)
        MeasurementFactory(source=source, image=one, flux_jy=flux_jy)
    refresh_statistics(images=[image])
    AssessmentFactory(image=image, grade="good")

    made = say(image, "poor")
    source.refresh_from_db()
    assert (source.n_measurements, source.flux_mean_jy) == (1, 0.07)
    assert [point["status"] for point in light_curve(source=source)["points"]].count("rejected") == 1
    withdraw(review=made)
    source.refresh_from_db()
    assert source.n_measurements == 2


def test_statistics_are_left_alone_by_a_review_that_changes_nothing_for_them():
    image = ImageFactory(grade="good")
    with CaptureQueriesContext(connection) as queries:
        say(image, "marginal")
    assert not [query for query in queries if "sources_source" in query["sql"]]


def test_a_review_belongs_to_the_version_that_its_reviewer_saw():
    first = ImageFactory(grade="good")
    say(first, "poor")
    Image.objects.filter(pk=first.pk).update(is_current=False)
    second = ImageFactory(measurement_set=first.measurement_set, grade="good")
    assert shown(first) == ("poor", "review")
    assert shown(second) == ("good", "policy")


def test_every_review_is_in_the_audit_log():
    image = ImageFactory()
    withdraw(review=say(image, "poor", tags=["artifact"]))
    entries = AuditEntry.objects.order_by("id").values_list("action", "details")
    told = {"subject": {"kind": "image", "id": image.pk}, "verdict": "poor", "tags": ["artifact"]}
    assert list(entries) == [("review.create", told), ("review.withdraw", told)]


# --- what is refused ---------------------------------------------------------------------------------------------
def test_a_review_is_written_over_http_and_is_the_grade(client_of_reviewer):
    image, body = ImageFactory(grade="good"), {"verdict": "poor", "tags": ["rfi"], "comment": "stripes"}
    answer = client_of_reviewer.post(URL, {"subject": {"kind": "image", "id": image.pk}, **body}, format="json")
    assert answer.status_code == 201
    said = {**body, "subject": {"kind": "image", "id": image.pk}, "reviewer": "vera", "is_current": True}
    assert said.items() <= answer.json().items()
    assert shown(image) == ("poor", "review")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"verdict": "unknown"}, "excellent, good, marginal, poor; 'unknown' is none of these"),
        ({"verdict": "splendid"}, "'splendid' is none of these"),
        ({"verdict": "good", "tags": ["rfi", "cats"]}, "no tag cats; there are artifact, rfi, "),
        ({"verdict": "good", "comment": "x" * 1001}, "has 1001 characters, and 1000 are kept"),
    ],
)
def test_a_review_that_says_nothing_known_is_refused(said, why, client_of_reviewer):
    image = ImageFactory()
    with pytest.raises(InvalidReview, match=why):
        review(subject=image, reviewer=UserFactory(), **said)
    answer = client_of_reviewer.post(URL, {"subject": {"kind": "image", "id": image.pk}, **said}, format="json")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_input")
    known = {"invalid_choice": ("marginal, poor", "rfi, "), "max_length": ("1000",)}
    (error,) = answer.json()["errors"]
    assert any(word in error["detail"] for word in known[error["code"]]), error
    assert not Review.objects.exists()


def test_a_comment_of_a_thousand_characters_is_kept():
    assert len(say(ImageFactory(), "good", comment="x" * 1000).comment) == 1000


def test_what_was_deleted_meanwhile_cannot_be_reviewed():
    image = ImageFactory()
    Image.objects.filter(pk=image.pk).delete()
    with pytest.raises(NoSuchSubject, match=f"There is no image {image.pk} any more"):
        say(image, "good")
    assert not Review.objects.exists()


@pytest.mark.parametrize(
    ("subject", "status", "code"),
    [
        ({"kind": "image", "id": 999}, 404, "no_such_subject"),
        ({"kind": "calibration_table", "id": 2**63 - 1}, 404, "no_such_subject"),
        ({"kind": "image", "id": 2**63}, 400, "invalid_input"),
        ({"kind": "epoch", "id": 1}, 400, "invalid_input"),
        ({"kind": "image", "id": "1"}, 400, "invalid_input"),
        (None, 400, "invalid_input"),
    ],
)
def test_a_subject_that_is_not_there_is_named_by_a_stable_code(client_of_reviewer, subject, status, code):
    answer = client_of_reviewer.post(URL, {"subject": subject, "verdict": "good"}, format="json")
    assert (answer.status_code, answer.json()["code"]) == (status, code)


# --- the queue ---------------------------------------------------------------------------------------------------
def test_the_queue_has_disputed_images_first_then_what_nobody_reviewed_worst_and_newest_first(reviewer):
    wanted = [
        verdicts(ImageFactory(name="disputed"), "good", "poor"),
        ImageFactory(name="newer poor", grade="poor", observed_at=timezone.now()),
        ImageFactory(name="older poor", grade="poor", observed_at=timezone.now() - timedelta(days=1)),
        *(ImageFactory(name=grade, grade=grade) for grade in ("marginal", "unknown", "good")),
        MosaicFactory(name="excellent mosaic", grade="excellent"),
    ]
    verdicts(ImageFactory(name="agreed"), "poor", "poor")
    verdicts(ImageFactory(name="reviewed by one"), "poor")
    ImageFactory(name="not current", grade="poor", is_current=False)
    ImageFactory(name="quarantined", grade="poor", is_suspect=True)
    ImageFactory(name="from elsewhere", grade="poor", kind="external", measurement_set=None)
    assert [row.name for row in queue(reviewer=reviewer)] == [row.name for row in wanted]


def test_a_reviewer_is_not_asked_again_about_what_he_reviewed(reviewer):
    image = verdicts(ImageFactory(), "good")
    say(image, "poor", reviewer)
    assert list(queue(reviewer=reviewer)) == []
    assert list(queue(reviewer=UserFactory())) == [image]


def test_what_was_withdrawn_is_in_the_queue_again(reviewer):
    image = ImageFactory()
    made = say(image, "good")
    assert list(queue(reviewer=reviewer)) == []
    withdraw(review=made)
    assert list(queue(reviewer=reviewer)) == [image]


def test_the_next_of_the_queue_is_found_along_an_index(reviewer):
    plan = queue(reviewer=reviewer)[:1].explain()
    if connection.vendor == "sqlite":
        assert "USING INDEX image_review_queue" in plan
        assert "TEMP B-TREE" not in plan
    else:
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off")  # a table of no rows is read whole otherwise
            cursor.execute("SET LOCAL enable_sort = off")
        assert "image_review_queue" in queue(reviewer=reviewer)[:1].explain()


def test_next_gives_one_image_after_the_other_until_nothing_is_left(client_of_reviewer):
    poor, good = ImageFactory(grade="poor"), ImageFactory(grade="good")
    for image in (poor, good):
        found = client_of_reviewer.get(f"{URL}next/")
        assert (found.status_code, found.json()["id"]) == (200, image.pk)
        body = {"subject": {"kind": "image", "id": image.pk}, "verdict": "marginal", "tags": ["rfi"]}
        assert client_of_reviewer.post(URL, body, format="json").status_code == 201
    assert client_of_reviewer.get(f"{URL}next/").status_code == 204


def test_an_image_is_left_for_the_next_and_stays_in_the_queue(client_of_reviewer, reviewer):
    now = timezone.now()
    images = [
        ImageFactory(grade="poor", observed_at=now),
        ImageFactory(grade="poor", observed_at=now),
        ImageFactory(grade="poor", observed_at=now - timedelta(days=1)),
        ImageFactory(grade="good", observed_at=now),
    ]
    order = [images[1], images[0], *images[2:]]
    for one, following in itertools.pairwise(order):
        assert client_of_reviewer.get(f"{URL}next/?after={one.pk}").json()["id"] == following.pk
    assert client_of_reviewer.get(f"{URL}next/?after={order[-1].pk}").status_code == 204
    assert list(queue(reviewer=reviewer)) == order
    say(order[0], "poor", reviewer)
    assert client_of_reviewer.get(f"{URL}next/?after={order[0].pk}").json()["id"] == order[1].pk
    assert client_of_reviewer.get(f"{URL}next/?after=999").json()["code"] == "no_such_subject"
    assert client_of_reviewer.get(f"{URL}next/?after=x").status_code == 400
    if connection.vendor == "sqlite":
        assert "TEMP B-TREE" not in queue(reviewer=reviewer, after=order[1].pk)[:1].explain()


# --- a whole epoch -----------------------------------------------------------------------------------------------
def epoch_with_tiles(n: int):
    epoch = EpochFactory()
    tiles = [tile_of(epoch, minutes=5 * number) for number in range(n)]
    return epoch, tiles


def tile_of(epoch, minutes: float, dec_deg: float = 16.1, **more):
    group = SubbandGroupFactory(started_at=epoch.started_at + timedelta(minutes=minutes), pointing_dec_deg=dec_deg)
    return ImageFactory(measurement_set__calibrated_from__group=group, pointing_dec_deg=dec_deg, grade="good", **more)


def test_an_epoch_is_reviewed_at_once_with_its_own_tiles_and_its_mosaic(reviewer):
    epoch, tiles = epoch_with_tiles(2)
    mosaic = MosaicFactory(mosaic_of=epoch)
    others = [
        tile_of(epoch, minutes=-5),  # of the overlap
        tile_of(epoch, minutes=62),
        tile_of(epoch, minutes=11, dec_deg=54.6),
        tile_of(epoch, minutes=12, is_current=False),
        MosaicFactory(),
    ]
    made = review_epoch(epoch=epoch, reviewer=reviewer, verdict="poor", tags=["bad_calibration"])
    assert [row.image for row in made] == [*tiles, mosaic]
    assert {shown(image) for image in (*tiles, mosaic)} == {("poor", "review")}
    assert {shown(image)[1] for image in others} == {"policy"}
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.object_id) == ("epoch.review", epoch.pk)
    assert entry.details["images"] == [image.pk for image in (*tiles, mosaic)]


def test_an_epoch_of_many_tiles_takes_as_many_queries_as_one_of_few(reviewer):
    counts = []
    for n in (2, 12):
        epoch, tiles = epoch_with_tiles(n)
        for tile in tiles:
            MeasurementFactory(image=tile)
        with CaptureQueriesContext(connection) as queries:
            review_epoch(epoch=epoch, reviewer=reviewer, verdict="poor")
        counts.append(len(queries))
    assert counts[0] == counts[1]


def test_an_epoch_without_images_is_refused(client_of_reviewer, reviewer):
    epoch = EpochFactory()
    with pytest.raises(NothingToReview):
        review_epoch(epoch=epoch, reviewer=reviewer, verdict="good")
    answer = client_of_reviewer.post(f"{URL}epoch/", {"epoch": epoch.pk, "verdict": "good"}, format="json")
    assert (answer.status_code, answer.json()["code"]) == (409, "nothing_to_review")
    assert client_of_reviewer.post(f"{URL}epoch/", {"epoch": 999, "verdict": "good"}, format="json").status_code == 404


def test_an_epoch_is_reviewed_over_http(client_of_reviewer):
    epoch, tiles = epoch_with_tiles(3)
    answer = client_of_reviewer.post(f"{URL}epoch/", {"epoch": epoch.pk, "verdict": "good"}, format="json")
    assert answer.status_code == 201
    assert [row["subject"]["id"] for row in answer.json()] == [tile.pk for tile in tiles]


# --- reading -----------------------------------------------------------------------------------------------------
def test_reviews_are_listed_by_what_they_say_and_who_wrote_them(api):
    table = CalibrationTableFactory()
    first = ReviewFactory(verdict="poor", tags=["rfi", "artifact"], reviewer__username="vera")
    second = ReviewFactory(verdict="good", tags=[], image=None, calibration_table=table, is_current=False)

    def found(**filters):
        return {row["id"] for row in api.get(URL, filters).json()["results"]}

    assert found() == {first.pk, second.pk}
    assert found(reviewer="vera") == found(verdict="poor") == found(is_current="true") == {first.pk}
    assert found(tag="artifact") == found(tag="artifact,ionosphere") == found(image=first.image_id) == {first.pk}
    assert found(tag="ionosphere") == set()
    assert found(calibration_table=table.pk) == {second.pk}
    assert api.get(URL, {"tag": "cats"}).status_code == 400


def test_details_show_the_current_reviews_newest_first(api):
    image, table = ImageFactory(), CalibrationTableFactory()
    for subject, url in ((image, "images"), (table, "calibration-tables")):
        vera = UserFactory()
        say(subject, "good", vera)
        say(subject, "marginal")
        say(subject, "poor", vera, comment="stripes")
        detail = api.get(f"/api/v1/{url}/{subject.pk}/").json()
        assert [(row["verdict"], row["comment"]) for row in detail["reviews"]] == [
            ("poor", "stripes"),
            ("marginal", ""),
        ]
        assert (detail["grade"], detail["grade_source"]) == ("poor", "review")
    assert api.get("/api/v1/images/", {"is_disputed": "true"}).json()["results"][0]["id"] == image.pk


def test_only_an_administrator_withdraws_what_another_wrote(client_of_reviewer, administrator, reviewer):
    image = ImageFactory()
    theirs, own = say(image, "good"), say(image, "poor", reviewer)
    refused = client_of_reviewer.post(f"{URL}{theirs.pk}/withdraw/")
    assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_scope")
    assert client_of_reviewer.post(f"{URL}{own.pk}/withdraw/").json()["is_current"] is False
    again = client_of_reviewer.post(f"{URL}{own.pk}/withdraw/")
    assert (again.status_code, again.json()["code"]) == (409, "review_not_current")
    assert administrator.post(f"{URL}{theirs.pk}/withdraw/").status_code == 200


# --- agreement ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("counts", "exact", "near", "kappa"),
    [
        ({("good", "good"): 20, ("good", "poor"): 5, ("poor", "good"): 10, ("poor", "poor"): 15}, 0.7, 0.7, 0.4),
        ({("good", "good"): 3, ("poor", "poor"): 3}, 1.0, 1.0, 1.0),
        ({("good", "poor"): 3, ("poor", "good"): 3}, 0.0, 0.0, -1.0),
        ({("good", "marginal"): 4}, 0.0, 1.0, 0.0),
        ({("good", "good"): 4}, 1.0, 1.0, None),
    ],
)
def test_agreement_beyond_chance_is_cohens_kappa(counts, exact, near, kappa):
    found = agreement("a", "b", counts)
    assert (found.exact, found.within_one_grade) == (exact, near)
    assert found.kappa == (None if kappa is None else pytest.approx(kappa))


def test_every_pair_of_reviewers_and_the_policy_are_compared(client_of_reviewer):
    ada, bob, eve = (UserFactory(username=name) for name in ("zoe", "bob", "eve"))
    for said in ({bob: "good", ada: "good"}, {ada: "poor", bob: "marginal"}, {eve: "good"}):
        image = ImageFactory()
        AssessmentFactory(image=image, grade="good")
        for person, verdict in said.items():
            say(image, verdict, person)
    table = CalibrationTableFactory()
    AssessmentFactory(image=None, calibration_table=table, grade=Grade.UNKNOWN)
    for person in (ada, bob):
        say(table, "poor", person)
    with CaptureQueriesContext(connection) as queries:
        found = agreements()
    assert len(queries) == 4
    [pair] = found.reviewers
    assert (pair.reviewer, pair.other, pair.n) == ("bob", "zoe", 3)
    assert (pair.exact, pair.within_one_grade) == (pytest.approx(2 / 3), 1.0)
    assert [(one.reviewer, one.n, one.exact) for one in found.with_policy] == [
        ("bob", 2, 0.5), ("eve", 1, 1.0), ("zoe", 2, 0.5)
    ]  # fmt: skip
    answer = client_of_reviewer.get(f"{URL}agreement/").json()
    assert answer["reviewers"][0]["n"] == 3
    assert answer["with_policy"][0] == {
        "reviewer": "bob", "other": None, "n": 2, "exact": 0.5, "within_one_grade": 1.0, "kappa": 0.0
    }  # fmt: skip


def test_agreement_is_of_the_time_that_is_asked_for(client_of_reviewer):
    verdicts(ImageFactory(), "good", "poor")
    Review.objects.update(created_at=timezone.now() - timedelta(days=400))
    assert client_of_reviewer.get(f"{URL}agreement/").json()["reviewers"] == []
    assert len(client_of_reviewer.get(f"{URL}agreement/?since=2020-01-01T00:00:00Z").json()["reviewers"]) == 1
    assert client_of_reviewer.get(f"{URL}agreement/?since=yesterday").status_code == 400
    assert client_of_reviewer.get(f"{URL}agreement/?until=2020-01-01").status_code == 400


# --- admin -------------------------------------------------------------------------------------------------------
@pytest.fixture
def staff(client, reviewer):
    reviewer.is_staff = True
    reviewer.save()
    client.force_login(reviewer)
    return client


def page_of(row) -> str:
    return reverse("admin:qa_review_write", args=[row._meta.model_name, row.pk])


def test_a_reviewer_walks_through_the_queue_with_the_picture_in_view(staff):
    poor = ImageFactory(grade="poor", preview_path="images/1.png")
    good = ImageFactory(grade="good")
    FindingFactory(assessment=AssessmentFactory(image=poor, grade="poor"), rule="noise_high", outcome="fail")
    first = staff.get(reverse("admin:qa_review_next"), follow=True)
    assert first.redirect_chain[-1][0] == page_of(poor)
    page = first.content.decode()
    assert reverse("image-preview", args=[poor.pk]) in page
    assert "noise_high" in page
    said = {"verdict": "good", "tags": ["rfi", "other"], "comment": "faint stripes", "_next": "1"}
    assert staff.post(page_of(poor), said, follow=True).redirect_chain[-1][0] == page_of(good)
    made = Review.objects.get()
    assert (made.verdict, made.tags, made.comment) == ("good", ["rfi", "other"], "faint stripes")
    left = staff.get(reverse("admin:qa_review_next"), {"after": good.pk}, follow=True)
    assert "Nothing waits for your review." in left.content.decode()
    assert staff.get(reverse("admin:qa_review_next"), {"after": 999}).headers["Location"] == page_of(good)
    last = staff.post(page_of(good), {"verdict": "good", "_next": "1"}, follow=True)
    assert "Nothing waits for your review." in last.content.decode()
    assert "Review the next image" in last.content.decode()


@pytest.mark.parametrize("said", [{}, {"verdict": "unknown"}, {"verdict": "good", "tags": ["cats"]}])
def test_a_form_that_says_nothing_known_is_shown_again(staff, said):
    answer = staff.post(page_of(ImageFactory()), said)
    assert answer.status_code == 200
    assert "errorlist" in answer.content.decode()
    assert not Review.objects.exists()


def test_tables_and_epochs_are_reviewed_in_the_admin_too(staff):
    table = CalibrationTableFactory()
    epoch, tiles = epoch_with_tiles(2)
    empty = EpochFactory()
    assert tiles[1].name in staff.get(page_of(epoch)).content.decode()
    for row in (table, epoch):
        assert staff.post(page_of(row), {"verdict": "poor"}).status_code == 302
    assert {shown(row) for row in (table, *tiles)} == {("poor", "review")}
    assert "[nothing_to_review]" in staff.post(page_of(empty), {"verdict": "poor"}).content.decode()
    assert staff.get(page_of(table).replace("calibrationtable", "policy")).status_code == 404
    assert staff.get(page_of(table).replace(f"/{table.pk}/", "/999/")).status_code == 404


def test_a_reviewer_withdraws_his_own_in_the_admin(staff, reviewer, admin_client):
    image = ImageFactory()
    rows = [say(image, "good"), say(image, "poor", reviewer)]
    asked = {"action": "withdraw", "_selected_action": [row.pk for row in rows]}
    changelist = reverse("admin:qa_review_changelist")
    page = staff.post(changelist, asked, follow=True).content.decode()
    assert "1 are of others and stay" in page
    assert "1 reviews are withdrawn." in page
    assert shown(image) == ("good", "review")
    page = admin_client.post(changelist, asked, follow=True).content.decode()
    assert "[review_not_current]" in page
    assert shown(image) == ("unknown", "policy")


def test_who_may_not_review_cannot_in_the_admin_either(client):
    client.force_login(UserFactory(is_staff=True))
    image = ImageFactory()
    for url in (page_of(image), reverse("admin:qa_review_next"), reverse("admin:qa_review_agreement")):
        assert client.get(url).status_code == 403
    assert client.post(page_of(image), {"verdict": "poor"}).status_code == 403
    asked = {"action": "withdraw", "_selected_action": [ReviewFactory().pk]}
    client.post(reverse("admin:qa_review_changelist"), asked)
    assert Review.objects.current().count() == 1


def test_agreement_is_shown_in_the_admin(staff):
    AssessmentFactory(image=verdicts(ImageFactory(), "good", "poor"), grade="good")
    page = staff.get(reverse("admin:qa_review_agreement")).content.decode()
    assert page.count("the policy") == 2
