"""What the gateway shows of its work: the log of requests, counts, metrics, the control socket."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import stat
from pathlib import Path

import pytest
from gateway_kit import KEY, OTHER, Stub, World, run

from finery.endpoints import canary_record, keys
from finery.endpoints.gateway import control, tables
from finery.endpoints.gateway.addresses import folder_of
from finery.endpoints.gateway.counts import BOUNDS, Counter, Stats, read_stats
from finery.endpoints.gateway.metrics import exposition
from finery.endpoints.gateway.request_log import KEPT, RequestLog
from finery.workspace.place import Workspace

CHAT = "/v1/chat/completions"


def test_every_request_has_a_line_that_tells_its_course(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        ids = {"x-request-id": "one", "x-ms-client-request-id": "two"}
        body = {"sleep": 0.1, "messages": [{"role": "user", "content": "a secret"}]}
        await there.http.post(f"/endpoints/chat{CHAT}", json=body, headers=ids)
        (line,) = there.lines()
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
        assert line.pop("ms") >= line.pop("ttft_ms") >= 100
        assert line.pop("queue_ms") < 100
        assert line == {
            "request_id": "one",
            "client_request_id": "two",
            "deployment": "blue",
            "replica": "blue0",
            "route": f"POST {CHAT}",
            "status": 200,
            "prompt_tokens": 3,
            "completion_tokens": 5,
            "mirrored": False,
        }

    run(workspace, work)


def test_the_tokens_of_a_stream_are_counted(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        await there.ask(CHAT, stream=4)
        (line,) = there.lines()
        assert (line["prompt_tokens"], line["completion_tokens"]) == (3, 5)
        figures = there.gateway.stats().figures["chat", "blue"]
        assert (figures.prompt_tokens, figures.completion_tokens) == (3, 5)
        assert sum(figures.first_tokens) == 1

    run(workspace, work)


def test_time_in_line_is_told_apart(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        await asyncio.gather(*(there.ask(sleep=0.2) for _ in range(2)))
        queued = sorted(line["queue_ms"] for line in there.lines())
        assert queued[0] < 150 < queued[1]

    run(workspace, work)


def test_no_key_and_no_body_gets_into_a_log(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(there: World) -> None:
        for told in ({}, {"die": "asked"}, {"status": 400}, {"model": "x", "secret": "s3cr3t"}):
            await there.ask(CHAT, **told, user="s3cr3t")
        wrong = {"authorization": "Bearer s3cr3t"}
        await there.http.post("/endpoints/chat/score?key=s3cr3t", json={}, headers=wrong)
        await there.http.post("/endpoints/nobody/score", content=b"s3cr3t")
        written = (there.gateway.log.folder / "chat.jsonl").read_text() if there.lines() else ""
        shown = written + caplog.text + (await there.http.get("/metrics")).text
        assert written.count("\n") == 5
        for secret in (KEY, OTHER, "replica key", "s3cr3t"):
            assert secret not in shown
        assert not list(there.gateway.log.folder.glob("nobody*"))

    run(workspace, work)


def test_a_copy_for_the_mirror_has_a_line_of_its_own(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        await there.deploy("green", Stub("green", habit={"sleep": 0.5}))
        await there.traffic({"green": 50}, blue=100)
        for _ in range(30):
            await there.ask()
        while there.gateway.copies:
            await asyncio.sleep(0.01)
        copies = [line for line in there.lines() if line["mirrored"]]
        served = [line for line in copies if "error" not in line]
        assert served[0]["deployment"] == "green"
        assert served[0]["ms"] >= 500
        left_out = [line for line in copies if "error" in line]
        assert {line["error"] for line in left_out} == {"the mirror has no place free"}

    run(workspace, work)


def test_a_log_that_grows_long_is_continued_in_another_file(tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "logs", most=100)
    for number in range(20):
        log.add("chat", {"number": number, "filler": "x" * 90})
        log.flush()
    names = {path.name for path in log.folder.iterdir()}
    assert names == {f"chat.jsonl.{number}" for number in range(1, KEPT + 1)}
    newest = json.loads((log.folder / "chat.jsonl.1").read_text())
    assert newest["number"] == 19
    assert stat.S_IMODE(log.folder.stat().st_mode) == 0o700


def test_lines_are_written_beside_the_requests_and_all_of_them_at_the_end(tmp_path: Path) -> None:
    log = RequestLog(tmp_path)
    log.start()
    log.add("chat", {"a": 1})
    log.close()
    log.flush()
    assert (tmp_path / "chat.jsonl").read_text() == '{"a":1}\n'


def test_a_full_disk_is_told_and_ends_no_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "logs").write_text("no folder")
    log = RequestLog(tmp_path / "logs")
    log.start()
    log.add("chat", {"a": 1})
    log.close()
    assert "the log of requests cannot be written" in caplog.text


def test_failures_of_the_deployment_are_errors_and_faults_of_the_caller_are_not(
    workspace: Workspace,
) -> None:
    async def work(there: World) -> None:
        for path, told in (
            ("/score", {"status": 400}),
            (CHAT, {"status": 400}),
            (CHAT, {"model": "gpt-4"}),
            (CHAT, {}),
        ):
            await there.ask(path, **told)
        assert there.gateway.stats().figures["chat", "blue"].errors == 0
        for path, told in (
            ("/score", {"status": 500}),
            (CHAT, {"status": 503}),
            ("/score", {"die": "answered"}),
            (CHAT, {"stream": 2, "die": "answered"}),
            ("/score", {"sleep": 20}),
        ):
            await there.ask(path, **told)
        figures = there.gateway.stats().figures["chat", "blue"]
        assert (figures.requests, figures.errors) == (8, 5)
        assert figures.statuses == {"200": 2, "400": 1, "408": 1, "424": 3, "503": 1}
        assert sum(figures.latencies) == 1  # of good answers alone
        assert there.gateway.stats().figures["chat", ""].statuses == {"404": 1}

    run(workspace, work, seconds=0.3)


def test_a_replica_that_dies_is_counted_though_its_callers_were_answered(
    workspace: Workspace,
) -> None:
    async def work(there: World) -> None:
        await there.deploy("green", Stub("dies"), Stub("lives", mortal=False))
        await there.traffic(green=100)
        assert (await there.ask(die="asked")).status_code == 200
        assert (await there.ask()).status_code == 200
        figures = there.gateway.stats().figures["chat", "green"]
        assert (figures.requests, figures.errors, figures.lost) == (2, 0, 1)
        assert canary_record.seen_in(there.gateway.stats(), "chat", "green").errors == 1

    run(workspace, work)


def test_who_leaves_a_deployment_without_replicas_has_seen_it_fail(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        await there.stubs["blue"][0].stop()
        await there.remove_replica("blue0")
        for _ in range(2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await there.ask()
        async with asyncio.timeout(10):
            while there.gateway.stats().figures["chat", "blue"].requests < 2:
                await asyncio.sleep(0.01)
        figures = there.gateway.stats().figures["chat", "blue"]
        assert (figures.statuses, figures.errors, figures.lost) == ({"499": 2}, 2, 0)

    run(workspace, work)


def test_who_leaves_a_replica_that_works_is_not_counted(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await there.ask(sleep=20)
        async with asyncio.timeout(10):
            while not there.lines():
                await asyncio.sleep(0.01)
        assert there.gateway.stats().figures["chat", "blue"].requests == 0

    run(workspace, work)


def test_a_time_falls_into_the_bucket_whose_edge_it_reaches() -> None:
    counter = Counter()
    for seconds in (0.0005, 0.001, 0.0011, 1e9):
        counter.add(200, seconds, failed=False, first_token=seconds)
    figures = counter.figures(in_flight=2, queued=1)
    assert [at for at, count in enumerate(figures.latencies) if count] == [0, 1, len(BOUNDS)]
    assert figures.latencies == figures.first_tokens
    assert (figures.in_flight, figures.queued, figures.requests) == (2, 1, 4)
    ratios = [high / low for low, high in itertools.pairwise(BOUNDS)]
    assert max(ratios) < 1.2
    assert BOUNDS[-1] > 3600


def test_counts_survive_being_written_and_read() -> None:
    counter = Counter()
    counter.add(200, 0.1, failed=False, first_token=0.05, tokens=(1, 2))
    counter.add(503, 0.1, failed=True)
    stats = Stats(
        "id", {("chat", "blue"): counter.figures()}, {("chat", "green"): Counter().figures()}
    )
    assert read_stats(json.loads(json.dumps(stats.written()))) == stats


def test_prometheus_reads_what_was_counted() -> None:
    counter = Counter()
    for seconds in (0.01, 0.02, 0.04, 3.0):
        counter.add(200, seconds, failed=False, first_token=seconds / 2, tokens=(2, 3))
    counter.add(424, 0.5, failed=True)
    text = exposition(Stats("id", {("chat", "blue"): counter.figures(3, 1)}, {}))
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    labels = 'endpoint="chat",deployment="blue"'
    base = "finery_endpoint_"
    assert lines[f'{base}requests_total{{{labels},status="200"}}'] == "4"
    assert lines[f'{base}requests_total{{{labels},status="424"}}'] == "1"
    assert lines[f"{base}errors_total{{{labels}}}"] == "1"
    assert lines[f"{base}in_flight{{{labels}}}"] == "3"
    assert lines[f"{base}queued{{{labels}}}"] == "1"
    assert lines[f"{base}completion_tokens_total{{{labels}}}"] == "12"
    assert lines[f"{base}latency_seconds_count{{{labels}}}"] == "4"
    assert float(lines[f"{base}latency_seconds_sum{{{labels}}}"]) == pytest.approx(3.07)
    buckets = [
        (float(name.split('le="')[1].rstrip('"}')), int(value))
        for name, value in lines.items()
        if name.startswith(f"{base}latency_seconds_bucket")
    ]
    assert buckets == sorted(buckets)
    assert next(edge for edge, count in buckets if count >= 2) == pytest.approx(0.02, rel=0.45)
    assert buckets[-1] == (float("inf"), 4)
    kinds = re.findall(r"^# TYPE (\S+) (\w+)$", text, re.MULTILINE)
    assert (f"{base}latency_seconds", "histogram") in kinds


def test_metrics_are_on_the_plain_port(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        await there.ask()
        said = await there.http.get("/metrics", headers={"authorization": ""})
        assert said.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert 'requests_total{endpoint="chat",deployment="blue",status="200"} 1' in said.text
        assert (await there.http.get("/healthz")).json() == {"status": "ok"}

    run(workspace, work)


def test_the_counts_of_an_endpoint_end_with_it(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        await there.ask()
        there.gateway.take({})
        assert there.gateway.stats().figures == {}
        assert (await there.ask()).status_code == 404

    run(workspace, work)


def test_the_service_tells_of_a_change_and_it_holds_when_it_is_told(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        folder = folder_of(workspace)
        folder.mkdir(mode=0o700)
        with contextlib.closing(control.listen(folder)) as listener:
            server = await control.serve(listener, there.gateway)
            keys.regenerate(workspace, "chat", "primary", "n" * 20)
            assert await asyncio.to_thread(control.reload, workspace)
            assert (await there.ask()).status_code == 401
            found = await asyncio.to_thread(control.stats, workspace)
            assert found is not None
            assert (found.gateway, found.figures["chat", ""].requests) == (there.gateway.id, 1)
            server.close()
        socket = folder / control.SOCKET
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600

    run(workspace, work)


def test_a_gateway_that_is_not_there_is_no_hindrance(workspace: Workspace) -> None:
    assert control.reload(workspace) is False
    assert control.stats(workspace) is None
    assert control.addresses(workspace) is None
    folder_of(workspace).mkdir()
    control.listen(folder_of(workspace)).close()  # as one that was killed leaves it
    assert control.reload(workspace) is False
    control.listen(folder_of(workspace)).close()


def test_a_gateway_that_hangs_keeps_the_service_for_a_second(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "PATIENCE", 0.05)
    folder_of(workspace).mkdir()
    with contextlib.closing(control.listen(folder_of(workspace))):
        assert control.reload(workspace) is False


def test_odd_questions_are_not_answered_and_a_reload_that_fails_says_so(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(there: World) -> None:
        assert "error" in await control._answered(there.gateway, "drop tables")
        monkeypatch.setattr(tables, "read", _broken)
        assert "error" in await control._answered(there.gateway, "reload")
        assert (await there.ask()).status_code == 200  # with the tables it has

    run(workspace, work)


def _broken(_: object) -> None:
    from sqlalchemy.exc import OperationalError

    raise OperationalError("select", {}, Exception("locked"))
