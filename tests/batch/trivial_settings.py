"""The project's settings with stages that do nothing, for worker processes that a test starts."""

from contimg.settings import *  # noqa: F403

CONTIMG_STAGES = "tests.batch.trivial.STAGES"
