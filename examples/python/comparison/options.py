# SPDX-License-Identifier: Apache-2.0
"""The command line of compare.py."""

from __future__ import annotations

import argparse
import os
import pathlib

from .peers import PEERS

ROOT = pathlib.Path(__file__).resolve().parents[3]
WEIGHTS = ROOT / "examples/data/smollm2_135m_judge.safetensors"
MEASURES = ("loss", "speed", "step")
# What --quick does: minutes instead of an hour. Too little text to rank policies by.
QUICK = {
    "budget": 256,
    "interval": 64,
    "tokens": 768,
    "count": 1,
    "context": 768,
    "new_tokens": 64,
    "step_rounds": 5,
    "policies": ["window_sum", "h2o", "foresight", "streaming_llm"],
}
FULL = {
    "budget": 512,
    "interval": 128,
    "tokens": 3072,
    "count": 4,
    "context": 7936,
    "new_tokens": 256,
    "step_rounds": 15,
    "policies": None,
}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="compare.py",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Generation of SmolLM2-135M with its full cache, under every policy of foresightkv, and under\n"
        "other programs' eviction: loss after the first eviction, speed, bytes. Results are kept:\n"
        "run it again, and it goes on where it was.",
        epilog="On a busy machine OMP_WAIT_POLICY=passive or --threads 1 helps: PyTorch's threads spin as they wait.",
    )
    parser.add_argument("--quick", action="store_true", help="one short document, few policies: a few minutes")
    parser.add_argument(
        "--peers",
        type=_names(PEERS),
        default=[],
        metavar="A,B",
        help=f"of {', '.join(PEERS)}: an environment is made for each",
    )
    parser.add_argument(
        "--reference",
        type=pathlib.Path,
        metavar="DIR",
        help="a checkout of the published code (bench/peers/README.md): its step is timed too",
    )
    parser.add_argument(
        "--measure",
        type=_names(MEASURES),
        default=list(MEASURES),
        metavar="A,B",
        help=f"of {', '.join(MEASURES)} (default: all)",
    )
    parser.add_argument("--policies", type=_names(None), metavar="A,B", help="of foresightkv.policies() (default: all)")
    parser.add_argument(
        "--press", type=_names(None), metavar="A,B", help="of kvpress (default: all that compare with ours)"
    )
    parser.add_argument(
        "--speed-policies",
        type=_names(None),
        metavar="A,B",
        help="those whose speed is measured, kvpress/snap_kv of one program alone (default: all)",
    )
    parser.add_argument("--budget", type=int, help="tokens that an eviction leaves (default: 512)")
    parser.add_argument("--interval", type=int, help="tokens between two evictions (default: 128)")
    parser.add_argument("--sinks", type=int, default=4, help="first tokens that are always kept (default: %(default)s)")
    parser.add_argument(
        "--threads", type=int, default=min(2, os.cpu_count() or 1), help="of every program (default: %(default)s)"
    )
    parser.add_argument(
        "--documents",
        type=pathlib.Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="texts of your own (default: Debian's documentation, fetched by apt-get)",
    )
    parser.add_argument("--count", type=int, help="documents that losses are measured on (default: 4)")
    parser.add_argument("--tokens", type=int, help="of each document (default: 3072)")
    parser.add_argument("--context", type=int, help="tokens of the prompt that is decoded behind (default: 7936)")
    parser.add_argument("--new-tokens", type=int, help="tokens that are decoded (default: 256)")
    parser.add_argument("--rounds", type=int, default=4, help="turns in which they are decoded (default: %(default)s)")
    parser.add_argument("--step-rounds", type=int, help="times that each step is measured, in turn (default: 15)")
    parser.add_argument(
        "--model", type=pathlib.Path, help="a folder for transformers (default: SmolLM2-135M from its package)"
    )
    parser.add_argument(
        "--weights", type=pathlib.Path, default=WEIGHTS, help="the judge of foresight (default: the bundled one)"
    )
    parser.add_argument(
        "--work",
        type=pathlib.Path,
        default=ROOT / "build/compare",
        metavar="DIR",
        help="models, texts, environments and results (default: build/compare)",
    )
    parser.add_argument(
        "--out", type=pathlib.Path, metavar="DIR", help="compare.md, .json and .svg (default: that of --work)"
    )
    chosen = parser.parse_args(arguments)
    for name, value in (QUICK if chosen.quick else FULL).items():
        if getattr(chosen, name) is None:
            setattr(chosen, name, value)
    _check(parser, chosen)
    return chosen


def _check(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> None:
    if chosen.tokens <= chosen.budget + chosen.interval + 1:
        parser.error("--tokens must be larger than budget + interval")
    if min(chosen.budget, chosen.interval, chosen.threads, chosen.count, chosen.rounds, chosen.new_tokens) < 1:
        parser.error("counts must be positive")
    if chosen.new_tokens < chosen.rounds:
        parser.error("--new-tokens must be at least --rounds")
    # So that every cache holds exactly the budget when decoding begins, and evictions fall on the same tokens.
    chosen.context = chosen.budget + max(1, (chosen.context - chosen.budget) // chosen.interval) * chosen.interval
    chosen.work = chosen.work.resolve()
    chosen.out = (chosen.out or chosen.work).resolve()


def _names(known):
    def names(text: str) -> list[str]:
        found = [name for name in text.split(",") if name]
        unknown = [name for name in found if known is not None and name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(known)}")
        return found

    return names
