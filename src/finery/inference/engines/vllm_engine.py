"""The `vllm` engine: vLLM's own server as a child process, asked over loopback.

Several adapters of one base share it; they can come and go while it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import socket
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from finery.errors import FineryError
from finery.files import read_json
from finery.inference.engine import EngineLostError, Generation, Token
from finery.inference.engines.children import Child, script
from finery.inference.engines.contexts import context_of
from finery.inference.engines.environments import Environment
from finery.inference.engines.limits import refuse_unfit
from finery.inference.engines.merging import merged_folder
from finery.inference.engines.vllm_wire import MODEL, request_of, tokens_of
from finery.model.folder import ADAPTER_CONFIG

if TYPE_CHECKING:
    from finery.inference.open import Located

START_SECONDS = 600.0  # compiling and capturing graphs of a large model takes minutes
MAX_LOGPROBS = 20  # the most that OpenAI's clients may ask for
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM takes as the largest rank
_MANY_ADAPTERS = 8  # in one batch
# llguidance, as in the other engines; free white space lets a weak model write spaces for ever.
_SCHEMAS = {"backend": "guidance", "disable_any_whitespace": True}
_QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}  # nothing phones home
log = logging.getLogger("finery.replica")


class VllmEngine:
    """The server and our connection to it; see the protocol `Engine`."""

    name = "vllm"
    features = frozenset({"logprobs", "schema", "penalties", "adapters"})

    def __init__(
        self,
        command: Sequence[str],
        *,
        port: int,
        precision: str,
        context: int,
        adapters: Mapping[str, Path],
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Start it and wait until it can answer; raises FineryError when it cannot."""
        self.precision = precision
        self.context = context
        self.adapters = set(adapters)
        self._url = f"http://127.0.0.1:{port}"
        self._key = secrets.token_urlsafe(32)
        self._headers = {"authorization": f"Bearer {self._key}"}
        self._lost = ""
        self._client: httpx.AsyncClient | None = None
        given = {**_QUIET, **(variables or {}), "VLLM_API_KEY": self._key}
        self._child = Child(self.name, command, said=self._heard, ended=self._end, variables=given)
        try:
            self._wait()
        except FineryError:
            self._child.close()
            raise

    async def generate(self, wanted: Generation) -> AsyncGenerator[Token, None]:
        """The tokens as they are made; see the protocol. Closing it closes the connection."""
        refuse_unfit(self, wanted)
        if wanted.adapter and wanted.adapter not in self.adapters:
            raise FineryError(f"There is no adapter named {wanted.adapter}; load it first.")
        self._alive()
        body = request_of(wanted)
        try:
            asking = self._asking().stream("POST", f"{self._url}/v1/completions", json=body)
            async with asking as response:
                if response.status_code != httpx.codes.OK:
                    raise FineryError(_refusal(await response.aread()))
                async for line in response.aiter_lines():
                    if not line.startswith("data:"):
                        continue
                    if (data := line.removeprefix("data:").strip()) == "[DONE]":
                        return
                    for token in tokens_of(data, wanted.logprobs or 0):
                        yield token
            raise ValueError("its stream ended before the answer did")
        except (httpx.HTTPError, ValueError) as error:
            await self._settle()
            reason = self._lost or f"{type(error).__name__}: {error}"
            raise EngineLostError(f"The vllm engine broke off this answer: {reason}") from error

    async def add_adapter(self, name: str, folder: Path) -> None:
        """Load a LoRA folder under `name`; raises FineryError when it does not fit."""
        await self._tell("load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
        self.adapters.add(name)

    async def remove_adapter(self, name: str) -> None:
        """Forget an adapter; raises FineryError when there is none of that name."""
        await self._tell("unload_lora_adapter", {"lora_name": name})
        self.adapters.discard(name)

    def health(self) -> str:
        """Why it cannot answer any more; "" while it can."""
        return self._lost

    async def close(self) -> None:
        """End the server; answers under way end with EngineLostError."""
        self._lost = self._lost or "it was closed"
        if self._client is not None:
            await self._client.aclose()
        await asyncio.to_thread(self._child.close)

    async def _tell(self, route: str, body: dict[str, str]) -> None:
        self._alive()
        response = await self._asking().post(f"{self._url}/v1/{route}", json=body)
        if response.status_code != httpx.codes.OK:
            raise FineryError(_refusal(response.content))

    def _asking(self) -> httpx.AsyncClient:
        """The client, made on the loop that uses it. It has no limit: the server queues."""
        if self._client is None:
            self._client = httpx.AsyncClient(
                headers=self._headers,
                timeout=httpx.Timeout(None, connect=10.0),
                limits=httpx.Limits(max_connections=None),
                trust_env=False,  # no proxy stands between two processes of one machine
            )
        return self._client

    def _alive(self) -> None:
        if self._lost:
            raise EngineLostError(f"The vllm engine cannot answer: {self._lost}.")

    async def _settle(self) -> None:
        """A broken connection is often the first sign of a death: let its cause be known."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2.0):
                while not self._lost:
                    await asyncio.sleep(0.05)

    def _heard(self, line: str) -> None:
        log.info("%s: %s", self.name, line.rstrip())

    def _end(self, reason: str) -> None:
        self._lost = self._lost or reason

    def _wait(self) -> None:
        """Until a server on our port lists the model to our key: no other knows it."""
        until = time.monotonic() + START_SECONDS
        with httpx.Client(headers=self._headers, trust_env=False, timeout=5.0) as client:
            while time.monotonic() < until:
                if self._lost:
                    raise FineryError(f"The vllm engine did not start: {self._lost}")
                with contextlib.suppress(httpx.HTTPError):
                    if client.get(f"{self._url}/v1/models").status_code == httpx.codes.OK:
                        return
                time.sleep(0.2)
        raise FineryError(f"The vllm engine did not start within {START_SECONDS:.0f} s.")


def open_vllm_engine(
    located: Located,
    environment: Environment,
    *,
    at_once: int = 8,
    adapters: Mapping[str, Path] | None = None,
) -> VllmEngine:
    """Start vLLM on the model; an adapter that `located` has is merged first."""
    adapters = adapters or {}
    model = merged_folder(located)
    context = context_of(model)
    port = _free_port()
    precision = "bfloat16"
    command = [str(environment.python), "-I", script("worker_vllm.py")]
    command += ["--model", str(model), "--served-model-name", MODEL, "--dtype", precision]
    command += ["--host", "127.0.0.1", "--port", str(port), "--max-num-seqs", str(at_once)]
    command += ["--max-model-len", str(context), "--max-logprobs", str(MAX_LOGPROBS)]
    # `vllm` is no folder: the publisher's sampling settings are not to be added to a request's.
    command += ["--generation-config", "vllm", "--disable-uvicorn-access-log"]
    command += ["--structured-outputs-config", json.dumps(_SCHEMAS)]
    command += ["--enable-lora", "--max-loras", str(_MANY_ADAPTERS)]
    command += ["--max-lora-rank", str(_rank(adapters.values()))]
    if adapters:
        modules = [
            json.dumps({"name": name, "path": str(folder)}) for name, folder in adapters.items()
        ]
        command += ["--lora-modules", *modules]
    variables = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "HF_HUB_OFFLINE": "1"}
    if environment.device == "cpu":
        # Left to itself the CPU build takes one thread where cores are shared.
        variables |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": _cores()}
        command += ["--enforce-eager"]  # compiling costs more at start than it gives back
    return VllmEngine(
        command,
        port=port,
        precision=precision,
        context=context,
        adapters=adapters,
        variables=variables,
    )


def _rank(adapters: Any) -> int:
    """The rank that the adapters at start need, and some room for those that come later."""
    ranks = [int(read_json(folder / ADAPTER_CONFIG).get("r") or 0) for folder in adapters]
    most = max([64, *ranks])
    fitting = [rank for rank in _RANKS if rank >= most]
    if not fitting:
        raise FineryError(f"An adapter has rank {most}; vLLM takes {_RANKS[-1]} at most.")
    return fitting[0]


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _cores() -> str:
    import os

    cores = sorted(os.sched_getaffinity(0))
    return ",".join(map(str, cores))


def _refusal(content: bytes) -> str:
    """vLLM's message in an error's body."""
    try:
        value = json.loads(content)
        error = value.get("error", value)
        return f"vLLM refused the request: {error.get('message') or value}"
    except (ValueError, AttributeError):
        return f"vLLM refused the request: {content[:300].decode(errors='replace')}"
