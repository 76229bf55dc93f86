from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import chi2

from sources.variability import is_variable, modulation_index, pair_significance, statistics

EPOCHS = st.lists(st.tuples(st.floats(-1, 100, allow_subnormal=False), st.floats(1e-3, 10)), min_size=2, max_size=30)


@given(EPOCHS)
def test_eta_and_v_are_the_formulas_of_the_domain(epochs):
    flux, error = np.array(epochs).T
    found = statistics(flux.tolist(), error.tolist())
    weight, n = error**-2.0, len(flux)
    eta = n / (n - 1) * (np.mean(weight * flux**2) - np.mean(weight * flux) ** 2 / np.mean(weight))
    scale = n / (n - 1) * np.mean(weight * flux**2)
    assert found.eta == pytest.approx(eta, rel=1e-6, abs=1e-9 * scale + 1e-12)
    assert found.mean_jy == pytest.approx(np.mean(flux), rel=1e-9, abs=1e-12)
    assert found.std_jy == pytest.approx(np.std(flux, ddof=1), rel=1e-9, abs=1e-9)
    assert found.max_jy == flux.max()
    assert (found.v is None) == (found.mean_jy <= 0)
    if found.v is not None:
        assert found.v == pytest.approx(found.std_jy / found.mean_jy)


@given(EPOCHS, st.floats(0.1, 10))
def test_eta_does_not_depend_on_the_order_or_the_unit(epochs, factor):
    flux, error = map(list, zip(*epochs, strict=True))
    scaled = statistics([factor * f for f in reversed(flux)], [factor * e for e in reversed(error)])
    assert scaled.eta == pytest.approx(statistics(flux, error).eta, rel=1e-6, abs=1e-9)


@given(st.floats(-5, 5), st.floats(1e-3, 1), st.floats(-5, 5), st.floats(1e-3, 1))
def test_eta_of_two_epochs_is_the_square_of_their_significance(a, error_a, b, error_b):
    assume(abs(a - b) > 1e-3)
    significance = pair_significance(a, error_a, b, error_b)
    assert statistics([a, b], [error_a, error_b]).eta == pytest.approx(significance**2, rel=1e-6)


@pytest.mark.parametrize(
    ("fluxes", "errors", "n", "eta", "v", "reason"),
    [
        ([], [], 0, None, None, "No valid epoch."),
        ([math.nan], [1.0], 0, None, None, "No valid epoch."),
        ([1.0], [0.0], 0, None, None, "No valid epoch."),
        ([1.0], [-1.0], 0, None, None, "No valid epoch."),
        ([1.0], [0.1], 1, None, None, "Only one valid epoch; eta and V need two."),
        ([1.0, math.nan], [0.1, 0.1], 1, None, None, "Only one valid epoch; eta and V need two."),
        ([1.0, 2.0], [0.1, math.inf], 1, None, None, "Only one valid epoch; eta and V need two."),
        ([0.0, 0.0], [0.1, 0.1], 2, 0.0, None, "The mean flux is not positive, so V is not defined."),
        ([-1.0, 0.5], [1.0, 1.0], 2, 1.125, None, "The mean flux is not positive, so V is not defined."),
        ([2.0, 2.0, 2.0], [0.1, 0.2, 0.3], 3, 0.0, 0.0, ""),
        ([1.0, 3.0], [1.0, 1.0], 2, 2.0, math.sqrt(2) / 2, ""),
    ],
)
def test_what_is_not_defined_is_none_with_the_reason_and_zero_is_a_value(fluxes, errors, n, eta, v, reason):
    found = statistics(fluxes, errors)
    assert (found.n, found.reason) == (n, reason)
    assert found.eta == (None if eta is None else pytest.approx(eta))
    assert found.v == (None if v is None else pytest.approx(v))


def test_a_bright_constant_source_keeps_its_digits():
    """The textbook difference of two large numbers gives anything from -1 to 1 here."""
    flux = [1e4 + step * 1e-9 for step in range(6)]
    assert statistics(flux, [1e-9] * 6).eta == pytest.approx(3.5, rel=1e-2)


@pytest.mark.parametrize(
    ("pair", "significance", "modulation"),
    [
        ((2.0, 0.3, 1.0, 0.4), 2.0, 2 / 3),
        ((1.0, 0.3, 2.0, 0.4), -2.0, -2 / 3),
        ((1.0, 0.0, 2.0, 0.0), None, -2 / 3),
        ((1.0, 1.0, -1.0, 1.0), math.sqrt(2), None),
        ((0.0, 1.0, 0.0, 1.0), 0.0, None),
        ((-2.0, 1.0, 1.0, 1.0), -3 / math.sqrt(2), None),
    ],
)
def test_a_pair_of_epochs(pair, significance, modulation):
    a, error_a, b, error_b = pair
    found = pair_significance(a, error_a, b, error_b)
    assert found == (None if significance is None else pytest.approx(significance))
    assert modulation_index(a, b) == (None if modulation is None else pytest.approx(modulation))


@pytest.mark.parametrize(("n", "n_sources"), [(2, 1), (6, 30), (6, 1000), (100, 30)])
def test_the_limit_is_a_hundredth_of_a_false_alarm_per_field(n, n_sources):
    limit = chi2.ppf(1 - 0.01 / n_sources, n - 1) / (n - 1)
    assert not is_variable(eta=limit * (1 - 1e-9), n=n, n_sources=n_sources)
    assert is_variable(eta=limit * (1 + 1e-9), n=n, n_sources=n_sources)


def test_the_limit_of_six_epochs_and_thirty_sources_is_the_one_of_the_domain():
    assert not is_variable(eta=4.5, n=6, n_sources=30)
    assert is_variable(eta=4.7, n=6, n_sources=30)


@pytest.mark.parametrize(("eta", "n"), [(None, 0), (None, 1), (1e9, 1), (0.0, 6)])
def test_what_cannot_be_judged_is_not_variable(eta, n):
    assert not is_variable(eta=eta, n=n, n_sources=0)
