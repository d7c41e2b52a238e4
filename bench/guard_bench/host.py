"""The machine that a figure comes from, and who used its processors and memory."""

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16")


def describe() -> dict[str, str | int]:
    """The processor as Linux names it, what of its arithmetic matters here, and versions."""
    cpu: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        cpu.setdefault(key.strip(), value.strip())
    flags = set(cpu.get("flags", "").split())
    return {
        "cpu": cpu.get("model name", platform.machine()),
        "cpu_family_and_model": f"{cpu.get('cpu family', '?')}/{cpu.get('model', '?')}",
        "cpu_arithmetic": " ".join(flag for flag in _FLAGS if flag in flags),
        "cores": os.cpu_count() or 0,
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "kernel": platform.release(),
        "openvino": version("openvino"),
    }


def rss_mib(pid: int | None = None) -> float:
    """Resident memory of a process (else of this one), mapped files included."""
    pages = int(Path(f"/proc/{pid or 'self'}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def cpu_seconds(pid: int | None = None) -> float:
    """Processor time so far: of a process, else of the whole machine with its interrupts."""
    tick = os.sysconf("SC_CLK_TCK")
    if pid is not None:
        after_name = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(after_name[11]) + int(after_name[12])) / tick
    user, nice, system, _idle, _wait, *rest = Path("/proc/stat").read_text().split()[1:9]
    return sum(map(int, (user, nice, system, *rest))) / tick


class CpuClock:
    """The share of the processors' time that other processes have, from its making on."""

    def __init__(self, pid: int | None = None) -> None:
        """Other processes than `pid`, else than this one."""
        self._pid = os.getpid() if pid is None else pid
        self._begun, self._used = time.monotonic(), self._used_by_others()

    def others(self) -> float:
        """From 0 to 1, of all processors."""
        wall = (time.monotonic() - self._begun) * (os.cpu_count() or 1)
        return max(0.0, (self._used_by_others() - self._used) / wall)

    def _used_by_others(self) -> float:
        return cpu_seconds() - cpu_seconds(self._pid)
