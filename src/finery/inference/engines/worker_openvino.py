"""The process behind the `openvino` engine: token ids in, token ids out, as JSON lines.

It runs with the Python of the engine's own environment, so it imports nothing of finery.
Standard input: `{"add": 7, "prompt": […], "max_new_tokens": 9, …}` and `{"cancel": 7}`.
Standard output: `{"ready": {…}}` once, then a line for each step of the model:
`{"tokens": [[7, 123], …], "ended": [7], "refused": [[8, "why"]]}`; where log-probabilities are
wanted a token is `[7, 123, -0.5, [[123, -0.5], [9, -1.2]]]`.
It ends when standard input ends or its parent does.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import queue
import signal
import sys
import threading
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl
RUNNING, FINISHED = "RUNNING", "FINISHED"  # OpenVINO GenAI's names
# JSON as Python writes it: free white space lets a weak model write spaces for ever.
JSON_STYLE: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def main() -> None:
    """Load the exported model named in the first argument and answer until nobody listens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    # What a library prints must not come between the lines of the protocol.
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    asked: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(asked,), daemon=True).start()
    worker = Worker(json.loads(sys.argv[1]))
    _say(lines, {"ready": {"features": worker.features}})
    while True:
        if any((told := worker.step(asked)).values()):
            _say(lines, told)


def _read(asked: queue.SimpleQueue[dict[str, Any]]) -> None:
    with contextlib.suppress(OSError, ValueError):
        for line in sys.stdin:
            asked.put(json.loads(line))
    os._exit(0)  # the parent is gone; a step that is under way is of no use to anybody


def _say(lines: Any, value: dict[str, Any]) -> None:
    lines.write(json.dumps(value) + "\n")
    lines.flush()


class Worker:
    """The pipeline, and the answers that are being made in it and beside it."""

    def __init__(self, options: dict[str, Any]) -> None:
        import openvino_genai  # pyright: ignore[reportMissingImports]

        self.folder = Path(options["folder"])
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = options["cache_gigabytes"]
        scheduler.max_num_seqs = options["at_once"]
        scheduler.enable_prefix_caching = True
        # In 16 bits, or with 8 in the cache, a token would depend on what it was batched with and
        # on what the cache kept of others; the weights are int8 all the same. It costs nothing
        # where tokens are made, a fifth where a prompt is read.
        self.properties: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32",
            "KV_CACHE_PRECISION": "f16",
        }
        if options["threads"]:
            self.properties["INFERENCE_NUM_THREADS"] = options["threads"]
        self.pipeline: Any = openvino_genai.ContinuousBatchingPipeline(
            str(self.folder), scheduler, "CPU", self.properties
        )
        self.answers: dict[int, Piped | Guided] = {}
        self.features = ["logprobs", "penalties"]
        if (self.folder / "tokenizer.json").is_file():
            self.features.append("schema")

    def step(self, asked: queue.SimpleQueue[dict[str, Any]]) -> dict[str, list[Any]]:
        """Take in what is asked and make a token for every answer; waits while there is none."""
        told: dict[str, list[Any]] = {"tokens": [], "ended": [], "refused": []}
        while not told["refused"] and (not self.answers or not asked.empty()):
            message = asked.get()
            if "cancel" in message:
                if left := self.answers.pop(message["cancel"], None):
                    left.cancel()
                continue
            try:
                self.answers[message["add"]] = self.begin(message)
            except (RuntimeError, TypeError, ValueError) as error:
                told["refused"].append([message["add"], str(error).strip().splitlines()[-1]])
        # A step that fails leaves the pipeline unusable: its traceback is the last word.
        if self.pipeline.has_non_finished_requests():
            self.pipeline.step()
        for number, answer in list(self.answers.items()):
            told["tokens"] += [[number, *made] for made in answer.take()]
            if (status := answer.status()) == RUNNING:
                continue
            del self.answers[number]
            if status == FINISHED:
                told["ended"].append(number)
            else:  # IGNORED: the prompt does not fit into the cache
                told["refused"].append([number, f"the pipeline ended it as {status}"])
        return told

    def begin(self, message: dict[str, Any]) -> Piped | Guided:
        """Begin an answer; raises RuntimeError or ValueError for one that cannot be made."""
        import numpy
        import openvino  # pyright: ignore[reportMissingImports]

        prompt = message["prompt"]
        if message["schema"] is not None:
            # The pipeline has JSON schemas too, but one that it cannot compile breaks it for all.
            return Guided(message, self.rules, Reader(self.model, prompt))
        reader = Reader(self.model, prompt) if message["logprobs"] is not None else None
        ids = openvino.Tensor(numpy.array([prompt], dtype=numpy.int64))
        handle = self.pipeline.add_request(message["add"], ids, _settings(message))
        return Piped(handle, reader, message["logprobs"] or 0)

    @cached_property
    def model(self) -> Any:
        """The same model outside of the pipeline, loaded when the first answer needs it."""
        import openvino  # pyright: ignore[reportMissingImports]

        path = self.folder / "openvino_model.xml"
        return openvino.Core().compile_model(path, "CPU", self.properties)

    @cached_property
    def rules(self) -> Any:
        """What the ids mean, for schemas alone."""
        from llguidance import LLTokenizer

        vocabulary = self.model.output("logits").partial_shape[-1].get_length()
        text = (self.folder / "tokenizer.json").read_text(encoding="utf-8")
        return LLTokenizer(text, n_vocab=vocabulary)


class Piped:
    """An answer of the pipeline.

    Log-probabilities come from the same weights, which read the same ids once more beside it:
    the pipeline knows them for the token it chose alone, after filters and penalties.
    """

    def __init__(self, handle: Any, reader: Reader | None, likeliest: int) -> None:
        self.handle = handle
        self.reader = reader
        self.likeliest = likeliest

    def take(self) -> list[list[Any]]:
        """The tokens since the last step, with what is wanted of their probabilities."""
        made: list[list[Any]] = []
        while self.handle.can_read():
            for output in self.handle.read().values():
                for token in output.generated_ids:
                    made.append([token])
                    if self.reader is not None:
                        made[-1] += _measured(self.reader.logits, token, self.likeliest)
                        self.reader.read([token])
        return made

    def status(self) -> str:
        """OpenVINO's word for where the answer stands."""
        return RUNNING if self.handle.can_read() else self.handle.get_status().name

    def cancel(self) -> None:
        """Nobody reads it any more."""
        self.handle.cancel()


class Guided:
    """An answer that a JSON schema holds, made beside the pipeline, a token a step.

    llguidance names the ids that keep the text a prefix of a valid document
    (https://github.com/guidance-ai/llguidance).
    """

    def __init__(self, wanted: dict[str, Any], rules: Any, reader: Reader) -> None:
        import numpy
        from llguidance import LLMatcher

        grammar = LLMatcher.grammar_from_json_schema(wanted["schema"], overrides=JSON_STYLE)
        self.matcher = LLMatcher(rules, grammar, log_level=0)
        if self.matcher.is_error():
            reason = str(self.matcher.get_error()).strip().splitlines()[0]
            raise ValueError(f"The JSON schema cannot be followed: {reason}.")
        self.wanted = wanted
        self.reader = reader
        self.random = numpy.random.default_rng(abs(wanted["seed"]))
        self.ends = list(rules.eos_tokens)
        self.made: list[int] = []

    def take(self) -> list[list[Any]]:
        """One token, with what is wanted of its probabilities."""
        token = self.choose()
        told: list[Any] = [token]
        if self.wanted["logprobs"] is not None:
            told += _measured(self.reader.logits, token, self.wanted["logprobs"])
        self.made.append(token)
        if token not in self.wanted["stop_ids"]:
            self.matcher.consume_token(token)
        if self.status() == RUNNING:
            self.reader.read([token])
        return [told]

    def choose(self) -> int:
        """The likeliest of the allowed ids, or a draw among them (Gumbel-max)."""
        import numpy

        wanted = self.wanted
        scores = numpy.where(self.allowed(), self.reader.logits, -numpy.inf)
        for token, count in Counter(self.made).items():
            scores[token] -= wanted["frequency_penalty"] * count + wanted["presence_penalty"]
        if wanted["temperature"] == 0:
            return int(scores.argmax())
        scores /= wanted["temperature"]
        order = numpy.argsort(-scores, kind="stable")
        mass = numpy.exp(scores[order] - scores[order[0]])
        before = numpy.cumsum(mass) - mass
        kept = before < wanted["top_p"] * mass.sum()
        kept[wanted["top_k"] or len(kept) :] = False
        noise = self.random.gumbel(size=len(scores))
        return int(order[numpy.argmax(numpy.where(kept, scores[order] + noise[order], -numpy.inf))])

    def allowed(self) -> Any:
        """Which ids may come next, bool (vocabulary,)."""
        import numpy
        from llguidance.numpy import fill_next_token_bitmask

        size = len(self.reader.logits)
        bits = numpy.zeros((1, (size + 31) // 32), dtype=numpy.int32)
        fill_next_token_bitmask(self.matcher, bits, 0)
        mask = numpy.unpackbits(bits.view(numpy.uint8), bitorder="little")[:size].astype(bool)
        mask[self.ends] = False
        mask[list(self.wanted["stop_ids"])] = self.matcher.is_accepting()
        return mask

    def status(self) -> str:
        """Whether it goes on: until a stop id, the last token allowed, or the document's end."""
        over = (
            (self.made and self.made[-1] in self.wanted["stop_ids"])
            or len(self.made) >= self.wanted["max_new_tokens"]
            or (self.matcher.is_stopped() and not self.wanted["stop_ids"])
        )
        return FINISHED if over else RUNNING

    def cancel(self) -> None:
        """Nobody reads it any more: there is nothing to end."""


class Reader:
    """The model over the ids of one answer, with a key-value cache of its own."""

    def __init__(self, model: Any, prompt: list[int]) -> None:
        self.request = model.create_infer_request()
        self.inputs = {name for port in model.inputs for name in port.get_names()}
        self.length = 0
        self.read(prompt)

    def read(self, ids: list[int]) -> None:
        """Go on by `ids`; `logits`, float64 (vocabulary,), are those of what follows them."""
        import numpy

        places = numpy.arange(self.length, self.length + len(ids), dtype=numpy.int64)
        self.length += len(ids)
        given = {
            "input_ids": numpy.array([ids], dtype=numpy.int64),
            "attention_mask": numpy.ones((1, self.length), dtype=numpy.int64),
            "position_ids": places[None],
            "beam_idx": numpy.zeros(1, dtype=numpy.int32),
        }
        self.request.infer({name: value for name, value in given.items() if name in self.inputs})
        self.logits = self.request.get_tensor("logits").data[0, -1].astype(numpy.float64)


def _measured(logits: Any, token: int, likeliest: int) -> list[Any]:
    """The log-probability of `token`, and ids and log-probabilities of the likeliest."""
    import numpy

    scores = logits - logits.max()
    scores = scores - numpy.log(numpy.exp(scores).sum())
    top = numpy.argsort(-scores, kind="stable")[:likeliest]
    return [float(scores[token]), [[int(i), float(scores[i])] for i in top]]


def _settings(message: dict[str, Any]) -> Any:
    import openvino_genai  # pyright: ignore[reportMissingImports]

    stops = message["stop_ids"]
    settings: dict[str, Any] = {
        "max_new_tokens": message["max_new_tokens"],
        "frequency_penalty": message["frequency_penalty"],
        "presence_penalty": message["presence_penalty"],
        # `ignore_eos` switches off every stop id, ours too. Without it the model's own
        # generation_config.json would add its ids, so one of ours takes their place.
        "ignore_eos": not stops,
    }
    if stops:
        settings |= {"stop_token_ids": set(stops), "eos_token_id": stops[0]}
    if message["temperature"] > 0:
        settings |= {
            "do_sample": True,
            "temperature": message["temperature"],
            "top_p": message["top_p"],
            "rng_seed": message["seed"],
        }
        if message["top_k"]:
            settings["top_k"] = message["top_k"]
    return openvino_genai.GenerationConfig(**settings)


if __name__ == "__main__":
    main()
