"""Which failures the active policy sees: `python benchmarks/failures.py --seeds 5 --processes 2 --out found.jsonl`.

Each seed is a clean night of TILES tiles, all of one epoch, and one night with each failure, through the whole chain
with the settings of `demo.env` and the simulator's own sky as reference catalogue. The HEALTHY tiles before a failure
are the same in all nights of a seed and are processed once. A failure is caught where a rule warns or fails that says
nothing of the same product of the clean night, and rightly named where one of `right` is among those rules. What rules
say of clean nights are false alarms. Nights that are in the file of results are not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

from observations.engines.failures import Kind  # noqa: E402

TILES = 12  # of one hour, all in one mosaic: 3C286 transits at 09:02 UTC on START
START, SPACING_S = "2026-03-28", 310
HEALTHY = 6  # tiles before a failure that comes after calibration: as many as a strip's median needs, and one
CLEAN = "clean"
IMAGE = {"CONTIMG_IMAGE_SIZE_PX": "1280", "CONTIMG_PIXEL_ARCSEC": "8"}  # as wide as the beam at half of its power
ASK = """
import json
from images.models import Image
from qa.models import Assessment, Finding
current = Assessment.objects.filter(is_current=True)
def subject(a):
    return f"{a.subject_kind} {a.image.name if a.image else a.calibration_table or a.epoch}"
objections = (Finding.Outcome.WARN, Finding.Outcome.FAIL)
said = Finding.objects.filter(assessment__in=current, outcome__in=objections).select_related(
    "assessment__image", "assessment__calibration_table", "assessment__epoch")
print(json.dumps({
    "found": sorted({(subject(f.assessment), f.rule, f.where) for f in said}),
    "products": current.count(),
    "tiles": Image.objects.tiles().current().count(),
    "in_mosaic": Image.objects.tiles().current().filter(in_mosaics__mosaic__is_current=True).count(),
    "epochs": sorted(current.exclude(epoch=None).values_list("grade", flat=True)),
}))
"""


@dataclass(frozen=True)
class Scenario:
    """A failure of the tiles `first` to `last` of `n_tiles`; `right` are the rules that name what happened."""

    kind: Kind
    right: frozenset[str]
    first: int = HEALTHY
    last: int = HEALTHY
    n_tiles: int = HEALTHY + 1


FLUX_SCALE = frozenset({"ratio_low", "ratio_wrong", "ratio_stepped_down"})
SCENARIOS: dict[str, Scenario] = {
    "dead_antenna": Scenario(Kind.DEAD_ANTENNA, frozenset({"antenna_flagged"}), 0, 1, 2),
    "phase_noisy_antenna": Scenario(
        Kind.PHASE_NOISY_ANTENNA, frozenset({"antenna_phase_noisy", "antenna_unsteady"}), 0, 1, 2
    ),
    "swapped_feeds": Scenario(Kind.SWAPPED_FEEDS, frozenset({"antenna_gain_off"})),
    "gain_jump": Scenario(Kind.GAIN_JUMP, frozenset({"antenna_gain_off", "antenna_gains_scatter"})),
    "rfi": Scenario(Kind.RFI, frozenset({"data_flagged", "noise_above_strip", "noise_high", "noise_excessive"})),
    "pointing_error": Scenario(Kind.POINTING_ERROR, frozenset({"ratio_tilted", "ratio_tilted_much"})),
    "flux_scale_step": Scenario(Kind.FLUX_SCALE_STEP, frozenset({"ratio_stepped_up"})),
    "artefact": Scenario(Kind.ARTEFACT, frozenset({"peak_unexplained", "peak_absurd"})),
    "truncated_tile": Scenario(Kind.TRUNCATED_TILE, frozenset({"duty_low"})),
    "wrong_strip": Scenario(Kind.WRONG_STRIP, FLUX_SCALE | {"incomplete", "peak_far_too_low"}),
    "one_bad_tile": Scenario(Kind.DECORRELATION, FLUX_SCALE | {"tile_doubtful", "tile_bad"}, n_tiles=TILES),
}


class NightFailed(Exception):
    """A command of the pipeline stopped with an error instead of a result."""


@dataclass(frozen=True)
class Night:
    """An installation of its own in a folder."""

    folder: Path
    seed: int
    array: list[str]

    @property
    def raw(self) -> Path:
        return self.folder / "raw"

    def install(self) -> None:
        self.folder.mkdir(parents=True)
        self.manage("migrate", "--verbosity", "0")

    def simulate(self, first: int, last: int, *, failure: str = "", into: Path) -> None:
        chosen = ["--only", f"{first}-{last}", *(["--failure", failure] if failure else [])]
        self.manage("simulate", str(into), "--seed", str(self.seed), *self.array, *chosen, "--verbosity", "0")

    def add(self, first: int, last: int, failure: str = "") -> None:
        """Raw files of these tiles."""
        apart = self.folder / "simulated"
        self.simulate(first, last, failure=failure, into=apart)
        self.raw.mkdir(exist_ok=True)
        for path in apart.glob("*.hdf5"):
            path.rename(self.raw / path.name)
        catalogue = apart / "catalogue.csv"
        self.manage("import_catalogue", str(catalogue), "--name", "simulated", "--frequency-mhz", "1400")
        shutil.rmtree(apart)

    def process(self) -> dict:
        """What the rules say now, of how many products. Raises NightFailed where a tile was not done."""
        printed = self.manage("process", str(self.raw), "--settle-s", "0", "--json", may_fail=True)
        outcome = json.loads(printed)
        undone = [
            one for one in outcome["tiles"] if one["state"] == "cancelled" or one["code"] == "database_unavailable"
        ]
        if undone:
            raise NightFailed(f"process: {undone[0]}")
        failed = [f"{one['name']} {one['code']}" for one in outcome["tiles"] if one["state"] != "done"]
        answer = json.loads(self.manage("shell", "--no-imports", "--verbosity", "0", "-c", ASK).splitlines()[-1])
        return {**answer, "failed": failed}

    def manage(self, *arguments: str, may_fail: bool = False) -> str:
        """A tile that fails its stage is a result of `process`, not of this program."""
        environment = os.environ | IMAGE
        environment |= {
            "CONTIMG_ENV_FILE": "demo.env",
            "CONTIMG_VAR_DIR": str(self.folder),
            "DATABASE_URL": f"sqlite:///{self.folder}/contimg.sqlite3",
        }
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments], cwd=REPOSITORY, env=environment, capture_output=True, text=True
        )
        if done.returncode and not (may_fail and done.returncode == 1 and done.stdout):
            raise NightFailed(f"{arguments[0]}: {(done.stderr or done.stdout).strip()[-600:]}")
        return done.stdout


def nights_of(seed: int, kinds: list[str], array: list[str], folder: Path) -> Iterator[dict]:
    """The rows of the result of a seed. All nights are in one place, for the database knows its raw files by it."""
    place, empty, healthy = (folder / f"contimg-failures-{seed}" / name for name in ("night", "empty", "healthy"))
    shutil.rmtree(place.parent, ignore_errors=True)
    night = Night(place, seed, array)
    for kind in ("", *kinds):
        started = time.monotonic()
        try:
            if not kind:
                night.install()
                shutil.copytree(place, empty)
                night.add(0, HEALTHY - 1)
                night.process()
                shutil.copytree(place, healthy)
                continue
            result = _night(night, SCENARIOS.get(kind), empty, healthy)
            yield {"seed": seed, "night": kind, **result, "s": round(time.monotonic() - started)}
        except NightFailed as error:
            yield {"seed": seed, "night": kind, "error": str(error)}
            if not kind:
                break
        finally:
            shutil.rmtree(place, ignore_errors=True)
    shutil.rmtree(place.parent, ignore_errors=True)


def _night(night: Night, scenario: Scenario | None, empty: Path, healthy: Path) -> dict:
    if scenario is None:
        shutil.copytree(healthy, night.folder)
        night.add(HEALTHY, TILES - 1)
        return night.process()
    shutil.copytree(empty if scenario.first == 0 else healthy, night.folder)
    failure = f"{scenario.kind}:{scenario.first}-{scenario.last}"
    night.add(scenario.first, scenario.n_tiles - 1, failure)
    return night.process()


def summary(rows: list[dict]) -> Iterator[str]:
    """The table of the documentation: nights, how many caught, how many with the right rule, and by which rules."""
    done = [row for row in rows if "found" in row]
    usual = {row["seed"]: {tuple(one) for one in row["found"]} for row in done if row["night"] == CLEAN}
    products = sum(row["products"] for row in done if row["night"] == CLEAN)
    alarmed = sum(len({product for product, _, _ in found}) for found in usual.values())
    alarms = Counter(rule for found in usual.values() for _, rule, _ in found)
    yield f"clean nights: {len(usual)}, products with a false alarm: {alarmed} of {products} {dict(alarms)}"
    yield "| failure | nights | caught | rightly named | by (nights) |"
    yield "|---|--:|--:|--:|---|"
    for kind, scenario in SCENARIOS.items():
        of_kind = [row for row in done if row["night"] == kind]
        rules = [{one[1] for one in row["found"] if tuple(one) not in usual.get(row["seed"], ())} for row in of_kind]
        said = Counter(rule for each in rules for rule in each)
        named = sum(bool(each & scenario.right) for each in rules)
        by = ", ".join(f"{rule} {n}" for rule, n in said.most_common())
        yield f"| {kind} | {len(of_kind)} | {sum(map(bool, rules))} | {named} | {by} |"
    if errors := [(row["seed"], row["night"]) for row in rows if "error" in row]:
        yield f"did not run: {errors}"


def main(argv: list[str] | None = None) -> None:
    options = _options(argv)
    array = ["--tiles", str(TILES), "--spacing-s", str(SPACING_S), "--start", START]
    array += ["--antennas", str(options.antennas), "--channels", str(options.channels)]
    written = options.out.read_text().splitlines() if options.out.exists() else []
    rows = [row for row in map(json.loads, written) if "error" not in row]
    known = {(row["seed"], row["night"]) for row in rows}

    def run(seed: int) -> None:
        kinds = [kind for kind in (CLEAN, *options.kinds) if (seed, kind) not in known]
        for row in nights_of(seed, kinds, array, options.folder) if kinds else ():
            rows.append(row)
            with options.out.open("a") as out:
                out.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)

    with ThreadPoolExecutor(options.processes) as pool:
        list(pool.map(run, range(options.first_seed, options.first_seed + options.seeds)))
    print("\n".join(summary(rows)))


def _kinds(text: str) -> list[str]:
    kinds = text.split(",")
    if wrong := set(kinds) - set(SCENARIOS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(wrong))}: not among {', '.join(SCENARIOS)}")
    return kinds


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--kinds", type=_kinds, default=list(SCENARIOS), help="separated by commas")
    parser.add_argument("--antennas", type=int, default=40)
    parser.add_argument("--channels", type=int, default=2, help="per subband")
    parser.add_argument("--processes", type=int, default=1, help="seeds at a time")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where some GB are free")
    parser.add_argument("--out", type=Path, default=Path("failures.jsonl"), help="added to; nights in it are left out")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
