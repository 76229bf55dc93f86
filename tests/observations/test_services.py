import os
import random
import shutil
import socket
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from batch.services import create_batch
from contimg.exceptions import NotReadable
from observations.models import DataRoot, MeasurementSet, SubbandFile, SubbandGroup
from observations.regrouping import Regrouped
from observations.scanning import scan_folder
from observations.services import BATCH, describe, index_subbands
from observations.telescope import meridian_icrs
from tests.observations.subband_files import (
    NIGHT,
    TILE_S,
    file_name,
    header_fields,
    touch,
    write_header,
    write_subband,
    write_tile,
)

pytestmark = pytest.mark.django_db

NEXT_TILE = NIGHT + timedelta(seconds=TILE_S)
ALL, NONE = range(16), range(0)


def processed(group: SubbandGroup) -> MeasurementSet:
    return MeasurementSet.objects.create(
        group=group,
        path="measurement_sets/a.ms",
        size_bytes=1,
        checksum="c",
        recipe="r",
        name=group.name,
        observed_at=group.observed_at,
        mjd=60735.0,
        duration_s=group.duration_s,
        integration_s=12.885,
        ra_deg=0.0,
        dec_deg=0.0,
        pointing_dec_deg=22.5,
        healpix=0,
        frequency_hz=1.4e9,
        bandwidth_hz=1.8e8,
        n_antennas=2,
        n_channels=64,
    )


def everything() -> list[tuple]:
    return [*SubbandGroup.objects.order_by("pk").values_list(), *SubbandFile.objects.order_by("pk").values_list()]


class TestATile:
    def test_names_that_differ_by_80_seconds_are_one_complete_group(self, tmp_path):
        for subband in range(16):
            write_subband(tmp_path, subband, skew_s=5.4 * subband)

        report = index_subbands(folder=tmp_path)

        group = SubbandGroup.objects.get()
        assert (report.n_found, report.n_read, report.refused) == (16, 16, [])
        assert report.groups.created == {group.pk}
        assert group.is_complete
        assert (group.n_files, group.n_subbands, group.missing_subbands, group.duplicate_subbands) == (16, 16, [], [])
        assert group.started_at == NIGHT
        assert group.duration_s == pytest.approx(TILE_S)
        assert group.size_bytes == sum(path.stat().st_size for path in tmp_path.glob("*.hdf5"))

    def test_its_centre_is_the_icrs_position_of_the_meridian_at_mid_tile(self, tmp_path):
        write_tile(tmp_path, dec_deg=22.5)

        index_subbands(folder=tmp_path)

        group = SubbandGroup.objects.get()
        assert group.observed_at == NIGHT + timedelta(seconds=TILE_S / 2)
        assert group.pointing_dec_deg == 22.5
        ra_deg, dec_deg = meridian_icrs([group.observed_at], [22.5])
        assert (group.ra_deg, group.dec_deg) == (pytest.approx(ra_deg[0]), pytest.approx(dec_deg[0]))
        assert SubbandGroup.objects.within_cone(ra_deg=group.ra_deg, dec_deg=group.dec_deg, radius_deg=0.01).exists()

    def test_a_second_scan_reads_and_changes_nothing(self, tmp_path):
        write_tile(tmp_path)
        index_subbands(folder=tmp_path)
        before = everything()

        report = index_subbands(folder=tmp_path)

        assert (report.n_read, report.n_unchanged) == (0, 16)
        assert report.groups == Regrouped()
        assert everything() == before

    def test_a_late_file_joins_and_all_counts_move(self, tmp_path):
        write_tile(tmp_path, subbands=range(15))
        index_subbands(folder=tmp_path)
        before = SubbandGroup.objects.get()
        late = write_subband(tmp_path / "late", 15, skew_s=80)
        touch(late, seconds_ago=-100)

        report = index_subbands(folder=tmp_path)

        group = SubbandGroup.objects.get()
        assert report.groups.changed == {before.pk} == {group.pk}
        assert (before.missing_subbands, group.missing_subbands) == ([15], [])
        assert (before.n_files, group.n_files, group.n_subbands) == (15, 16, 16)
        assert group.is_complete
        assert group.size_bytes == before.size_bytes + late.stat().st_size
        assert group.last_file_at > before.last_file_at

    def test_overlapping_runs_are_told_apart(self, tmp_path):
        write_tile(tmp_path, subbands=range(16))
        write_tile(tmp_path, NIGHT + timedelta(seconds=60), subbands=range(11))

        index_subbands(folder=tmp_path)

        assert sorted(SubbandGroup.objects.values_list("n_files", "n_subbands")) == [(11, 11), (16, 16)]

    def test_a_copy_in_another_folder_makes_the_group_overfull_and_removing_it_mends_it(self, tmp_path):
        tile = write_tile(tmp_path / "a")
        copy = tmp_path / "b" / tile[3].name
        copy.parent.mkdir()
        copy.write_bytes(tile[3].read_bytes())
        index_subbands(folder=tmp_path)
        group = SubbandGroup.objects.get()
        assert (group.n_files, group.n_subbands, group.duplicate_subbands) == (17, 16, [3])
        assert not SubbandGroup.objects.processable().exists()

        copy.unlink()
        report = index_subbands(folder=tmp_path)

        group.refresh_from_db()
        assert report.vanished == [f"b/{copy.name}"]
        assert (group.n_files, group.duplicate_subbands) == (16, [])
        assert SubbandGroup.objects.processable().get() == group
        assert SubbandFile.objects.refused().get().error_code == "subband_vanished"

        copy.write_bytes(tile[3].read_bytes())
        index_subbands(folder=tmp_path)
        assert SubbandGroup.objects.get().duplicate_subbands == [3]

    def test_a_file_rewritten_with_another_time_moves_to_its_tile(self, tmp_path):
        write_tile(tmp_path)
        write_tile(tmp_path, NEXT_TILE, subbands=range(1, 16))
        index_subbands(folder=tmp_path)
        first, second = SubbandGroup.objects.order_by("started_at")

        path = tmp_path / file_name(NIGHT, 0)
        write_header(path, header_fields(NEXT_TILE, n_baselines=4))
        report = index_subbands(folder=tmp_path)

        assert report.n_read == 1
        first.refresh_from_db()
        second.refresh_from_db()
        assert (first.n_files, first.missing_subbands) == (15, [0])
        assert (second.n_files, second.missing_subbands) == (16, [])

    def test_a_group_that_loses_its_last_file_is_removed(self, tmp_path):
        path = write_subband(tmp_path, 0)
        index_subbands(folder=tmp_path)

        path.write_bytes(b"spoilt")
        report = index_subbands(folder=tmp_path)

        assert not SubbandGroup.objects.exists()
        assert len(report.groups.removed) == 1

    def test_a_processed_group_that_loses_its_last_file_stays_and_says_so(self, tmp_path):
        path = write_subband(tmp_path, 0)
        index_subbands(folder=tmp_path)
        processed(SubbandGroup.objects.get())

        path.write_bytes(b"spoilt")
        index_subbands(folder=tmp_path)

        group = SubbandGroup.objects.get()
        assert (group.n_files, group.n_subbands, len(group.missing_subbands), group.size_bytes) == (0, 0, 16, 0)

    def test_a_group_that_work_was_asked_for_stays_too(self, tmp_path):
        path = write_subband(tmp_path, 0)
        index_subbands(folder=tmp_path)
        create_batch(stage="convert", subjects=[("subband_group", SubbandGroup.objects.get().pk)])

        path.write_bytes(b"spoilt")
        index_subbands(folder=tmp_path)

        assert SubbandGroup.objects.get().n_files == 0

    def test_it_says_when_its_files_last_changed(self, tmp_path):
        tile = write_tile(tmp_path, subbands=range(15))
        index_subbands(folder=tmp_path)
        first = SubbandGroup.objects.get().files_changed_at
        index_subbands(folder=tmp_path)
        assert SubbandGroup.objects.get().files_changed_at == first
        touch(write_subband(tmp_path, 15), seconds_ago=86_400)  # a copy that keeps its original's time
        index_subbands(folder=tmp_path)
        late = SubbandGroup.objects.get().files_changed_at
        assert late > first
        tile[0].unlink()
        index_subbands(folder=tmp_path)
        assert SubbandGroup.objects.get().files_changed_at > late


class TestFilesThatVanish:
    def test_files_of_a_processed_group_are_left_alone(self, tmp_path):
        tile = write_tile(tmp_path)
        index_subbands(folder=tmp_path)
        processed(SubbandGroup.objects.get())
        before = everything()
        tile[0].unlink()

        report = index_subbands(folder=tmp_path)

        assert report.vanished == []
        assert everything() == before

    def test_a_disk_that_is_not_mounted_dissolves_nothing(self, tmp_path):
        tile = write_tile(tmp_path)
        index_subbands(folder=tmp_path)
        before = everything()
        for path in tile:
            path.unlink()

        report = index_subbands(folder=tmp_path)

        assert len(report.vanished) == 16
        assert everything() == before

    def test_only_the_scanned_folder_is_looked_at(self, tmp_path):
        write_tile(tmp_path / "a")
        gone = write_subband(tmp_path / "b", 0, NEXT_TILE)
        index_subbands(folder=tmp_path)
        gone.unlink()

        assert index_subbands(folder=tmp_path / "a").vanished == []


class TestCopiesOfAProcessedTile:
    """Of which a measurement set was made of the files in `a`, all known before those in `b`."""

    @pytest.fixture
    def tile(self, tmp_path) -> list[Path]:
        tile = write_tile(tmp_path / "a")
        index_subbands(folder=tmp_path)
        processed(SubbandGroup.objects.get())
        return tile

    @pytest.mark.parametrize(
        ("came", "gone_from_a", "gone_from_b", "left_in_a", "left_in_b"),
        [
            (ALL, NONE, ALL, ALL, NONE),
            (ALL, ALL, NONE, NONE, ALL),
            ([3], NONE, [3], ALL, NONE),
            ([3], [3], NONE, [0, 1, 2, *range(4, 16)], [3]),
            (ALL, range(8), range(8, 16), range(8, 16), range(8)),
            (NONE, ALL, NONE, ALL, NONE),
            ([3], ALL, NONE, ALL, [3]),
            ([3], ALL, [3], ALL, NONE),
            (ALL, ALL, ALL, ALL, NONE),
            (ALL, [3], NONE, [0, 1, 2, *range(4, 16)], ALL),
        ],
        ids=[
            "a copied folder is removed", "a folder is moved", "a copied file is removed", "a file is moved",
            "some of both go", "archived", "archived, and one comes back", "and goes again",
            "archived together with the copies", "copied, and one original goes",
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("indexed", ["a", "b", "."])
    def test_what_is_there_is_left_or_else_what_was_known_first(
        self, tmp_path, tile, came, gone_from_a, gone_from_b, left_in_a, left_in_b, indexed
    ):
        folders = {"a": tmp_path / "a", "b": tmp_path / "b"}
        folders["b"].mkdir()
        for subband in came:
            shutil.copy(tile[subband], folders["b"])
        index_subbands(folder=folders["b"])
        for name, subbands in {"a": gone_from_a, "b": gone_from_b}.items():
            for subband in subbands:
                (folders[name] / tile[subband].name).unlink()
        for _ in range(2):  # what is left is left
            index_subbands(folder=tmp_path / indexed)
        group = SubbandGroup.objects.get()
        if indexed != "b" or came:  # else no file of it was looked for there
            assert sorted((file.path.parent.name, file.subband) for file in group.files.all()) == [
                *(("a", subband) for subband in left_in_a),
                *(("b", subband) for subband in left_in_b),
            ]
        assert group.n_files == group.files.count()

    def test_copies_in_folders_of_one_name_are_told_apart(self, tmp_path):
        for disk in ("disk1", "disk2"):
            write_subband(tmp_path / disk / "raw", 3)
            index_subbands(folder=tmp_path / disk / "raw")
        group = SubbandGroup.objects.get()
        assert group.duplicate_files == [f"{disk}/raw/{file_name(NIGHT, 3)}" for disk in ("disk1", "disk2")]

    def test_a_folder_that_was_moved_and_is_moved_back_is_where_it_was(self, tmp_path, tile):
        for _ in range(2):
            (tmp_path / "a").rename(tmp_path / "b")
            assert len(index_subbands(folder=tmp_path / "b").vanished) == 16
            (tmp_path / "b").rename(tmp_path / "a")
            assert index_subbands(folder=tmp_path / "a").vanished == [
                str(tmp_path / "b" / path.name) for path in sorted(tile)
            ]
        group = SubbandGroup.objects.get()
        assert {file.path for file in group.files.all()} == set(tile)
        assert group.is_complete

    def test_so_does_one_that_was_not_processed_yet(self, tmp_path, tile):
        MeasurementSet.objects.all().delete()
        (tmp_path / "a").rename(tmp_path / "b")
        index_subbands(folder=tmp_path / "b")
        assert SubbandGroup.objects.processable().get().is_complete


class TestBadFiles:
    def test_each_is_refused_by_name_with_its_reason_and_the_rest_goes_in(self, tmp_path):
        tile = write_tile(tmp_path)
        tile[0].write_bytes(tile[0].read_bytes()[:-64])
        tile[1].write_bytes(b"not HDF5 at all")
        tile[2].write_bytes(b"")
        write_header(tile[3], header_fields() | {"freq_array": [float("nan")]})
        tile[4].rename(tmp_path / "copy of sb04.hdf5")

        report = index_subbands(folder=tmp_path)

        assert {refused.path: refused.code for refused in report.refused} == {
            tile[0].name: "subband_truncated",
            tile[1].name: "subband_not_hdf5",
            tile[2].name: "subband_empty",
            tile[3].name: "subband_header",
            "copy of sb04.hdf5": "subband_name",
        }
        assert all(refused.detail.endswith(".") for refused in report.refused)
        group = SubbandGroup.objects.get()
        assert (group.n_files, group.missing_subbands) == (11, [0, 1, 2, 3, 4])
        assert SubbandFile.objects.refused().filter(group=None).count() == 5

    def test_they_are_named_again_by_the_next_scan_without_being_read(self, tmp_path):
        write_subband(tmp_path, 0).write_bytes(b"spoilt")
        first = index_subbands(folder=tmp_path)

        second = index_subbands(folder=tmp_path)

        assert second.refused == first.refused
        assert second.n_read == 0

    def test_one_that_is_mended_is_taken(self, tmp_path):
        path = write_tile(tmp_path)[7]
        whole = path.read_bytes()
        path.write_bytes(whole[:-64])
        index_subbands(folder=tmp_path)

        path.write_bytes(whole)
        report = index_subbands(folder=tmp_path)

        assert report.refused == []
        assert SubbandGroup.objects.get().is_complete
        row = SubbandFile.objects.get(subband=7)
        assert (row.error_code, row.error_detail) == ("", "")

    def test_one_that_is_spoilt_leaves_its_group(self, tmp_path):
        path = write_tile(tmp_path)[7]
        index_subbands(folder=tmp_path)

        path.write_bytes(b"spoilt")
        index_subbands(folder=tmp_path)

        assert SubbandGroup.objects.get().missing_subbands == [7]
        assert SubbandFile.objects.get(subband=7).group is None


class TestFolders:
    def test_one_that_is_not_there_is_not_readable(self, tmp_path):
        with pytest.raises(NotReadable, match="cannot be read"):
            index_subbands(folder=tmp_path / "nowhere")
        assert not DataRoot.objects.exists()

    def test_a_file_is_not_a_folder(self, tmp_path):
        with pytest.raises(NotReadable):
            index_subbands(folder=write_subband(tmp_path, 0))

    def test_one_below_that_may_not_be_entered_is_named_and_the_rest_goes_in(self, tmp_path):
        write_subband(tmp_path, 0)
        closed = tmp_path / "closed"
        write_subband(closed, 1)
        closed.chmod(0)
        for folder in (tmp_path, *tmp_path.parents):
            if folder.owner() != "root" or folder.stat().st_mode & 0o005 != 0o005:
                folder.chmod(0o755)
        user = os.geteuid()
        try:
            if user == 0:
                os.seteuid(65534)  # root may enter anything
            scan = scan_folder(tmp_path)
        finally:
            os.seteuid(user)
            closed.chmod(0o755)

        assert [file.path.name for file in scan.files] == [file_name(NIGHT, 0)]
        assert [(refused.path, refused.code) for refused in scan.refused] == [("closed", "not_readable")]

    def test_a_folder_inside_an_indexed_one_is_the_same_root(self, tmp_path):
        write_tile(tmp_path / "night")
        index_subbands(folder=tmp_path)

        report = index_subbands(folder=tmp_path / "night")

        assert report.n_read == 0
        assert DataRoot.objects.get().path == str(tmp_path)

    def test_a_folder_around_an_indexed_one_finds_the_same_files_once(self, tmp_path):
        write_tile(tmp_path / "night")
        index_subbands(folder=tmp_path / "night")
        write_subband(tmp_path / "other", 0, NEXT_TILE)

        report = index_subbands(folder=tmp_path)

        assert report.n_read == 1
        assert DataRoot.objects.count() == 2
        assert SubbandFile.objects.count() == 17

    def test_a_root_made_later_inside_an_old_one_does_not_double_its_files(self, tmp_path):
        write_tile(tmp_path / "night")
        index_subbands(folder=tmp_path)
        DataRoot.objects.create(path=str(tmp_path / "night"))

        report = index_subbands(folder=tmp_path)

        assert (report.n_read, SubbandFile.objects.count()) == (0, 16)

    def test_a_root_may_be_a_link_but_links_below_are_not_followed_out_of_it(self, tmp_path):
        outside = write_subband(tmp_path / "outside", 1)
        inside = write_subband(tmp_path / "root", 0)
        (tmp_path / "root" / "again.hdf5").symlink_to(inside)
        (tmp_path / "root" / "away.hdf5").symlink_to(outside)
        (tmp_path / "root" / "folder").symlink_to(outside.parent)
        (tmp_path / "link").symlink_to(tmp_path / "root")

        report = index_subbands(folder=tmp_path / "link")

        assert report.n_found == 1
        assert [(refused.path, refused.code) for refused in report.refused] == [
            ("away.hdf5", "outside_root"),
            ("folder", "outside_root"),
        ]
        assert DataRoot.objects.get().path == str(tmp_path / "root")

    def test_what_is_no_file_is_refused_by_name_and_never_opened(self, tmp_path, monkeypatch):
        write_subband(tmp_path, 0)
        os.mkfifo(tmp_path / file_name(NIGHT, 1))  # opening it would wait for a writer for ever
        monkeypatch.chdir(tmp_path)  # a socket's path has 107 bytes at most
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(file_name(NIGHT, 2))
        write_subband(tmp_path / file_name(NIGHT, 3), 4)
        (tmp_path / file_name(NIGHT, 5)).symlink_to("nothing.hdf5")
        (tmp_path / file_name(NIGHT, 6)).symlink_to(file_name(NIGHT, 6))
        (tmp_path / "nothing").symlink_to("nothing to do with us")
        write_subband(tmp_path / "night.h5", 7)

        report = index_subbands(folder=tmp_path)

        assert [(refused.path, refused.code) for refused in report.refused] == [
            (file_name(NIGHT, 1), "subband_not_a_file"),
            (file_name(NIGHT, 2), "subband_not_a_file"),
            (file_name(NIGHT, 3), "subband_not_a_file"),
            (file_name(NIGHT, 5), "not_readable"),
            (file_name(NIGHT, 6), "not_readable"),
        ]
        assert all(refused.path in refused.detail for refused in report.refused)
        assert sorted(SubbandFile.objects.values_list("subband", flat=True)) == [0, 4, 7]

    def test_hidden_and_other_files_are_left_out(self, tmp_path):
        write_tile(tmp_path / ".snapshot")
        (tmp_path / f".{file_name(NIGHT, 0)}.Xa3k").touch()
        (tmp_path / "truth.json").touch()

        assert index_subbands(folder=tmp_path).n_found == 0

    def test_a_path_that_no_column_holds_is_refused(self, tmp_path):
        folder = tmp_path / ("x" * 200) / ("y" * 200) / ("z" * 200)
        write_subband(folder, 0)
        write_subband(tmp_path, 0)
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.hdf5")).touch()

        report = index_subbands(folder=tmp_path)

        assert (report.n_found, [refused.code for refused in report.refused]) == (1, ["subband_name"] * 2)


class TestScanning:
    def test_the_number_of_queries_does_not_grow_with_the_files(self, tmp_path):
        def cost(folder: Path, n_tiles: int, first: datetime) -> Counter[str]:
            for number in range(n_tiles):
                write_tile(folder, first + timedelta(seconds=TILE_S * number))
            with CaptureQueriesContext(connection) as queries:
                index_subbands(folder=folder)
            return Counter(query["sql"].split()[0] for query in queries)

        few = cost(tmp_path / "few", 1, NIGHT)
        many = cost(tmp_path / "many", 20, NIGHT + timedelta(days=1))

        assert BATCH > 20 * 16
        assert many.keys() == few.keys()
        # SQLite takes 999 values in a statement, which is 71 rows.
        assert many | {"INSERT": 0} == few | {"INSERT": 0}

    def test_what_was_indexed_before_a_kill_is_whole_and_the_next_scan_ends_the_same(self, tmp_path, monkeypatch):
        monkeypatch.setattr("observations.services.BATCH", 40)
        for number in range(5):
            write_tile(tmp_path, NIGHT + timedelta(seconds=TILE_S * number))

        def killed(done: int, total: int) -> None:
            if done == 60:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            index_subbands(folder=tmp_path, progress=killed)
        assert SubbandFile.objects.count() == 40
        assert sorted(SubbandGroup.objects.values_list("n_files", flat=True)) == [8, 16, 16]

        index_subbands(folder=tmp_path)

        assert list(SubbandGroup.objects.values_list("n_files", flat=True)) == [16] * 5
        assert not SubbandFile.objects.filter(group=None).exists()

    def test_progress_counts_every_file(self, tmp_path):
        write_tile(tmp_path)
        calls: list[tuple[int, int]] = []

        index_subbands(folder=tmp_path, progress=lambda done, total: calls.append((done, total)))

        assert calls == [(done, 16) for done in range(1, 17)]

    @pytest.mark.slow
    @pytest.mark.once
    def test_files_of_a_night_with_skewed_names_are_grouped_right(self, tmp_path):
        """100 tiles at two declinations, a hundredth of the files missing, 80 of them late."""
        chance = random.Random(7)
        expected: Counter[tuple[datetime, int]] = Counter()
        files = []
        for number in range(100):
            start = NIGHT + timedelta(seconds=TILE_S * number)
            for subband in range(16):
                if chance.random() > 0.01:
                    files.append((start, subband, chance.uniform(-90, 90), 22.5 if number < 50 else 16.3))
                    expected[start, 16] += 1
        chance.shuffle(files)
        late, early = files[:80], files[80:]
        for start, subband, skew_s, dec_deg in early:
            write_subband(tmp_path, subband, start, skew_s=skew_s, dec_deg=dec_deg)
        index_subbands(folder=tmp_path)
        for start, subband, skew_s, dec_deg in late:
            write_subband(tmp_path / "late", subband, start, skew_s=skew_s, dec_deg=dec_deg)
        report = index_subbands(folder=tmp_path)

        assert report.n_read == 80
        stored = dict(SubbandGroup.objects.values_list("started_at", "n_files"))
        assert stored == {start: n for (start, _), n in expected.items()}
        assert SubbandGroup.objects.overfull().count() == 0


class TestDescribe:
    @pytest.fixture
    def settled(self, settings):
        settings.CONTIMG_SETTLE_S = 600
        settings.CONTIMG_MIN_SUBBANDS = 12

    @pytest.mark.usefixtures("settled")
    @pytest.mark.parametrize(
        ("subbands", "age_s", "sentence"),
        [
            (range(16), 0, "16 of 16 subbands: ready"),
            (range(15), 700, "15 of 16 subbands, sb15 missing: ready"),
            (range(12), 700, "12 of 16 subbands, sb12 sb13 sb14 sb15 missing: ready"),
            (range(5, 16), 700, "11 of 16 subbands, sb00 sb01 sb02 sb03 sb04 missing: not processed, 12 are needed"),
        ],
    )
    def test_says_what_it_has_and_whether_it_is_processed(self, tmp_path, subbands, age_s, sentence):
        for path in write_tile(tmp_path, subbands=subbands):
            touch(path, seconds_ago=age_s)
        index_subbands(folder=tmp_path)

        assert describe(SubbandGroup.objects.get()) == sentence

    @pytest.mark.usefixtures("settled")
    def test_says_how_long_it_waits(self):
        group = SubbandGroup(
            pk=1,
            n_files=15,
            n_subbands=15,
            missing_subbands=[3],
            last_file_at=datetime.now(tz=UTC) - timedelta(seconds=360),
        )

        assert describe(group) in {
            f"15 of 16 subbands, sb03 missing: waiting, settles in {s} s" for s in range(230, 241)
        }

    @pytest.mark.usefixtures("settled")
    def test_says_that_more_may_come(self):
        group = SubbandGroup(pk=1, n_files=1, n_subbands=1, missing_subbands=[], last_file_at=datetime.now(tz=UTC))

        assert describe(group).startswith("1 of 16 subbands: not processed, 12 are needed; more may come for ")

    def test_says_what_is_there_twice(self):
        group = SubbandGroup(pk=1, n_files=18, n_subbands=16, duplicate_subbands=[2, 3], last_file_at=NIGHT)

        assert describe(group).startswith("16 of 16 subbands, sb02 sb03 more than once: not processed, the headers")

    def test_names_the_files_of_what_is_there_twice(self, tmp_path):
        tile = write_tile(tmp_path / "a")
        copy = tmp_path / "b" / "c" / tile[3].name
        copy.parent.mkdir(parents=True)
        copy.write_bytes(tile[3].read_bytes())
        index_subbands(folder=tmp_path)

        assert f"wrong ones of a/{copy.name}, b/c/{copy.name} and index again" in describe(SubbandGroup.objects.get())

    def test_names_the_roots_too_where_files_are_of_several(self, tmp_path):
        for root in ("one", "two"):
            write_tile(tmp_path / root)
            index_subbands(folder=tmp_path / root)

        group = SubbandGroup.objects.get()

        assert group.duplicate_files[:2] == [f"one/{file_name(NIGHT, 0)}", f"two/{file_name(NIGHT, 0)}"]
        assert len(group.duplicate_files) == 32
        assert f"two/{file_name(NIGHT, 2)} and 26 more and index again" in describe(group)

    def test_says_that_it_is_processed(self, tmp_path):
        write_tile(tmp_path)
        index_subbands(folder=tmp_path)
        group = SubbandGroup.objects.get()
        processed(group)

        assert describe(group) == "16 of 16 subbands: processed"

    @pytest.mark.usefixtures("settled")
    def test_agrees_with_what_the_querysets_select(self, tmp_path):
        for number, (n, age_s) in enumerate([(16, 0), (15, 0), (15, 700), (11, 700), (12, 300), (12, 601)]):
            for path in write_tile(tmp_path, NIGHT + timedelta(hours=number), subbands=range(n)):
                touch(path, seconds_ago=age_s)
        index_subbands(folder=tmp_path)

        taken = set(SubbandGroup.objects.settled().processable())

        assert {group for group in SubbandGroup.objects.all() if describe(group).endswith(": ready")} == taken
        assert len(taken) == 3
