"""At the edge of every command: one sentence and exit status 1, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

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
        (["process", "nowhere"], {"CONTIMG_ENV_FILE": "nowhere.env"}, "which is not a file"),
        (["process", "nowhere"], {"CONTIMG_IMAGE_SIZE_PX": "abc"}, "CONTIMG_IMAGE_SIZE_PX"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence(tmp_path, arguments, environment, sentence):
    done = manage(tmp_path, *arguments, **environment)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["status"], ["status", "--json"], ["batch", "list"]])
def test_a_reader_that_has_seen_enough_ends_it_quietly(tmp_path, arguments):
    manage(tmp_path, "migrate", "-v", "0")
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as nobody:
        done = manage(tmp_path, *arguments, stdout=nobody)
    assert (done.returncode, done.stderr) == (141, "")
