"""A table of stages that a test fills: `settings.CONTIMG_STAGES = "tests.batch.table.STAGES"`."""

from batch.stages import Stage

STAGES: list[Stage] = []
