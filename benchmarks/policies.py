"""A draft tried on 100 000 images: `python benchmarks/policies.py [--images N] [--database postgres://…/contimg_benchmark]`.

On a database of its own, as `benchmarks/batches.py`. Seconds and the process's peak memory, beside the floor:
reading the same rows and doing nothing with them.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from benchmarks.batches import database  # noqa: E402

REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database")
    parser.add_argument("--images", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, database(options.database, Path(name)) as url:
        os.environ |= {
            "CONTIMG_VAR_DIR": name, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "contimg.settings",
            "CONTIMG_SECRET_KEY": "of a benchmark", "CONTIMG_LOG_LEVEL": "WARNING",
        }  # fmt: skip
        import django

        django.setup()
        from django.core.management import call_command
        from django.db import connection

        call_command("migrate", verbosity=0)
        make_assessments(options.images)
        print(f"{connection.vendor}, {options.images} images")
        measure()
        connection.close()


def make_assessments(n: int) -> None:
    """With the metrics of an image that the active policy judged; every third one is noisier than the draft allows."""
    from images.models import Image
    from observations.models import MeasurementSet
    from qa.models import Assessment, Policy
    from qa.services import assess_image
    from tests.factories import ImageFactory

    policy = Policy.objects.get(is_active=True)
    kept = assess_image(image=ImageFactory(peak_jy_per_beam=1.25))
    measurement_set = MeasurementSet.objects.latest("pk")
    for first in range(0, n, 5000):
        images = ImageFactory.build_batch(min(5000, n - first), measurement_set=measurement_set)
        made = Image.objects.bulk_create(images, batch_size=1000)
        Assessment.objects.bulk_create(
            (
                Assessment(
                    policy=policy, image=image, grade=kept.grade, circumstances=kept.circumstances,
                    metrics={**kept.metrics, "rms_over_thermal": 1.7 if image.pk % 3 == 0 else 1.3},
                )
                for image in made
            ),
            batch_size=1000,
        )  # fmt: skip


def measure() -> None:
    from dataclasses import replace

    from qa.models import Policy
    from qa.policies import CHUNK_ROWS, create_draft, evaluate, rules_of, stored_verdicts

    active = Policy.objects.get(is_active=True)
    high = next(rule for rule in rules_of(active) if rule.name == "noise_high")
    draft = create_draft(name="stricter", rules=[replace(high, limit=1.5)], based_on=active)
    floors, ours = [], []
    for _ in range(REPEATS):
        began = time.perf_counter()
        n = sum(1 for _ in stored_verdicts("image", None, None).iterator(chunk_size=CHUNK_ROWS))
        floors.append(time.perf_counter() - began)
        began = time.perf_counter()
        found = evaluate(policy=draft)
        ours.append(time.perf_counter() - began)
    print(f"  peak memory of the process {peak_mb():.0f} MB")
    print(f"  {n} rows read in {min(floors):.1f} s; evaluated in {min(ours):.1f} s, at most {max(ours):.1f} s")
    print(f"  {min(ours) / min(floors):.1f} times; {found.n_changed} of {found.n_judged} would have another grade")


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
