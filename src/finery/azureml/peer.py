"""Which user account holds the other end of a socket on this machine (Linux)."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
ESTABLISHED = "01"


def owner(host: str, port: int) -> int | None:
    """The uid whose socket is bound to this loopback address; None when it cannot be known."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if not address.is_loopback:
        return None
    wanted = f"{_kernel_form(address)}:{port:04X}"
    for table in TABLES:
        if not table.is_file():
            continue
        for line in table.read_text(encoding="ascii").splitlines()[1:]:
            _, local, _, state, _, _, _, uid, *_ = line.split()
            if local == wanted and state == ESTABLISHED:
                return int(uid)
    return None


def _kernel_form(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """An address as the kernel prints it: words of four bytes in the machine's own order."""
    packed = address.packed
    words = (packed[i : i + 4] for i in range(0, len(packed), 4))
    return "".join(f"{socket.ntohl(int.from_bytes(word, 'big')):08X}" for word in words)
