"""Golden ids: what a renderer gave when the model was trained, checked wherever it serves.

The file travels in the model folder. A server whose tokenizer library, template engine or
files give other ids than these would feed the model another language; it refuses to start.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finery.chat.render import Renderer
from finery.chat.tokenizer import plain_ids, probe_texts, save_tokenizer
from finery.errors import FineryError
from finery.files import read_json, sha256_json, write_json

GOLDEN_FILE = "finery_renderer.json"

PROBE_CONVERSATIONS: tuple[tuple[dict[str, str], ...], ...] = (
    (
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi there!"},
    ),
    (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "  What is 2+2?\n"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "And 3+3?"},
        {"role": "assistant", "content": "It is 6.\n\n```python\n3 + 3\n```"},
    ),
    (
        {"role": "user", "content": "Grüße, 你好, 🚀"},
        {"role": "assistant", "content": "¡Hola! naïve — façade"},
    ),
)


def golden_vectors(renderer: Renderer) -> dict[str, Any]:
    """The vectors of `renderer` on the probe texts and conversations."""
    conversations = []
    for messages in PROBE_CONVERSATIONS:
        rendered = renderer.render(messages)
        conversations.append(
            {
                "messages": list(messages),
                "prompt_ids": renderer.prompt(messages[:-1]),
                "ids": rendered.ids,
                "trained": [int(flag) for flag in rendered.trained],
            }
        )
    texts = probe_texts(renderer.tokenizer)
    return {
        "texts": [{"text": text, "ids": plain_ids(renderer.tokenizer, text)} for text in texts],
        "conversations": conversations,
    }


def save_renderer(renderer: Renderer, folder: Path) -> None:
    """Write tokenizer, template and golden ids into a model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(renderer.tokenizer, folder)
    write_json(
        folder / GOLDEN_FILE,
        {
            "template_sha256": renderer.template_hash,
            "fingerprint": renderer.fingerprint,
            "vocabulary_sha256": _vocabulary_hash(renderer),
            "end_of_turn": renderer.end_of_turn,
            "stop_ids": list(renderer.stop_ids),
            "pad_id": renderer.pad_id,
            "folds_system": renderer.folds_system,
            "golden": golden_vectors(renderer),
        },
    )


def verify_golden(renderer: Renderer, folder: Path) -> None:
    """Raise FineryError when the ids here differ from those saved in `folder` (if any were)."""
    if not (folder / GOLDEN_FILE).is_file():
        return
    saved = read_json(folder / GOLDEN_FILE)
    try:
        _verify(renderer, folder, saved)
    except (KeyError, TypeError):
        raise FineryError(
            f"{folder / GOLDEN_FILE} is damaged: it does not hold the ids that the model was "
            "trained with. Restore it."
        ) from None


def _verify(renderer: Renderer, folder: Path, saved: dict[str, Any]) -> None:
    if not saved["golden"]["texts"] or not saved["golden"]["conversations"]:
        raise KeyError("golden")
    for vector in saved["golden"]["texts"]:
        _compare(
            folder, vector["text"], vector["ids"], plain_ids(renderer.tokenizer, vector["text"])
        )
    for vector in saved["golden"]["conversations"]:
        rendered = renderer.render(vector["messages"])
        _compare(folder, rendered.text, vector["ids"], rendered.ids)
        mask = [int(flag) for flag in rendered.trained]
        _compare(folder, rendered.text, vector["trained"], mask)
        prompt = renderer.prompt(vector["messages"][:-1])
        _compare(folder, rendered.text, vector["prompt_ids"], prompt)
    if saved["template_sha256"] != renderer.template_hash:
        raise FineryError(
            f"The chat template in {folder} is not the one the model was trained with. Restore "
            "chat_template.jinja."
        )
    # No text can show every token.
    if saved.get("vocabulary_sha256") != _vocabulary_hash(renderer):
        raise FineryError(
            f"The tokenizer in {folder} has another vocabulary than the model was trained with. "
            "Restore tokenizer.json."
        )


def _vocabulary_hash(renderer: Renderer) -> str:
    return sha256_json(renderer.tokenizer.get_vocab())


def _compare(folder: Path, text: str, wanted: list[int], got: list[int]) -> None:
    if wanted != got:
        raise FineryError(
            f"{folder} was trained with other token ids than this machine makes: for {text!r} it "
            f"saw {wanted}, here they are {got}. Restore the folder's tokenizer files, or use the "
            "package versions named in its manifest."
        )
