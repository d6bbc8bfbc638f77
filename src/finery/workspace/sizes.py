"""Machine sizes: this machine's own, and Azure's names with what Azure says they have.

A size is what a job asks for. It runs on what this machine has and says so where that is less.
"""

from __future__ import annotations

from dataclasses import dataclass

from finery.workspace import machine

LOCAL = "Standard_local"


@dataclass(frozen=True)
class Size:
    """What a machine of this size has."""

    name: str
    vcpus: int
    memory_gb: float
    gpus: int
    family: str = ""
    gpu: str = ""  # the kind, with its memory in GB


# name without "Standard_", vCPUs, memory in GB, GPUs, kind of GPU, family
_AZURE = (
    ("NC6", 6, 56, 1, "K80 12", "standardNCFamily"),
    ("NC12", 12, 112, 2, "K80 12", "standardNCFamily"),
    ("NC24", 24, 224, 4, "K80 12", "standardNCFamily"),
    ("NC24r", 24, 224, 4, "K80 12", "standardNCFamily"),
    ("NC6s_v3", 6, 112, 1, "V100 16", "standardNCSv3Family"),
    ("NC12s_v3", 12, 224, 2, "V100 16", "standardNCSv3Family"),
    ("NC24s_v3", 24, 448, 4, "V100 16", "standardNCSv3Family"),
    ("NC24rs_v3", 24, 448, 4, "V100 16", "standardNCSv3Family"),
    ("ND40rs_v2", 40, 672, 8, "V100 32", "standardNDSv2Family"),
    ("NC4as_T4_v3", 4, 28, 1, "T4 16", "standard NCASv3_T4 Family"),
    ("NC8as_T4_v3", 8, 56, 1, "T4 16", "standard NCASv3_T4 Family"),
    ("NC16as_T4_v3", 16, 110, 1, "T4 16", "standard NCASv3_T4 Family"),
    ("NC64as_T4_v3", 64, 440, 4, "T4 16", "standard NCASv3_T4 Family"),
    ("NC24ads_A100_v4", 24, 220, 1, "A100 80", "standardNCADSA100v4Family"),
    ("NC48ads_A100_v4", 48, 440, 2, "A100 80", "standardNCADSA100v4Family"),
    ("NC96ads_A100_v4", 96, 880, 4, "A100 80", "standardNCADSA100v4Family"),
    ("ND96asr_v4", 96, 900, 8, "A100 40", "standard NDASv4_A100 Family"),
    ("ND96amsr_A100_v4", 96, 1900, 8, "A100 80", "standard NDAMSv4_A100Family"),
    ("NC40ads_H100_v5", 40, 320, 1, "H100 94", "standardNCADSH100v5Family"),
    ("NC80adis_H100_v5", 80, 640, 2, "H100 94", "standardNCADSH100v5Family"),
    ("ND96isr_H100_v5", 96, 1900, 8, "H100 80", "standardNDv5H100Family"),
    ("ND96isr_H200_v5", 96, 1850, 8, "H200 141", "standardNDv5H200Family"),
    ("D2_v2", 2, 7, 0, "", "standardDv2Family"),
    ("D12_v2", 4, 28, 0, "", "standardDv2Family"),
    ("D13_v2", 8, 56, 0, "", "standardDv2Family"),
    ("DS2_v2", 2, 7, 0, "", "standardDSv2Family"),
    ("DS3_v2", 4, 14, 0, "", "standardDSv2Family"),
    ("DS4_v2", 8, 28, 0, "", "standardDSv2Family"),
    ("DS11_v2", 2, 14, 0, "", "standardDSv2Family"),
    ("DS12_v2", 4, 28, 0, "", "standardDSv2Family"),
    ("D2s_v3", 2, 8, 0, "", "standardDSv3Family"),
    ("D4s_v3", 4, 16, 0, "", "standardDSv3Family"),
    ("E4s_v3", 4, 32, 0, "", "standardESv3Family"),
    ("E8s_v3", 8, 64, 0, "", "standardESv3Family"),
    ("F2s_v2", 2, 4, 0, "", "standardFSv2Family"),
    ("F4s_v2", 4, 8, 0, "", "standardFSv2Family"),
    ("F8s_v2", 8, 16, 0, "", "standardFSv2Family"),
    ("F16s_v2", 16, 32, 0, "", "standardFSv2Family"),
)


def this_machine() -> Size:
    """The size of the machine that the service runs on."""
    memory = round(machine.memory_gib(), 1)
    return Size(LOCAL, machine.cores(), memory, machine.gpus(), "standardLocalFamily")


def every_size() -> list[Size]:
    """This machine's size, then Azure's."""
    azure = [
        Size(f"Standard_{name}", vcpus, memory, gpus, family, gpu)
        for name, vcpus, memory, gpus, gpu, family in _AZURE
    ]
    return [this_machine(), *azure]


def find_size(name: str) -> Size | None:
    """The size called `name`, in whatever case; None when there is none."""
    wanted = name.lower()
    return next((size for size in every_size() if size.name.lower() == wanted), None)
