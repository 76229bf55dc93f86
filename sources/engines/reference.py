"""Reads catalogues of radio sources: which column is what and in which unit, then the rows in ours.

    with open_catalogue(path) as table:
        layout = choose(table, columns={"flux": "S1.4"}, units={"flux": "mJy"}, frame=None)
        sources = read(table, layout)

Positions become ICRS in degrees, fluxes Jy, sizes and position errors arcsec. Rows that say no place or no flux are
left out and counted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from astropy.coordinates import FK4, FK5, ICRS, BaseCoordinateFrame, SkyCoord
from numpy.typing import NDArray
from scipy.spatial import KDTree

from contimg.exceptions import InvalidInput
from images.engines.fits import NotFits, uncompressed
from sources.engines.tables import SEXAGESIMAL, Block, Column, NotATable, SourceTable, open_table

SAME_PLACE_ARCSEC = 0.1
ROUNDING_DEG = 1e-10
BRIGHTEST_JY = 1e9  # no source of the radio sky comes near it; a wrong unit does
LONGEST_DESIGNATION = 60
FRAMES: dict[str, BaseCoordinateFrame] = {
    "icrs": ICRS(),
    "fk5": FK5(equinox="J2000"),
    "fk4": FK4(equinox="B1950", obstime="B1950"),
}
# Of COOSYS (IVOA vocabulary refframe), RADESYS and EQUINOX, upper case and without blanks and underscores.
_FRAMES_AS_WRITTEN = {
    "ICRS": "icrs", "ICRSJ2000": "icrs", "ICRS2000.0": "icrs",
    "EQFK5": "fk5", "EQFK5J2000": "fk5", "EQFK52000.0": "fk5", "EQFK52000": "fk5",
    "FK5": "fk5", "FK5J2000": "fk5", "FK52000.0": "fk5", "J2000": "fk5", "2000.0": "fk5",
    "EQFK4": "fk4", "EQFK4B1950": "fk4", "EQFK41950.0": "fk4", "EQFK41950": "fk4",
    "FK4": "fk4", "FK4B1950": "fk4", "FK41950.0": "fk4", "B1950": "fk4", "1950.0": "fk4",
}  # fmt: skip


class NoSuchColumn(InvalidInput):
    """The column that was named is not there, or none looks like what is needed."""

    code = "catalogue_column"


class WrongUnit(InvalidInput):
    """A unit of another kind, or one that is not known."""

    code = "catalogue_unit"


class UnsaidUnit(WrongUnit):
    """Neither the file nor the caller says it."""


class UnknownFrame(InvalidInput):
    """The file's positions are in a frame that is not read here."""

    code = "catalogue_frame"


class NoUsableRow(InvalidInput):
    code = "catalogue_no_rows"


@dataclass(frozen=True, kw_only=True)
class Role:
    """What a column can be: how it is usually named (best first, without regard to case), and its unit here."""

    what: str
    names: tuple[str, ...]
    ucds: tuple[str, ...] = ()  # beginnings of UCD1+ and UCD1; stat.error;... begins otherwise
    unit: u.UnitBase | None = None
    sexagesimal: u.UnitBase | None = None  # of the first of three numbers
    is_required: bool = False


ROLES = {
    "ra": Role(
        what="right ascension",
        names=("ra_deg", "raj2000", "_raj2000", "ra_icrs", "ra", "ra_j2000", "raj2000_deg", "right_ascension", "alpha"),
        ucds=("pos.eq.ra", "pos_eq_ra"),
        unit=u.deg,
        sexagesimal=u.hourangle,
        is_required=True,
    ),
    "dec": Role(
        what="declination",
        names=(
            "dec_deg", "dej2000", "_dej2000", "decj2000", "de_icrs", "dec_icrs", "dec", "de", "dec_j2000",
            "decj2000_deg", "dej2000_deg", "declination", "delta",
        ),
        ucds=("pos.eq.dec", "pos_eq_dec"),
        unit=u.deg,
        sexagesimal=u.deg,
        is_required=True,
    ),
    "flux": Role(
        what="flux density",
        names=(
            "flux_jy", "flux_mjy", "total_flux", "total_flux_source", "int_flux", "integrated_flux", "flux_int",
            "fint", "sint", "s_int", "stotal", "s_total", "s1.4", "s1_4", "s_1.4", "s1400", "s1.4ghz", "flux_1_4_ghz",
            "flux", "s", "peak_flux", "peak_flux_source", "flux_peak", "fpeak", "speak",
        ),
        ucds=("phot.flux.density", "phot.flux", "phot_flux_radio"),
        unit=u.Jy,
        is_required=True,
    ),
    "flux-err": Role(
        what="error of the flux density",
        names=(
            "flux_err_jy", "flux_err_mjy", "e_total_flux", "e_total_flux_source", "e_int_flux", "err_int_flux",
            "e_fint", "e_sint", "e_stotal", "e_s1.4", "e_s1_4", "e_s_1.4", "e_s1400", "flux_err", "e_flux", "err_flux",
            "e_s",
        ),
        ucds=("stat.error;phot.flux",),
        unit=u.Jy,
    ),
    "position-err": Role(
        what="error of the position",
        names=("position_err_arcsec", "e_pos", "poserr", "pos_err", "errpos", "e_dej2000", "e_dec", "e_de"),
        unit=u.arcsec,
    ),
    "spectral-index": Role(
        what="spectral index", names=("spectral_index", "spindex", "sp-index", "spix"), ucds=("spect.index",)
    ),
    "major": Role(
        what="major axis",
        names=("major_arcsec", "majaxis", "maj", "bmaj", "major", "dc_maj", "fitted_major"),
        ucds=("phys.angsize.smajaxis",),
        unit=u.arcsec,
    ),
    "minor": Role(
        what="minor axis",
        names=("minor_arcsec", "minaxis", "min", "bmin", "minor", "dc_min", "fitted_minor"),
        ucds=("phys.angsize.sminaxis",),
        unit=u.arcsec,
    ),
    "designation": Role(
        what="name of the source",
        names=("designation", "source_name", "name", "nvss", "first", "source"),
        ucds=("meta.id;meta.main", "id_main"),
    ),
}  # fmt: skip
ROLES_WITH_UNIT = [name for name, role in ROLES.items() if role.unit is not None]

# As in the names of our own columns.
_UNITS_IN_NAMES = {"_deg": "deg", "_jy": "Jy", "_mjy": "mJy", "_ujy": "uJy", "_arcsec": "arcsec"}
_UNITS_AS_WRITTEN = {"jy": "Jy", "mjy": "mJy", "degrees": "deg", "degree": "deg", "arcseconds": "arcsec", "hours": "h"}


@dataclass(frozen=True)
class Chosen:
    column: str
    unit: str | None  # of the numbers, or of the first of three


@dataclass(frozen=True)
class Layout:
    """Which column is what, in which unit, and the frame of the positions."""

    columns: dict[str, Chosen]  # by role
    frame: str

    def as_dict(self) -> dict[str, Any]:
        return {"frame": self.frame, "columns": {role: dataclasses.asdict(one) for role, one in self.columns.items()}}


@dataclass(frozen=True, kw_only=True)
class ReferenceRows:
    """One value in each array for each source; NaN where the file says none."""

    row: NDArray  # in the file, from 1
    ra_deg: NDArray  # ICRS, [0, 360)
    dec_deg: NDArray
    flux_jy: NDArray
    flux_err_jy: NDArray
    position_err_arcsec: NDArray
    spectral_index: NDArray
    major_arcsec: NDArray
    minor_arcsec: NDArray
    designation: NDArray

    def __len__(self) -> int:
        return len(self.row)

    def at(self, which: NDArray | slice) -> ReferenceRows:
        return ReferenceRows(**{name: values[which] for name, values in vars(self).items()})


@dataclass(frozen=True)
class ReadCatalogue:
    sources: ReferenceRows
    n_rows: int
    left_out: dict[str, int] = field(default_factory=dict)  # rows by reason


@contextlib.contextmanager
def open_catalogue(path: Path) -> Iterator[SourceTable]:
    """A file, packed with gzip or not. Raises NotATable, NoSuchFile, NotReadable and Truncated."""
    with tempfile.TemporaryDirectory(prefix="contimg-catalogue-") as folder:
        try:
            plain = uncompressed(path, Path(folder))
        except NotFits as error:
            raise NotATable(f"{path.name} is not a file; give FITS, VOTable, CSV or ECSV.") from error
        yield open_table(plain, path.name)


# --- which column is what -----------------------------------------------------------------------------------------
def choose(
    table: SourceTable, *, columns: Mapping[str, str], units: Mapping[str, str], frame: str | None = None
) -> Layout:
    """`columns` and `units` are by role and go before what the file says; `frame` is one of FRAMES.

    Raises NoSuchColumn, WrongUnit, UnsaidUnit and UnknownFrame.
    """
    found = {name: _column(table, name, columns.get(name), needed=_is_needed(name, columns, units)) for name in ROLES}
    chosen: dict[str, Chosen] = {}
    unsaid: list[str] = []
    for name, column in found.items():
        if column is None:
            continue
        try:
            chosen[name] = Chosen(column.name, _unit(name, column, units.get(name, ""), chosen.get("flux")))
        except UnsaidUnit:
            unsaid.append(name)
        except WrongUnit:
            if _is_needed(name, columns, units):
                raise
    _refuse_unsaid({name: found[name] for name in unsaid if _is_needed(name, columns, units)})
    return Layout(chosen, frame or _frame(found["ra"]))


def _is_needed(name: str, columns: Mapping[str, str], units: Mapping[str, str]) -> bool:
    """What was only guessed, and can be null, may have a unit that is none."""
    return ROLES[name].is_required or name in columns or name in units


def _refuse_unsaid(unsaid: Mapping[str, Column | None]) -> None:
    if unsaid:
        columns = ", ".join(repr(column.name) for column in unsaid.values() if column)
        options = ", ".join(f"--{name}-unit" for name in unsaid)
        raise UnsaidUnit(f"The file does not say the unit of {columns}; give it with {options}.")


def _column(table: SourceTable, name: str, wanted: str | None, *, needed: bool) -> Column | None:
    role = ROLES[name]
    if wanted is not None:
        found = [c for c in table.columns if c.name == wanted] or [
            c for c in table.columns if c.name.lower() == wanted.lower()
        ]
        if len(found) != 1:
            raise NoSuchColumn(f"There is no column {wanted!r} with one value in a row; there are {_names(table)}.")
        return found[0]
    guessed = _guess(table, role)
    if guessed is None and needed:
        raise NoSuchColumn(
            f"No column is clearly the {role.what}; name it with --{name}-column. There are {_names(table)}."
        )
    return guessed


def _guess(table: SourceTable, role: Role) -> Column | None:
    """The main one by its UCD, else by its usual name, else the only one with such a UCD."""
    of_ucd = [c for c in table.columns if c.ucd.lower().startswith(role.ucds or ("no ucd",))]
    main = [c for c in of_ucd if "main" in c.ucd.lower()]
    if len(main) == 1:
        return main[0]
    by_name = {column.name.lower(): column for column in reversed(table.columns)}
    named = next((by_name[name] for name in role.names if name in by_name), None)
    return named or (of_ucd[0] if len(of_ucd) == 1 else None)


def _names(table: SourceTable) -> str:
    names = [column.name for column in table.columns]
    return ", ".join(names[:60]) + (f" and {len(names) - 60} more" if len(names) > 60 else "")


def _unit(name: str, column: Column, given: str, flux: Chosen | None) -> str | None:
    role = ROLES[name]
    if role.unit is None:
        return None
    written = given or column.unit or _unit_in_name(column.name)
    if role.sexagesimal and (given == "sexagesimal" or (column.is_sexagesimal and not given and not parsed(written))):
        return role.sexagesimal.to_string()
    if not written and name == "flux-err" and flux is not None:
        return flux.unit  # an error is in the unit of its flux where nobody says otherwise
    if not written:
        raise UnsaidUnit
    unit = parsed(written)
    if name == "ra" and unit == u.hour:
        unit = u.hourangle
    if unit is None or not _is_of_kind(unit, role.unit):
        raise WrongUnit(
            f"The unit of {column.name!r} is {written!r}, which is no unit of a {role.what} (such as {role.unit}); name"
            f" another column, or give its unit with --{name}-unit."
        )
    return unit.to_string()


def _unit_in_name(name: str) -> str:
    return next((unit for end, unit in _UNITS_IN_NAMES.items() if name.lower().endswith(end)), "")


def parsed(written: str) -> u.UnitBase | None:
    """A unit as FITS, VizieR, the IVOA or people write it; None for what is none."""
    text = _UNITS_AS_WRITTEN.get(written.strip().lower(), written.strip())
    for attempt in (text, text.replace(" ", ".")):
        for form in ("generic", "vounit", "cds", "ogip"):
            unit = u.Unit(attempt, format=form, parse_strict="silent")
            if not isinstance(unit, u.UnrecognizedUnit) and attempt:
                return unit
    return None


def _is_of_kind(unit: u.UnitBase, ours: u.UnitBase) -> bool:
    return (unit * u.beam if _is_per_beam(unit) else unit).is_equivalent(ours)


def _is_per_beam(unit: u.UnitBase) -> bool:
    """A peak, which is the flux of a point."""
    return u.beam in unit.decompose().bases


def _frame(column: Column | None) -> str:
    if column is None or not column.frame:
        return "icrs"
    found = _FRAMES_AS_WRITTEN.get(column.frame.upper().replace("_", "").replace(" ", ""))
    if found is None:
        raise UnknownFrame(
            f"The file says that its positions are in {column.frame!r}, which is not read here; name columns in one of"
            f" {', '.join(FRAMES)} and say which with --frame."
        )
    return found


# --- rows ---------------------------------------------------------------------------------------------------------
def read(
    table: SourceTable, layout: Layout, *, progress: Callable[[Iterable[Block]], Iterable[Block]] = iter
) -> ReadCatalogue:
    """Every row that has a place and a flux, once. Raises NoUsableRow."""
    left_out: Counter[str] = Counter()
    parts: list[ReferenceRows] = []
    n_rows = 0
    for block in progress(table.blocks(list(dict.fromkeys(one.column for one in layout.columns.values())))):
        rows = _rows(block, layout, n_rows + 1)
        n_rows += len(rows)
        usable, reasons = _usable(rows)
        left_out += reasons
        parts.append(rows.at(usable))
    if not any(map(len, parts)):
        raise NoUsableRow(f"None of the {n_rows} rows can be used{_because(left_out)}; look at the columns and units.")
    sources = ReferenceRows(
        **{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in dataclasses.fields(ReferenceRows)}
    )
    once = _first_of_each(sources)
    left_out["duplicate"] = len(sources) - int(once.sum())
    return ReadCatalogue(sources.at(once), n_rows, {reason: n for reason, n in left_out.items() if n})


def _because(left_out: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{n} {reason}' for reason, n in left_out.items() if n)})" if left_out else ""


def _rows(block: Block, layout: Layout, first: int) -> ReferenceRows:
    n = len(next(iter(block.values())))
    values = {name: _converted(block, layout, name, n) for name in ROLES if name != "designation"}
    ra_deg, dec_deg = _icrs(values["ra"], values["dec"], layout.frame)
    designation = layout.columns.get("designation")
    return ReferenceRows(
        row=np.arange(first, first + n),
        ra_deg=ra_deg,
        dec_deg=dec_deg,
        flux_jy=values["flux"],
        flux_err_jy=_at_least(values["flux-err"], np.nextafter(0, 1)),
        position_err_arcsec=_at_least(values["position-err"], 0),
        spectral_index=_at_least(values["spectral-index"], -np.inf),
        major_arcsec=_at_least(values["major"], 0),
        minor_arcsec=_at_least(values["minor"], 0),
        designation=_designations(block[designation.column]) if designation else np.full(n, ""),
    )


def _converted(block: Block, layout: Layout, role: str, n: int) -> NDArray:
    """A column in our unit, NaN where there is no number; all of it where there is no column."""
    chosen = layout.columns.get(role)
    if chosen is None:
        return np.full(n, np.nan)
    values = _numbers(block[chosen.column], may_be_sexagesimal=ROLES[role].sexagesimal is not None)
    if chosen.unit is None:
        return values
    unit, ours = u.Unit(chosen.unit), ROLES[role].unit
    factor = (unit * u.beam if _is_per_beam(unit) else unit).to(ours)
    with np.errstate(over="ignore"):
        return values * factor


def _numbers(column: np.ma.MaskedArray, *, may_be_sexagesimal: bool) -> NDArray:
    if column.dtype.kind in "fiub":
        return np.ma.filled(column.astype(float), np.nan)
    if column.dtype.kind != "U":
        return np.full(len(column), np.nan)
    number = _number_or_sexagesimal if may_be_sexagesimal else _number
    return np.array([number(text) for text in column.data.tolist()], dtype=float)


def _number(text: str) -> float:
    try:
        return np.nan if "_" in text else float(text)  # Python reads 1_000 as a number
    except ValueError:
        return np.nan


def _number_or_sexagesimal(text: str) -> float:
    """astropy's Angle was tried and left: 60 us for each, and it stops at the first that it cannot read."""
    number = _number(text)
    found = SEXAGESIMAL.fullmatch(text) if np.isnan(number) else None
    if found is None:
        return number
    sign, whole, minutes, seconds = found.groups()
    if int(minutes) >= 60 or float(seconds) > 60:  # 60.0 is what some round 59.99 to
        return np.nan
    value = int(whole) + int(minutes) / 60 + float(seconds) / 3600
    return value if sign in ("", "+") else -value


def _icrs(ra_deg: NDArray, dec_deg: NDArray, frame: str) -> tuple[NDArray, NDArray]:
    """Positions that are possible, in ICRS; the others as they are, for their reason to be seen."""
    ra_deg, dec_deg = ra_deg.copy(), dec_deg.copy()
    possible = (np.abs(dec_deg) <= 90) & _is_about_a_turn(ra_deg)
    if frame != "icrs" and possible.any():
        sky = SkyCoord(ra_deg[possible] * u.deg, dec_deg[possible] * u.deg, frame=FRAMES[frame]).icrs
        ra_deg[possible], dec_deg[possible] = sky.ra.deg, sky.dec.deg
    wrapped = np.mod(ra_deg[possible], 360.0)
    # The modulo of -1e-15 is 360.0, and a database may round the last digit of what is just below.
    ra_deg[possible] = np.where(wrapped > 360.0 - ROUNDING_DEG, 0.0, wrapped)
    return ra_deg, dec_deg


def _is_about_a_turn(ra_deg: NDArray) -> NDArray:
    """RA may be written from -180 or beyond 360. Farther is no wrap but another unit."""
    return (ra_deg >= -360) & (ra_deg <= 720)


def _at_least(values: NDArray, lowest: float) -> NDArray:
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(values) & (values >= lowest), values, np.nan)


def _designations(column: np.ma.MaskedArray) -> NDArray:
    texts = np.ma.filled(column, "" if column.dtype.kind == "U" else column.fill_value).tolist()
    missing = np.ma.getmaskarray(column).tolist()
    clean = ["" if m else " ".join(str(t).replace("\0", "").split()) for t, m in zip(texts, missing, strict=True)]
    return np.array([text[:LONGEST_DESIGNATION] for text in clean], dtype=str)


def _usable(rows: ReferenceRows) -> tuple[NDArray, Counter[str]]:
    """Which rows have a place and a flux, and why the others have not: each has the first reason that holds."""
    reasons: Counter[str] = Counter()
    usable = np.ones(len(rows), dtype=bool)
    for reason, is_so in (
        ("no_position", ~(np.isfinite(rows.ra_deg) & np.isfinite(rows.dec_deg))),
        ("ra_out_of_range", ~_is_about_a_turn(rows.ra_deg)),
        ("dec_out_of_range", ~(np.abs(rows.dec_deg) <= 90)),
        ("no_flux", ~np.isfinite(rows.flux_jy)),
        ("flux_not_positive", ~(rows.flux_jy > 0)),
        ("flux_out_of_range", ~(rows.flux_jy < BRIGHTEST_JY)),
    ):
        reasons[reason] += int((usable & is_so).sum())
        usable &= ~is_so
    return usable, reasons


def _first_of_each(sources: ReferenceRows) -> NDArray:
    """False for rows that repeat an earlier one: the same flux within 0.1 arcsec.

    Fluxes are a fourth coordinate whose steps are larger than the distance asked for, so that a place with a hundred
    different fluxes does not make ten thousand pairs.
    """
    order = np.lexsort((sources.row, sources.flux_jy, sources.dec_deg, sources.ra_deg))
    repeats = np.zeros(len(sources), dtype=bool)
    repeats[order[1:]] = np.all(
        [np.diff(getattr(sources, name)[order]) == 0 for name in ("ra_deg", "dec_deg", "flux_jy")], axis=0
    )
    kept = np.flatnonzero(~repeats)
    ra, dec = np.radians(sources.ra_deg[kept]), np.radians(sources.dec_deg[kept])
    step = np.radians(SAME_PLACE_ARCSEC / 3600)
    flux = np.unique(sources.flux_jy[kept], return_inverse=True)[1] * 10.0
    places = np.column_stack(
        [np.cos(dec) * np.cos(ra) / step, np.cos(dec) * np.sin(ra) / step, np.sin(dec) / step, flux]
    )
    pairs = KDTree(places).query_pairs(1.0, output_type="ndarray")
    repeats[kept[pairs.max(axis=1)]] = True
    return ~repeats
