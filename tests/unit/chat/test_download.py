from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finery.chat.download import download_dataset
from finery.chat.read import read_rows
from finery.errors import FineryError, InputError

NAME = "org/chat"


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of `org/chat` in a mirror."""
    folder = tmp_path / "mirror" / NAME
    folder.mkdir(parents=True)
    monkeypatch.setenv("FINERY_HUB_MIRROR", str(tmp_path / "mirror"))
    return folder


def _rows(count: int) -> list[dict[str, Any]]:
    return [{"id": n, "text": f"Grüße {n} 世界", "deep": {"a": [n, None]}} for n in range(count)]


def _jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


@pytest.mark.parametrize("count", [1, 9, 10, 11, 29, 30, 50, 99, 101, 210])
@pytest.mark.parametrize("percent", [1, 5, 33, 50, 100])
def test_the_number_of_rows_is_that_of_the_datasets_library(
    mirror: Path, tmp_path: Path, count: int, percent: int
) -> None:
    _jsonl(mirror / "train.jsonl", _rows(count))
    (got,) = download_dataset(NAME, tmp_path / "out", percent).splits
    instruction = datasets.ReadInstruction.from_spec(f"train[:{percent}%]")
    (absolute,) = instruction.to_absolute({"train": count})
    expected = absolute.to
    assert (got.rows, got.available) == (expected, count)
    assert got.path.read_bytes().count(b"\n") == expected


def test_every_split_and_column_comes_along_and_text_stays_readable(
    mirror: Path, tmp_path: Path
) -> None:
    _jsonl(mirror / "train_sft.jsonl", _rows(40))
    (mirror / "test_sft.json").write_text(json.dumps(_rows(20)))
    (mirror / "test_gen.csv").write_text("a,b\n" + "1,ü\n" * 20, "utf-8")
    (mirror / "README.md").write_text("about")
    got = download_dataset(NAME, tmp_path / "out", 5)
    assert got.source == str(mirror)
    assert {s.split: s.rows for s in got.splits} == {"test_gen": 1, "test_sft": 1, "train_sft": 2}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "test_gen.jsonl",
        "test_sft.jsonl",
        "train_sft.jsonl",
    ]
    text = (tmp_path / "out" / "train_sft.jsonl").read_text("utf-8")
    assert [json.loads(line) for line in text.splitlines()] == _rows(2)
    assert "Grüße 0 世界" in text


def test_parquet_shards_are_read_in_order(mirror: Path, tmp_path: Path) -> None:
    (mirror / "data").mkdir()
    for part in range(2):
        rows = {"n": [part * 3 + n for n in range(3)]}
        name = f"train_sft-0000{part}-of-00002-a3ecf92756993583.parquet"
        pq.write_table(pa.table(rows), mirror / "data" / name)
    download_dataset(NAME, tmp_path / "out", 100)
    rows = [row.data["n"] for row in read_rows(tmp_path / "out" / "train_sft.jsonl")]
    assert rows == [0, 1, 2, 3, 4, 5]


def test_a_missing_shard_or_two_files_for_one_split_are_refused(
    mirror: Path, tmp_path: Path
) -> None:
    table = pa.table({"n": [1]})
    pq.write_table(table, mirror / "train-00000-of-00002.parquet")
    with pytest.raises(FineryError, match="whole set of shards"):
        download_dataset(NAME, tmp_path / "out", 5)
    (mirror / "train-00000-of-00002.parquet").rename(mirror / "train.parquet")
    _jsonl(mirror / "train.jsonl", _rows(1))
    with pytest.raises(FineryError, match=r"train\.jsonl, train\.parquet"):
        download_dataset(NAME, tmp_path / "out", 5)
    assert not (tmp_path / "out").exists()


def test_a_bad_row_in_the_mirror_is_named_and_nothing_is_written(
    mirror: Path, tmp_path: Path
) -> None:
    _jsonl(mirror / "a.jsonl", _rows(3))
    (mirror / "b.jsonl").write_text('{"n": NaN}\n')
    with pytest.raises(InputError, match=r"b\.jsonl:1:n"):
        download_dataset(NAME, tmp_path / "out", 100)
    assert not (tmp_path / "out").exists()


def test_bytes_cannot_become_json_and_dates_become_text(mirror: Path, tmp_path: Path) -> None:
    moment = pa.array([1_700_000_000], pa.timestamp("s"))
    pq.write_table(pa.table({"at": moment}), mirror / "train.parquet")
    download_dataset(NAME, tmp_path / "out", 100)
    assert (tmp_path / "out" / "train.jsonl").read_text() == '{"at": "2023-11-14T22:13:20"}\n'
    pq.write_table(pa.table({"image": [b"\x00"]}), mirror / "train.parquet")
    with pytest.raises(FineryError, match=r"row 1 of train .* bytes"):
        download_dataset(NAME, tmp_path / "out2", 100)


def test_the_same_download_twice_is_fine_and_other_content_is_never_replaced(
    mirror: Path, tmp_path: Path
) -> None:
    _jsonl(mirror / "train.jsonl", _rows(10))
    download_dataset(NAME, tmp_path / "out", 50)
    download_dataset(NAME, tmp_path / "out", 50)
    with pytest.raises(FineryError, match="other content"):
        download_dataset(NAME, tmp_path / "out", 100)
    assert len(list(read_rows(tmp_path / "out" / "train.jsonl"))) == 5


@pytest.mark.parametrize("percent", [0, -5, 100.5, float("nan")])
def test_a_share_outside_0_to_100_is_refused(mirror: Path, tmp_path: Path, percent: float) -> None:
    with pytest.raises(FineryError, match="--split-pc above 0"):
        download_dataset(NAME, tmp_path / "out", percent)


@pytest.mark.parametrize(
    "name", ["../x", "/etc", "a/../b", "..", "a/b/c", "", ".hidden", "a\\b", "a/..", "org/ü", "a\n"]
)
def test_a_name_that_is_a_path_is_refused(mirror: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(FineryError, match="not a dataset name"):
        download_dataset(name, tmp_path / "out", 5)


def test_offline_and_absent_is_one_error_that_names_both_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(name: str) -> None:
        raise ConnectionError(f"Couldn't reach '{name}' on the Hub (OfflineModeIsEnabled)")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    monkeypatch.setenv("FINERY_HUB_MIRROR", str(tmp_path / "mirror"))
    with pytest.raises(FineryError) as caught:
        download_dataset("org/none", tmp_path / "out", 5)
    message = str(caught.value)
    assert str(tmp_path / "mirror" / "org" / "none") in message
    assert "OfflineModeIsEnabled" in message and "\n" not in message
    monkeypatch.delenv("FINERY_HUB_MIRROR")
    with pytest.raises(FineryError, match="no mirror is set"):
        download_dataset("org/none", tmp_path / "out", 5)
    assert not (tmp_path / "out").exists()


def test_without_a_mirror_the_hub_gives_every_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = {
        "train": datasets.Dataset.from_list(_rows(30)),
        "test": datasets.Dataset.from_list([]),
    }
    monkeypatch.setattr(datasets, "load_dataset", lambda name: splits)
    monkeypatch.delenv("FINERY_HUB_MIRROR", raising=False)
    got = download_dataset(NAME, tmp_path / "out", 10)
    assert got.source == "the hub (org/chat)"
    assert [row.data for row in read_rows(tmp_path / "out" / "train.jsonl")] == _rows(3)
    assert (tmp_path / "out" / "test.jsonl").read_bytes() == b""


def test_a_folder_that_would_be_read_in_place_of_the_hub_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FINERY_HUB_MIRROR", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir(parents=True)
    with pytest.raises(FineryError, match="hides the hub's dataset"):
        download_dataset(NAME, tmp_path / "out", 10)


def test_a_subset_is_a_folder_of_the_mirrors_dataset(mirror: Path, tmp_path: Path) -> None:
    (mirror / "small").mkdir()
    _jsonl(mirror / "train.jsonl", _rows(40))
    _jsonl(mirror / "small" / "train.jsonl", _rows(10))
    (got,) = download_dataset(NAME, tmp_path / "out", 100, "small").splits
    assert got.rows == 10


def test_a_subset_of_the_hub_is_asked_for_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("FINERY_HUB_MIRROR", raising=False)
    asked = []

    def load(*names: str) -> datasets.DatasetDict:
        asked.append(names)
        return datasets.DatasetDict(train=datasets.Dataset.from_list(_rows(4)))

    monkeypatch.setattr(datasets, "load_dataset", load)
    download_dataset(NAME, tmp_path / "a", 50, "small")
    download_dataset(NAME, tmp_path / "b", 50)
    assert asked == [(NAME, "small"), (NAME,)]


@pytest.mark.parametrize("subset", ["../other", "a/b", "..", "a b"])
def test_a_subset_cannot_lead_elsewhere(mirror: Path, tmp_path: Path, subset: str) -> None:
    with pytest.raises(FineryError, match="subset"):
        download_dataset(NAME, tmp_path / "out", 100, subset)
