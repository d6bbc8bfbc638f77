"""The tokenizer of a model folder, proved against the file it was published as.

`tokenizer.json` is the truth. `AutoTokenizer` may rebuild the pipeline from the class named
in `tokenizer_config.json`; for Phi-3 as Microsoft publishes it (`LlamaTokenizer`,
`legacy: false`) that replaces the normalizer and 15 of 47 public test vectors come out
wrong. So the file is loaded as it stands and its ids are compared with the bare
`tokenizers` library before anything is trained or served.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from finery.errors import FineryError, first_line
from finery.files import read_json, write_json

# Spaces, newlines, digits, accents, emoji, right-to-left and code: what normalizers and
# pre-tokenizers treat differently. A special token in front is added per tokenizer.
PROBE_TEXTS = (
    "Hello world",
    " Hello  World\n\n\tmore",
    "It's 2026-11-20, 3.14 and 1,000,000!",
    "naïve façade Führer Ωmega",
    "🚀 (normal) 😶\u200d🌫️ (multiple emojis concatenated)",
    "שלום мир 你好 ที่นี่",
    "def f(x):\n    return x ** 2  # square",
    "",
)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer in `folder`, giving the same ids as its `tokenizer.json` does alone.

    Raises FineryError when there is no tokenizer, when its files are damaged, or when the ids
    differ.
    """
    published = folder / "tokenizer.json"
    legacy = any((folder / name).is_file() for name in ("tokenizer.model", "vocab.json"))
    if not published.is_file() and not legacy:
        raise FineryError(
            f"{folder} holds no tokenizer. Copy tokenizer.json and tokenizer_config.json of the "
            "base model into it."
        )
    kind = PreTrainedTokenizerFast if published.is_file() else _by_class_name()
    try:
        tokenizer: PreTrainedTokenizerFast = kind.from_pretrained(folder)
    except Exception as error:  # the tokenizers library raises Exception itself
        raise FineryError(
            f"The tokenizer files in {folder} are damaged ({first_line(error)}). Restore "
            "tokenizer.json and tokenizer_config.json of the base model."
        ) from error
    if published.is_file():
        _prove_ids(tokenizer, published)
    return tokenizer


def _by_class_name() -> Any:
    """What builds a tokenizer without tokenizer.json; it loads every model family, and torch."""
    from transformers import AutoTokenizer

    return AutoTokenizer


def probe_texts(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """The strings on which ids are compared: plain ones, and ones behind special tokens."""
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return [
        *PROBE_TEXTS,
        *(f"{token}{text}" for token in special[:4] for text in ("Hello", "\nHello", " Hello")),
    ]


def plain_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Ids of `text` with nothing added before or after."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]  # pyright: ignore[reportReturnType]


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the tokenizer so that transformers 4 and 5 both load the file as it stands."""
    tokenizer.save_pretrained(folder)
    config = read_json(folder / "tokenizer_config.json")
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    for machine_local in ("is_local", "local_files_only", "backend"):
        config.pop(machine_local, None)
    write_json(folder / "tokenizer_config.json", config)


def _prove_ids(tokenizer: PreTrainedTokenizerFast, published: Path) -> None:
    from tokenizers import Tokenizer

    raw = Tokenizer.from_file(str(published))
    for text in probe_texts(tokenizer):
        wanted = raw.encode(text, add_special_tokens=False).ids
        got = plain_ids(tokenizer, text)
        if got != wanted:
            raise FineryError(
                f"The tokenizer of {published.parent} gives {got} for {text!r}, but its own "
                f"tokenizer.json gives {wanted}. A model trained this way would disagree with "
                "every other server; restore the published tokenizer files."
            )
