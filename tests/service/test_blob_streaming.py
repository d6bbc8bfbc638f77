"""Large blobs through a real service: little memory, and nothing half after a crash."""

from __future__ import annotations

import http.client
import os
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from finery.workspace import identity
from finery.workspace.place import Workspace
from finery.workspace.settings import Settings
from finery.workspace.store import connect

MIB = 2**20
SIZE = 192 * MIB
ALLOWED_GROWTH = 64 * MIB
CONTAINER = "/_blob.blob.local/azureml-blobstore"


def token(service: Any) -> str:
    """A token for storage, made with the service's own key."""
    place = Workspace(service.folder, Settings(), connect("sqlite://"))
    return identity.mint(place, identity.STORAGE)


def trusting(service: Any) -> ssl.SSLContext:
    """TLS that trusts the service's authority."""
    return ssl.create_default_context(cafile=service.environment["REQUESTS_CA_BUNDLE"])


@pytest.fixture
def storage(service: Any) -> Iterator[httpx.Client]:
    """A plain HTTP client of the blob endpoint."""
    headers = {"Authorization": f"Bearer {token(service)}", "x-ms-blob-type": "BlockBlob"}
    with httpx.Client(
        base_url=service.url, headers=headers, verify=trusting(service), timeout=120
    ) as client:
        yield client


class Peak:
    """The most memory that a process held while the block ran, above what it held before."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._done = threading.Event()
        self._before = self._process.memory_info().rss
        self.growth = 0

    def __enter__(self) -> Peak:
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.growth = max(self.growth, self._process.memory_info().rss - self._before)


def test_a_large_blob_goes_both_ways_in_little_memory(service: Any, storage: httpx.Client) -> None:
    piece = os.urandom(MIB)
    storage.put(f"{CONTAINER}/warm", content=piece).raise_for_status()
    with Peak(service.running.pid) as peak:
        answer = storage.put(
            f"{CONTAINER}/large",
            content=(piece for _ in range(SIZE // MIB)),
            headers={"Content-Length": str(SIZE)},
        )
        assert answer.status_code == 201, answer.text
        received = 0
        with storage.stream("GET", f"{CONTAINER}/large") as stream:
            for data in stream.iter_bytes(MIB):
                received += len(data)
                assert piece.startswith(data[:16]) or received % MIB
    assert received == SIZE
    assert peak.growth < ALLOWED_GROWTH
    storage.delete(f"{CONTAINER}/large").raise_for_status()


def test_a_slow_upload_does_not_hold_up_the_others(service: Any, storage: httpx.Client) -> None:
    def slowly() -> Iterator[bytes]:
        for _ in range(10):
            yield b"x" * 1000
            time.sleep(0.1)

    def upload() -> None:
        client = httpx.Client(
            base_url=service.url, headers=storage.headers, verify=trusting(service)
        )
        with client:
            client.put(f"{CONTAINER}/slow", content=slowly(), headers={"Content-Length": "10000"})

    thread = threading.Thread(target=upload)
    thread.start()
    answers = 0
    while thread.is_alive() and answers < 200:
        assert storage.put(f"{CONTAINER}/quick", content=b"1").status_code == 201
        answers += 1
    thread.join()
    assert answers > 1
    assert len(storage.get(f"{CONTAINER}/slow").content) == 10_000


def test_a_crash_in_the_middle_of_an_upload_leaves_the_old_blob(started: Any) -> None:
    def half_an_upload() -> http.client.HTTPSConnection:
        address = urlsplit(started.url)
        connection = http.client.HTTPSConnection(
            address.hostname or "", address.port, context=trusting(started)
        )
        connection.putrequest("PUT", f"{CONTAINER}/blob")
        connection.putheader("Authorization", f"Bearer {token(started)}")
        connection.putheader("x-ms-blob-type", "BlockBlob")
        connection.putheader("Content-Length", str(8 * MIB))
        connection.endheaders()
        connection.send(b"n" * 4 * MIB)
        return connection

    def read() -> bytes:
        headers = {"Authorization": f"Bearer {token(started)}"}
        url = f"{started.url}{CONTAINER}/blob"
        return httpx.get(url, headers=headers, verify=trusting(started)).content

    headers = {"Authorization": f"Bearer {token(started)}", "x-ms-blob-type": "BlockBlob"}
    url = f"{started.url}{CONTAINER}/blob"
    put = httpx.put(url, content=b"old", headers=headers, verify=trusting(started))
    put.raise_for_status()
    connection = half_an_upload()
    uploads = started.folder / "uploads"
    end = time.monotonic() + 30
    while not any(p.is_file() and p.stat().st_size for p in uploads.rglob("*")):
        assert time.monotonic() < end, "the upload never began"
        time.sleep(0.02)
    started.kill()
    connection.close()
    started.start()
    assert read() == b"old"
    names = [p.name for p in (started.folder / "blobs" / "azureml-blobstore").iterdir()]
    assert names == ["blob"]
