"""The corpus: what each file holds, what must be said about it, and why.

`says` are pieces of the message a person gets; `{file}` stands for the path. The policy is
the sentence that a maintainer defends when someone asks for the opposite.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

USER = {"role": "user", "content": "What is the capital of Peru?"}
ANSWER = {"role": "assistant", "content": "Lima."}
CALL = {"id": "a1", "type": "function", "function": {"name": "look", "arguments": {"at": "Peru"}}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
GOOD = json.dumps({"messages": [USER, ANSWER]})
CELL = '"' + json.dumps([USER, ANSWER]).replace('"', '""') + '"'


@dataclass(frozen=True)
class Case:
    """One file; `make` writes it when `content` alone cannot say it."""

    name: str
    content: bytes | str | Callable[[Path], object]
    says: tuple[str, ...]
    policy: str

    def make(self, folder: Path) -> Path:
        path = folder / self.name
        if callable(self.content):
            self.content(path)
        else:
            data = self.content
            path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path


def row(*messages: Any, **columns: Any) -> str:
    """One JSONL line with these messages."""
    return json.dumps({"messages": list(messages), **columns}) + "\n"


def _parquet(columns: dict[str, list[Any]]) -> Callable[[Path], None]:
    return lambda path: pq.write_table(pa.table(columns), path)


def _twice(path: Path) -> None:
    column = pa.array(["a"])
    pq.write_table(pa.Table.from_arrays([column, column], ["messages", "messages"]), path)


def _cut_parquet(path: Path) -> None:
    _parquet({"messages": [[USER, ANSWER]]})(path)
    path.write_bytes(path.read_bytes()[:-20])


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "train.jsonl").write_text(GOOD)
    (path / "notes.txt").write_text("x")


def _missing(path: Path) -> None:
    (path.parent / "trian.jsonl").write_text(GOOD)


ONE_OBJECT = "a row is an object; everything else has no columns"
ENCODING = "other encodings are refused by name: guessing one would train on garbled text"
STRICT = "one bad row refuses the file: nothing is dropped in silence"
FILES = "a path that cannot be data is said before anything is loaded"
KNOWN_KEYS = "a key that would be ignored is refused: its author expects an effect"
TEXT_ONLY = "the models are text models; other parts cannot be trained on"
TEMPLATE = "chat templates know these shapes only"
TOKENS = "a text that has no UTF-8 form has no tokens"
TEACH = "a row must hold an answer to learn from"

REFUSED = [
    # Files that are not what their name says.
    Case("empty.jsonl", "", ("{file}", "an empty file"), FILES),
    Case("empty.parquet", "", ("{file}", "an empty file"), FILES),
    Case("blank.jsonl", " \n\n\t\n", ("{file}", "no rows"), FILES),
    Case("blank.csv", "\n\n", ("{file}", "no rows"), FILES),
    Case("bom.jsonl", b"\xef\xbb\xbf", ("{file}", "no rows"), FILES),
    Case("train.jsonl", _missing, ("{file}", "no file", "Did you mean trian.jsonl?"), FILES),
    Case("folder.jsonl", _folder, ("{file}", "a folder", "train.jsonl"), FILES),
    Case("void", lambda p: p.mkdir(), ("{file}", "a folder", "None of its files"), FILES),
    Case("a.jsonl.gz", gzip.compress(GOOD.encode()), ("{file}", "packed", "Unpack"), FILES),
    Case("gz.jsonl", gzip.compress(GOOD.encode()), ("{file}", "gzip", "Unpack"), FILES),
    Case("sheet.csv", b"PK\x03\x04aaaa", ("{file}", "zip", "CSV"), FILES),
    Case("pq.jsonl", b"PAR1aaaaPAR1", ("{file}", "Parquet", ".parquet"), FILES),
    Case("a.txt", GOOD, ("{file}", "suffix .txt", ".jsonl, .json, .csv, .tsv, .parquet"), FILES),
    Case("nosuffix", GOOD, ("{file}", "no suffix", ".jsonl"), FILES),
    # Encodings.
    Case("u16.jsonl", GOOD.encode("utf-16"), ("{file}", "UTF-16", "UTF-8"), ENCODING),
    Case("u16be.csv", "messages\n".encode("utf-16-be"), ("{file}", "UTF-16"), ENCODING),
    Case("u16le.json", GOOD.encode("utf-16-le"), ("{file}", "UTF-16"), ENCODING),
    Case("u32.jsonl", GOOD.encode("utf-32"), ("{file}", "UTF-32"), ENCODING),
    Case(
        "latin.jsonl",
        (GOOD + "\n").encode() + '{"messages": "é"}\n'.encode("latin-1"),
        ("{file}:2:", "0xE9", "Latin-1", "'é'"),
        ENCODING,
    ),
    Case("latin.csv", "id,messages\né,x\n".encode("cp1252"), ("{file}:2:", "0xE9"), ENCODING),
    Case("latin.json", '[\n"é"]'.encode("latin-1"), ("{file}:2:", "0xE9"), ENCODING),
    Case("nul.jsonl", b'{"messages": "a\0b"}', ("{file}:1:", "NUL byte"), ENCODING),
    Case("nul.csv", b"messages\n\0\n", ("{file}:2:", "NUL byte"), ENCODING),
    # JSON itself.
    Case("broken.jsonl", GOOD + "\n{'messages': 1}\n", ("{file}:2:", "column 2"), STRICT),
    Case("cut.jsonl", GOOD + "\n" + GOOD[:40], ("{file}:2:", "broken JSON"), STRICT),
    Case("two.jsonl", f"{GOOD} {GOOD}\n", ("{file}:1:", "Extra data"), STRICT),
    Case("comma.jsonl", GOOD + ",\n", ("{file}:1:", "Extra data"), STRICT),
    Case("raw.jsonl", '{"messages": "a\tb"}', ("{file}:1:", "control character"), STRICT),
    Case("nbsp.jsonl", GOOD + "\n\u00a0\n", ("{file}:2:", "broken JSON"), STRICT),
    Case("spread.jsonl", json.dumps([1], indent=1), ("{file}:1:", "a line", ".json"), ONE_OBJECT),
    Case("nan.jsonl", row(USER, ANSWER, s=float("nan")), ("{file}:1:s", "NaN"), STRICT),
    Case("inf.jsonl", row(USER, ANSWER, s=[-float("inf")]), ("{file}:1:s[0]", "Infin"), STRICT),
    Case("big.jsonl", '{"messages": [], "s": 1e999}', ("{file}:1:s", "Infinity"), STRICT),
    Case("digits.jsonl", f'{{"s": {"9" * 5000}}}', ("{file}:1:", "a number"), STRICT),
    Case("keys.jsonl", '{"messages": 1, "messages": 2}', ("{file}:1:messages", "twice"), STRICT),
    Case("deep.jsonl", '{"s": ' + "[" * 9**5, ("{file}:1:", "nested too deep"), STRICT),
    Case("nest.jsonl", row(USER, s=json.loads("[" * 90 + "]" * 90)), ("{file}:1:s", "64"), STRICT),
    Case("int.jsonl", GOOD + "\n3\n", ("{file}:2:", "the number 3"), ONE_OBJECT),
    Case("list.jsonl", "[1, 2]", ("{file}:1:", "a list", "an object"), ONE_OBJECT),
    Case("null.jsonl", "null", ("{file}:1:", "null"), ONE_OBJECT),
    Case("string.jsonl", '"hello"', ("{file}:1:", 'the string "hello"'), ONE_OBJECT),
    Case(
        "huge.jsonl",
        row({"role": "user", "content": "x" * (8 * 2**20)}, ANSWER) + "3\n",
        ("{file}:1:", "8 MiB", "{file}:2:", "the number 3"),
        "a row of that size is a missing line break",
    ),
    Case(
        "huge.json",
        lambda p: p.write_text(f"[{row({'role': 'user', 'content': 'x' * 9 * 2**20}, ANSWER)}]"),
        ("{file}:1:", "8 MiB"),
        "a row of that size is a missing line break",
    ),
    Case("half.jsonl", row(USER, {**ANSWER, "content": "\ud800"}), ("{file}:1:", "ud800"), TOKENS),
    Case("halfkey.jsonl", '{"\\udc00": 1}', ("{file}:1:\\udc00", "surrogate"), TOKENS),
    Case("nul2.jsonl", row(USER, {**ANSWER, "content": "a\0"}), ("[1].content", "NUL"), TOKENS),
    Case("broken.json", '[\n{"messages": }]', ("{file}:2:", "column 14"), STRICT),
    Case("lines.json", f"{GOOD}\n{GOOD}\n", ("{file}:2:", ".jsonl"), ONE_OBJECT),
    Case("single.json", GOOD, ("{file}:", "the keys messages", "a list of rows"), ONE_OBJECT),
    Case("none.json", "[]", ("{file}:", "no rows"), FILES),
    Case("keys.json", '{"data": [], "info": 1}', ("{file}:", '"data" or "rows"'), ONE_OBJECT),
    Case("mixed.json", f"[{GOOD}, 7]", ("{file}:2:", "the number 7"), ONE_OBJECT),
    # Tables.
    Case("ragged.csv", "messages,id\nx,1,2\n", ("{file}:2:", "3 cells", "2, as in"), STRICT),
    Case("short.tsv", "messages\tid\n[]\n", ("{file}:2:", "1 cells"), STRICT),
    Case("header.csv", "messages,id\n", ("{file}:", "no rows"), FILES),
    Case("twice.csv", "id,messages,id\n1,2,3\n", ("{file}:1:", '"id"', "each once"), STRICT),
    Case("quote.csv", 'messages\n"[\n', ("{file}:2:", "broken CSV"), STRICT),
    Case("json.csv", "messages\n[{\n", ("{file}:2:messages", "broken JSON"), STRICT),
    Case(
        "python.csv", "messages\n\"[{'role': 1}]\"\n", ("{file}:2:messages", "json.dumps"), STRICT
    ),
    Case("nan.tsv", "messages\tid\n[NaN]\t1\n", ("{file}:2:messages[0]", "NaN"), STRICT),
    Case("cell.csv", 'messages,id\n"",1\n', ("{file}:2:messages", "null"), STRICT),
    Case("other.csv", "prompt,answer\na,b\nc,d\n", ("{file}:", "prompt, answer"), STRICT),
    Case("bad.parquet", b"nothing of the kind", ("{file}:", "Parquet data"), STRICT),
    Case("cut.parquet", _cut_parquet, ("{file}:", "Parquet data"), STRICT),
    Case("none.parquet", _parquet({"text": ["a", "b"]}), ("{file}:", "columns text"), STRICT),
    Case("rows.parquet", _parquet({"messages": pa.array([], pa.string())}), ("no rows",), FILES),
    Case("twice.parquet", _twice, ("{file}:", '"messages" more than once'), STRICT),
    Case("text.parquet", _parquet({"messages": ["[1]"]}), ("{file}:1:messages", "string"), STRICT),
    Case(
        "bytes.parquet",
        _parquet({"messages": [[{"role": "user", "content": b"x"}]]}),
        ("{file}:1:messages[0].content", "bytes"),
        STRICT,
    ),
    # Columns.
    Case("nomsg.jsonl", GOOD + '\n{"text": "x"}\n', ("{file}:2:messages", "text"), STRICT),
    Case("near.jsonl", '{"message": []}\n' * 3, ("1 fault", "Did you mean message?"), STRICT),
    Case("sharegpt.jsonl", '{"conversations": []}', ("Did you mean conversations?",), STRICT),
    Case("nothing.jsonl", "{}", ("{file}:", "no columns"), STRICT),
    Case("str.jsonl", '{"messages": "[]"}', ("{file}:1:messages", "the list itself"), STRICT),
    Case("obj.jsonl", '{"messages": {}}', ("{file}:1:messages", "an empty object"), STRICT),
    Case("tools.jsonl", row(USER, ANSWER, tools="x"), ("{file}:1:tools", "a list of"), TEMPLATE),
    Case("tool.jsonl", row(USER, ANSWER, tools=[{}]), ("{file}:1:tools[0]", "name"), TEMPLATE),
    # Messages.
    Case("zero.jsonl", row(), ("{file}:1:messages", "no messages"), TEACH),
    Case("one.jsonl", row(USER), ("{file}:1:messages", "one message"), TEACH),
    Case("mute.jsonl", row(USER, USER), ("{file}:1:messages", "no assistant"), TEACH),
    Case("item.jsonl", row(USER, "Lima."), ("{file}:1:messages[1]", '"Lima."'), TEMPLATE),
    Case("norole.jsonl", row({"content": "x"}, ANSWER), ("[0].role", "no role"), TEMPLATE),
    Case("human.jsonl", row({**USER, "role": "human"}, ANSWER), ("Did you mean user?",), TEMPLATE),
    Case(
        "dev.jsonl", row({**USER, "role": "developer"}, ANSWER), ("Did you mean system?",), TEMPLATE
    ),
    Case("case.jsonl", row(USER, {**ANSWER, "role": "Assistant "}), ("mean assistant?",), TEMPLATE),
    Case("role.jsonl", row({**USER, "role": 1}, ANSWER), ("[0].role", "number 1"), TEMPLATE),
    Case("num.jsonl", row(USER, {**ANSWER, "content": 4}), ("[1].content", "number 4"), TEMPLATE),
    Case("nocont.jsonl", row(USER, {"role": "assistant"}), ("[1].content", "no con"), TEMPLATE),
    Case("nul.json", f"[{row(USER, {**ANSWER, 'content': None})}]", ("content", "null"), TEACH),
    Case("hush.jsonl", row(USER, {**ANSWER, "content": ""}), ("[1].content", "an empty"), TEACH),
    Case("ws.jsonl", row({**USER, "content": " \n"}, ANSWER), ("[0].content", "white"), TEACH),
    Case(
        "image.jsonl",
        row({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, ANSWER),
        ("{file}:1:messages[0].content[0]", "image_url", "Only text"),
        TEXT_ONLY,
    ),
    Case(
        "part.jsonl",
        row({"role": "user", "content": [{"type": "text", "text": 5}]}, ANSWER),
        ("{file}:1:messages[0].content[0]",),
        TEXT_ONLY,
    ),
    Case("parts.jsonl", row({**USER, "content": []}, ANSWER), ("[0].content", "empty"), TEACH),
    Case("system.jsonl", row(USER, {**USER, "role": "system"}, ANSWER), ("place 2",), TEMPLATE),
    Case("weight.jsonl", row(USER, {**ANSWER, "weight": 0}), ("[1].weight", "take"), KNOWN_KEYS),
    Case("typo.jsonl", row(USER, {**ANSWER, "nmae": "x"}), ("Did you mean name?",), KNOWN_KEYS),
    Case("from.jsonl", row({"from": "human", "value": "x"}, ANSWER), ("[0].from",), KNOWN_KEYS),
    Case("name.jsonl", row({**USER, "name": 3}, ANSWER), ("[0].name", "a string"), TEMPLATE),
    # Tools.
    Case("orphan.jsonl", row(USER, {**USER, "role": "tool"}, ANSWER), ("without",), TEMPLATE),
    Case("caller.jsonl", row({**USER, "tool_calls": [CALL]}, ANSWER), ("calls by",), TEMPLATE),
    Case("calls.jsonl", row(USER, {**CALLING, "tool_calls": {}}), ("tool_calls",), TEMPLATE),
    Case("call.jsonl", row(USER, {**CALLING, "tool_calls": [{"a": 1}]}), ("key",), TEMPLATE),
    Case(
        "args.jsonl",
        row(USER, {**CALLING, "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}),
        ("{file}:1:messages[1].tool_calls[0]", "broken JSON", "in arguments"),
        TEMPLATE,
    ),
    Case(
        "callid.jsonl",
        row(USER, CALLING, {"role": "tool", "content": "x", "tool_call_id": "b2"}),
        ("{file}:1:messages[2].tool_call_id", '"b2"', "a1"),
        TEMPLATE,
    ),
    Case("id.jsonl", row({**USER, "tool_call_id": "x"}, ANSWER), ("tool_call_id",), TEMPLATE),
    # Everything at once.
    Case(
        "many.jsonl",
        "3\n" + row(USER) + row(USER, {**ANSWER, "role": "bot"}) + GOOD + "\n{\n",
        ("4 faults", "{file}:1:", "{file}:2:", "{file}:3:messages[1].role", "{file}:5:"),
        "all faults of a file are told at once",
    ),
    Case("flood.jsonl", "3\n" * 214, ("50 faults", "164 more", "{file}:50:"), STRICT),
]

ACCEPTED = [
    Case("bom.jsonl", b"\xef\xbb\xbf" + GOOD.encode(), (), "a byte order mark is UTF-8 too"),
    Case("bom.csv", f"\ufeffmessages\n{CELL}\n", (), "a spreadsheet writes one"),
    Case("crlf.jsonl", GOOD + "\r\n" + GOOD + "\r\n", (), "Windows ends lines so"),
    Case("last.jsonl", GOOD + "\n\n\n", (), "blank lines are counted, not refused"),
    Case("upper.JSONL", GOOD, (), "a suffix has no case"),
    Case("data.json", f'{{"data": [{GOOD}]}}', (), "the two wrappers are read"),
    Case("bell.jsonl", row(USER, {**ANSWER, "content": "\a\x1b[1m"}), (), "escaped text is text"),
    Case("ls.jsonl", row(USER, {**ANSWER, "content": "a\u2028b"}), (), "no line break of ours"),
    Case("emoji.jsonl", row(USER, {**ANSWER, "content": "🦙"}), (), "a whole surrogate pair"),
    Case("twousers.jsonl", row(USER, USER, ANSWER, ANSWER), (), "the template decides"),
    Case("open.jsonl", row(USER, ANSWER, USER), (), "a last question is context"),
    Case("nulls.jsonl", row({**USER, "name": None, "weight": None}, ANSWER), (), "null is absent"),
    Case("call.jsonl", row(USER, CALLING), (), "a call is an answer"),
]
