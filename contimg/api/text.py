"""What counts as text in a request; the schema says the same with these patterns.

No name and no sentence has a control character, and PostgreSQL stores no NUL. Line ends and tabs are none here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from django.core.validators import RegexValidator

_CONTROL = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
TEXT = rf"^[^{_CONTROL}]+$"  # where empty is allowed, the schema says it beside the pattern
TEXT_NOT_BLANK = rf"^[^{_CONTROL}]*[^\s{_CONTROL}][^{_CONTROL}]*$"
MOST_NAMED = 20
MOST_CHARACTERS_ANSWERED = 4000  # the longest sentence of ours, which lists all filters of images, has 2500
MOST_FILTER_CHARACTERS = 300  # no name has more, and SQLite searches for no pattern above 50 kB

refuse_control_characters = RegexValidator(
    rf"[{_CONTROL}]", message="Leave out the control characters.", code="control_character", inverse_match=True
)

_LONG_WORD = re.compile(r"\S{101,}")


def shortened(said: str) -> str:
    """Without the most of what was sent, should it be repeated: a body of 8 MB was answered with 16."""
    said = _LONG_WORD.sub(lambda word: f"{word[0][:60]}…{word[0][-20:]}", said)
    half = MOST_CHARACTERS_ANSWERED // 2
    return said if len(said) <= 2 * half else f"{said[:half]} … {said[-half:]}"


def unknown_names(names: Iterable[str], *, kind: str, valid: Iterable[str]) -> dict[str, str]:
    """What to say of each, for a ValidationError; what there is only once."""
    first, *others = sorted(names)[:MOST_NAMED]
    there_are = f"there are {', '.join(valid)}" if valid else "it takes none"
    return {first: f"There is no such {kind} here; {there_are}."} | dict.fromkeys(others, f"There is no such {kind}.")
