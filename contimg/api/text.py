"""What counts as text in a request; the schema says the same with these patterns.

No name and no sentence has a control character, and PostgreSQL stores no NUL. Line ends and tabs are none here.
"""

from __future__ import annotations

from django.core.validators import RegexValidator

_CONTROL = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
TEXT = rf"^[^{_CONTROL}]+$"  # where empty is allowed, the schema says it beside the pattern
TEXT_NOT_BLANK = rf"^[^{_CONTROL}]*[^\s{_CONTROL}][^{_CONTROL}]*$"
MOST_FILTER_CHARACTERS = 300  # no name has more, and SQLite searches for no pattern above 50 kB

refuse_control_characters = RegexValidator(
    rf"[{_CONTROL}]", message="Leave out the control characters.", code="control_character", inverse_match=True
)
