"""Which failures the active policy sees: `python benchmarks/failures.py --nights 2 --kinds rfi,dead_antenna`.

Each seed is simulated clean and once with each failure, from its second tile on, and goes through the whole chain with
the settings of `demo.env`. A failure is caught where a product has a finding that the same product of the clean night
has not. Findings of clean nights are false alarms.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

from observations.engines.failures import Kind  # noqa: E402

Found = set[tuple[str, str]]  # product, rule
CLEAN = "clean"
ASK = """
import json
from qa.models import Finding
found = Finding.objects.filter(assessment__is_current=True).select_related(
    "assessment__image", "assessment__calibration_table")
print(json.dumps(sorted({(
    f.assessment.image.name if f.assessment.image else f"{f.assessment.calibration_table}", f.rule) for f in found})))
"""


class NightFailed(Exception):
    """A command of the pipeline stopped with an error instead of a result."""


def findings(kind: str, seed: int, folder: Path, array: list[str]) -> Found:
    """Simulate and process one night in a folder; the current findings."""
    environment = os.environ | {
        "CONTIMG_ENV_FILE": "demo.env",
        "CONTIMG_VAR_DIR": str(folder),
        "DATABASE_URL": f"sqlite:///{folder}/contimg.sqlite3",
    }
    raw = folder / "raw"
    failure = [] if kind == CLEAN else ["--failure", f"{kind}:1"]
    _manage(environment, "migrate", "--verbosity", "0")
    _manage(environment, "simulate", str(raw), "--seed", str(seed), *array, *failure, "--verbosity", "0")
    _manage(environment, "process", str(raw), "--settle-s", "0", "--json", may_fail=True)
    printed = _manage(environment, "shell", "--no-imports", "--verbosity", "0", "-c", ASK)
    return {(product, rule) for product, rule in json.loads(printed.splitlines()[-1])}


def _manage(environment: dict[str, str], *arguments: str, may_fail: bool = False) -> str:
    """A tile that fails its stage is a result of `process`, not of this program."""
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    if done.returncode and not (may_fail and done.stdout):
        raise NightFailed(f"{arguments[0]}: {(done.stderr or done.stdout).strip()[-600:]}")
    return done.stdout


def main(argv: list[str] | None = None) -> None:
    options = _options(argv)
    array = ["--tiles", "2", "--antennas", str(options.antennas), "--channels", str(options.channels)]
    print(f"{'seed':>5} {'night':<22}  seen in", flush=True)
    for seed in range(1, options.nights + 1):
        usual: Found = set()
        for kind in (CLEAN, *options.kinds):
            with tempfile.TemporaryDirectory(prefix="contimg-failures-", dir=options.folder) as folder:
                try:
                    found = findings(kind, seed, Path(folder), array)
                except NightFailed as error:
                    print(f"{seed:>5} {kind:<22}  did not run: {error}", flush=True)
                    continue
            new = sorted(found - usual)
            if kind == CLEAN:
                usual = found
            said = ", ".join(f"{product}: {rule}" for product, rule in new)
            print(f"{seed:>5} {kind:<22}  {said or ('nothing' if kind == CLEAN else 'NOT CAUGHT')}", flush=True)


def _kinds(text: str) -> list[str]:
    kinds = text.split(",")
    if wrong := set(kinds) - set(Kind):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(wrong))}: not among {', '.join(Kind)}")
    return kinds


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=5, help="seeds")
    parser.add_argument("--kinds", type=_kinds, default=list(Kind), help="separated by commas")
    parser.add_argument("--antennas", type=int, default=40)
    parser.add_argument("--channels", type=int, default=4, help="per subband")
    parser.add_argument("--folder", type=Path, help="where some GB are free")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
