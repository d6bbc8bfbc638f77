"""Asks a packaged model through both doors of MLflow, and plain transformers beside them."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without MLflow's advice to look a local path up on the hub, and about its own code."""
    logger = logging.getLogger("mlflow.transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Said while mlflow.pyfunc is imported, of a class inside MLflow.
            warnings.filterwarnings("ignore", ".*Any type hint is inferred as AnyType")
            yield
    finally:
        logger.setLevel(level)


def check_mlflow_answers(
    folder: Path,
    model_folder: Path,
    conversations: Sequence[Sequence[Mapping[str, Any]]],
    max_tokens: int = 32,
) -> list[str]:
    """How the MLflow model answers otherwise than plain transformers does; empty when it does not.

    Greedy, on the CPU, one conversation at a time. Both MLflow doors are asked: `pyfunc` and
    the transformers pipeline. Leading spaces do not count: MLflow strips them.
    """
    with quiet():
        from mlflow import pyfunc
        from mlflow.transformers import load_model

        served = pyfunc.load_model(str(folder))
        pipeline: Any = load_model(str(folder))
    plain = _plain_model(model_folder)
    wrong = []
    for messages in conversations:
        wanted = _plain_answer(*plain, messages, max_tokens)
        reply = served.predict({"messages": list(messages), "max_tokens": max_tokens})
        piped = pipeline(list(messages), max_new_tokens=max_tokens, do_sample=False)
        got = {
            "pyfunc": reply[0]["choices"][0]["message"]["content"],
            "pipeline": piped[0]["generated_text"][-1]["content"],
        }
        wrong += [
            f"{door} answers {text!r}, transformers {wanted!r}"
            for door, text in got.items()
            if text.strip() != wanted.strip()
        ]
    return wrong


def _plain_model(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def _plain_answer(
    model: Any, tokenizer: Any, messages: Sequence[Mapping[str, Any]], max_tokens: int
) -> str:
    prompt = tokenizer.apply_chat_template(
        list(messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    ids = model.generate(**prompt, max_new_tokens=max_tokens, do_sample=False)
    return tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
