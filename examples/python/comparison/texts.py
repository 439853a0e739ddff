# SPDX-License-Identifier: Apache-2.0
"""Long coherent documents: from Debian's documentation packages, fetched when they are needed, or the user's own."""

from __future__ import annotations

import fnmatch
import gzip
import pathlib
import subprocess
import tarfile
from dataclasses import dataclass
from typing import Any

import numpy

# Package, and the plain text in it. Each is one document that refers back over its whole length.
DEBIAN = (
    ("git-doc", "usr/share/doc/git-doc/user-manual.txt"),
    ("debian-policy", "usr/share/doc/debian-policy/policy.txt.gz"),
    ("developers-reference", "usr/share/developers-reference/developers-reference.txt.gz"),
    ("debian-faq", "usr/share/doc/debian/FAQ/debian-faq.en.txt.gz"),
)
PREFACE = 0.1  # share of a document that is title, contents and the like


@dataclass(frozen=True)
class Text:
    """Token ids of one text, in a file that every worker reads."""

    name: str
    ids: pathlib.Path
    tokens: int


def documents(own: list[pathlib.Path], folder: pathlib.Path, count: int) -> list[tuple[str, str]]:
    """(name, text) of `count` documents at most. Raises ValueError if there are none to be had."""
    if own:
        return [(path.stem, path.read_text(encoding="utf-8", errors="replace")) for path in own[:count]]
    return [
        (package, body(from_debian(package, [member], folder)[member], PREFACE)) for package, member in DEBIAN[:count]
    ]


def from_debian(package: str, members: list[str], folder: pathlib.Path) -> dict[str, str]:
    """Plain texts by member of a package, fetched if one is not in `folder`. Members may be patterns, as folders have
    versions in their names. Raises ValueError if the package cannot be had or lacks one."""
    kept = {member: folder / package / pathlib.PurePath(member).name.removesuffix(".gz") for member in members}
    missing = [member for member in members if not kept[member].exists()]
    if missing:
        (folder / package).mkdir(parents=True, exist_ok=True)
        _download(package, folder)
        archive = max(folder.glob(f"{package}_*.deb"), key=lambda path: path.stat().st_mtime)
        for member, data in _members(archive, missing).items():
            part = kept[member].with_suffix(".part")
            part.write_bytes(gzip.decompress(data) if member.endswith(".gz") else data)
            part.rename(kept[member])
        archive.unlink()
    return {member: path.read_text(encoding="utf-8", errors="replace") for member, path in kept.items()}


def _download(package: str, folder: pathlib.Path) -> None:
    try:
        done = subprocess.run(["apt-get", "download", "-q", package], cwd=folder, capture_output=True, text=True)
        reason = done.stderr.strip().splitlines()[-1:] if done.returncode else []
    except FileNotFoundError:
        reason = ["there is no apt-get here"]
    if reason:
        raise ValueError(f"{package}: {reason[0]}. Name texts of your own: --documents FILE...")


def _members(archive: pathlib.Path, patterns: list[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE) as unpacked:
        with tarfile.open(fileobj=unpacked.stdout, mode="r|") as members:
            for member in members:
                name = member.name.removeprefix("./")
                wanted = [pattern for pattern in patterns if fnmatch.fnmatchcase(name, pattern)]
                if wanted and member.isfile():
                    data = members.extractfile(member).read()
                    found.update({pattern: data for pattern in wanted})
    for pattern in patterns:
        if pattern not in found:
            raise ValueError(f"{archive.name}: has no {pattern}")
    return found


def body(text: str, skipped: float) -> str:
    """From the first paragraph behind `skipped` of the text on: front matter is no text."""
    begin = text.find("\n\n", int(skipped * len(text)))
    return text[max(begin, 0) :].strip()


def tokenized(name: str, text: str, tokens: int, tokenizer: Any, folder: pathlib.Path) -> Text:
    """The first `tokens` of the text, written to a file. Raises ValueError if it is shorter."""
    # No more text than can matter: a token is rarely more than a dozen characters.
    ids = tokenizer(text[: 40 * tokens], verbose=False).input_ids[:tokens]
    if len(ids) < tokens:
        raise ValueError(f"{name}: has {len(ids)} tokens, {tokens} are needed")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{tokens}.npy"
    numpy.save(path, numpy.asarray(ids, numpy.int32))
    return Text(name, path, tokens)
