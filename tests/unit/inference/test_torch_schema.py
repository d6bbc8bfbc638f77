"""JSON schemas as masks over a byte tokenizer."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from finery.errors import FineryError
from finery.inference.engines.torch_schema import Matcher, Schemas

STOP = 257
SIZE = 264  # some ids more than the tokenizer has, as models have


@pytest.fixture(scope="module")
def schemas() -> Schemas:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>", "<|turn|>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    return Schemas(fast, SIZE)


def ids(schemas: Schemas, text: str) -> list[int]:
    return schemas._tokenizer(text, add_special_tokens=False)["input_ids"]  # pyright: ignore[reportReturnType]


def allowed(schemas: Schemas, matcher: Matcher) -> set[str]:
    """The texts of the tokens that may come next."""
    mask = matcher.allowed(SIZE)
    assert mask.shape == (SIZE,)
    return {schemas._tokenizer.decode([i]) for i in torch.nonzero(mask).flatten().tolist()}  # pyright: ignore[reportUnhashable]


def test_only_what_goes_on_to_a_valid_document_is_allowed(schemas: Schemas) -> None:
    matcher = schemas.matcher({"enum": ["yes", "yet", "no"]}, [STOP])
    assert allowed(schemas, matcher) == {'"'}
    for token in ids(schemas, '"ye'):
        matcher.take(token)
    assert allowed(schemas, matcher) == {"s", "t"}


def test_the_answers_own_stop_ids_are_allowed_once_the_document_is_whole(
    schemas: Schemas,
) -> None:
    matcher = schemas.matcher({"type": "boolean"}, [STOP])
    for token in ids(schemas, "true"):
        assert not matcher.allowed(SIZE)[STOP]
        matcher.take(token)
    mask = matcher.allowed(SIZE)
    assert torch.nonzero(mask).flatten().tolist() == [STOP]
    assert matcher.complete
    matcher.take(STOP)


def test_a_document_that_may_go_on_may_also_stop(schemas: Schemas) -> None:
    matcher = schemas.matcher({"type": "integer"}, [STOP])
    matcher.take(ids(schemas, "7")[0])
    mask = matcher.allowed(SIZE)
    assert mask[STOP]
    assert mask[ids(schemas, "7")[0]]
    assert not matcher.complete


def test_white_space_without_end_is_not_allowed(schemas: Schemas) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]}
    matcher = schemas.matcher(schema, [STOP])
    matcher.take(ids(schemas, "{")[0])
    assert allowed(schemas, matcher) == {'"'}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nothing"},
        {"type": "string", "pattern": "("},
        {"$ref": "#/missing"},
    ],
)
def test_a_schema_that_cannot_be_followed_is_refused_in_one_line(
    schemas: Schemas, schema: dict[str, Any]
) -> None:
    with pytest.raises(FineryError, match="JSON schema") as refused:
        schemas.matcher(json.loads(json.dumps(schema)), [STOP])
    assert "\n" not in str(refused.value)
