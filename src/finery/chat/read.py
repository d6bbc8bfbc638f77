"""Rows of a data file, whatever its format, with every fault at its place.

Files are UTF-8 (a byte order mark is accepted); their suffix decides the format. Blank
lines between rows are no rows and no faults: they are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from finery.chat.data_row import Row, find_flaw
from finery.chat.formats import Item, read_csv, read_json, read_jsonl, read_parquet, read_tsv
from finery.errors import Fault, InputError, did_you_mean

SUFFIXES: dict[str, Callable[[Path], Iterator[Item]]] = {
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".parquet": read_parquet,
}
SHOWN_FAULTS = 50

_READABLE = ", ".join(SUFFIXES)
_PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
# First bytes that say a file is not the text its suffix promises, the longer ones first.
_SIGNATURES = {
    b"\xff\xfe\x00\x00": ("UTF-32 text", "Save the file as UTF-8."),
    b"\x00\x00\xfe\xff": ("UTF-32 text", "Save the file as UTF-8."),
    b"\xff\xfe": ("UTF-16 text", "Save the file as UTF-8."),
    b"\xfe\xff": ("UTF-16 text", "Save the file as UTF-8."),
    b"\x1f\x8b": ("gzip data", "Unpack the file first."),
    b"PK\x03\x04": ("zip data (or a spreadsheet)", "Unpack the file, or export it as CSV."),
    b"PAR1": ("Parquet data", "Name the file .parquet."),
}


@dataclass
class FaultList:
    """Faults of a pass over data: the first 50 are kept, the others counted."""

    kept: list[Fault] = field(default_factory=list)
    total: int = 0

    def add(self, faults: Iterable[Fault]) -> None:
        """Note faults, in the order in which a reader should meet them."""
        for fault in faults:
            self.total += 1
            if len(self.kept) < SHOWN_FAULTS:
                self.kept.append(fault)

    def raise_any(self) -> None:
        """Raise InputError with the kept faults and the number of the others, if any."""
        if self.total > len(self.kept):
            more = self.total - len(self.kept)
            subject = f"the first {len(self.kept)} of {self.total} faults ({more} more not listed)"
            raise InputError(self.kept, subject)
        if self.kept:
            raise InputError(self.kept)


def read_rows(path: Path) -> Iterator[Row]:
    """Every row of a file; raises InputError, after the last row, with all faults of the pass."""
    faults = FaultList()
    for item in scan_rows(path):
        if isinstance(item, Row):
            yield item
        elif isinstance(item, Fault):
            faults.add([item])
    faults.raise_any()


def scan_rows(path: Path, reader: Callable[[Path], Iterator[Item]] | None = None) -> Iterator[Item]:
    """Rows, blank lines and faults of a file in file order; raises nothing for bad input.

    The suffix chooses the reader when none is given.
    """
    wrong = _path_fault(path, reader)
    if wrong:
        yield wrong
        return
    something = False
    try:
        for item in (reader or SUFFIXES[path.suffix.lower()])(path):
            something = something or isinstance(item, Row | Fault)
            yield (find_flaw(item) or item) if isinstance(item, Row) else item
    except OSError as error:
        yield Fault(str(path), f"a file that cannot be read ({error.strerror})", "a readable file")
        return
    if not something:
        yield Fault(str(path), "no rows", "at least one row")


def _path_fault(path: Path, reader: Callable[[Path], Iterator[Item]] | None) -> Fault | None:
    name, suffix = str(path), path.suffix.lower()
    try:
        if path.is_dir():
            return _folder_fault(path)
        if not path.is_file():
            return _missing_fault(path)
        if suffix in _PACKED:
            return Fault(name, "a packed file", f"one of {_READABLE}", "Unpack it first.")
        if reader is None and suffix not in SUFFIXES:
            remedy = "Name or convert it so."
            found = f"the suffix {suffix}" if suffix else "no suffix"
            return Fault(name, found, f"one of {_READABLE}", remedy)
        if path.stat().st_size == 0:
            return Fault(name, "an empty file", "at least one row")
        is_parquet = (reader or SUFFIXES[suffix]) is read_parquet
        return None if is_parquet else _signature_fault(path)
    except OSError as error:
        return Fault(name, f"a file that cannot be read ({error.strerror})", "a readable file")


def _folder_fault(path: Path) -> Fault:
    files = sorted(p.name for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
    remedy = f"None of its files ends in {_READABLE}."
    if files:
        more = f" and {len(files) - 5} more" if len(files) > 5 else ""
        remedy = f"Give one of its files: {', '.join(files[:5])}{more}."
    return Fault(str(path), "a folder", "a file", remedy)


def _missing_fault(path: Path) -> Fault:
    if path.exists():
        return Fault(str(path), "neither a file nor a folder", "a file")
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    return Fault(str(path), "no file of this name", "a file", did_you_mean(path.name, beside))


def _signature_fault(path: Path) -> Fault | None:
    """A text file that begins as something else: another encoding, an archive, a Parquet file.

    Not asked about Parquet files: their reader says itself what is wrong.
    """
    with path.open("rb") as file:
        start = file.read(4)
    for signature, (found, remedy) in _SIGNATURES.items():
        if start.startswith(signature):
            return Fault(str(path), found, "UTF-8 text", remedy)
    if len(start) == 4 and (start[0::2] == b"\0\0") != (start[1::2] == b"\0\0"):
        return Fault(str(path), "UTF-16 text", "UTF-8 text", "Save the file as UTF-8.")
    return None
