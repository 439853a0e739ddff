# SPDX-License-Identifier: Apache-2.0
"""Long coherent documents: from Debian's documentation packages, fetched when they are needed, or the user's own."""

from __future__ import annotations

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
    return [(package, _body(_from_debian(package, member, folder))) for package, member in DEBIAN[:count]]


def _from_debian(package: str, member: str, folder: pathlib.Path) -> str:
    kept = folder / f"{package}.txt"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _download(package, folder)
        archive = max(folder.glob(f"{package}_*.deb"), key=lambda path: path.stat().st_mtime)
        data = _member(archive, member)
        part = kept.with_suffix(".part")
        part.write_bytes(gzip.decompress(data) if member.endswith(".gz") else data)
        part.rename(kept)
        archive.unlink()
    return kept.read_text(encoding="utf-8", errors="replace")


def _download(package: str, folder: pathlib.Path) -> None:
    try:
        done = subprocess.run(["apt-get", "download", "-q", package], cwd=folder, capture_output=True, text=True)
        reason = done.stderr.strip().splitlines()[-1:] if done.returncode else []
    except FileNotFoundError:
        reason = ["there is no apt-get here"]
    if reason:
        raise ValueError(f"{package}: {reason[0]}. Name texts of your own: --documents FILE...")


def _member(archive: pathlib.Path, name: str) -> bytes:
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE) as unpacked:
        with tarfile.open(fileobj=unpacked.stdout, mode="r|") as members:
            for member in members:
                if member.name.removeprefix("./") == name:
                    data = members.extractfile(member).read()
                    unpacked.stdout.read()  # to its end, or dpkg-deb complains
                    return data
    raise ValueError(f"{archive.name}: has no {name}")


def _body(text: str) -> str:
    """From the first paragraph behind the front matter on."""
    begin = text.find("\n\n", int(PREFACE * len(text)))
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
