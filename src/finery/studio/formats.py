"""Values as people read them."""

from __future__ import annotations

import math
import zlib
from datetime import datetime
from typing import Any
from urllib.parse import quote

from finery.workspace.store import now

COLOURS, DASHES = 16, 3  # of the chart palette in studio.css
_UNITS = ("B", "KB", "MB", "GB", "TB")


def duration(seconds: float | None) -> str:
    """`4.2 s`, `3 min 05 s`, `2 h 07 min`, `3 d 4 h`."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    seconds = max(0.0, seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def between(start: datetime | None, end: datetime | None) -> str:
    """How long something took, or has taken so far; both times are UTC and naive."""
    return duration(((end or now()) - start).total_seconds()) if start else "–"


def ago(moment: datetime | None) -> str:
    """`just now`, `5 min ago`, `3 h ago`, `12 d ago`."""
    if moment is None:
        return "–"
    seconds = (now() - moment).total_seconds()
    if seconds < 60:
        return "just now"
    for most, unit, word in ((3600, 60, "min"), (86400, 3600, "h")):
        if seconds < most:
            return f"{int(seconds // unit)} {word} ago"
    return f"{int(seconds // 86400)} d ago"


def iso(moment: datetime | None) -> str:
    """A time for programs: UTC, whole seconds."""
    return f"{moment.isoformat(timespec='seconds')}Z" if moment else ""


def size(count: float) -> str:
    """Bytes, in powers of 1,000: `1.2 MB`."""
    for unit in _UNITS[:-1]:
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} {_UNITS[-1]}"


def amount(value: float) -> str:
    """How many, in three digits: `135 M`, `3.8 B`."""
    for most, scale, unit in ((1e6, 1e3, "k"), (1e9, 1e6, "M"), (math.inf, 1e9, "B")):
        if value < 1000:
            break
        if value < most:
            return f"{value / scale:.3g} {unit}"
    return f"{value:.0f}"


def number(value: Any) -> str:
    """A figure with four digits that count, or thousands apart; a dash for none."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return str(value)
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def percent(value: float | None) -> str:
    """A share from 0 to 1."""
    return "–" if value is None else f"{100 * value:.1f} %"


def colour(name: str) -> int:
    """The number of a run's colour: the same on every page, whatever else is shown there."""
    return zlib.crc32(name.encode()) % (COLOURS * DASHES)


def segment(text: str) -> str:
    """A name as one segment of a path."""
    return quote(text, safe="")


def state(status: str) -> str:
    """The kind of a state, of which its colour and sign follow."""
    return _KINDS.get(status, "waiting")


_KINDS = {
    "Completed": "good",
    "Succeeded": "good",
    "Running": "live",
    "Finalizing": "live",
    "Starting": "live",
    "Preparing": "live",
    "Creating": "live",
    "Updating": "live",
    "Failed": "bad",
    "Canceled": "off",
    "CancelRequested": "off",
    "Deleting": "off",
}
