from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from contimg import renditions
from observations.engines.measurement_set import read_header
from observations.engines.raster import gather
from tests.contimg.api.test_filters import errors
from tests.factories import MeasurementSetFactory
from tests.science import column, edited


@pytest.fixture(scope="module")
def spoilt(calibrator_tile, tmp_path_factory) -> Path:
    """A tenth flagged at random, antenna 3 altogether, and a NaN that nobody flagged."""
    generator = np.random.default_rng(1)

    def flags(values, antenna1, antenna2):
        values[generator.random(values.shape) < 0.1] = True
        values[(antenna1 == 3) | (antenna2 == 3)] = True
        values[7] = False
        return values

    def data(values, antenna1, antenna2):
        values[7, 2, 0] = np.nan
        return values

    return edited(calibrator_tile.path, tmp_path_factory.mktemp("spoilt"), FLAG=flags, DATA=data)


def by_hand(path: Path, y: str, x: str) -> dict[str, np.ndarray]:
    """The same with loops over rows."""
    data, flags, times, first, second = (
        column(path, name) for name in ("DATA", "FLAG", "TIME", "ANTENNA1", "ANTENNA2")
    )
    n_channels, all_times, pairs = data.shape[1], np.unique(times), []
    for one in range(10):
        pairs += [(one, two) for two in range(one + 1, 10)]
    sizes = {"time": all_times.size, "channel": n_channels, "antenna": 10, "baseline": len(pairs)}
    shape = sizes[y], sizes[x]
    amplitude, total, n, n_good, n_all = (np.zeros(shape, kind) for kind in (float, complex, int, int, int))
    for row in np.flatnonzero(first != second):
        for channel in range(n_channels):
            places = {
                "time": [np.searchsorted(all_times, times[row])],
                "channel": [channel],
                "antenna": [first[row], second[row]],
                "baseline": [pairs.index((first[row], second[row]))],
            }
            good = ~flags[row, channel]
            usable = good & np.isfinite(data[row, channel])
            for at in [(one, two) for one in places[y] for two in places[x]]:
                amplitude[at] += np.abs(data[row, channel][usable]).sum()
                total[at] += data[row, channel][usable].sum()
                n[at] += usable.sum()
                n_good[at] += good.sum()
                n_all[at] += good.size
    with np.errstate(invalid="ignore", divide="ignore"):
        phase = np.where(n, np.degrees(np.angle(total)), np.nan)
        return {"amplitude": amplitude / n, "phase": phase, "flags": 1 - n_good / n_all}


@pytest.mark.parametrize(
    ("y", "x"),
    [("channel", "time"), ("time", "channel"), ("baseline", "time"), ("antenna", "channel"), ("antenna", "time")],
)
def test_every_pixel_is_what_a_loop_over_the_rows_gives(spoilt, y, x):
    expected = by_hand(spoilt, y, x)
    for quantity in ("amplitude", "phase", "flags"):
        found = gather(spoilt, read_header(spoilt), x=x, y=y, quantity=quantity)
        np.testing.assert_allclose(found.values, expected[quantity], rtol=1e-5, atol=1e-4)


def test_antennas_and_baselines_without_data_are_left_out(calibrator_tile, tmp_path):
    """A set of ten antennas whose fourth has autocorrelations only."""

    def others(values, antenna1, antenna2):
        return np.where((antenna1 == 3) | (antenna2 == 3), 3, values)

    cut = edited(calibrator_tile.path, tmp_path, ANTENNA1=others, ANTENNA2=others)
    raster = gather(cut, read_header(cut), x="time", y="antenna", quantity="flags")
    assert raster.y_places.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert gather(cut, read_header(cut), x="time", y="baseline", quantity="flags").values.shape[0] == 36


# --- HTTP ------------------------------------------------------------------------------------------------------------
@pytest.fixture
def measurement_set(db, calibrator_tile, products_root):
    shutil.copytree(calibrator_tile.path, products_root / "raw.ms")
    return MeasurementSetFactory(path="raw.ms")


def ask(api, measurement_set, headers=None, **parameters):
    url = f"/api/v1/measurement-sets/{measurement_set.pk}/raster.png"
    return api.get(url, parameters, headers=headers or {})


def test_a_raster_is_a_picture_of_the_size_that_was_asked_for_and_is_made_once(api, measurement_set, products_root):
    response = ask(api, measurement_set, x="channel", y="baseline", quantity="phase", colormap="twilight", width_px=700)
    assert (response.status_code, response.headers["Content-Type"]) == (200, "image/png")
    content = b"".join(response.streaming_content)
    assert Picture.open(io.BytesIO(content)).size == (700, 600)
    assert f'filename="{measurement_set.name}_raster.png"' in response.headers["Content-Disposition"]
    (kept,) = (products_root / renditions.FOLDER).iterdir()
    file_number = kept.stat().st_ino
    again = ask(api, measurement_set, x="channel", y="baseline", quantity="phase", colormap="twilight", width_px="700")
    assert b"".join(again.streaming_content) == content
    assert kept.stat().st_ino == file_number
    etag = response.headers["ETag"]
    known = {"x": "channel", "y": "baseline", "quantity": "phase", "colormap": "twilight", "width_px": 700}
    assert ask(api, measurement_set, {"if-none-match": etag}, **known).status_code == 304
    assert ask(api, measurement_set, {"range": "bytes=0-3"}, **known).status_code == 206
    assert ask(api, measurement_set).headers["ETag"] != etag


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("given", "wrong", "names"),
    [
        ({"x": "frequency"}, {"x": "invalid_choice"}, "time, channel, baseline, antenna"),
        ({"y": "time"}, {"y": "invalid_choice"}, "channel, baseline, antenna"),
        ({"x": "channel"}, {"y": "invalid_choice"}, "time, baseline, antenna"),
        ({"quantity": "snr"}, {"quantity": "invalid_choice"}, "amplitude, phase, flags"),
        ({"colormap": "jet"}, {"colormap": "invalid_choice"}, "viridis, cividis"),
        ({"width_px": "199"}, {"width_px": "min_value"}, "200"),
        ({"width_px": "2001"}, {"width_px": "max_value"}, "2000"),
        ({"height_px": "199"}, {"height_px": "min_value"}, "200"),
        ({"height_px": "2001"}, {"height_px": "max_value"}, "2000"),
        *(({"width_px": value}, {"width_px": "invalid"}, "") for value in ("nan", "inf", "300.5", "3e2", "x", "٣٠٠")),
        *(({name: ""}, {name: "empty_parameter"}, "") for name in ("x", "y", "quantity", "colormap", "width_px")),
        ({"x": ["time", "time"]}, {"x": "repeated_parameter"}, ""),
        ({"z": "time"}, {"z": "unknown_parameter"}, "colormap, format, height_px, quantity, width_px, x, y"),
    ],
)
def test_what_cannot_be_drawn_is_refused_and_the_valid_ones_are_named(api, given, wrong, names):
    response = ask(api, MeasurementSetFactory(), **given)
    assert errors(response) == wrong
    assert names in response.json()["detail"]


@pytest.mark.parametrize(("name", "ends"), [("width_px", (200, 2000)), ("height_px", (200, 2000))])
def test_both_ends_of_a_size_belong_to_it(api, measurement_set, name, ends):
    for size in ends:
        assert ask(api, measurement_set, **{name: size}).status_code == 200


@pytest.mark.parametrize("spoil", ["delete", "empty", "truncate"])
def test_a_set_that_is_gone_is_410_and_a_broken_one_is_named_without_its_place(
    api, measurement_set, products_root, spoil
):
    place = products_root / "raw.ms"
    if spoil == "truncate":
        for file in place.glob("table.f*"):
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        shutil.rmtree(place)
    if spoil == "empty":
        place.mkdir()
    response = ask(api, measurement_set)
    expected = (410, "missing_product") if spoil == "delete" else (422, "rendition_failed")
    assert (response.status_code, response.json()["code"]) == expected
    assert str(products_root.parent) not in response.content.decode()
    assert "Traceback" not in response.content.decode()


def test_too_many_at_once_are_told_when_to_come_again(api, measurement_set):
    with renditions.places.taken(), renditions.places.taken():
        response = ask(api, measurement_set)
    assert (response.status_code, response.json()["code"]) == (503, "too_many_renditions")
    assert response.headers["Retry-After"] == "5"
