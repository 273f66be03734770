"""Provenance of a result: code, configuration, packages, machine."""

from __future__ import annotations

import hashlib
import json
import platform
import socket
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from ecgexp.errors import without_passwords
from ecgexp.tracking.names import Tag


@cache
def git_state(folder: Path) -> dict[str, str]:
    """Tags ``git_commit`` and ``git_dirty`` of the git checkout of a folder; empty if there is none."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        dirty = bool(_git(folder, "status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {Tag.GIT_COMMIT: commit, Tag.GIT_DIRTY: str(dirty).lower()}


@cache
def packages() -> str:
    """Python, platform and the version of each installed package, a line each."""
    lines = {f"{d.metadata['Name']}=={d.version}" for d in metadata.distributions() if d.metadata["Name"]}
    header = [f"# Python {platform.python_version()} on {platform.platform()}"]
    return "\n".join(header + sorted(lines, key=str.lower)) + "\n"


def host() -> str:
    """Name of this machine."""
    return socket.gethostname()


def warn(warning: str) -> dict[str, str]:
    """Tags for a warning about the data of a run; the UI shows it as the description of the run."""
    return {Tag.WARNING: warning, Tag.NOTE: warning}


def config_hash(config: Mapping[str, Any]) -> str:
    """Hash of a resolved configuration without passwords; the order of its keys makes no difference."""
    text = without_passwords(json.dumps(config, sort_keys=True))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of a nested configuration under dotted keys; a list is a leaf."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
