"""The demo's six nights for many seeds, each held against its truth: `python benchmarks/seeds.py --seeds 20`.

Settings are those of `demo.env`. Every seed has a folder of its own, removed when it is done; with --keep-missed the
folders of seeds that missed a limit stay.
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
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

REPOSITORY = Path(__file__).resolve().parent.parent
NIGHTS, TILES = 6, 2
BANDS = ("above 10", "7 to 10", "5 to 7")


class SeedFailed(Exception):
    """A command of the pipeline stopped with an error instead of a result."""


def run_seed(seed: int, scratch: Path, threads: int) -> dict[str, Any]:
    """Simulate, process and compare; the figures of `compare_with_truth` with the seed and its seconds."""
    var = scratch / f"seed_{seed}"
    var.mkdir()
    environment = os.environ | {
        "CONTIMG_ENV_FILE": "demo.env",
        "CONTIMG_VAR_DIR": str(var),
        "CONTIMG_ENGINE_THREADS": str(threads),
        "DATABASE_URL": f"sqlite:///{var}/contimg.sqlite3",
        "OMP_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
    }
    raw = var / "raw"
    plan = ("--tiles", str(TILES), "--nights", str(NIGHTS), "--damage", "--seed", str(seed))
    began = time.perf_counter()
    _manage(environment, "migrate", "--verbosity", "0")
    _manage(environment, "simulate", str(raw), *plan, "--verbosity", "0")
    _manage(environment, "process", str(raw), "--settle-s", "0", "--json")
    seconds = time.perf_counter() - began
    compared = _manage(environment, "compare_with_truth", str(raw / "truth.json"), "--json", may_miss=True)
    return {"seed": seed, "seconds": seconds, **json.loads(compared)}


def _manage(environment: dict[str, str], *arguments: str, may_miss: bool = False) -> str:
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    if done.returncode and not (may_miss and done.returncode == 1 and done.stdout):
        raise SeedFailed(f"{arguments[0]}: {(done.stderr or done.stdout).strip()[-600:]}")
    return done.stdout


# --- the table -----------------------------------------------------------------------------------------------------
HEADINGS = (
    f"{'seed':>5}{'sources':>8}{'ratio':>8}{'scatter':>8}{'dRA':>7}{'dDec':>7}{'>10':>10}{'7-10':>8}{'5-7':>8}"
    f"{'false':>6}{'>6':>4}{'pull':>6}{'missed':>7}{'wrong':>6}{'s':>6}  limits missed"
)


def as_line(row: dict[str, Any]) -> str:
    found = [f"{row['found_of_expected'][band][0]}/{row['found_of_expected'][band][1]}" for band in BANDS]
    return (
        f"{row['seed']:>5}{row['n_sources']:>8}{row['flux_ratio_median']:>8.3f}"
        f"{row['flux_ratio_scatter_over_predicted']:>8.2f}{row['ra_offset_arcsec']:>+7.2f}"
        f"{row['dec_offset_arcsec']:>+7.2f}{found[0]:>10}{found[1]:>8}{found[2]:>8}{row['most_false_in_a_tile']:>6}"
        f"{row['false_above_6_sigma']:>4}{row['forced_pull_std']:>6.2f}{row['variables_missed']:>7}"
        f"{row['constant_called_variable']:>6}{row['seconds']:>6.0f}  {', '.join(missed(row)) or '-'}"
    )


def missed(row: dict[str, Any]) -> list[str]:
    return [limit for limit, is_met in row["limits"].items() if not is_met]


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Median and worst of every figure over the seeds, completeness over all of them, and who missed what."""
    deviations = {
        "flux_ratio_median": 1.0,
        "flux_ratio_scatter_over_predicted": 0.0,
        "ra_offset_arcsec": 0.0,
        "dec_offset_arcsec": 0.0,
        "most_false_in_a_tile": 0.0,
        "false_above_6_sigma": 0.0,
        "forced_pull_std": 1.0,
        "variables_missed": 0.0,
        "constant_called_variable": 0.0,
    }
    return {
        "n_seeds": len(rows),
        "figures": {
            name: {
                "median": median(row[name] for row in rows),
                "worst": max((row[name] for row in rows), key=lambda value: abs(value - ideal)),
            }
            for name, ideal in deviations.items()
        },
        "found_of_expected": {
            band: [sum(row["found_of_expected"][band][i] for row in rows) for i in (0, 1)] for band in BANDS
        },
        "missed": {row["seed"]: missed(row) for row in rows if missed(row)},
    }


def print_summary(over_all: dict[str, Any]) -> None:
    print(f"\n{over_all['n_seeds']} seeds{'':>31}{'median':>9}{'worst':>9}")
    for name, values in over_all["figures"].items():
        print(f"{name:<40}{values['median']:>9.3f}{values['worst']:>9.3f}")
    for band, (found, expected) in over_all["found_of_expected"].items():
        print(f"found {band:<20}{found:>8} of {expected}")
    for seed, limits in over_all["missed"].items():
        print(f"seed {seed} missed: {', '.join(limits)}")


def main(argv: list[str] | None = None) -> None:
    options = _options(argv)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    rows: list[dict[str, Any]] = []
    failed: dict[int, str] = {}
    scratch = Path(tempfile.mkdtemp(prefix="contimg-seeds-", dir=options.folder))
    print(HEADINGS, flush=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        running = {pool.submit(run_seed, seed, scratch, options.threads): seed for seed in seeds}
        for future in tqdm(as_completed(running), total=len(running), unit="seed", disable=not sys.stderr.isatty()):
            seed = running[future]
            try:
                rows.append(future.result())
            except SeedFailed as error:
                failed[seed] = str(error)
                tqdm.write(f"{seed:>5} failed: {error}")
            else:
                tqdm.write(as_line(rows[-1]))
                if not (options.keep_missed and missed(rows[-1])):
                    shutil.rmtree(scratch / f"seed_{seed}")
            sys.stdout.flush()
            _save(options.json, rows, failed)
    if rows:
        print_summary(summary(rows))
    if not any(scratch.iterdir()):
        scratch.rmdir()
    else:
        print(f"kept: {scratch}")
    if failed or any(missed(row) for row in rows):
        raise SystemExit(1)


def _save(path: Path | None, rows: list[dict[str, Any]], failed: dict[int, str]) -> None:
    """After every seed: hours of work do not hang on the last one."""
    if path:
        whole = {"summary": summary(rows) if rows else {}, "failed": failed, "seeds": rows}
        path.write_text(json.dumps(whole, indent=1))


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="seeds at a time")
    parser.add_argument("--threads", type=int, default=1, help="of an engine")
    parser.add_argument("--keep-missed", action="store_true")
    parser.add_argument("--folder", type=Path, help="where some GB are free")
    parser.add_argument("--json", type=Path, help="written after every seed")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
