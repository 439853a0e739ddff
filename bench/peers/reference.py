# SPDX-License-Identifier: Apache-2.0
"""Imports the published functions that are timed from the user's own checkout, without transformers.

The published modules import transformers (and train.py also datasets, tqdm and the training model) at the top, but
what is timed here calls none of it. Those names are answered by placeholders, so that PyTorch alone is enough and no
other package's version can change a figure.
"""

import hashlib
import importlib
import importlib.machinery
import pathlib
import sys
import types

STEP_FILES = ("evaluation/rkv/compression/foresightkv.py", "evaluation/rkv/modeling.py")
LABEL_FILES = ("supervised_training/train.py",)
RANKING_FILES = ("supervised_training/train.py", "evaluation/rkv/modeling.py")


class _Answer(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return placeholder

    def __getitem__(cls, _):
        return placeholder


class placeholder(metaclass=_Answer):
    """Stands for any class, decorator or function of an absent package: attributes and calls give it again."""

    def __new__(cls, *_, **__):
        return placeholder


class _AbsentModule(types.ModuleType):
    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return placeholder


class _AbsentPackages:
    """Import hook for the named top-level packages and everything below them."""

    def __init__(self, names):
        self.names = names

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return _AbsentModule(spec.name)

    def exec_module(self, module):
        pass


def _load(reference, files, folder, module, absent):
    root = pathlib.Path(reference)
    for name in files:
        if not (root / name).is_file():
            sys.exit(f"{root / name}: not found; --reference must name a checkout of the published code (README.md)")
    sys.meta_path.insert(0, _AbsentPackages(absent))
    sys.path.insert(0, str(root / folder))
    sys.dont_write_bytecode = True  # leave the user's checkout as it is
    return importlib.import_module(module)


def load_step(reference):
    """(class ForesightKV, class SelectionModel) of the evaluation code."""
    modeling = _load(reference, STEP_FILES, "evaluation", "rkv.modeling", {"transformers"})
    return modeling.ForesightKV, modeling.SelectionModel


def load_labels(reference):
    """build_oracle_targets of the supervised training code."""
    # cache and qwen3 are the training model, which the label builder does not touch.
    absent = {"transformers", "datasets", "tqdm", "cache", "qwen3"}
    return _load(reference, LABEL_FILES, "supervised_training", "train", absent).build_oracle_targets


def load_ranking(reference):
    """(class SelectionModel, class PairwiseRankHingeLoss). The judge comes from the evaluation code, whose arithmetic
    is that of the training model's: the latter does not import without transformers."""
    _, selection_model = load_step(reference)
    absent = {"transformers", "datasets", "tqdm", "cache", "qwen3"}
    return selection_model, _load(reference, LABEL_FILES, "supervised_training", "train", absent).PairwiseRankHingeLoss


def fingerprint(reference, files):
    """First 16 hexadecimal digits of each file's SHA-256: says which published version was timed."""
    root = pathlib.Path(reference)
    return {name: hashlib.sha256((root / name).read_bytes()).hexdigest()[:16] for name in files}
