"""What a model says by plain transformers, kept so that every engine can be compared with it.

Eight prompts that are in nobody's training file, rendered by the model's own renderer; for
each the model's greedy answer in float32, and for each place of the answer the likeliest
tokens with their log-probabilities, so that a token chosen instead can be told as a near tie
or as a fault.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery.errors import FineryError
from finery.files import home, read_json, sha256_json, write_atomic
from finery.inference.engines.contexts import context_of
from finery.inference.engines.merging import CACHE, source_hash

if TYPE_CHECKING:
    from finery.chat.render import Renderer
    from finery.inference.open import Located

PROMPTS = (
    "Tell me about a quiet morning by the sea.",
    "What is the capital of Iceland?",
    "Write a short thank-you note to a neighbour who watered the plants.",
    "List three things that float on water.",
    "Explain in one sentence why the sky is blue.",
    "Wie heißt die größte Stadt in Österreich?",
    "def is_even(number):",
    # Long: where a model puts its tokens (rotary base, sliding window) tells from afar only.
    "Here is the diary of a week in a mountain hut. On Monday we arrived late, tired and wet, and "
    "found the stove cold and the wood damp. On Tuesday the fog never lifted; we read old "
    "newspapers aloud and baked bread that did not rise. On Wednesday the sun came out at last. "
    "Anna climbed to the lake with the two dogs, while Peter mended the roof with nails he had "
    "found under the floor. On Thursday a shepherd came by with cheese and news from the valley: "
    "the bridge was closed, the mill was sold, and his daughter had passed her examination. On "
    "Friday we walked to the pass and saw seven villages, three rivers and, very far away, the "
    "sea. On Saturday the storm broke. Hail as large as cherries lay in the grass, the dogs hid "
    "below the table, and the chimney sang the whole night. On Sunday we cleaned the hut, left "
    "flour, candles and a letter for those who would come after us, and went down. Who found the "
    "nails, on which day was it, and what did the shepherd bring with him?",
)
NEW_TOKENS = 16  # of each answer
LIKELIEST = 20  # log-probabilities kept for each token
_FORMAT = 1  # of the file; part of its name's hash
log = logging.getLogger("finery.replica")


@dataclass(frozen=True)
class Place:
    """One token of an answer as the model sees it, all before it being given."""

    likeliest: tuple[tuple[int, float], ...]  # ids and log-probabilities, the likeliest first

    @property
    def id(self) -> int:
        """The token that greedy decoding takes."""
        return self.likeliest[0][0]

    def gap(self, token: int) -> float:
        """By how many nats `token` is less likely than the likeliest; at least, when unknown."""
        known = dict(self.likeliest)
        least = self.likeliest[-1][1]
        return self.likeliest[0][1] - known.get(token, least)


@dataclass(frozen=True)
class Reference:
    """The prompts and what the model says to them, as token ids."""

    prompts: tuple[tuple[int, ...], ...]
    answers: tuple[tuple[Place, ...], ...]
    precision: str  # what the model was computed in: float32, or what the memory allowed


def reference_of(located: Located, renderer: Renderer) -> Reference:
    """The reference of a model, computed when this home has none yet; raises FineryError."""
    facts = [_FORMAT, source_hash(located), renderer.fingerprint, PROMPTS, NEW_TOKENS, LIKELIEST]
    path = home() / CACHE / "references" / f"{sha256_json(facts)}.json"
    if (kept := _kept(path)) is not None:
        return kept
    from finery.inference.engines.torch_threads import give_back_threads

    start = time.perf_counter()
    made = compute(located, renderer)
    give_back_threads()  # this thread computes no more, the engine's will
    log.info("the reference answers took %.1f s, once", time.perf_counter() - start)
    write_atomic(path, _written(made))
    return made


def compute(located: Located, renderer: Renderer) -> Reference:
    """Load the model with plain transformers, answer the prompts, and let it go again."""
    import torch
    from transformers import AutoModelForCausalLM

    from finery.model.load import no_progress_bars

    batches = _batches(located, renderer)
    device, dtype = _room_for(located.model)
    with no_progress_bars():
        load: Any = AutoModelForCausalLM.from_pretrained
        model: Any = load(located.model, dtype=dtype, local_files_only=True, use_safetensors=True)
        model = model.to(device).eval()
        if located.adapter is not None:
            from finery.model.lora import load_adapter

            model = load_adapter(model, located.adapter)
    with torch.inference_mode():
        answers = [
            answer for batch in batches for answer in _answers(model, batch, renderer.pad_id)
        ]
    del model
    if device == "cuda":
        torch.cuda.empty_cache()  # the engine needs the room
    prompts = tuple(prompt for batch in batches for prompt in batch)
    return Reference(prompts, tuple(answers), str(dtype).removeprefix("torch."))


def _batches(located: Located, renderer: Renderer) -> list[list[tuple[int, ...]]]:
    """The prompts that fit into the context: the short ones together, each long one alone."""
    prompts = [tuple(renderer.prompt([{"role": "user", "content": text}])) for text in PROMPTS]
    room = context_of(located.model) - NEW_TOKENS
    prompts = sorted((prompt for prompt in prompts if len(prompt) <= room), key=len)
    if not prompts:
        raise FineryError(
            f"The context of {located.model} is too short for every prompt that an engine is "
            "proved with. Use a model with a context of 256 tokens or more."
        )
    short = [prompt for prompt in prompts if len(prompt) <= 4 * len(prompts[0])]
    return [short, *([prompt] for prompt in prompts[len(short) :])]


def _room_for(folder: Path) -> tuple[str, Any]:
    """Device and dtype: float32 where the memory holds it, else the dtype it is stored in."""
    import psutil
    import torch

    from finery.model.load import stored_dtype

    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    stored = stored_dtype(folder)
    wanted = weights * 4 / stored.itemsize * 1.2  # and the activations
    if torch.cuda.is_available() and wanted < torch.cuda.mem_get_info()[0]:
        return "cuda", torch.float32
    if wanted < psutil.virtual_memory().available:
        return "cpu", torch.float32
    return ("cuda" if torch.cuda.is_available() else "cpu"), stored


def _answers(model: Any, prompts: list[tuple[int, ...]], pad_id: int) -> list[tuple[Place, ...]]:
    """Greedy answers to prompts of like length, then one pass over each without any padding."""
    import torch

    from finery.inference.decoding import core_model, decode

    batch = decode(
        model,
        prompts,
        stops=(),
        pad_id=pad_id,
        max_new_tokens=NEW_TOKENS,
        temperature=0.0,
        seed=0,
        rows=range(len(prompts)),
    )
    answers = []
    for prompt, answer in zip(prompts, batch, strict=True):
        ids = torch.tensor([[*prompt, *answer]], device=core_model(model).device)
        output = model(input_ids=ids, use_cache=False, logits_to_keep=len(answer) + 1)
        top = output.logits[0, :-1].float().log_softmax(-1)
        top = top.topk(min(LIKELIEST, top.shape[-1]))
        pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        places = [Place(tuple(zip(ids, values, strict=True))) for ids, values in pairs]
        # Where two tokens tie, the pass over the whole may order them in another way than the
        # batch did; what follows was read after the batch's token, so it goes first.
        answers.append(tuple(map(_first, places, answer)))
    return answers


def _first(place: Place, token: int) -> Place:
    mine = [(one, value) for one, value in place.likeliest if one == token]
    others = [(one, value) for one, value in place.likeliest if one != token]
    return Place((*mine, *others))


def _written(reference: Reference) -> str:
    import json

    value = {
        "precision": reference.precision,
        "prompts": reference.prompts,
        "answers": [[place.likeliest for place in answer] for answer in reference.answers],
    }
    return json.dumps(value, allow_nan=False)


def _kept(path: Path) -> Reference | None:
    """What is in the cache; nothing when it is absent or damaged: it is made again."""
    if not path.is_file():
        return None
    try:
        value = read_json(path)
        answers = tuple(
            tuple(Place(tuple((int(i), float(p)) for i, p in place)) for place in answer)
            for answer in value["answers"]
        )
        prompts = tuple(tuple(map(int, prompt)) for prompt in value["prompts"])
        return Reference(prompts, answers, str(value["precision"]))
    except (FineryError, KeyError, TypeError, ValueError):
        return None
