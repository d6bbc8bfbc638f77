"""Which user account holds the other end of a socket on this machine (Linux)."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
ESTABLISHED = "01"
# What this machine calls itself. Under any other name a page in somebody's browser asks, whose
# name was made to lead here.
NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


Address = tuple[str, int]


def owner(client: Address, server: Address) -> int | None:
    """The uid whose socket is the client's end of a connection; None when it cannot be known.

    Both ends are compared: two users may have sockets of one number that lead to two places.
    """
    wanted = [_end(address) for address in (client, server)]
    if None in wanted:
        return None
    for table in TABLES:
        if not table.is_file():
            continue
        for line in table.read_text(encoding="ascii").splitlines()[1:]:
            _, local, remote, state, _, _, _, uid, *_ = line.split()
            if [local, remote] == wanted and state == ESTABLISHED:
                return int(uid)
    return None


def _end(address: Address) -> str | None:
    """One end of a connection as the kernel lists it; None when it is not on this machine."""
    host, port = address
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return None
    return f"{_kernel_form(found)}:{port:04X}" if found.is_loopback else None


def _kernel_form(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """An address as the kernel prints it: words of four bytes in the machine's own order."""
    packed = address.packed
    words = (packed[i : i + 4] for i in range(0, len(packed), 4))
    return "".join(f"{socket.ntohl(int.from_bytes(word, 'big')):08X}" for word in words)
