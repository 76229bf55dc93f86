from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from contimg import renditions
from contimg.exceptions import MissingProduct, NotWritable, ProductsAway
from contimg.renditions import Limits, Rendition, RenditionFailed, TooManyRenditions

ENGINES = "tests.contimg.trial_engines"


def rendition(name: str, **given) -> Rendition:
    return Rendition(**{"engine": f"{ENGINES}:{name}", "recipe": "r1", "suffix": ".txt", **given})


def kept(root: Path) -> list[str]:
    return sorted(path.name for path in (root / renditions.FOLDER).iterdir())


def test_the_second_request_is_a_file_read(products_root, tmp_path):
    log = tmp_path / "log"
    wanted = rendition("write", parameters={"text": "a"}, arguments={"log": str(log)})
    first = wanted.file()
    assert first.read_text() == "a"
    assert wanted.file() == first
    assert log.read_text() == "made\n"
    assert kept(products_root) == [first.name]
    first.unlink()
    assert wanted.file().read_text() == "a"


def test_what_it_follows_from_names_it_and_nothing_else():
    one = rendition("write", parameters={"text": "a", "n": 1})
    assert one.key == replace(one, arguments={"path": "/elsewhere"}, limits=Limits(1, 1)).key
    others = [
        replace(one, recipe="r2"),
        replace(one, parameters={"text": "a", "n": 2}),
        replace(one, engine=f"{ENGINES}:eat"),
    ]
    assert len({one.key, *(other.key for other in others)}) == 4


@pytest.mark.parametrize(
    ("name", "limits", "says"),
    [
        ("sleep", Limits(seconds=1.5), "longer than 1.5 seconds"),
        ("eat", Limits(memory_bytes=500_000_000), "more than 0.5 GB of memory"),
        ("refuse", Limits(), "is odd"),
        ("crash", Limits(), "the log has the details"),
        ("die", Limits(), "died"),
        ("nothing", Limits(), "died"),
        ("no_such_function", Limits(), "the log has the details"),
    ],
)
def test_a_child_that_makes_nothing_has_a_named_error_and_leaves_nothing(products_root, tmp_path, name, limits, says):
    log = tmp_path / "log"
    wanted = rendition(name, limits=limits, arguments={"log": str(log)} if name == "sleep" else {})
    with pytest.raises(RenditionFailed, match=says):
        wanted.file()
    assert kept(products_root) == []
    if name == "sleep":
        for pid in log.read_text().split():
            assert has_ended(int(pid))
    assert rendition("write", parameters={"text": "next"}).file().read_text() == "next"


def has_ended(pid: int) -> bool:
    for _ in range(50):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.1)
    return False


def test_a_product_that_went_away_meanwhile_is_gone_and_not_a_failure(tmp_path):
    with pytest.raises(MissingProduct):
        rendition("refuse", arguments={"path": str(tmp_path / "gone.ms")}).file()


def test_no_more_than_a_few_are_made_at_once_and_those_that_are_there_are_served():
    ready = rendition("write", parameters={"text": "ready"})
    ready.file()
    with renditions.places.taken(), renditions.places.taken():
        with pytest.raises(TooManyRenditions):
            rendition("write", parameters={"text": "one more"}).file()
        assert ready.file().read_text() == "ready"
    assert rendition("write", parameters={"text": "one more"}).file().read_text() == "one more"


def test_what_was_not_asked_for_longest_goes_when_there_is_too_much(products_root, settings):
    settings.CONTIMG_RENDITIONS_MB = 0.0025
    old, used, new = (rendition("write", parameters={"text": letter * 1000}) for letter in "abc")
    paths = [old.file(), used.file()]
    for age_s, path in zip((10, 20), paths, strict=True):
        os.utime(path, (time.time() - age_s,) * 2)
    used.file()
    assert sorted([used.file().name, new.file().name]) == kept(products_root)
    settings.CONTIMG_RENDITIONS_MB = 0.0001
    large = rendition("write", parameters={"text": "d" * 1000}).file()
    assert kept(products_root) == [large.name]  # what was asked for is given, however large


def test_a_folder_that_cannot_be_written_to_is_named(products_root):
    (products_root / renditions.FOLDER).write_text("a file")
    with pytest.raises(NotWritable):
        rendition("write", parameters={"text": "a"}).file()


def test_nothing_is_made_where_the_disk_of_the_products_is_away(products_root):
    shutil.rmtree(products_root)
    with pytest.raises(ProductsAway):
        rendition("write", parameters={"text": "a"}).file()
    assert not products_root.exists()


def test_a_child_ends_with_the_process_that_started_it(products_root, tmp_path):
    log = tmp_path / "log"
    script = (
        "import django; django.setup();"
        "from contimg.renditions import Rendition;"
        f"Rendition(engine='{ENGINES}:sleep', recipe='r', suffix='.txt', arguments={{'log': {str(log)!r}}}).file()"
    )
    environment = {
        **os.environ,
        "CONTIMG_PRODUCTS_ROOT": str(products_root),
        "DJANGO_SETTINGS_MODULE": "contimg.settings",
    }
    with subprocess.Popen([sys.executable, "-c", script], env=environment) as process:
        for _ in range(300):
            if log.exists() and " " in log.read_text():
                break
            time.sleep(0.1)
        process.kill()
    for pid in log.read_text().split():
        assert has_ended(int(pid))


def test_the_child_loads_neither_django_nor_settings():
    source = Path(renditions.__file__).with_name("render.py").read_text()
    assert not re.search(r"django|settings(?! nor)", source.split('"""', 2)[2])
