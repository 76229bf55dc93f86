"""What a radio FITS header says, in all the ways radio headers say it.

Every reader answers None when the header does not know, and adds a sentence to `notes` when what it says is odd.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from astropy.io import fits
from astropy.time import Time

PLAUSIBLE_HZ = (1e6, 3e12)  # from the ionosphere's cutoff to the far infrared
FIRST_RADIO_OBSERVATION = datetime(1931, 1, 1, tzinfo=UTC)  # Jansky; MJD-OBS = 0 is no date
COMMENTARY = frozenset({"HISTORY", "COMMENT", ""})


@dataclass(frozen=True)
class Beam:
    bmaj_arcsec: float
    bmin_arcsec: float
    bpa_deg: float  # east of north


def split(header: fits.Header) -> tuple[fits.Header, list[str]]:
    """The cards that say something and can be read, and the HISTORY lines.

    Tens of thousands of HISTORY cards cost 0.1 s here; given to WCS they would be parsed again each time.
    """
    kept, history = fits.Header(), []
    for card in header.cards:
        try:
            keyword, value = card.keyword, card.value
        except fits.VerifyError:
            continue
        if keyword == "HISTORY":
            history.append(str(value))
        elif keyword not in COMMENTARY:
            kept.append((keyword, value), end=True)
    return kept, history


def number(header: fits.Header, *keywords: str) -> float | None:
    """The first of the keywords that holds a finite number; strings that spell one are taken."""
    for keyword in keywords:
        value = header.get(keyword)
        if isinstance(value, bool):
            continue
        try:
            parsed = float(value)
        except (TypeError, ValueError):
            continue
        if math.isfinite(parsed):
            return parsed
    return None


# --- sky ----------------------------------------------------------------------------------------------------------
# The systems that astropy really turns into ICRS. It takes ELON and HLON (ecliptic) for right ascension.
_SYSTEMS = (("RA---", "DEC--"), ("GLON-", "GLAT-"))
_OTHER_SYSTEM = re.compile(r"[A-FH-Z](LON|LAT)-|[A-Z]{2}L[NT]-")
_AXIS_CARD = re.compile(r"(NAXIS|CTYPE|CRVAL|CRPIX|CDELT|CUNIT|CROTA)(\d+)")
_MATRIX_CARD = re.compile(r"(PC|CD)0*(\d+)_0*(\d+)")  # CASA writes PC01_01 too
_PARAMETER_CARD = re.compile(r"(PV|PS)(\d+)_(\d+)")
_NUMERIC_CARD = re.compile(r"(CRVAL|CRPIX|CDELT|CROTA)\d|(PC|CD)\d_\d")


def sky_axes(header: fits.Header) -> tuple[int, int] | None:
    """The numbers (from 1) of the longitude and the latitude axis, of those that the data have."""
    ctypes = _ctypes(header)
    for system in _SYSTEMS:
        longitude, latitude = ([axis for axis, ctype in ctypes.items() if ctype.startswith(name)] for name in system)
        if longitude and latitude:
            return longitude[0], latitude[0]
    return None


def axes_of_another_sky(header: fits.Header) -> list[str]:
    """The CTYPEs of longitudes and latitudes that lead to no ICRS position: on the Sun, a planet, the Earth."""
    return [ctype for ctype in _ctypes(header).values() if _OTHER_SYSTEM.match(ctype)]


def _ctypes(header: fits.Header) -> dict[int, str]:
    return {axis: str(header.get(f"CTYPE{axis}", "")).upper() for axis in range(1, header["NAXIS"] + 1)}


def sky_header(header: fits.Header, axes: tuple[int, int]) -> fits.Header:
    """A 2-D header of the two sky axes, longitude first, with all cards that belong to no axis.

    Made by renumbering cards and not by slicing a WCS of all axes: a frequency axis with CDELT 0, a CD matrix of the
    sky axes alone or an unknown CUNIT make that one singular or invalid, and are common. Strings that spell a number
    become one: wcslib would pass over them.
    """
    number_of = {str(axis): number for number, axis in enumerate(axes, start=1)}
    out = fits.Header([("NAXIS", 2)])
    for key, value in header.items():
        renumbered = _renumbered(key, number_of)
        if renumbered:
            parsed = number(header, key) if _NUMERIC_CARD.fullmatch(renumbered) else None
            out.append((renumbered, value if parsed is None else parsed), end=True)
    return out


def gaps(sky: fits.Header, axes: tuple[int, int]) -> list[str]:
    """What a sky header lacks to say where the image is, or has as something that is not a number.

    The standard has defaults (0, 0 and 1 degree), which nobody means and which put the image at an invented place.
    """
    lacking = []
    for axis, original in enumerate(axes, start=1):
        lacking += [f"{name}{original}" for name in ("CRVAL", "CRPIX") if number(sky, f"{name}{axis}") is None]
        if number(sky, f"CDELT{axis}", f"CD{axis}_1", f"CD{axis}_2") is None:
            lacking.append(f"CDELT{original}")
    broken = [key for key in sky if _NUMERIC_CARD.fullmatch(key) and number(sky, key) is None]
    return list(dict.fromkeys([*lacking, *broken]))


def _renumbered(key: str, number_of: dict[str, int]) -> str | None:
    """The keyword with its axis numbers changed; None for one of a dropped axis."""
    if match := _AXIS_CARD.fullmatch(key):
        axis = number_of.get(match[2])
        return f"{match[1]}{axis}" if axis else None
    if match := _MATRIX_CARD.fullmatch(key):
        row, column = number_of.get(match[2]), number_of.get(match[3])
        return f"{match[1]}{row}_{column}" if row and column else None
    if match := _PARAMETER_CARD.fullmatch(key):
        axis = number_of.get(match[2])
        return f"{match[1]}{axis}_{match[3]}" if axis else None
    return None if key in ("NAXIS", "WCSAXES") else key


# --- beam ---------------------------------------------------------------------------------------------------------
_NUMBER = r"\s*=?\s*([-+]?[\d.]+(?:[EeDd][-+]?\d+)?)"
# AIPS IMAGR: `AIPS   CLEAN BMAJ=  1.2500E-02 BMIN=  1.2500E-02 BPA=   0.00`, in degrees.
_AIPS_BEAM = re.compile(rf"BMAJ{_NUMBER}\s*BMIN{_NUMBER}\s*BPA{_NUMBER}")
# CASA imager::clean(): `Fitted beam used in restoration: 1.34841 by 0.830715 (arcsec) at pa 82.8827 (deg)`.
_CASA_BEAM = re.compile(rf"restoration:{_NUMBER}\s*by{_NUMBER}\s*\(arcsec\)\s*at pa{_NUMBER}", re.IGNORECASE)


def beam(
    header: fits.Header, history: Iterable[str], table: fits.FITS_rec | None, largest_arcsec: float, notes: list[str]
) -> Beam | None:
    """The restoring beam from BMAJ/BMIN/BPA (degrees), else a BEAMS table, else the last one named in HISTORY."""
    found = _plausible_beam(_beam_of_cards(header), "BMAJ", largest_arcsec, notes)
    if found is None and table is not None:
        found = _plausible_beam(_beam_of_table(table), "The BEAMS table", largest_arcsec, notes)
        notes.append("The beam is the first one of the BEAMS table." if found else "The BEAMS table has no beam.")
    if found is None:
        found = _plausible_beam(_beam_of_history(history), "HISTORY", largest_arcsec, notes)
        if found:
            notes.append("The beam is from HISTORY.")
    if found is None:
        notes.append("The header has no beam.")
    return found


def _beam(bmaj_arcsec: float, bmin_arcsec: float, bpa_deg: float | None) -> Beam | None:
    if not 0 < bmin_arcsec <= bmaj_arcsec < 180 * 3600:
        return None
    return Beam(bmaj_arcsec, bmin_arcsec, bpa_deg or 0.0)


def _plausible_beam(found: Beam | None, where: str, largest_arcsec: float, notes: list[str]) -> Beam | None:
    if found is None or found.bmaj_arcsec <= largest_arcsec:
        return found
    size = f"{found.bmaj_arcsec / 3600:g} degrees"
    notes.append(f"{where} gives a beam of {size}, which is far larger than these pixels are for; left out.")
    return None


def _beam_of_cards(header: fits.Header) -> Beam | None:
    bmaj, bmin = number(header, "BMAJ"), number(header, "BMIN")
    if bmaj is None or bmin is None:
        return None
    return _beam(bmaj * 3600, bmin * 3600, number(header, "BPA"))


def _beam_of_table(table: fits.FITS_rec) -> Beam | None:
    """CASA's per-plane beams: columns BMAJ, BMIN (usually arcsec), BPA (deg), CHAN, POL; 0 for planes without."""
    if not {"BMAJ", "BMIN", "BPA"} <= set(table.names or ()):
        return None
    scale = {"deg": 3600.0, "arcmin": 60.0, "rad": math.degrees(1) * 3600}
    factors = [scale.get((table.columns[name].unit or "").strip(), 1.0) for name in ("BMAJ", "BMIN")]
    for row in table:
        found = _beam(float(row["BMAJ"]) * factors[0], float(row["BMIN"]) * factors[1], float(row["BPA"]))
        if found:
            return found
    return None


def _beam_of_history(history: Iterable[str]) -> Beam | None:
    lines = [line.strip() for line in history if "BMAJ" in line or "restoration" in line or "at pa" in line]
    text = " ".join(lines)  # CASA breaks its line over two cards
    for pattern, arcsec in ((_AIPS_BEAM, 3600.0), (_CASA_BEAM, 1.0)):
        for match in reversed(pattern.findall(text)):
            bmaj, bmin, bpa = (_parsed(value) for value in match)
            found = _beam(bmaj * arcsec, bmin * arcsec, bpa)
            if found:
                return found
    return None


def _parsed(text: str) -> float:
    try:
        return float(text.upper().replace("D", "E"))  # Fortran's 1.0D-3
    except ValueError:
        return math.nan


# --- unit ---------------------------------------------------------------------------------------------------------
_PREFIX_FACTOR = {"": 1.0, "m": 1e-3, "u": 1e-6, "\u00b5": 1e-6, "\u03bc": 1e-6, "micro": 1e-6, "n": 1e-9, "k": 1e3}
_PER_BEAM = r"(?:\s*/\s*(?:beam|bm|b)|\s*per\s*beam|[\s.*]*(?:beam|bm)\s*(?:\^|\*\*)?\s*\(?-1\)?)"
_JY_PER_BEAM = re.compile(rf"(micro|[a-z\u00b5\u03bc]?)jy{_PER_BEAM}", re.IGNORECASE)
_PER_BEAM_JY = re.compile(r"beam(?:\^|\*\*)?-1\s+(micro|[a-z\u00b5\u03bc]?)jy", re.IGNORECASE)


def jy_per_beam_factor(unit: str, *, has_beam: bool, notes: list[str]) -> float | None:
    """What pixel values are multiplied by to be Jy/beam; None when they are something else."""
    if not unit:
        notes.append("BUNIT is missing; " + ("taken as Jy/beam." if has_beam else "without a beam it is unknown."))
        return 1.0 if has_beam else None
    match = _JY_PER_BEAM.fullmatch(unit) or _PER_BEAM_JY.fullmatch(unit)
    factor = None
    if match:
        prefix = match[1]
        # `M` alone stays undecided: mega in the standard, but some writers shout `MJY/BEAM` and mean milli.
        factor = _PREFIX_FACTOR.get(prefix) if len(prefix) == 1 else _PREFIX_FACTOR.get(prefix.lower())
    if factor is None:
        notes.append(f"BUNIT {unit!r} is not a flux per beam; rms and peak are left out.")
    return factor


# --- frequency ----------------------------------------------------------------------------------------------------
_FREQUENCY_UNITS = {"": 1.0, "hz": 1.0, "khz": 1e3, "mhz": 1e6, "ghz": 1e9, "thz": 1e12}


def frequency(header: fits.Header, notes: list[str]) -> tuple[float | None, float | None]:
    """Frequency and bandwidth (Hz) of the first plane: a FREQ axis, else RESTFRQ, RESTFREQ or FREQ."""
    axis = _frequency_axis(header)
    if axis:
        value, width = _frequency_on(header, axis)
        if value is not None and _plausible(value, f"CRVAL{axis}", notes):
            return value, abs(width) if width else None
    for keyword in ("RESTFRQ", "RESTFREQ", "FREQ"):
        rest = number(header, keyword)
        if rest is not None and _plausible(rest, keyword, notes):
            return rest, None
    notes.append("The frequency is unknown.")
    return None, None


def _frequency_axis(header: fits.Header) -> int | None:
    n_axes = int(number(header, "NAXIS") or 0)
    wcs_axes = int(number(header, "WCSAXES") or 0)
    for axis in range(1, max(n_axes, wcs_axes) + 1):
        if str(header.get(f"CTYPE{axis}", "")).strip().upper().startswith("FREQ"):
            return axis
    return None


def _frequency_on(header: fits.Header, axis: int) -> tuple[float | None, float | None]:
    """Value at the first pixel (FITS counts from 1) and channel width, in Hz."""
    unit = _FREQUENCY_UNITS.get(str(header.get(f"CUNIT{axis}", "")).strip().lower())
    reference, width = number(header, f"CRVAL{axis}"), number(header, f"CDELT{axis}", f"CD{axis}_{axis}")
    if unit is None or reference is None:
        return None, None
    offset = 1.0 - (number(header, f"CRPIX{axis}") or 0.0)
    return (reference + offset * (width or 0.0)) * unit, width * unit if width is not None else None


def _plausible(value_hz: float, keyword: str, notes: list[str]) -> bool:
    if PLAUSIBLE_HZ[0] <= value_hz <= PLAUSIBLE_HZ[1]:
        return True
    if value_hz:
        notes.append(f"{keyword} gives {value_hz:g} Hz, which no radio telescope observes; left out.")
    return False


# --- time ---------------------------------------------------------------------------------------------------------
_OLD_DATE = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{2})")  # DD/MM/YY, 1900 implied (FITS before 1999)
_UTC_LIKE = frozenset({"UTC", "UT", "UT1", "GMT", "UTC(NIST)", ""})


def observed_at(header: fits.Header, notes: list[str]) -> datetime | None:
    """The middle (DATE-AVG) when the header has it, else DATE-OBS as it stands, DATE-BEG or an MJD."""
    for keyword in ("DATE-AVG", "DATE-OBS", "DATE_OBS", "DATE-BEG"):
        text = str(header.get(keyword, "")).strip()
        found = _date(text, header) if text else None
        if text and found is None:
            notes.append(f"{keyword} {text!r} is not a date; left out.")
        if found:
            return found
    mjd = number(header, "MJD-AVG", "MJD-OBS", "MJD-BEG")
    found = _checked(lambda: Time(mjd, format="mjd", scale=_scale(header))) if mjd is not None else None
    if found is None:
        notes.append("The time of observation is unknown.")
    return found


def _date(text: str, header: fits.Header) -> datetime | None:
    old = _OLD_DATE.fullmatch(text)
    if old:
        text = f"19{old[3]}-{int(old[2]):02d}-{int(old[1]):02d}"
    return _checked(lambda: Time(text.rstrip("Zz"), scale=_scale(header)))


def _scale(header: fits.Header) -> str:
    system = str(header.get("TIMESYS", "")).strip().upper()
    return system.lower() if system not in _UTC_LIKE and system.lower() in Time.SCALES else "utc"


def _checked(make: Callable[[], Time]) -> datetime | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ERFA's "dubious year": refused below
        try:
            moment = make().utc.to_datetime(timezone=UTC)
        except (ValueError, OverflowError):
            return None
    return moment if FIRST_RADIO_OBSERVATION <= moment <= datetime.now(UTC) + timedelta(days=366) else None
