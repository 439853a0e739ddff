# SPDX-License-Identifier: Apache-2.0
"""What the PyTorch programs of this folder share: the model, the clocks, and the file of results.

A program is given shapes as the benchmarks name them (batch:1/budget:1024/interval:128) and writes a file in the form
of Google Benchmark's JSON, anew after each measurement. Without a device it ends with exit status 77.
"""

import argparse
import gc
import json
import pathlib
import sys
import time

import torch

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # reference.py

KV_HEADS, GROUP, HEAD_DIM = 8, 4, 128  # Qwen3-4B; its layers are an option
COLD_BYTES = 4 * 60e6  # inputs that together do not stay in the L2 cache
SKIPPED = 77


def parse(description, extra=None):
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--shapes", nargs="+", required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="JSON file to write")
    parser.add_argument("--device", default="cuda", help="cpu tries the program out; its times say nothing")
    parser.add_argument("--layers", type=int, default=36)
    if extra:
        extra(parser)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("skipped: torch sees no CUDA device")
        sys.exit(SKIPPED)
    arguments.dtype = torch.bfloat16 if arguments.device == "cuda" else torch.float32
    torch.manual_seed(1)
    return arguments


def axes(shape):
    return {name: int(value) for name, value in (axis.split(":") for axis in shape.split("/"))}


def settings(bytes_of_one, most=192):
    """How many copies of an input it takes that none is still in the L2 cache when its turn comes."""
    return max(1, min(most, int(COLD_BYTES / bytes_of_one) + 1))


class _Clock:
    """Seconds of a function: between two events on a CUDA device, of wall clock on a processor."""

    def __init__(self, device):
        self.events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device == "cuda" else None

    def seconds(self, function):
        if self.events is None:
            begin = time.perf_counter()
            function()
            return time.perf_counter() - begin
        self.events[0].record()
        function()
        self.events[1].record()
        self.events[1].synchronize()
        return 1e-3 * self.events[0].elapsed_time(self.events[1])


def _captured(calls):
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph.replay


def measure(device, calls, graph=False, prepare=None):
    """Microseconds of one of `calls`, which are made in turn: median and least of up to 5 repeats of up to 50 rounds.

    graph: replay the calls from a CUDA graph, as the library's own benchmarks do; else they are launched one by one.
    prepare: runs before each round, outside the clock.
    """
    clock = _Clock(device)

    def one_by_one():
        for call in calls:
            call()

    def seconds(rounds):
        if prepare:
            prepare()
        return clock.seconds(lambda: [launch() for _ in range(rounds)])

    launch = one_by_one
    seconds(1)
    if graph and device == "cuda":
        launch = _captured(calls)
        seconds(1)
    once = seconds(1)
    rounds = 1 if prepare else int(max(1, min(50, 0.02 / once)))
    repeats = sorted(seconds(rounds) / rounds / len(calls) for _ in range(int(max(2, min(5, 1 / once)))))
    how = "wall clock" if device == "cpu" else "events, CUDA graph" if graph else "events, launched one by one"
    return {"real_time": 1e6 * repeats[len(repeats) // 2], "least_us": 1e6 * repeats[0], "time_unit": "us",
            "clock": how}


def work(arguments, programs):
    """programs(shape's axes) yields (name, keyword arguments of `measure`); all are measured for every shape."""
    context = {"torch": torch.__version__, "cuda": torch.version.cuda, "layers": arguments.layers,
               "device": torch.cuda.get_device_name() if arguments.device == "cuda" else arguments.device}
    found = []

    def save():
        arguments.out.write_text(json.dumps({"context": context, "benchmarks": found}, indent=1) + "\n")

    for shape in arguments.shapes:
        name = None
        try:
            for name, how in programs(axes(shape)):
                extra = how.pop("also", dict)
                found.append({"name": f"{name}/{shape}", **measure(arguments.device, **how), **extra()})
                save()
                name = None
        except RuntimeError as problem:  # out of memory is one as well
            found.append({"name": f"{name or 'inputs'}/{shape}", "error_occurred": True,
                          "error_message": str(problem).partition("\n")[0]})
            save()
        gc.collect()
        if arguments.device == "cuda":
            torch.cuda.empty_cache()
