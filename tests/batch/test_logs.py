"""Logs are read by pieces, and no character is lost between two of them."""

from __future__ import annotations

import pytest

from batch.logs import read_log
from tests.factories import AttemptFactory

pytestmark = pytest.mark.django_db
TEXT = "0.9″ off, σ = 3 µJy, 1σ\n" * 3


@pytest.fixture
def log(settings, tmp_path):
    settings.CONTIMG_LOG_DIR = tmp_path
    path = tmp_path / "1.log"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize("most_bytes", range(3, 12))
def test_the_pieces_of_a_log_are_the_whole_wherever_they_are_cut(log, most_bytes):
    attempt = AttemptFactory(log_path=log.name, outcome="done")
    offset, text = 0, ""
    while True:
        piece = read_log(attempt=attempt, offset=offset, most_bytes=most_bytes)
        offset, text = piece.next_offset, text + piece.text
        if piece.is_final:
            break
    assert (text, offset) == (TEXT, log.stat().st_size)


@pytest.mark.parametrize("most_bytes", range(1, 30))
def test_its_end_begins_with_a_whole_character(log, most_bytes):
    piece = read_log(attempt=AttemptFactory(log_path=log.name, outcome="done"), most_bytes=most_bytes)
    assert TEXT.endswith(piece.text)
    assert "\ufffd" not in piece.text
    assert piece.next_offset - piece.offset == len(piece.text.encode())


def test_a_character_that_is_half_written_comes_when_it_is_whole(log):
    attempt = AttemptFactory(log_path=log.name, outcome="running")
    half, rest = "µ".encode()[:1], "µ".encode()[1:]
    log.write_bytes(b"5 " + half)
    first = read_log(attempt=attempt, offset=0)
    assert (first.text, first.next_offset) == ("5 ", 2)
    log.write_bytes(b"5 " + half + rest)
    assert read_log(attempt=attempt, offset=first.next_offset).text == "µ"


def test_what_a_killed_process_left_half_is_told_as_such(log):
    log.write_bytes(b"5 \xc2")
    piece = read_log(attempt=AttemptFactory(log_path=log.name, outcome="lost"), offset=0)
    assert (piece.text, piece.is_final) == ("5 \ufffd", True)
