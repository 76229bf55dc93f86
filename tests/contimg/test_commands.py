"""At the edge of every command: one sentence and exit status 1, never a traceback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

pytest_plugins = ["tests.batch.installation"]
PROJECT = Path(__file__).resolve().parents[2]


def manage(
    folder: Path, *arguments: str, stdout: int | IO[str] = subprocess.PIPE, **environment: str
) -> subprocess.CompletedProcess[str]:
    given = {key: value for key, value in os.environ.items() if not key.startswith(("CONTIMG_", "DATABASE_URL"))}
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=PROJECT,
        env={**given, "DJANGO_SETTINGS_MODULE": "contimg.settings", "CONTIMG_VAR_DIR": str(folder), **environment},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        (["process", "nowhere"], {}, "run `manage.py migrate` first"),
        (["light_curve", "X"], {}, "run `manage.py migrate` first"),
        (["process", "nowhere"], {"DATABASE_URL": "foo"}, "DATABASE_URL must begin with"),
        (["status"], {"CONTIMG_REDIS_URL": "localhost"}, "CONTIMG_REDIS_URL must begin with"),
        (["status"], {"CONTIMG_BROKER_URL": "rabbit"}, "CONTIMG_BROKER_URL must begin with"),
        (["process", "nowhere"], {"DATABASE_URL": "postgres://nobody@127.0.0.1:1/nothing"}, "database does not answer"),
        (["status"], {"CONTIMG_TRUSTED_ORIGINS": "contimg.example"}, "must start with a scheme"),
        (["process", "nowhere"], {"CONTIMG_ENV_FILE": "nowhere.env"}, "which is not a file"),
        (["process", "nowhere"], {"CONTIMG_IMAGE_SIZE_PX": "abc"}, "CONTIMG_IMAGE_SIZE_PX"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence(tmp_path, arguments, environment, sentence):
    done = manage(tmp_path, *arguments, **environment)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def migrated(tmp_path, templates) -> Path:
    """The folder of an installation with nothing in it."""
    shutil.copy(templates("sqlite")["NAME"], tmp_path / "contimg.sqlite3")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["pause", "image", "--reason", "caf\udce9"], "'caf\\udce9' is not UTF-8"),
        (["pause", "\udcff"], "is not UTF-8"),
        (["pause", "--reason", "x" * 201], "A reason has at most 200 characters, not 201. [invalid_parameter]"),
        (["pause", ""], "it is empty; leave it out"),
        (["pause", "bogus"], "There is no stage 'bogus'; there are convert, "),
        (["resume", ""], "it is empty; leave it out"),
        (["resume", "bogus"], "There is no stage 'bogus'; there are convert, "),
        (["batch", "create", "\udcff", "--subject", "image:1"], "is not UTF-8"),
        (["batch", "create", "image", "--subject", "image:1", "--parameter", "robust=\udcff"], "is not UTF-8"),
        (["batch", "create", "convert", "--subject", f"subband_group:{2**63}"],
         f"There is no current subband_group {2**63}; see the list of what there is. [subject_missing]"),
        (["batch", "create", "convert", "--subject", f"subband_group:{'9' * 5000}"], "is not KIND:ID"),
        (["batch", "create", "convert", "--query", "kind=subband_group", "--query", "kind=image"],
         "'kind' is there more than once"),
        (["batch", "create", "image", "--subject", "image:1", "--parameter", "robust=1", "--parameter", "robust=2"],
         "'robust' is there more than once"),
        (["batch", "show", "9" * 30], "[unknown_batch]"),
        (["token", "create", "--user", "\udcff", "--scope", "read"], "is not UTF-8"),
        (["light_curve", "\udcff"], "is not UTF-8"),
    ],
)  # fmt: skip
def test_words_that_mean_nothing_here_are_refused_in_one_sentence(migrated, arguments, sentence):
    done = manage(migrated, *arguments)
    assert done.returncode in (1, 2)
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["status"], ["status", "--json"], ["batch", "list"]])
def test_a_reader_that_has_seen_enough_ends_it_quietly(migrated, arguments):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as nobody:
        done = manage(migrated, *arguments, stdout=nobody)
    assert (done.returncode, done.stderr) == (141, "")
