"""The one error family.

Every error that a user can meet has a class here or derives from one here, with these facts on the class:
`code` (stable, documented in docs/errors.md), `status` (for HTTP), `permanent` (the same input will fail again),
`retry_after_s` and, where the message is advice to an operator, `for_readers`.
The message is one sentence: what is wrong, why, and what to do.
"""

from collections.abc import Mapping


class ContimgError(Exception):
    code = "error"
    status = 500
    permanent = True
    retry_after_s = 30  # of a 503
    for_readers = ""  # said over HTTP in place of the message


class InvalidInput(ContimgError):
    """What the caller gave cannot be used. `wrong` says what is wrong with each field of it, where it has fields."""

    code = "invalid_input"
    status = 400

    def __init__(self, message: str = "", *, wrong: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.wrong = wrong or {}


class NotReadable(InvalidInput):
    """A folder or file cannot be read by the service's user."""

    code = "not_readable"


class NotWritable(ContimgError):
    """A folder that work is written to cannot be."""

    code = "not_writable"
    status = 503


class ProductsAway(ContimgError):
    """The database names products and their root is empty or missing."""

    code = "products_away"
    status = 503
    for_readers = "The disk with the products is not there; what needs no file is still answered."


class OutsideRoot(InvalidInput):
    """A path that leaves the folder it was promised to be in."""

    code = "outside_root"


class Busy(ContimgError):
    """Somebody else is doing this now; try later."""

    code = "busy"
    status = 409
    permanent = False


class EngineFailed(ContimgError):
    """This data will fail again: the engine ran and could not do it."""

    code = "engine_failed"
    status = 422


class EngineUnavailable(ContimgError):
    """The engine could not run (missing binary, full disk); the data may be fine. Try later."""

    code = "engine_unavailable"
    status = 503
    permanent = False


class DiskFull(EngineUnavailable):
    code = "disk_full"


class MissingProduct(ContimgError):
    """A file that a row names is not there, or is not what it was."""

    code = "missing_product"
    status = 410
