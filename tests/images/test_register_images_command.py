from __future__ import annotations

import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from images.models import Image
from tests.images.radio_fits import sky, write

pytestmark = pytest.mark.django_db


def test_it_says_how_many_went_in(tmp_path):
    write(tmp_path / "a.fits")
    write(tmp_path / "b.fits", sky(seed=2))
    out = StringIO()
    call_command("register_images", tmp_path / "a.fits", tmp_path / "b.fits", stdout=out)
    assert out.getvalue() == "2 of 2 registered.\n"
    assert Image.objects.count() == 2


def test_a_refused_file_is_named_and_the_exit_status_says_so(tmp_path):
    write(tmp_path / "good.fits")
    bad = tmp_path / "bad.fits"
    bad.touch()
    out = StringIO()
    with pytest.raises(CommandError, match="1 of 2 refused") as failure:
        call_command("register_images", tmp_path / "good.fits", bad, stdout=out)
    assert failure.value.returncode == 1
    assert f"refused {bad} [fits_truncated]: bad.fits is empty; fetch it again." in out.getvalue()
    assert "1 of 2 registered." in out.getvalue()
    assert Image.objects.get().name == "good"


def test_json(tmp_path):
    write(tmp_path / "good.fits")
    (tmp_path / "bad.fits").write_text("no")
    out = StringIO()
    with pytest.raises(CommandError):
        call_command("register_images", tmp_path / "good.fits", tmp_path / "bad.fits", "--json", stdout=out)
    answer = json.loads(out.getvalue())
    image = Image.objects.get()
    assert answer["registered"] == [{"id": image.pk, "name": "good", "checksum": image.checksum}]
    assert [(refusal["path"], refusal["code"]) for refusal in answer["refused"]] == [
        (str(tmp_path / "bad.fits"), "fits_not_fits")
    ]
