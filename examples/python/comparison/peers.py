# SPDX-License-Identifier: Apache-2.0
"""Environments of the programs that are compared: each peer has one of its own, made here when it is asked for."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import venv
from dataclasses import dataclass
from typing import Callable

Say = Callable[[str], None]


@dataclass(frozen=True)
class Peer:
    """A program to compare with."""

    name: str
    requires: tuple[str, ...]
    borrows_torch: bool
    size: str


PEERS = {
    # 0.5.5 wants a transformers below 5.3, and 5.2.0 works.
    "kvpress": Peer("kvpress", ("kvpress==0.5.5", "transformers==5.2.0"), True, "0.4 GB"),
    "openvino": Peer("openvino", ("openvino-genai==2026.4.1.0",), False, "0.3 GB"),
}


def python_of(folder: pathlib.Path) -> pathlib.Path:
    return folder / "bin/python"


def environment(peer: Peer, folder: pathlib.Path, say: Say) -> pathlib.Path:
    """The interpreter of a peer's environment, made if it is not there. Raises ValueError if it cannot be made."""
    mark = folder / "complete.json"
    if not (mark.exists() and json.loads(mark.read_text()) == list(peer.requires)):
        say(f"making an environment for {peer.name} ({peer.size}): {folder}")
        venv.create(folder, with_pip=True, clear=True)
        if peer.borrows_torch:
            _borrow_torch(folder)
        names = _all_but_torch(folder, peer) if peer.borrows_torch else list(peer.requires)
        _pip(folder, "install", *(["--no-deps"] if peer.borrows_torch else []), *names)
        mark.write_text(json.dumps(list(peer.requires)))
    return python_of(folder)


def _borrow_torch(folder: pathlib.Path) -> None:
    """The caller's packages come behind the environment's own. So both sides run the same PyTorch, and gigabytes of it
    are not fetched twice."""
    import torch

    (site,) = folder.glob("lib/python3*/site-packages")
    (site / "torch_of_the_caller.pth").write_text(str(pathlib.Path(torch.__file__).parents[1]) + "\n")


def _all_but_torch(folder: pathlib.Path, peer: Peer) -> list[str]:
    """What pip would install for the peer, PyTorch and what only PyTorch needs left out."""
    report = json.loads(
        _pip(folder, "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-", *peer.requires)
    )
    found = [(one["metadata"]["name"], one["metadata"]["version"]) for one in report["install"]]
    return [
        f"{name}=={version}"
        for name, version in found
        if name not in ("torch", "triton") and not name.startswith(("nvidia-", "cuda-"))
    ]


def _pip(folder: pathlib.Path, *arguments: str) -> str:
    command = [python_of(folder), "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ValueError(f"{folder}: pip failed: {reason}")
    return done.stdout


def interpreter() -> pathlib.Path:
    return pathlib.Path(sys.executable)
