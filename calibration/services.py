"""Flagging, solving, choosing and applying calibration.

`make_...` calls engines and writes files only; `record_...` moves them into place and writes the rows.
Engines are imported inside the functions: web processes import this module and must never load one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from django.conf import settings
from django.db import transaction

from calibration.models import AppliedFlags, AppliedTable, CalibrationTable, Calibrator, FlagTable
from calibration.staff_flags import STAFF_FLAGS, effect, flags_for
from contimg.exceptions import ContimgError, EngineFailed
from contimg.models import Grade, suspect_if
from contimg.products import digest, product_path, publish, size_bytes
from observations.models import MeasurementSet

if TYPE_CHECKING:
    from calibration.engines.applier import AppliedCalibration
    from calibration.engines.flagger import Flagging, FlaggingParameters, StaffFlag
    from calibration.engines.model import CalibratorModel
    from calibration.engines.solver import SolvedSet, SolvingParameters

log = structlog.get_logger(__name__)

MIN_RESPONSE = 0.5  # of the primary beam at the calibrator: `good` in the match scale (0.8, 0.5, 0.3)
SEARCH_RADIUS_DEG = 3.0  # the beam is below 2% beyond

# Given the calibrated set and the calibrator's model, an image of everything else in the field, or None.
FieldImager = Callable[[Path, "CalibratorModel", float, Path], Path | None]


class WaitingForCalibration(ContimgError):
    """Not a failure: the tile goes on when a valid table exists."""

    code = "waiting_for_calibration"
    status = 409
    permanent = False


class CalibrationGateFailed(EngineFailed):
    code = "calibration_gate_failed"


@dataclass(frozen=True)
class CalibratorMatch:
    """A calibrator in a tile, with the beam's mean response to it and its apparent flux."""

    calibrator: Calibrator
    response: float
    apparent_flux_jy: float


# --- flags -------------------------------------------------------------------------------------------------------
def flagging_parameters() -> FlaggingParameters:
    from calibration.engines.flagger import FlaggingParameters

    return FlaggingParameters()


def flagging_recipe(measurement_set: MeasurementSet) -> str:
    """Of the flags that a tile would get now, with what staff have flagged in its time."""
    return _flagging_recipe(measurement_set, flags_for(measurement_set=measurement_set))


def _flagging_recipe(measurement_set: MeasurementSet, staff: Sequence[StaffFlag]) -> str:
    """Without flags of staff it is as it was before there were any: no tile is made again for nothing."""
    known_bad = [effect(staff)] if staff else []
    return digest("flag", measurement_set.recipe, dataclasses.asdict(flagging_parameters()), *known_bad)


def make_flags(*, measurement_set: MeasurementSet, folder: Path) -> Flagging:
    from calibration.engines.flagger import flag

    return flag(
        measurement_set=product_path(measurement_set.path),
        output=folder / "flags.h5",
        parameters=flagging_parameters(),
        staff=flags_for(measurement_set=measurement_set),
    )


@transaction.atomic
def record_flags(
    *, measurement_set: MeasurementSet, flagging: Flagging, calibrator: Calibrator | None, folder: Path
) -> FlagTable:
    """Publish the flags; the set's flagged fraction becomes theirs. `calibrator` is the one the tile was solved on."""
    from calibration.engines.flagger import versions

    made = folder / "flags.h5"
    table, _ = FlagTable.objects.update_or_create(
        recipe=_flagging_recipe(measurement_set, flagging.staff),  # one entered meanwhile was not used
        defaults={
            "measurement_set": measurement_set,
            "size_bytes": size_bytes(made),
            "path": publish(made, f"flags/{measurement_set.name}.h5"),
            "checksum": flagging.checksum,
            "parameters": _recorded_parameters(flagging),
            "versions": versions(),
            "flagged_fraction": flagging.flagged_fraction,
            "antenna_fractions": flagging.antenna_fractions,
            "channel_fractions": flagging.channel_fractions,
            "calibrator": calibrator,
            **suspect_if(measurement_set.is_suspect),
        },
    )
    measurement_set.flagged_fraction = flagging.flagged_fraction
    measurement_set.save(update_fields=["flagged_fraction"])
    return table


def _recorded_parameters(flagging: Flagging) -> dict[str, Any]:
    recorded = dataclasses.asdict(flagging_parameters())
    if flagging.staff:
        recorded[STAFF_FLAGS] = [dataclasses.asdict(known) for known in flagging.staff]
    return recorded


# --- solving -------------------------------------------------------------------------------------------------------
def calibrator_model(calibrator: Calibrator) -> CalibratorModel:
    from calibration.engines.model import CalibratorModel

    return CalibratorModel(
        name=calibrator.name,
        ra_deg=calibrator.ra_deg,
        dec_deg=calibrator.dec_deg,
        flux_coefficients=tuple(calibrator.flux_coefficients),
    )


def next_transits(*, calibrator: Calibrator, after: datetime) -> list[datetime]:
    """The next three times at which it crosses the meridian, in the middle of the tile that could be solved on it."""
    from observations.telescope import SIDEREAL_DAY_S, next_transit

    times = [next_transit(calibrator.ra_deg, calibrator.dec_deg, after)]
    for _ in range(2):  # begun an hour before: a transit seen a second early must not be found again
        soon = times[-1] + timedelta(seconds=SIDEREAL_DAY_S - 3600)
        times.append(next_transit(calibrator.ra_deg, calibrator.dec_deg, soon))
    return times


def calibrators_in(*, measurement_set: MeasurementSet) -> list[CalibratorMatch]:
    """Calibrators in use within the beam of a tile, the brightest as the tile sees them first."""
    from calibration.engines.model import beam_response
    from observations.engines.measurement_set import read_header

    near = Calibrator.objects.in_use().within_cone(
        ra_deg=measurement_set.ra_deg, dec_deg=measurement_set.dec_deg, radius_deg=SEARCH_RADIUS_DEG
    )
    if not near:
        return []
    header = read_header(product_path(measurement_set.path))
    matches = []
    for calibrator in near:
        model = calibrator_model(calibrator)
        response = beam_response(model, header, measurement_set.pointing_dec_deg)
        apparent = float((model.flux_jy(header.frequency_hz) * response).mean())
        matches.append(CalibratorMatch(calibrator, float(response.mean()), apparent))
    return sorted(matches, key=lambda match: -match.apparent_flux_jy)


def calibrator_to_solve_on(*, measurement_set: MeasurementSet) -> CalibratorMatch | None:
    """The brightest calibrator that the beam sees well enough, if any."""
    matches = [m for m in calibrators_in(measurement_set=measurement_set) if m.response >= MIN_RESPONSE]
    return matches[0] if matches else None


def solving_parameters() -> SolvingParameters:
    from calibration.engines.solver import SolvingParameters

    return SolvingParameters(reference_antenna=settings.CONTIMG_REFERENCE_ANTENNA)


def solving_recipe(*, flag_table: FlagTable, calibrator: Calibrator, kind: str) -> str:
    position = [calibrator.ra_deg, calibrator.dec_deg, *calibrator.flux_coefficients]
    return digest("solve", kind, flag_table.recipe, calibrator.name, position, dataclasses.asdict(solving_parameters()))


def make_tables(
    *,
    measurement_set: MeasurementSet,
    flags: Path,
    calibrator: Calibrator,
    folder: Path,
    image_field: FieldImager,
) -> SolvedSet:
    """Solve against the calibrator alone, image the rest of its field with that, and solve against both."""
    from calibration.engines.applier import apply
    from calibration.engines.field_model import FieldModel
    from calibration.engines.solver import solve

    raw, model = product_path(measurement_set.path), calibrator_model(calibrator)
    solve_tile = partial(
        solve,
        measurement_set=raw,
        flag_table=flags,
        model=model,
        pointing_dec_deg=measurement_set.pointing_dec_deg,
        parameters=solving_parameters(),
    )
    first, final, calibrated = folder / "first", folder / "final", folder / "first.ms"
    first.mkdir()
    final.mkdir()
    alone = solve_tile(output_folder=first)
    apply(measurement_set=raw, flag_table=flags, tables=[table.path for table in alone.tables], output=calibrated)
    field = image_field(calibrated, model, measurement_set.pointing_dec_deg, folder)
    solved = solve_tile(output_folder=final, field=FieldModel.read(field) if field else None)
    wanted = settings.CONTIMG_REFERENCE_ANTENNA
    if wanted not in ("", solved.reference_antenna):
        log.warning(
            "reference_antenna_missing",
            detail=f"Antenna {wanted!r} (CONTIMG_REFERENCE_ANTENNA) has no data in {measurement_set.name}; "
            f"{solved.reference_antenna} was taken.",
        )
    return solved


@transaction.atomic
def record_tables(
    *, measurement_set: MeasurementSet, flag_table: FlagTable, calibrator: Calibrator, solved: SolvedSet
) -> list[CalibrationTable]:
    """Publish the tables of one solution as a set, valid for the configured time around the calibrator's tile."""
    from calibration.engines import solver

    validity = timedelta(hours=settings.CONTIMG_CALIBRATION_VALIDITY_H)
    version = solving_recipe(flag_table=flag_table, calibrator=calibrator, kind="")
    set_name = f"{measurement_set.name}_{calibrator.name}_{version[:8]}"
    recorded = []
    for table in solved.tables:
        row, _ = CalibrationTable.objects.update_or_create(
            recipe=solving_recipe(flag_table=flag_table, calibrator=calibrator, kind=table.kind),
            defaults={
                "kind": table.kind,
                "set_name": set_name,
                "size_bytes": size_bytes(table.path),
                "path": publish(table.path, f"calibration/{set_name}.{table.kind}"),
                "checksum": table.checksum,
                "source_measurement_set": measurement_set,
                "flag_table": flag_table,
                "calibrator": calibrator,
                "solved_at": measurement_set.observed_at,
                "valid_from": measurement_set.observed_at - validity,
                "valid_until": measurement_set.observed_at + validity,
                "dec_deg": measurement_set.pointing_dec_deg,
                "reference_antenna": solved.reference_antenna,
                "solver": solver.NAME,
                "version": solver.VERSION,
                "versions": solver.versions(),
                "parameters": dataclasses.asdict(solving_parameters()),
                "metrics": table.metrics,
                **suspect_if(measurement_set.is_suspect or flag_table.is_suspect),
            },
        )
        recorded.append(row)
    return recorded


# --- choosing and applying -------------------------------------------------------------------------------------------
def choose_tables(*, measurement_set: MeasurementSet, lenient: bool = False) -> list[CalibrationTable]:
    """The bandpass and gain tables of the valid set nearest in time, of the tile's own dec strip.

    Tables that made the current calibrated set are kept while they are valid and not superseded by another solution
    of the same calibrator's tile, so that a re-run changes nothing.
    Raises WaitingForCalibration when no set is valid, and CalibrationGateFailed when those that are were graded poor
    and `lenient` was not asked for.
    """
    valid = list(
        CalibrationTable.objects.in_use()
        .valid_at(measurement_set.observed_at)
        .in_strip(measurement_set.pointing_dec_deg)
        .select_related("source_measurement_set", "flag_table", "calibrator")
    )
    sets = _complete_sets(valid)
    if not sets:
        raise WaitingForCalibration(
            f"{measurement_set.name} waits for calibration: no bandpass and gain tables are valid at its time and "
            f"declination {measurement_set.pointing_dec_deg:.2f} deg. It goes on when a calibrator's tile was solved."
        )
    passed = [tables for tables in sets if lenient or not _is_poor(tables)]
    if not passed:
        raise CalibrationGateFailed(
            f"The calibration tables valid for {measurement_set.name} are graded poor; solve better ones, or use "
            "--lenient to image with them, which every product will say."
        )
    applied = _applied_now(measurement_set)
    return min(
        _current_versions(passed),
        key=lambda tables: ({t.pk for t in tables} != applied, _distance(tables, measurement_set)),
    )


@dataclass(frozen=True)
class SetsInUse:
    """The complete sets of tables that passed their gate, looked at for many tiles at once."""

    sets: list[list[CalibrationTable]]

    @classmethod
    def during(cls, observed_from: datetime, observed_until: datetime) -> SetsInUse:
        tables = CalibrationTable.objects.in_use().filter(
            valid_from__lte=observed_until, valid_until__gte=observed_from
        )
        return cls([tables for tables in _complete_sets(list(tables)) if not _is_poor(tables)])

    def has_one_for(self, measurement_set: MeasurementSet) -> bool:
        """Whether `choose_tables` would find one."""
        tolerance = settings.CONTIMG_DEC_STRIP_TOLERANCE_DEG
        return any(
            all(table.valid_from <= measurement_set.observed_at <= table.valid_until for table in tables)
            and abs(tables[0].dec_deg - measurement_set.pointing_dec_deg) <= tolerance
            for tables in self.sets
        )


def _complete_sets(tables: Sequence[CalibrationTable]) -> list[list[CalibrationTable]]:
    """Sets with both a bandpass and a gain, in order of application."""
    by_name: dict[str, list[CalibrationTable]] = {}
    for table in sorted(tables, key=lambda table: table.kind):
        by_name.setdefault(table.set_name, []).append(table)
    return [found for found in by_name.values() if {"B", "G"} <= {table.kind for table in found}]


def _is_poor(tables: Sequence[CalibrationTable]) -> bool:
    return any(table.grade == Grade.POOR for table in tables)


def _applied_now(measurement_set: MeasurementSet) -> set[int]:
    current = measurement_set.calibrated_sets.current()
    return set(AppliedTable.objects.filter(measurement_set__in=current).values_list("table_id", flat=True))


def _current_versions(sets: Sequence[list[CalibrationTable]]) -> list[list[CalibrationTable]]:
    """Of each calibrator's tile the solution of today's parameters, or else the newest.

    Were the newest always taken, going back to parameters that were in use before would change nothing.
    """
    current: dict[int, list[CalibrationTable]] = {}
    for tables in sorted(sets, key=lambda tables: (_is_as_configured(tables), tables[0].pk)):
        current[tables[0].source_measurement_set.group_id] = tables
    return list(current.values())


def _is_as_configured(tables: Sequence[CalibrationTable]) -> bool:
    recipe = flagging_recipe(tables[0].source_measurement_set)  # a set is of one tile
    return all(
        table.flag_table.recipe == recipe
        and table.recipe == solving_recipe(flag_table=table.flag_table, calibrator=table.calibrator, kind=table.kind)
        for table in tables
    )


def _distance(tables: Sequence[CalibrationTable], measurement_set: MeasurementSet) -> tuple[float, int]:
    """Nearest in time; at the same distance the newer."""
    return abs((tables[0].solved_at - measurement_set.observed_at).total_seconds()), -tables[0].pk


def applying_recipe(*, flag_table: FlagTable, tables: Sequence[CalibrationTable], lenient: bool) -> str:
    return digest("apply", flag_table.recipe, [table.recipe for table in tables], is_lenient(tables, lenient))


def is_lenient(tables: Sequence[CalibrationTable], lenient: bool) -> bool:
    """Lenience counts only where it was needed."""
    return lenient and _is_poor(tables)


def make_calibrated_set(
    *, measurement_set: MeasurementSet, flag_table: FlagTable, tables: Sequence[CalibrationTable], folder: Path
) -> AppliedCalibration:
    """Write `folder/calibrated.ms`."""
    from calibration.engines.applier import apply

    return apply(
        measurement_set=product_path(measurement_set.path),
        flag_table=product_path(flag_table.path),
        tables=[product_path(table.path) for table in tables],
        output=folder / "calibrated.ms",
    )


COPIED = (
    "group", "name", "observed_at", "mjd", "duration_s", "integration_s", "ra_deg", "dec_deg", "pointing_dec_deg",
    "healpix", "frequency_hz", "bandwidth_hz", "n_antennas", "n_channels", "antennas",
)  # fmt: skip


@transaction.atomic
def record_calibrated_set(
    *,
    measurement_set: MeasurementSet,
    flag_table: FlagTable,
    tables: Sequence[CalibrationTable],
    applied: AppliedCalibration,
    lenient: bool,
    folder: Path,
) -> MeasurementSet:
    """Publish the calibrated set, and record which tables were applied to make it."""
    from calibration.engines.applier import versions

    made = folder / "calibrated.ms"
    group = measurement_set.group
    group.measurement_sets.calibrated().current().update(is_current=False)
    calibrated, _ = MeasurementSet.objects.update_or_create(
        recipe=applying_recipe(flag_table=flag_table, tables=tables, lenient=lenient),
        defaults={
            **{name: getattr(measurement_set, name) for name in COPIED},
            "calibrated_from": measurement_set,
            "size_bytes": size_bytes(made),
            "path": publish(made, f"measurement_sets/{measurement_set.name}_calibrated.ms"),
            "checksum": applied.checksum,
            "versions": versions(),
            "parameters": {
                "antennas_missing_in_tables": list(applied.antennas_missing),
                **{key: value for key, value in flag_table.parameters.items() if key == STAFF_FLAGS},
            },
            "flagged_fraction": applied.flagged_fraction,
            "is_lenient": is_lenient(tables, lenient),
            "is_current": True,
            **suspect_if(any(one.is_suspect for one in (measurement_set, flag_table, *tables))),
        },
    )
    AppliedTable.objects.bulk_create(
        [AppliedTable(measurement_set=calibrated, table=table) for table in tables], ignore_conflicts=True
    )
    AppliedFlags.objects.get_or_create(measurement_set=calibrated, defaults={"flag_table": flag_table})
    return calibrated
