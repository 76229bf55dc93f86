from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import h5py
import pytest
from django.core.management import CommandError, call_command

from batch.truth import compare
from observations.engines.uvh5_header import read_header
from observations.models import SubbandGroup
from observations.services import index_subbands
from sources.models import ReferenceCatalogue

pytestmark = pytest.mark.django_db
SMALL = {"antennas": 6, "channels": 1, "integrations": 2, "sources": 2, "verbosity": 0}


def simulate(folder: Path, **options) -> str:
    out = StringIO()
    call_command("simulate", folder, stdout=out, **{**SMALL, **options})
    return out.getvalue()


def nights(folder: Path) -> list[list[Path]]:
    """Files of each tile: the first character of the time that differs from tile to tile is the hour's."""
    tiles: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.hdf5")):
        tiles.setdefault(path.name[:13], []).append(path)
    return list(tiles.values())


def test_an_unknown_calibrator_is_named_with_the_known_ones(tmp_path):
    with pytest.raises(CommandError, match=r"no calibrator 'Vega'; known are .*3C286"):
        simulate(tmp_path / "raw", calibrator="Vega")
    assert not (tmp_path / "raw").exists()


def test_damaged_nights_are_as_the_truth_beside_them_says(tmp_path):
    folder = tmp_path / "raw" / "deep"
    assert "8 tiles" in simulate(folder, tiles=2, nights=4, damage=True)
    truth = json.loads((folder / "truth.json").read_text())
    files = nights(folder)
    assert [len(tile) for tile in files] == [16, 16, 16, 15, 16, 16, 16, 16]
    assert [tile["damage"] for tile in truth["tiles"]] == [
        *([[]] * 3), ["missing subband"], [], ["heavy interference"], [], ["dead antennas"],
    ]  # fmt: skip
    assert {path.name[-9:-5] for path in files[2]} - {path.name[-9:-5] for path in files[3]} == {"sb05"}
    assert [len(tile["sources"]) for tile in truth["tiles"]] == [3, 2] * 4
    assert truth["tiles"][0]["sources"][0]["name"] == "3C286"
    scales = [tile["sources"][0]["scale"] for tile in truth["tiles"][1::2]]
    assert len(set(scales)) == 4
    assert sum(scales) / 4 == pytest.approx(1)
    assert compare(folder / "truth.json") == []
    assert not list(folder.glob("*.writing"))


def test_the_sky_is_a_reference_catalogue_at_its_mean_fluxes(tmp_path):
    simulate(tmp_path, tiles=2, nights=3)
    call_command(
        "import_catalogue", tmp_path / "catalogue.csv", name="simulated", frequency_mhz=1400, stdout=StringIO()
    )
    catalogue = ReferenceCatalogue.objects.get()
    assert (catalogue.n_sources, catalogue.left_out) == (5, {})
    truth = json.loads((tmp_path / "truth.json").read_text())
    simulated = {source["name"]: source for tile in truth["tiles"] for source in tile["sources"]}
    for row in catalogue.sources.all():
        source = simulated[row.designation]
        assert (row.ra_deg, row.dec_deg) == pytest.approx((source["ra_deg"], source["dec_deg"]))
        if row.designation == "3C286":
            assert row.flux_jy == pytest.approx(14.9, abs=0.3)
            assert row.spectral_index == pytest.approx(-0.5, abs=0.1)
        else:
            assert row.flux_jy == pytest.approx(source["flux_jy"])
            assert row.spectral_index == pytest.approx(source["spectral_index"])


def test_what_is_simulated_is_indexed_as_whole_tiles(tmp_path):
    simulate(tmp_path, tiles=2)
    assert index_subbands(folder=tmp_path).refused == []
    assert [(group.n_subbands, group.n_files) for group in SubbandGroup.objects.all()] == [(16, 16)] * 2
    header = read_header(sorted(tmp_path.glob("*_sb00.hdf5"))[0])
    assert (header.n_antennas, header.n_channels, header.n_integrations) == (6, 1, 2)


def test_the_same_seed_makes_the_same_data_and_another_seed_another_sky(tmp_path):
    folders = {name: tmp_path / name for name in ("one", "again", "other")}
    for name, folder in folders.items():
        simulate(folder, tiles=1, seed=7 if name == "other" else 3)
    one, again, other = ((folder / "truth.json").read_text() for folder in folders.values())
    assert one == again != other
    first, second = (visibilities(folders[name]) for name in ("one", "again"))
    assert (first == second).all()


def visibilities(folder: Path):
    with h5py.File(sorted(folder.glob("*_sb03.hdf5"))[0]) as file:
        return file["Data/visdata"][...]


@pytest.mark.parametrize(
    ("option", "value", "names"), [("start", "2026-05-01", "2026-05-01"), ("calibrator", "3C48", "3C48")]
)
def test_the_options_of_the_command_line_are_in_the_truth(tmp_path, option, value, names):
    arguments = [f"--{name}={value}" for name, value in SMALL.items()]
    call_command("simulate", str(tmp_path), "--tiles=1", f"--{option}={value}", *arguments, stdout=StringIO())
    assert names in (tmp_path / "truth.json").read_text()


def test_some_tiles_only_are_written_as_they_are_among_all(tmp_path):
    assert "1 tiles" in simulate(tmp_path / "some", tiles=3, only="1")
    assert "2 tiles" in simulate(tmp_path / "more", tiles=3, only="1-2")
    [some], more = nights(tmp_path / "some"), nights(tmp_path / "more")
    assert len(more) == 2
    assert [path.name for path in some] == [path.name for path in more[0]]
    for one, other in zip(some, more[0], strict=True):
        with h5py.File(one) as first, h5py.File(other) as second:
            assert (first["Data/visdata"][()] == second["Data/visdata"][()]).all()
    assert len(json.loads((tmp_path / "some" / "truth.json").read_text())["tiles"]) == 3
    for nothing in ("-1", "", "3", "2-1", "0-3"):
        with pytest.raises(CommandError, match=rf"--only '{nothing}' is not FIRST"):
            simulate(tmp_path / "none", tiles=3, only=nothing)
