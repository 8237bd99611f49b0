"""Limits of the control group, memory, disk and cache folder."""

import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from meap_megatron.doctor import cluster, machine

Usage = namedtuple("Usage", "total used free")


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_quota_of_an_outer_control_group_counts(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/job_7/step_0\n")
    write(tmp_path, "sys/fs/cgroup/job_7/step_0/cpu.max", "max 100000\n")
    write(tmp_path, "sys/fs/cgroup/job_7/cpu.max", "50000 100000\n")
    assert machine.processor_quota(tmp_path) == 0.5
    found = machine.processors_finding({}, tmp_path)
    assert found.state == "differs" and found.fix == "export MEAP_THREADS=1 OMP_NUM_THREADS=1"
    assert machine.processors_finding({"MEAP_THREADS": "1"}, tmp_path).state == "ok"
    assert machine.processors_finding({"MEAP_THREADS": "64"}, tmp_path).state == "differs"


def test_the_quota_of_version_1_is_read(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "4:cpu,cpuacct:/slurm\n3:memory:/slurm\n")
    write(tmp_path, "sys/fs/cgroup/cpu,cpuacct/slurm/cpu.cfs_quota_us", "400000\n")
    write(tmp_path, "sys/fs/cgroup/cpu,cpuacct/slurm/cpu.cfs_period_us", "100000\n")
    assert machine.processor_quota(tmp_path) == 4


def test_without_a_control_group_there_is_no_limit(tmp_path: Path) -> None:
    assert machine.processor_quota(tmp_path) is None


def test_memory_is_what_the_control_group_leaves(tmp_path: Path) -> None:
    write(tmp_path, "proc/meminfo", "MemTotal: 67108864 kB\nMemAvailable: 33554432 kB\n")
    assert machine.memory_finding(tmp_path).detail == "32.0 GiB free"
    write(tmp_path, "proc/self/cgroup", "0::/small\n")
    write(tmp_path, "sys/fs/cgroup/small/memory.max", str(2**30))
    write(tmp_path, "sys/fs/cgroup/small/memory.current", "0")
    write(tmp_path, "sys/fs/cgroup/small/memory.stat", "")
    found = machine.memory_finding(tmp_path)
    assert found.state == "differs" and found.detail == "1.0 GiB free" and found.fix


def test_a_full_disk_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not machine.disk_finding(tmp_path).fails
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 2**40, 2**20))
    found = machine.disk_finding(tmp_path)
    assert found.fails and found.detail.startswith("1.0 MiB in") and found.fix


def test_dockers_64_mib_of_shared_memory_are_too_few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**26, 0, 2**26))
    found = machine.shared_memory_finding(tmp_path)
    assert found.state == "differs" and "--ipc=host" in found.fix


def test_a_cache_folder_that_cannot_be_made_is_reported_and_does_not_fail(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = machine.cache_finding({"MEAP_CACHE": str(tmp_path / "file")})
    assert (found.state, found.fails) == ("broken", False) and "MEAP_CACHE" in found.fix
    good = machine.cache_finding({"MEAP_CACHE": str(tmp_path)})
    assert good.state == "ok" and os.listdir(tmp_path / "meap_megatron") == []


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that puts a shell script on an otherwise empty path."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(cluster, "DOCKER_SOCKET", tmp_path / "no.sock")
    monkeypatch.setattr(cluster, "inside_container", lambda environment: "")

    def make(name: str, text: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)

    return make


def test_nothing_of_a_cluster_is_needed(programs) -> None:
    assert [(f.state, f.fails) for f in cluster.findings({})] == [("missing", False)] * 2


def test_slurm_with_pyxis_and_a_docker_without_engine_are_told(programs) -> None:
    programs("srun", 'case $1 in --version) echo "slurm 25.05.1";; *) echo "  --container-image=[USER@]IMAGE";; esac')
    programs("scontrol", 'echo "Slurmctld(primary) at head is UP"')
    programs("docker", 'echo "Docker version 28.2.2, build e6534b4"')
    programs("apptainer", "exit 1")
    slurm, containers = cluster.findings({"SLURM_JOB_ID": "7", "SLURM_PROCID": "3", "SLURM_NTASKS": "8"})
    assert (slurm.state, slurm.version, slurm.detail) == ("ok", "25.05.1", "job 7, task 3 of 8")
    assert containers.detail == "docker 28.2.2 (no engine within reach), apptainer (does not start), pyxis"


def test_a_controller_that_is_down_or_hangs_is_reported(programs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meap_megatron.doctor.programs.TIMEOUT", 0.5)
    programs("srun", 'echo "slurm 25.05.1"')
    programs("scontrol", "while :; do :; done")
    assert cluster.slurm_finding({}).state == "broken"
    programs("scontrol", 'echo "Slurmctld(primary) at head is DOWN"')
    assert cluster.slurm_finding({}).state == "broken"
