import json

import pytest
from django.core.management import CommandError, call_command

from tests.observations.subband_files import NIGHT, file_name, write_tile

pytestmark = pytest.mark.django_db


def test_says_what_was_found(tmp_path, capsys):
    write_tile(tmp_path)

    call_command("index_subbands", str(tmp_path))

    output = capsys.readouterr().out
    assert "16 files: 16 read, 0 unchanged, 0 refused, 0 gone." in output
    assert "Groups: 1 new, 0 changed, 0 removed; 1 of these are complete." in output


def test_describes_groups_that_are_not_complete(tmp_path, capsys):
    write_tile(tmp_path, subbands=range(11))

    call_command("index_subbands", str(tmp_path))

    assert "2025-03-01T04:00:00  11 of 16 subbands, sb11" in capsys.readouterr().out


def test_names_refused_files_and_fails_with_the_rest_indexed(tmp_path, capsys):
    write_tile(tmp_path)[3].write_bytes(b"spoilt")

    with pytest.raises(CommandError, match=r"1 file\(s\) were refused") as caught:
        call_command("index_subbands", str(tmp_path))

    assert caught.value.returncode == 1
    output = capsys.readouterr().out
    assert f"refused  {file_name(NIGHT, 3)}  [subband_not_hdf5]" in output
    assert "15 of 16 subbands, sb03 missing" in output


def test_an_unreadable_folder_is_one_sentence(tmp_path):
    with pytest.raises(CommandError, match="cannot be read: No such file or directory"):
        call_command("index_subbands", str(tmp_path / "nowhere"))


def test_json_holds_the_report(tmp_path, capsys):
    tile = write_tile(tmp_path)
    tile[0].unlink()

    call_command("index_subbands", str(tmp_path), "--json")

    report = json.loads(capsys.readouterr().out)
    assert report["folder"] == str(tmp_path)
    assert (report["n_found"], report["n_read"], report["n_created"]) == (15, 15, 1)
    assert report["refused"] == report["vanished"] == []
    assert report["groups"][0]["state"].startswith("15 of 16 subbands, sb00 missing")
