"""Adapters of one base in a running replica: taken in, proved, asked for, let go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from finery.inference.answering import stop_ids
from finery.inference.engines import choosing
from finery.inference.engines.proving import ProofError
from finery.inference.server_app import create_app
from finery.inference.server_readers import OwnReader
from finery.inference.server_state import Replica, make_voice

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "the cat ran"}]
Work = Callable[[httpx.AsyncClient, Replica], Awaitable[None]]


def write_adapter(base: Path, folder: Path) -> Path:
    """A random LoRA adapter of `base`, as PEFT saves it."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_pretrained(base)
        config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        tuned: Any = get_peft_model(model, config)
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(std=0.3)
    tuned.save_pretrained(str(folder), save_embedding_layers=False)
    return folder


def with_replica(base: Path, work: Work) -> None:
    """Run `work` with a replica of `base` on the torch engine, and a client that has its key."""

    async def run() -> None:
        proved = await choosing.open_proved(str(base), engine="torch", device="cpu", at_once=4)
        try:
            stops = stop_ids(proved.located.model, proved.renderer)
            voice = make_voice(str(base), proved.renderer, proved.engine, stops)
            reader = OwnReader(proved.renderer)
            replica = Replica(
                "base", proved.engine, reader, voice, "secret", located=proved.located
            )
            transport = httpx.ASGITransport(app=create_app(replica))
            headers = {"authorization": "Bearer secret"}
            async with httpx.AsyncClient(
                transport=transport, base_url="http://replica", headers=headers
            ) as client:
                await work(client, replica)
        finally:
            await proved.engine.close()

    asyncio.run(run())


async def text_of(client: httpx.AsyncClient, model: str) -> str:
    body = {"model": model, "messages": HELLO, "temperature": 0, "max_tokens": 24}
    response = await client.post(CHAT, json=body)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


def test_an_adapter_answers_beside_its_base_until_it_is_let_go(
    tiny_llama: Path, tmp_path: Path
) -> None:
    folder = write_adapter(tiny_llama, tmp_path / "adapter")

    async def work(client: httpx.AsyncClient, replica: Replica) -> None:
        alone = await text_of(client, "base")
        added = await client.post("/adapters", json={"name": "polite", "folder": str(folder)})
        assert added.status_code == 200, added.text
        base, polite = await asyncio.gather(text_of(client, "base"), text_of(client, "polite"))
        assert base == alone, "the base answers as it did"
        assert polite != alone
        assert (await client.delete("/adapters/polite")).status_code == 200
        body = {"model": "polite", "messages": HELLO}
        assert (await client.post(CHAT, json=body)).status_code == 404
        assert await text_of(client, "base") == alone

    with_replica(tiny_llama, work)


def test_an_adapter_of_another_model_is_refused_and_leaves_nothing(
    tiny_llama: Path, tiny_phi3: Path, tmp_path: Path
) -> None:
    folder = write_adapter(tiny_phi3, tmp_path / "adapter")

    async def work(client: httpx.AsyncClient, replica: Replica) -> None:
        added = await client.post("/adapters", json={"name": "other", "folder": str(folder)})
        assert added.status_code == 400
        assert added.json()["error"]["message"]
        assert (await client.get("/info")).json()["adapters"] == []

    with_replica(tiny_llama, work)


def test_an_adapter_that_does_not_hold_its_proof_is_not_served(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_adapter(tiny_llama, tmp_path / "adapter")

    async def fails(*_: Any) -> None:
        raise ProofError("it does not compute this model")

    monkeypatch.setattr(choosing, "prove_adapter", fails)

    async def work(client: httpx.AsyncClient, replica: Replica) -> None:
        added = await client.post("/adapters", json={"name": "wrong", "folder": str(folder)})
        assert added.status_code == 400
        assert "does not compute" in added.json()["error"]["message"]
        engine: Any = replica.engine
        assert not engine.adapters
        assert not replica.adapters

    with_replica(tiny_llama, work)
