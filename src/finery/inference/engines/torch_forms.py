"""How a model is run: the fastest of three forms that gives what transformers' forward gives.

    decoder     our own blocks (torch_decoder), for families of the Llama kind
    interface   transformers' modules on packed rows (torch_interface)
    plain       transformers' forward, a row at a time (torch_plain)

Each of the first two must show, on rows of different lengths read in pieces, logits equal to the
reference within its precision; else the next one is taken and the reason is kept for people.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import Tensor

from finery.errors import FineryError, first_line
from finery.inference.decoding import context_length
from finery.inference.engine import Generation
from finery.inference.engines.torch_adapters import Adapters
from finery.inference.engines.torch_cache import CacheShape, Slots
from finery.inference.engines.torch_decoder import Decoder, fits
from finery.inference.engines.torch_interface import InterfaceDecoder
from finery.inference.engines.torch_packed import PackedRunner
from finery.inference.engines.torch_plain import PlainRunner
from finery.inference.engines.torch_precision import block_weights, candidates, measure, watched
from finery.inference.engines.torch_rows import Row, Runner, Span
from finery.inference.engines.torch_threads import thread_counts
from finery.inference.engines.torch_weights import PRECISIONS

UNBOUNDED = 4096  # context of a model that names none
SHARE = 0.4  # of the free memory that caches may take
# Largest difference of a logit, of the largest logit: one computation in another rounding.
CLOSE = {"float32": 1e-3, "bfloat16": 0.06, "int8": 0.25}
# What the rows of the proof are cut from: on plain text a model's activations are what they are
# in use, where rounding shows its real size.
TEXT = (
    "Once upon a time there was a small town by the sea. Every morning the baker opened his shop "
    "and the children came in to buy warm bread before they went to school."
)
_LENGTHS = (9, 24, 17)  # of these rows
UNBATCHED = (
    "none: answers under way take their tokens one after the other, so that several together are "
    "no faster than one; adapters are not taken. The openvino and vllm engines may do both."
)
log = logging.getLogger("finery.replica")


@dataclass(frozen=True)
class Formed:
    """A model ready to be stepped."""

    runner: Runner
    adapters: Adapters | None  # None where the form takes none
    precision: str
    info: dict[str, Any]
    threads: tuple[int, ...] = ()  # numbers of threads that give the same logits, bit for bit


def form(
    load: Callable[[str], Any],
    text: Sequence[int],
    precision: str,
    at_once: int,
    *,
    reuse: bool = True,
) -> Formed:
    """The fastest right form of the model that `load(dtype name)` reads.

    `text` are the ids of `TEXT`; `reuse` is whether prompts take over what others have read.
    """
    if precision not in ("auto", *PRECISIONS):
        raise FineryError(f"precision is {precision}. Use auto, {', '.join(PRECISIONS)}.")
    stored = "float32" if precision == "float32" else "bfloat16"
    model = load(stored)
    info: dict[str, Any] = {}
    choices = [precision]
    if precision == "auto":
        choices = candidates(model.device)
        times = measure(block_weights(model), choices, at_once) if len(choices) > 1 else {}
        choices.sort(key=lambda one: times.get(one, 0.0))
        info["measured_us"] = times
    rows = _proof_rows(text)
    with watched(model) as peaks:
        reference = _read(PlainRunner(model, 1 << 20), rows())
    for chosen in choices:
        close = max(CLOSE[chosen], CLOSE[stored])
        for name, make in (("decoder", Decoder), ("interface", InterfaceDecoder)):
            if name == "decoder" and not fits(model):
                info[name] = "not of the Llama kind"
                continue
            try:
                made, slots = _packed(model, make(model, chosen, peaks), chosen, at_once)
                first = _read(made.runner, rows())
                reason = _differs(reference, first, close)
            except FineryError:  # what was asked for is not to be had here
                raise
            except Exception as error:  # whatever it is, the next form is there and it is told
                reason = f"{type(error).__name__}: {first_line(error)}"
            else:
                if not reason:
                    threads = _threads(made.runner, rows, first)
                    slots.reuse = reuse
                    info |= {"form": name, "threads": threads}
                    return Formed(made.runner, made.adapters, chosen, info, threads)
            info[name] = f"{chosen}: {reason}"
            model = load(stored)  # `interface` changes it in place
    kept = "float32" if model.device.type == "cpu" else stored
    model = model if kept == stored else load(kept)
    runner = PlainRunner(model, context_length(model) or UNBOUNDED)
    info |= {"form": "plain", "batching": UNBATCHED}
    log.warning("the torch engine runs this model in transformers' plain form: %s", info)
    return Formed(runner, None, kept, info)


def _packed(model: Any, decoder: Any, precision: str, at_once: int) -> tuple[Formed, Slots]:
    """Slots, which reuse nothing yet, adapters and the runner around a decoder of the model."""
    config = model.config.get_text_config()
    device = model.device
    dtype = torch.float32 if precision == "float32" else torch.bfloat16  # half the memory
    shape = CacheShape(config.num_hidden_layers, decoder.kv_heads, decoder.head_size, dtype, device)
    budget = int(SHARE * _free_bytes(device)) // shape.token_bytes
    count = max(2 * at_once, len(_LENGTHS))  # half of them keep what ended rows held
    if device.type != "cpu":
        budget //= count  # a GPU's memory is taken at once, not page by page
    context = min(_positions(model), budget)
    slots = Slots(shape, count, budget if device.type == "cpu" else budget * count, reuse=False)
    adapters = Adapters(decoder.projections, device)
    runner = PackedRunner(decoder, slots, adapters, context, config.vocab_size)
    return Formed(runner, adapters, precision, {}), slots


def _threads(runner: Runner, rows: Callable[[], list[Row]], whole: Tensor) -> tuple[int, ...]:
    """The numbers of threads that compute `whole`, what all together did, to the last bit.

    Among them the loop may choose while it runs, and the same request still gets one answer.
    """
    most = torch.get_num_threads()
    if whole.device.type != "cpu":
        return ()
    alike = [most]
    try:
        for count in thread_counts(most)[:-1]:
            torch.set_num_threads(count)
            if torch.equal(_read(runner, rows()), whole):
                alike.append(count)
    finally:
        torch.set_num_threads(most)
    return tuple(sorted(alike))


def _positions(model: Any) -> int:
    """The longest row whose rotary angles do not depend on the length of its neighbours.

    LongRoPE and dynamic NTK take other angles beyond the length the model was first trained
    for, for every row of the batch; here rows stay within it.
    """
    config = model.config.get_text_config()
    whole = context_length(model) or UNBOUNDED
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") not in ("longrope", "dynamic"):
        return whole
    first = rope.get("original_max_position_embeddings") or getattr(
        config, "original_max_position_embeddings", None
    )
    return min(whole, int(first)) if first else whole


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def _proof_rows(text: Sequence[int]) -> Callable[[], list[Row]]:
    """Rows of different lengths and different beginnings, made anew at each call."""
    prompts = [
        tuple(text[(3 * number + place) % len(text)] for place in range(length))
        for number, length in enumerate(_LENGTHS)
    ]
    return lambda: [Row(Generation(prompt, 2)) for prompt in prompts]


def _read(runner: Runner, rows: Sequence[Row]) -> Tensor:
    """Logits after each row, and after one more token; the rows are read in unequal pieces."""
    found = []
    with torch.inference_mode():
        for row in rows:
            runner.place(row)
        if runner.pieces:
            runner.forward([Span(row, 1 + 3 * i) for i, row in enumerate(rows)])
        for _ in range(2):
            found.append(runner.forward([Span(row, row.pending) for row in rows]))
            for row in rows:
                row.tokens.append(row.tokens[0])
        for row in rows:
            row.tokens.pop()
            runner.free(row)
    return torch.cat(found)


def _differs(wanted: Tensor, got: Tensor, close: float) -> str:
    """How far apart two readings are where that is too far; "" where they are one computation."""
    gap = float((wanted - got).abs().max() / wanted.abs().max().clamp_min(1e-6))
    return "" if gap <= close else f"logits differ by {gap:.2g} of the largest"
