"""The project's settings with the real stages, which may be struck, for worker processes that a test starts."""

from contimg.settings import *  # noqa: F403

CONTIMG_STAGES = "tests.batch.misfortune.STAGES"
