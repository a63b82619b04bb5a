"""Where a result comes from: versions, commit, machine, date and units of work, as plain values for a report."""

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import torch

from lab.paths import repository_root
from rfmi.runs import versions

PROCESSORS = Path("/proc/cpuinfo")  # where Linux names them


def commit() -> str:
    """The checkout's short commit, "+ changes" where tracked files differ from it; "unknown" outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(repository_root()), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!reports")
        return git("rev-parse", "--short=10", "HEAD") + (" + changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def processor() -> str:
    """The name of the processor; "" where the system does not tell it."""
    told = PROCESSORS.read_text() if PROCESSORS.exists() else ""
    named = re.search(r"^model name\s*: (.+)$", told, re.MULTILINE)
    return named[1] if named else ""


def machine() -> str:
    """System, processors, memory and accelerators, in words."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processors = f"{usable} processors" + (f" ({name})" if (name := processor()) else "")
    memory = f"{psutil.virtual_memory().total / 2**30:.0f} GiB of memory"
    cards = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join([f"{platform.system()} {platform.machine()}", processors, memory, *cards])


def provenance(revision: str = "") -> dict[str, Any]:
    """Versions, machine, date in UTC, and the commit, which is asked for where no `revision` is given."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": revision or commit(),
        "machine": machine(),
        "versions": versions(),
    }


def cost_of_units(file: Path) -> list[dict[str, Any]]:
    """What `lab.study.units` noted in a file, each unit once: kind, version of its code, number and seconds in all."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    noted = {key: (kind, code, float(seconds)) for key, kind, code, seconds in map(str.split, lines)}
    costs: dict[tuple[str, str], list[float]] = {}
    for kind, code, seconds in noted.values():
        costs.setdefault((kind, code), []).append(seconds)
    return [
        {"kind": kind, "code": code, "units": len(seconds), "seconds": round(sum(seconds), 1)}
        for (kind, code), seconds in costs.items()
    ]
