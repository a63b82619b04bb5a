"""Where a result comes from: versions, commit, machine and date, as plain values for a report or a table."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from typing import Any

from lab.paths import repository_root
from rfmi.runs import versions


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


def provenance(revision: str = "") -> dict[str, Any]:
    """Versions, machine, date in UTC, and the commit, which is asked for where no `revision` is given."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": revision or commit(),
        "machine": f"{platform.system()} {platform.machine()}, {processors} processors",
        "versions": versions(),
    }
