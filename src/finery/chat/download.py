"""The first rows of every split of a dataset, from a mirror folder or from the hub."""

from __future__ import annotations

import datetime
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from finery.chat.read import SUFFIXES, read_rows
from finery.errors import FineryError, first_line
from finery.files import MIRROR, mirrored, write_atomic

_NAME = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)
_SPLIT = re.compile(r"\w+(?:\.\w+)*", re.ASCII)  # what `datasets` allows
_SHARD = re.compile(r"(?P<split>\w+(?:\.\w+)*)-(?P<part>\d{5})-of-(?P<of>\d{5})(?:-[0-9a-f]+)?")


class Rows(Protocol):
    """The rows of one split: a list, or a dataset of the hub that stays on disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, Any]: ...


@dataclass(frozen=True)
class SplitFile:
    """One split that was written."""

    split: str
    path: Path
    rows: int
    available: int  # rows the split has at its source


@dataclass(frozen=True)
class Download:
    """Where a dataset came from and what was written of it."""

    source: str
    splits: list[SplitFile]


def download_dataset(dataset: str, folder: Path, percent: float, subset: str = "") -> Download:
    """Write the first `percent` of every split to `folder/<split>.jsonl`, all columns kept.

    A dataset is looked for below `$FINERY_HUB_MIRROR`, then on the hub; its `subset` is what
    the hub calls a configuration, in a mirror a folder of the dataset's. A split of n rows
    gives round(n * percent / 100) rows, the rule of `split="train[:5%]"` in `datasets`.
    Every file is written whole or not at all; a crash may leave later splits unwritten, and
    the same command completes them. Raises FineryError when the dataset is in neither place,
    and when a file with other content is in the way.
    """
    if not 0 < percent <= 100:
        raise FineryError(
            f"{percent:g}% of a split cannot be taken. Give a --split-pc above 0 and up to 100."
        )
    if not _NAME.fullmatch(dataset) or ".." in dataset:
        raise FineryError(
            f"{dataset!r} is not a dataset name. Names look like HuggingFaceH4/ultrachat_200k; "
            "a file on this machine needs no download."
        )
    if subset and (not _NAME.fullmatch(subset) or "/" in subset or ".." in subset):
        raise FineryError(f"{subset!r} is not the name of a subset; the dataset's page lists them.")
    mirror = mirrored(f"{dataset}/{subset}" if subset else dataset)
    local = mirror if mirror and mirror.is_dir() else None
    splits = _read_mirror(local) if local else _read_hub(dataset, subset, mirror)
    texts: dict[Path, str] = {}
    written = []
    for split, rows in splits.items():
        path = folder / f"{split}.jsonl"
        count = round(len(rows) * percent / 100)
        texts[path] = "".join(_line(rows[n], f"row {n + 1} of {split}") for n in range(count))
        written.append(SplitFile(split, path, count, len(rows)))
    for path, text in texts.items():
        if path.exists() and path.read_bytes() != text.encode():
            raise FineryError(f"{path} is there already with other content. Choose another --dir.")
    for path, text in texts.items():
        write_atomic(path, text)
    return Download(str(local) if local else f"the hub ({dataset})", written)


def _line(row: dict[str, Any], place: str) -> str:
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False, default=_date) + "\n"
    except (TypeError, ValueError) as error:
        raise FineryError(
            f"{place} cannot be written as JSON: {error}. Only text datasets can be downloaded."
        ) from None


def _date(value: Any) -> str:
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    raise TypeError(f"it holds {type(value).__name__}")


def _read_mirror(folder: Path) -> dict[str, Rows]:
    """Every split of a mirror folder: `<split>.jsonl` and the like, or Parquet shards."""
    found: dict[str, list[Path]] = {}
    for path in sorted([*folder.iterdir(), *(folder / "data").glob("*.parquet")]):
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        shard = _SHARD.fullmatch(path.stem)
        if shard:
            found.setdefault(shard["split"], []).append(path)
        elif _SPLIT.fullmatch(path.stem):
            found.setdefault(path.stem, []).append(path)
    if not found:
        raise FineryError(
            f"{folder} holds no split. A mirror has one <split>.jsonl (or {', '.join(SUFFIXES)}) "
            "a split, or data/<split>-00000-of-00001.parquet."
        )
    for split, paths in found.items():
        _refuse_gaps(split, paths)
    return {
        split: [row.data for path in paths for row in read_rows(path)]
        for split, paths in found.items()
    }


def _refuse_gaps(split: str, paths: list[Path]) -> None:
    shards = [_SHARD.fullmatch(path.stem) for path in paths]
    if len(paths) == 1 and not shards[0]:
        return
    parts = [(int(shard["part"]), int(shard["of"])) for shard in shards if shard]
    if parts != [(number, len(paths)) for number in range(len(paths))]:
        names = ", ".join(path.name for path in paths)
        raise FineryError(
            f"The split {split} in {paths[0].parent} is not one file or one whole set of "
            f"shards: {names}. Remove what is too much, or add what is missing."
        )


def _read_hub(dataset: str, subset: str, mirror: Path | None) -> dict[str, Rows]:
    """Every split of a dataset of the hub, through the cache of `datasets`."""
    if Path(dataset).exists():  # `datasets` would read it in place of the hub, without a word
        raise FineryError(
            f"A folder {dataset} is in the current folder and hides the hub's dataset of that "
            f"name. Run the command elsewhere, or put the folder below ${MIRROR}."
        )
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    from huggingface_hub import errors

    unreachable = (OSError, errors.HTTPError)  # pyright: ignore[reportPrivateImportUsage]
    try:
        loaded = load_dataset(dataset, subset) if subset else load_dataset(dataset)
    except (*unreachable, ValueError, DatasetsError) as error:
        looked = f"not in {mirror}" if mirror else f"no mirror is set (${MIRROR})"
        name = f"{dataset}/{subset}" if subset else dataset
        raise FineryError(
            f"The dataset {name} was found in neither place: {looked}, and the hub gave: "
            f"{first_line(error)}. Connect to the internet, or put its splits into a folder "
            f"{name} below ${MIRROR}."
        ) from error
    return {str(split): rows for split, rows in loaded.items()}
