from __future__ import annotations

import numpy as np
import pytest

from contimg.exceptions import MissingProduct
from sources.comparison import compare_image, comparison_recipe, record_comparison
from sources.models import Comparison, ReferenceCatalogue
from tests.factories import ImageFactory, ReferenceCatalogueFactory, ReferenceSourceFactory
from tests.sources.skies import make_tile, offset

pytestmark = pytest.mark.django_db

CENTRE = (150.0, 30.0)
PLACES = [offset(*CENTRE, east, north) for east in (-400, 0, 400) for north in (-400, 0, 400)]
FLUX_JY = 0.2


def catalogue(places=PLACES, *, flux_jy: float = FLUX_JY, frequency_hz: float | None = 1.405e9, **columns):
    made = ReferenceCatalogueFactory(frequency_hz=frequency_hz)
    for ra, dec in places:
        ReferenceSourceFactory(catalogue=made, ra_deg=ra, dec_deg=dec, flux_jy=flux_jy, **columns)
    return made


def tile(products_root, places=PLACES, *, flux_jy: float = FLUX_JY, **sky):
    return make_tile(products_root, [(ra, dec, flux_jy) for ra, dec in places], **sky)


def test_a_tile_is_held_against_the_one_catalogue_that_is_imported(products_root):
    nvss = catalogue()
    image = tile(products_root)
    row = record_comparison(comparison=compare_image(image=image))
    row.refresh_from_db()
    assert (row.catalogue, row.n_expected, row.n_matched, row.reason) == (nvss, 9, 9, "")
    assert row.flux_ratio == pytest.approx(1, abs=0.02)
    assert row.completeness == 1
    assert sum(n for _, _, n, _ in row.completeness_by_flux) == 9
    assert len(row.matches) == 9
    assert row.recipe == comparison_recipe(image=image)


def test_the_same_again_is_the_same_row_and_another_flux_changes_it(products_root):
    catalogue()
    image = tile(products_root)
    first = record_comparison(comparison=compare_image(image=image))
    again = record_comparison(comparison=compare_image(image=image))
    assert (again.pk, again.flux_ratio, again.recipe) == (first.pk, first.flux_ratio, first.recipe)
    assert Comparison.objects.count() == 1


@pytest.mark.parametrize("ra_deg", [0.0, 359.999])
def test_sources_on_both_sides_of_ra_0_are_found(products_root, ra_deg):
    places = [offset(ra_deg, 30.0, east, 0) for east in (-400, 0, 400)]
    assert len({round(ra / 360) for ra, _ in places}) == 2
    catalogue(places)
    found = compare_image(image=tile(products_root, places, ra_deg=ra_deg))
    assert (found.n_expected, found.flux_ratio) == (3, pytest.approx(1, abs=0.02))


@pytest.mark.parametrize(
    ("frequency_hz", "spectral_index", "scale"),
    [
        (1.405e9, None, 1.0),
        (0.1405e9, None, 10**-0.7),
        (0.1405e9, 0.0, 1.0),
        (0.1405e9, -1.0, 0.1),
        (None, -1.0, 1.0),  # of an unknown frequency nothing is scaled
    ],
)
def test_fluxes_are_brought_to_the_frequency_of_the_image(products_root, frequency_hz, spectral_index, scale):
    catalogue(flux_jy=FLUX_JY / scale, frequency_hz=frequency_hz, spectral_index=spectral_index)
    found = compare_image(image=tile(products_root))
    assert found.flux_ratio == pytest.approx(1, abs=0.02)
    assert found.parameters["spectral_index_assumed"] == (None if frequency_hz is None else -0.7)
    assert found.parameters["from_hz"] == frequency_hz


def test_without_a_catalogue_the_comparison_says_so_and_reads_no_file():
    row = record_comparison(comparison=compare_image(image=ImageFactory()))
    assert (row.reason, row.n_expected, row.flux_ratio) == ("no reference catalogue is imported", 0, None)


def test_of_several_catalogues_the_first_counts_until_the_setting_names_one(products_root, settings):
    first, second = catalogue(), catalogue(flux_jy=2 * FLUX_JY)
    image = tile(products_root)
    assert compare_image(image=image).catalogue == first
    for chosen, ratio in ((first, 1.0), (second, 0.5)):
        settings.CONTIMG_REFERENCE_CATALOGUE = chosen.name
        found = compare_image(image=image)
        assert (found.catalogue, found.flux_ratio) == (chosen, pytest.approx(ratio, abs=0.01))
    settings.CONTIMG_REFERENCE_CATALOGUE = "FIRST"
    assert compare_image(image=image).reason == "the reference catalogue FIRST is not imported"


def test_nothing_of_the_catalogue_in_the_image_has_a_reason(products_root):
    nvss = catalogue([(10.0, -20.0)])
    found = compare_image(image=tile(products_root))
    assert found.reason == f"nothing of {nvss.name} from 50 mJy on is in this image"
    assert (found.flux_ratio, found.completeness, found.n_expected) == (None, None, 0)


def test_sources_that_all_have_neighbours_give_completeness_and_no_ratio(products_root):
    pair = [CENTRE, offset(*CENTRE, 45, 0)]
    catalogue(pair)
    found = compare_image(image=tile(products_root, pair))
    assert "stands alone" in found.reason
    assert (found.n_expected, found.n_matched, found.flux_ratio, found.completeness) == (2, 0, None, 1.0)


def test_an_image_without_a_beam_is_not_compared_and_says_why():
    catalogue()
    image = ImageFactory(ra_deg=CENTRE[0], dec_deg=CENTRE[1], bmaj_arcsec=None)
    assert "does not say its beam" in compare_image(image=image).reason


def test_an_image_whose_file_is_gone_is_an_error_and_no_verdict(products_root):
    catalogue()
    with pytest.raises(MissingProduct):
        compare_image(image=ImageFactory(ra_deg=CENTRE[0], dec_deg=CENTRE[1], flat_noise_path="images/gone.fits"))


def test_a_blank_image_shows_nothing_of_the_catalogue(products_root):
    from astropy.io import fits

    catalogue()
    image = tile(products_root)
    for name in ("image", "residual"):
        with fits.open(products_root / "tile0" / f"{name}.fits", mode="update") as hdus:
            hdus[0].data[:] = np.nan
    found = compare_image(image=image)
    assert (found.n_expected, found.flux_ratio) == (0, None)


def test_another_file_of_the_catalogue_asks_for_another_comparison(products_root, settings):
    nvss = catalogue()
    image = tile(products_root)
    recipes = {comparison_recipe(image=image)}
    ReferenceCatalogue.objects.filter(pk=nvss.pk).update(checksum="0" * 64)
    recipes.add(comparison_recipe(image=image))
    settings.CONTIMG_SPECTRAL_INDEX = -0.8
    recipes.add(comparison_recipe(image=image))
    assert len(recipes) == 3


def test_a_reference_source_of_no_flux_error_and_a_catalogue_deleted_later_leave_the_comparison(products_root):
    nvss = catalogue(flux_err_jy=None)
    row = record_comparison(comparison=compare_image(image=tile(products_root)))
    nvss.delete()
    row.refresh_from_db()
    assert (row.catalogue, row.n_expected) == (None, 9)
