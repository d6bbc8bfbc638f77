"""Chat templates as models ship them, and what each must give for one conversation.

Each case lists the text of the conversation in pieces, a piece in a tuple being what an
assistant says: that, with its end-of-turn token, is what carries loss and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

TURNS = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yo"},
    {"role": "user", "content": "More"},
    {"role": "assistant", "content": "Ok, done."},
]
SYSTEM = {"role": "system", "content": "Be so."}
Pieces = list[str | tuple[str]]


@dataclass(frozen=True)
class Case:
    """A template, its special tokens, and what it gives with and without a system message."""

    name: str
    template: str
    special: tuple[str, ...]  # the end-of-turn token first
    plain: Pieces
    system: Pieces
    folds: bool = False
    prompts_are_prefixes: bool = True


CHATML = Case(
    "ChatML",
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    ("<|im_end|>", "<|im_start|>"),
    [
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        ("Yo<|im_end|>",),
        "\n<|im_start|>user\nMore<|im_end|>\n<|im_start|>assistant\n",
        ("Ok, done.<|im_end|>",),
        "\n",
    ],
    [
        "<|im_start|>system\nBe so.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        ("Yo<|im_end|>",),
        "\n<|im_start|>user\nMore<|im_end|>\n<|im_start|>assistant\n",
        ("Ok, done.<|im_end|>",),
        "\n",
    ],
)

LLAMA_2 = Case(
    "Llama 2",
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}"
    "{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
    "{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    ("</s>", "<s>"),
    ["<s>[INST] Hi [/INST]", (" Yo </s>",), "<s>[INST] More [/INST]", (" Ok, done. </s>",)],
    [
        "<s>[INST] <<SYS>>\nBe so.\n<</SYS>>\n\nHi [/INST]",
        (" Yo </s>",),
        "<s>[INST] More [/INST]",
        (" Ok, done. </s>",),
    ],
)

_HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n"
LLAMA_3 = Case(
    "Llama 3",
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    ("<|eot_id|>", "<s>", "<|start_header_id|>", "<|end_header_id|>"),
    [
        f"<s>{_HEADER.format('user')}Hi<|eot_id|>{_HEADER.format('assistant')}",
        ("Yo<|eot_id|>",),
        f"{_HEADER.format('user')}More<|eot_id|>{_HEADER.format('assistant')}",
        ("Ok, done.<|eot_id|>",),
    ],
    [
        f"<s>{_HEADER.format('system')}Be so.<|eot_id|>"
        f"{_HEADER.format('user')}Hi<|eot_id|>{_HEADER.format('assistant')}",
        ("Yo<|eot_id|>",),
        f"{_HEADER.format('user')}More<|eot_id|>{_HEADER.format('assistant')}",
        ("Ok, done.<|eot_id|>",),
    ],
)

_PHI_SPECIAL = ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|endoftext|>", "<s>")
_PHI_TURNS: Pieces = [
    "<|user|>\nHi<|end|>\n<|assistant|>\n",
    ("Yo<|end|>",),
    "\n<|user|>\nMore<|end|>\n<|assistant|>\n",
    ("Ok, done.<|end|>",),
    "\n<|endoftext|>",
]


def _phi(name: str, condition: str) -> Case:
    return Case(
        name,
        "{% for message in messages %}{% if message['role'] == 'system'" + condition + " %}"
        "{{'<|system|>\n' + message['content'] + '<|end|>\n'}}"
        "{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
        "{% elif message['role'] == 'assistant' %}"
        "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
        _PHI_SPECIAL,
        _PHI_TURNS,
        ["<|system|>\nBe so.<|end|>\n", *_PHI_TURNS],
    )


PHI_3_4K = _phi("Phi-3 4k", "")
PHI_35 = _phi("Phi-3.5", " and message['content']")
PHI_3_128K = Case(
    "Phi-3 128k (April 2024)",
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') %}"
    "{{'<|user|>' + '\n' + message['content'] + '<|end|>' + '\n' + '<|assistant|>' + '\n'}}"
    "{% elif (message['role'] == 'assistant') %}{{message['content'] + '<|end|>' + '\n'}}"
    "{% endif %}{% endfor %}",
    _PHI_SPECIAL,
    ["<s>", *_PHI_TURNS[:-1], "\n"],
    ["<s><|user|>\nBe so.\n\nHi<|end|>\n<|assistant|>\n", *_PHI_TURNS[1:-1], "\n"],
    folds=True,
)

_MISTRAL_TURNS: Pieces = [
    "<s>[INST] Hi [/INST]",
    ("Yo</s>",),
    "[INST] More [/INST]",
    ("Ok, done.</s>",),
]
MISTRAL = Case(
    "Mistral 7B v0.1",
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}"
    "{% endif %}{% endfor %}",
    ("</s>", "<s>"),
    _MISTRAL_TURNS,
    ["<s>[INST] Be so.\n\nHi [/INST]", *_MISTRAL_TURNS[1:]],
    folds=True,
)
# Mistral's later ones put the system text into the last user turn, so that an earlier turn's
# prompt is not what the whole conversation begins with.
MISTRAL_MOVES = Case(
    "Mistral that moves the system text",
    "{% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['content'] %}"
    "{% set loop_messages = messages[1:] %}{% else %}{% set loop_messages = messages %}{% endif %}"
    "{% set ns = namespace(last=0) %}{% for message in loop_messages %}"
    "{% if message['role'] == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{{ bos_token }}{% for message in loop_messages %}{% if message['role'] == 'user' %}"
    "{% if loop.index0 == ns.last and system_message is defined %}"
    "{{ '[INST] ' + system_message + '\n\n' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% endif %}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}",
    ("</s>", "<s>"),
    _MISTRAL_TURNS,
    [*_MISTRAL_TURNS[:2], "[INST] Be so.\n\nMore [/INST]", _MISTRAL_TURNS[3]],
    prompts_are_prefixes=False,
)

_GEMMA_TURNS: Pieces = [
    "<s><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n",
    ("Yo<end_of_turn>",),
    "\n<start_of_turn>user\nMore<end_of_turn>\n<start_of_turn>model\n",
    ("Ok, done.<end_of_turn>",),
    "\n",
]
GEMMA = Case(
    "Gemma",
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'assistant') %}"
    "{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}",
    ("<end_of_turn>", "<start_of_turn>", "<s>"),
    _GEMMA_TURNS,
    [
        "<s><start_of_turn>user\nBe so.\n\nHi<end_of_turn>\n<start_of_turn>model\n",
        *_GEMMA_TURNS[1:],
    ],
    folds=True,
)

_QWEN_TURNS: Pieces = [
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    ("Yo<|im_end|>",),
    "\n<|im_start|>user\nMore<|im_end|>\n<|im_start|>assistant\n",
    ("<think>\n\n</think>\n\nOk, done.<|im_end|>",),
    "\n",
]
QWEN3 = Case(
    "Qwen3",
    "{%- set ns = namespace(last_query=0) %}{%- for m in messages %}"
    "{%- if m.role == 'user' %}{%- set ns.last_query = loop.index0 %}{%- endif %}{%- endfor %}"
    "{%- for m in messages %}{%- set content = m.content %}{%- set reasoning = '' %}"
    "{%- if m.role == 'assistant' and '</think>' in content %}"
    "{%- set reasoning = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{%- if m.role == 'assistant' and loop.index0 > ns.last_query %}"
    "{{- '<|im_start|>assistant\n<think>\n' + reasoning.strip('\n') + '\n</think>\n\n'"
    " + content.lstrip('\n') + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>' + m.role + '\n' + content + '<|im_end|>\n' }}{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}",
    ("<|im_end|>", "<|im_start|>", "<think>", "</think>"),
    _QWEN_TURNS,
    ["<|im_start|>system\nBe so.<|im_end|>\n", *_QWEN_TURNS],
    prompts_are_prefixes=False,  # an earlier turn's empty think block is left out later on
)

DROPS_SYSTEM = Case(
    "drops the system message",
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<u>' + m['content'] }}"
    "{% elif m['role'] == 'assistant' %}{{ '<a>' + m['content'] + '</s>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<a>' }}{% endif %}",
    ("</s>", "<u>", "<a>"),
    ["<u>Hi<a>", ("Yo</s>",), "<u>More<a>", ("Ok, done.</s>",)],
    ["<u>Be so.\n\nHi<a>", ("Yo</s>",), "<u>More<a>", ("Ok, done.</s>",)],
    folds=True,
)

CASES = (
    CHATML,
    LLAMA_2,
    LLAMA_3,
    PHI_3_4K,
    PHI_3_128K,
    PHI_35,
    MISTRAL,
    MISTRAL_MOVES,
    GEMMA,
    QWEN3,
    DROPS_SYSTEM,
)


def byte_tokenizer(
    template: str | None, special: tuple[str, ...], pad: str | None = None
) -> PreTrainedTokenizerFast:
    """One token a byte, so that pieces of text and pieces of ids are the same; eos is first."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    names = {"bos_token": "<s>"} if "<s>" in special else {}
    eos = "<|endoftext|>" if "<|endoftext|>" in special else special[0] if special else None
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=eos, pad_token=pad, chat_template=template, **names
    )


def write_tokenizer(
    folder: Path, template: str | None, special: tuple[str, ...], pad: str | None = None
) -> Path:
    """A model folder that holds a tokenizer only."""
    byte_tokenizer(template, special, pad).save_pretrained(folder)
    return folder
