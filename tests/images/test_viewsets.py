from __future__ import annotations

import astropy.units as u
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits as astropy_fits

from tests.contimg.api.test_filters import errors, ids
from tests.factories import (
    AppliedTableFactory,
    AssessmentFactory,
    CalibratedSetFactory,
    DataRootFactory,
    FindingFactory,
    ImageFactory,
    MosaicFactory,
)
from tests.images import radio_fits

CONTENT = bytes(range(256)) * 10
SIZE = len(CONTENT)
OF_EACH = {"measurements", "versions", "provenance", "impact"}  # links of every image


@pytest.fixture
def image(db, products_root):
    (products_root / "images").mkdir()
    (products_root / "images" / "tile.fits").write_bytes(CONTENT)
    (products_root / "images" / "tile.png").write_bytes(b"\x89PNG")
    return ImageFactory(path="images/tile.fits", preview_path="images/tile.png", size_bytes=SIZE)


def fits(api, image, **headers: str):
    return api.get(f"/api/v1/images/{image.pk}/fits/", headers=headers)


def body(response) -> bytes:
    return b"".join(response.streaming_content)


def test_a_file_of_another_length_is_not_given_as_the_one_that_was_registered(api, image, products_root):
    (products_root / image.path).write_bytes(CONTENT[:-1])
    response = fits(api, image)
    assert (response.status_code, response.json()["code"]) == (410, "missing_product")


@pytest.mark.parametrize("form", ["fits/", "preview.png", "cutout/?ra_deg=1&dec_deg=1&size_arcsec=300"])
def test_a_disk_that_is_not_mounted_is_said_and_no_file_is_called_lost(api, image, products_root, form):
    products_root.rename(products_root.with_name("away"))
    response = api.get(f"/api/v1/images/{image.pk}/{form}")
    assert (response.status_code, response.json()["code"]) == (503, "products_away")
    assert "mkdir" not in response.json()["detail"], "that is for the operator at the console"
    assert not products_root.exists()


@pytest.mark.parametrize("accept", ["*/*", "application/fits", "text/html,*/*;q=0.8", "image/png"])
def test_the_fits_file_is_streamed_whole_whatever_is_accepted(api, image, accept):
    response = fits(api, image, accept=accept)
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/fits"
    assert response.headers["Accept-Ranges"] == "bytes"
    assert int(response.headers["Content-Length"]) == SIZE
    assert 'filename="tile.fits"' in response.headers["Content-Disposition"]
    assert body(response) == CONTENT


@pytest.mark.parametrize(
    ("asked", "first", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-99", 0, 100),
        ("Bytes=0-99", 0, 100),
        ("bytes=100-", 100, SIZE),
        ("bytes=-100", SIZE - 100, SIZE),
        ("bytes=0-99999999999999999999", 0, SIZE),
        ("bytes=1-" + "9" * 5000, 1, SIZE),
        ("bytes=-" + "9" * 5000, 0, SIZE),
        ("bytes=" + "0" * 30 + "7-", 7, SIZE),
        ("bytes=-999999", 0, SIZE),
        (f"bytes={SIZE - 1}-{SIZE + 50}", SIZE - 1, SIZE),
    ],
)
def test_a_byte_range_is_answered_in_part(api, image, asked, first, end):
    response = fits(api, image, range=asked)
    assert response.status_code == 206
    assert response.headers["Content-Range"] == f"bytes {first}-{end - 1}/{SIZE}"
    assert int(response.headers["Content-Length"]) == end - first
    assert body(response) == CONTENT[first:end]


def test_head_is_about_the_whole_file(api, image):
    headed = api.head(f"/api/v1/images/{image.pk}/fits/", headers={"range": "bytes=0-9"})
    assert (headed.status_code, headed.headers["Content-Length"]) == (200, str(SIZE))


@pytest.mark.parametrize("asked", [f"bytes={SIZE}-", "bytes=-0", f"bytes={SIZE + 5}-{SIZE + 9}", f"bytes={'9' * 20}-"])
def test_a_range_outside_of_the_file_is_416_with_the_size(api, image, asked):
    response = fits(api, image, range=asked)
    assert response.status_code == 416
    assert response.json()["code"] == "range_not_satisfiable"
    assert response.headers["Content-Range"] == f"bytes */{SIZE}"


@pytest.mark.parametrize(
    "asked", ["bytes=5-3", "bytes=0-1,5-6", "lines=0-1", "bytes=-", "bytes=a-b", "bytes=" + "9" * 40]
)
def test_a_range_that_means_nothing_gets_the_whole_file(api, image, asked):
    response = fits(api, image, range=asked)
    assert (response.status_code, len(body(response))) == (200, SIZE)


def test_who_has_this_version_is_told_so_whatever_range_he_asks_for(api, image):
    etag = fits(api, image).headers["ETag"]
    asked = [{}, {"range": "bytes=0-1"}, {"range": f"bytes={SIZE}-"}]
    assert [fits(api, image, **{"if-none-match": etag, **one}).status_code for one in asked] == [304] * 3
    written = fits(api, image).headers["Last-Modified"]
    assert [fits(api, image, **{"if-modified-since": written, **one}).status_code for one in asked] == [304] * 3


def test_who_wants_it_unchanged_since_a_time_has_it_unless_it_has_changed(api, image):
    written = fits(api, image).headers["Last-Modified"]
    times = [written, "Fri, 01 Jan 2100 00:00:00 GMT", "Thu, 01 Jan 2004 00:00:00 GMT"]
    assert [fits(api, image, **{"if-unmodified-since": time}).status_code for time in times] == [200, 200, 412]


def test_a_range_of_another_version_gets_the_whole_file(api, image):
    etag = fits(api, image).headers["ETag"]
    assert fits(api, image, **{"range": "bytes=0-1", "if-range": etag}).status_code == 206
    assert fits(api, image, **{"range": "bytes=0-1", "if-range": '"other"'}).status_code == 200


def test_a_file_that_the_caller_has_is_not_sent_again(api, image):
    etag = fits(api, image).headers["ETag"]
    assert fits(api, image, **{"if-none-match": etag}).status_code == 304


def test_the_preview_is_a_png(api, image):
    response = api.get(f"/api/v1/images/{image.pk}/preview.png", headers={"accept": "image/avif"})
    assert (response.status_code, response.headers["Content-Type"]) == (200, "image/png")
    assert body(response) == b"\x89PNG"


@pytest.mark.django_db
def test_an_image_without_a_preview_has_none(api):
    assert api.get(f"/api/v1/images/{ImageFactory().pk}/preview.png").status_code == 404


@pytest.mark.django_db
def test_a_product_that_is_gone_is_410_and_its_place_is_not_told(api, products_root):
    response = fits(api, ImageFactory(path="images/gone.fits"))
    assert (response.status_code, response.json()["code"]) == (410, "missing_product")
    assert str(products_root) not in response.content.decode()


@pytest.mark.django_db
def test_an_external_image_is_read_below_its_data_root_and_nowhere_else(api, tmp_path):
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "vlass.fits").write_bytes(CONTENT)
    (tmp_path / "secret.fits").write_bytes(b"secret")
    root = DataRootFactory(path=str(tmp_path / "archive"))
    given = {"kind": "external", "measurement_set": None, "root": root, "size_bytes": SIZE}
    assert body(fits(api, ImageFactory(path="vlass.fits", **given))) == CONTENT
    escaping = fits(api, ImageFactory(path="../secret.fits", **given))
    assert (escaping.status_code, escaping.json()["code"]) == (400, "outside_root")
    assert fits(api, ImageFactory(path="gone.fits", **given)).status_code == 410


@pytest.mark.django_db
def test_the_detail_says_how_the_image_was_made_and_judged(api):
    applied = AppliedTableFactory()
    image = ImageFactory(measurement_set=applied.measurement_set, preview_path="p.png")
    AssessmentFactory(image=image, is_current=False)
    finding = FindingFactory(assessment=AssessmentFactory(image=image, grade="marginal"), outcome="warn")
    detail = api.get(f"/api/v1/images/{image.pk}/").json()
    assert [table["set_name"] for table in detail["tables_applied"]] == [applied.table.set_name]
    assert detail["assessment"]["grade"] == "marginal"
    assert detail["assessment"]["policy"]["version"] == finding.assessment.policy.version
    assert [row["outcome"] for row in detail["assessment"]["findings"]] == ["warn"]
    assert set(detail["links"]) == {"fits", "preview", "measurement_set", *OF_EACH}
    for link in detail["links"].values():
        if "fits" not in link and "preview" not in link:
            assert api.get(link).status_code == 200
    assert detail["dynamic_range"] == pytest.approx(500)


@pytest.mark.django_db
def test_an_external_image_hangs_on_nothing(api):
    detail = api.get(f"/api/v1/images/{ImageFactory(kind='external', measurement_set=None).pk}/").json()
    assert (detail["measurement_set"], detail["tables_applied"], detail["assessment"]) == (None, [], None)
    assert set(detail["links"]) == {"fits", *OF_EACH}


@pytest.mark.django_db
def test_the_versions_of_a_tile_are_those_of_its_group_the_newest_first(api):
    old = ImageFactory(is_current=False)
    again = CalibratedSetFactory(calibrated_from=old.measurement_set.calibrated_from, is_current=False)
    new, newest = ImageFactory(measurement_set=again, is_current=False), ImageFactory(measurement_set=again)
    ImageFactory()
    for one in (old, new, newest):
        response = api.get(f"/api/v1/images/{one.pk}/versions/")
        assert ids(response) == [newest.pk, new.pk, old.pk]
        assert [row["is_current"] for row in response.json()["results"]] == [True, False, False]
    first = api.get(f"/api/v1/images/{old.pk}/versions/?limit=2&count=true").json()
    assert (first["count"], ids(api.get(first["next"]))) == (3, [old.pk])


@pytest.mark.django_db
def test_the_versions_of_a_mosaic_are_those_of_its_epoch_and_an_external_image_has_one(api):
    mosaic = MosaicFactory(is_current=False)
    again = MosaicFactory(mosaic_of=mosaic.mosaic_of)
    external = ImageFactory(kind="external", measurement_set=None)
    MosaicFactory()
    ImageFactory(kind="external", measurement_set=None)
    assert ids(api.get(f"/api/v1/images/{mosaic.pk}/versions/")) == [again.pk, mosaic.pk]
    assert ids(api.get(f"/api/v1/images/{external.pk}/versions/")) == [external.pk]
    assert api.get(f"/api/v1/images/{2**40}/versions/").status_code == 404


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"grade": "good"}, {"grade": "unknown_parameter"}),
        ({"limit": "0"}, {"limit": "out_of_range"}),
        ({"limit": "1001"}, {"limit": "out_of_range"}),
        ({"limit": "nan"}, {"limit": "out_of_range"}),
        ({"limit": ["1", "1"]}, {"limit": "repeated_parameter"}),
        ({"cursor": "x"}, {"cursor": "invalid_cursor"}),
        ({"count": "1"}, {"count": "invalid"}),
    ],
)
def test_a_page_of_versions_that_cannot_be_read_is_refused(api, given, wrong):
    assert errors(api.get(f"/api/v1/images/{ImageFactory().pk}/versions/", given)) == wrong


@pytest.mark.django_db
def test_no_path_is_told(api):
    image = ImageFactory()
    for url in ("/api/v1/images/", f"/api/v1/images/{image.pk}/"):
        assert image.path not in api.get(url).content.decode()


# --- the images that cover a point ------------------------------------------------------------------------------------
IMAGES = "/api/v1/images/"
SIDE = 1.0666  # half of the factory's 1280 pixels of 6 arcsec; its radius is 1.5


def covering(api, ra_deg, dec_deg, /, **more):
    return ids(api.get(IMAGES, {"covers_ra_deg": ra_deg % 360, "covers_dec_deg": dec_deg, **more}))


def tile(ra_deg, dec_deg, **given):
    return ImageFactory(ra_deg=ra_deg, dec_deg=dec_deg, **given)


@pytest.mark.django_db
@pytest.mark.parametrize(("ra", "dec"), [(150.0, 0.0), (0.0, 16.0), (359.9, -40.0), (10.0, 80.0)])
def test_a_tile_covers_what_is_inside_of_its_four_sides(api, ra, dec):
    image = tile(ra, dec)
    for x, y, inside in (
        (0, 0, True), (0.99, 0, True), (-0.99, 0, True), (0, 0.99, True), (0, -0.99, True),
        (1.01, 0, False), (-1.01, 0, False), (0, 1.01, False), (0, -1.01, False), (1.3, 0, False), (0, 1.35, False),
    ):  # fmt: skip
        point = SkyCoord(ra, dec, unit="deg").spherical_offsets_by(x * SIDE * u.deg, 0 * u.deg)
        if y:
            point = SkyCoord(ra, dec, unit="deg").spherical_offsets_by(0 * u.deg, y * SIDE * u.deg)
        assert covering(api, point.ra.deg, point.dec.deg) == ([image.pk] if inside else []), (x, y)
    assert covering(api, ra + 180, -dec) == []


@pytest.mark.django_db
@pytest.mark.parametrize("pole", [90.0, -90.0])
def test_a_tile_at_the_pole_covers_every_right_ascension(api, pole):
    image = tile(0.0, pole)
    near, beyond = pole * (1 - 1.0 / 90), pole * (1 - 1.2 / 90)
    for ra in (0, 90, 180, 270, 359.999):
        assert covering(api, ra, pole) == covering(api, ra, near) == [image.pk]
        assert covering(api, ra, beyond) == []
        assert covering(api, ra, -pole) == []


@pytest.mark.django_db
def test_of_an_external_image_without_edges_the_circle_decides_however_large(api):
    given = {"kind": "external", "measurement_set": None}
    small, whole = tile(20.0, 0.0, **given), tile(200.0, 0.0, radius_deg=180.0, **given)
    assert set(covering(api, 20.0, 1.49)) == {small.pk, whole.pk}
    assert covering(api, 20.0, 1.51) == [whole.pk]


@pytest.mark.django_db
def test_images_that_cover_a_point_are_filtered_further_also_by_a_cone(api):
    old, new = tile(20.0, 0.0), tile(20.5, 0.0)
    assert covering(api, 20.0, 0.0, ordering="id", is_current="true") == [old.pk, new.pk]
    assert covering(api, 20.0, 0.0, ra_deg=20.6, dec_deg=0, radius_deg=0.2) == [new.pk]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("point", "wrong"),
    [
        ({"covers_ra_deg": "10"}, {"covers_dec_deg": "incomplete_point"}),
        ({"covers_dec_deg": "10"}, {"covers_ra_deg": "incomplete_point"}),
        ({"covers_ra_deg": "360", "covers_dec_deg": "0"}, {"covers_ra_deg": "max_value"}),
        ({"covers_ra_deg": "0", "covers_dec_deg": "90.1"}, {"covers_dec_deg": "max_value"}),
        ({"covers_ra_deg": "x", "covers_dec_deg": "0"}, {"covers_ra_deg": "invalid"}),
    ],
)
def test_a_point_outside_of_its_ranges_is_refused(api, point, wrong):
    assert errors(api.get(IMAGES, point)) == wrong


# --- the celestial header ---------------------------------------------------------------------------------------------
@pytest.mark.django_db
def test_the_detail_has_the_celestial_cards_of_the_file(api, products_root):
    history = [f"line {n}" for n in range(200)]
    written = radio_fits.write(products_root / "tile.fits", history=history, RADESYS="ICRS", EQUINOX=2000.0, PC1_2=0.5)
    wcs = api.get(f"{IMAGES}{ImageFactory(path=written.name).pk}/").json()["wcs"]
    header = astropy_fits.getheader(written)
    assert wcs == {
        keyword.lower(): header[keyword] for keyword in (*radio_fits.celestial_cards(), "RADESYS", "EQUINOX", "PC1_2")
    }


@pytest.mark.django_db
@pytest.mark.parametrize("content", [b"", b"SIMPLE", bytes(range(256)) * 50, b"CRVAL1  = 1".ljust(80) * 36])
def test_a_file_without_a_celestial_header_has_no_wcs(api, products_root, content):
    (products_root / "odd.fits").write_bytes(content)
    for path in ("odd.fits", "gone.fits", "../outside.fits"):
        assert api.get(f"{IMAGES}{ImageFactory(path=path).pk}/").json()["wcs"] is None
