"""Tables that are to be applied no more, because somebody says so."""

from __future__ import annotations

from django.contrib.auth.models import User
from django.db import transaction

from access.audit import audit
from calibration.models import CalibrationTable
from contimg.exceptions import ContimgError


class AlreadyRetired(ContimgError):
    code = "already_retired"
    status = 409


@transaction.atomic
def retire(*, table: CalibrationTable, reason: str, actor: User | None = None) -> CalibrationTable:
    """No tile is calibrated with it from now on; what was made with it stays as it is (quarantine says it is suspect).

    Raises AlreadyRetired.
    """
    if not CalibrationTable.objects.filter(pk=table.pk, is_retired=False).update(is_retired=True):
        raise AlreadyRetired(f"The calibration table {table} is retired already; there is nothing to do.")
    table.refresh_from_db()
    audit(action="calibration_table.retire", subject=table, actor=actor, details={"reason": reason})
    return table
