"""Bodies that are JSON on paper only are refused here, before anything reads them.

Settings name it, and DRF reads them while it imports its views: import no views here.
"""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from rest_framework import parsers
from rest_framework.exceptions import ParseError
from rest_framework.utils.json import strict_constant

MOST_LEVELS = 20  # lists and objects in each other; requests have four


class JSONParser(parsers.JSONParser):
    def parse(self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None) -> Any:
        """Raises ParseError."""
        try:
            parsed = json.load(
                codecs.getreader((parser_context or {}).get("encoding", settings.DEFAULT_CHARSET))(stream),
                parse_constant=strict_constant,
                object_pairs_hook=_object,
            )
        except RecursionError as error:
            raise ParseError(_TOO_DEEP) from error
        except ValueError as error:
            plain = (sentence for word, sentence in _IN_PLAIN_WORDS.items() if word in str(error))
            raise ParseError(next(plain, f"The body is no JSON: {error}.")) from error
        _refuse_depth(parsed)
        try:
            json.dumps(parsed, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ParseError("The body has half of a surrogate pair, which is no character; write it whole.") from error
        return parsed


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Python keeps the last of two values, and others the first."""
    made = dict(pairs)
    if len(made) < len(pairs):
        [(twice, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ParseError(f"The body has the key {twice!r} twice in one object; give it once.")
    return made


_IN_PLAIN_WORDS = {  # in place of advice to who writes Python
    "set_int_max_str_digits": "A number in the body has thousands of digits; none has as many.",
    "utf-8-sig": "The body begins with a byte order mark, which JSON has not (RFC 8259, 8.1); leave it out.",
}
_TOO_DEEP = f"The body has more than {MOST_LEVELS} lists and objects in each other; no request needs as many."


def _refuse_depth(parsed: Any) -> None:
    level = [parsed]
    for _ in range(MOST_LEVELS + 1):
        nested = [value for value in level if isinstance(value, list | dict)]
        if not nested:
            return
        level = [inner for value in nested for inner in (value.values() if isinstance(value, dict) else value)]
    raise ParseError(_TOO_DEEP)
