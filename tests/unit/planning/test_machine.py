"""What the machine says of its memory: its own files, the control groups', and kills."""

from __future__ import annotations

from pathlib import Path

import pytest

from finery.planning import machine

GIB = 1024**3


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of files: 8 GiB left, this process in the group /a/b, which has no limit yet."""
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (groups / "a" / "b").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable: {8 * GIB // 1024} kB\n")
    (proc / "self" / "status").write_text("VmHWM:\t 300 kB\nVmRSS:\t 200 kB\n")
    (proc / "self" / "cgroup").write_text("0::/a/b\n")
    (proc / "vmstat").write_text("nr_free_pages 7\noom_kill 2\n")
    monkeypatch.setattr(machine, "PROC", proc)
    monkeypatch.setattr(machine, "CGROUPS", groups)
    return tmp_path


def limit(group: Path, most: int, used: int, cached: int) -> None:
    (group / "memory.max").write_text(f"{most}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\n")


def test_resident_memory_and_its_peak_are_told_apart(files: Path) -> None:
    assert machine.resident_bytes() == 200 * 1024
    assert machine.resident_bytes(peak=True) == machine.used_bytes("cpu") == 300 * 1024


def test_what_is_available_is_what_the_tightest_bound_leaves(files: Path) -> None:
    own = 200 * 1024
    assert machine.available_bytes("cpu") == 8 * GIB + own
    group = files / "cgroup" / "a"  # above the group of this process
    limit(group, 4 * GIB, 3 * GIB, GIB // 2)
    assert machine.available_bytes("cpu") == GIB + GIB // 2 + own
    (group / "memory.max").write_text("max\n")
    assert machine.available_bytes("cpu") == 8 * GIB + own


def test_the_first_version_of_control_groups_is_read_too(files: Path) -> None:
    place = files / "cgroup" / "memory" / "box"
    place.mkdir(parents=True)
    (files / "proc" / "self" / "cgroup").write_text("3:cpu:/x\n7:memory:/box\n")
    (place / "memory.limit_in_bytes").write_text(str(2 * GIB))
    (place / "memory.usage_in_bytes").write_text(str(GIB))
    assert machine.available_bytes("cpu") == GIB + 200 * 1024
    (place / "memory.limit_in_bytes").write_text("9223372036854771712")  # no limit
    assert machine.available_bytes("cpu") == 8 * GIB + 200 * 1024


def test_a_group_named_from_outside_a_container_is_the_one_at_the_root(files: Path) -> None:
    (files / "proc" / "self" / "cgroup").write_text("0::/docker/123\n")
    limit(files / "cgroup", GIB, 0, 0)
    assert machine.available_bytes("cpu") == GIB + 200 * 1024


def test_kills_of_the_machine_and_of_the_groups_count(files: Path) -> None:
    assert machine.oom_kills() == 2
    (files / "cgroup" / "a" / "b" / "memory.events").write_text("oom 9\noom_kill 3\n")
    assert machine.oom_kills() == 5


def test_a_machine_that_says_nothing_limits_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "PROC", tmp_path / "none")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "none")
    assert machine.available_bytes("cpu") == 0
    assert machine.oom_kills() == 0
    assert machine.resident_bytes() == 0
    machine.forget_peak()


def test_the_peak_can_be_forgotten() -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system keeps no such file")
    size = 64 << 20
    block = b"x" * size
    high = machine.resident_bytes(peak=True)
    del block
    machine.start_counting("cpu")
    assert machine.resident_bytes(peak=True) < high - size // 2


def test_a_fingerprint_names_the_processor_and_the_program_its_libraries() -> None:
    assert set(machine.fingerprint("cpu")) == {"system", "cpu", "cores", "threads"}
    assert machine.program() == machine.program()
    assert {"finery", "changed", "torch", "transformers"} <= set(machine.program())
