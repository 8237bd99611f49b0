"""Free memory is that of the machine within the limits of the control groups around this process."""

from pathlib import Path

from meap_megatron.memory import free_memory

GIB = 2**30


def machine(root: Path, **files: str) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: {64 * GIB // 1024} kB\nMemAvailable: {48 * GIB // 1024} kB\n")
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_without_limits_it_is_what_the_machine_has(tmp_path: Path) -> None:
    assert free_memory(machine(tmp_path / "a")) == 48 * GIB
    limit = {"sys__fs__cgroup__memory_dot_max": "max\n", "proc__self__cgroup": "0::/\n"}
    assert free_memory(machine(tmp_path / "b", **limit)) == 48 * GIB
    assert free_memory(tmp_path / "nothing") is None


def test_a_job_has_the_rest_of_its_own_limit_and_the_cache_of_files_counts_as_free(tmp_path: Path) -> None:
    job = "sys__fs__cgroup__job__step__"
    found = machine(
        tmp_path,
        proc__self__cgroup="0::/job/step\n",
        **{
            f"{job}memory_dot_max": "max\n",
            "sys__fs__cgroup__job__memory_dot_max": f"{8 * GIB}\n",
            "sys__fs__cgroup__job__memory_dot_current": f"{6 * GIB}\n",
            "sys__fs__cgroup__job__memory_dot_stat": f"anon 1\ninactive_file {3 * GIB}\nactive_file {GIB}\n",
        },
    )
    assert free_memory(found) == 6 * GIB


def test_version_1_of_control_groups_is_read(tmp_path: Path) -> None:
    group = "sys__fs__cgroup__memory__slurm__"
    found = machine(
        tmp_path,
        proc__self__cgroup="7:memory:/slurm\n3:cpu:/slurm\n",
        **{
            f"{group}memory_dot_limit_in_bytes": f"{4 * GIB}\n",
            f"{group}memory_dot_usage_in_bytes": f"{GIB}\n",
            f"{group}memory_dot_stat": "total_inactive_file 0\n",
        },
    )
    assert free_memory(found) == 3 * GIB
