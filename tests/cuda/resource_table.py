#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Registers of the kernels, as a Markdown table: tests/cuda/resource_table.py [NVCC] [ARCHITECTURES]

Compiles tests/cuda/resources.cu for each architecture (default 80,90,100), reads what ptxas says, and works out how many
blocks fit a multiprocessor. Instances that differ in scorers, types or compactions share a line; those of caches in pages
have their own.
"""
import collections
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED_MEMORY = {"80": 164 * 1024, "86": 100 * 1024, "89": 100 * 1024, "90": 228 * 1024, "100": 228 * 1024}


def compile_for(nvcc, arch):
    command = [nvcc, "-std=c++20", f"-arch=sm_{arch}", "-Xptxas", "-v", f"-I{ROOT}/include", "-cubin", "-o", "/dev/null",
               f"{ROOT}/tests/cuda/resources.cu"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    found = re.findall(r"Function properties for (\S+)\n[^\n]*?(\d+) bytes spill stores[^\n]*\n[^\n]*Used (\d+) registers"
                       r"([^\n]*)", text)
    names = subprocess.run(["c++filt"], input="\n".join(kernel[0] for kernel in found), capture_output=True,
                           text=True).stdout.splitlines()
    for name, (_, spilled, registers, rest) in zip(names, found):
        shared = re.search(r"(\d+) bytes smem", rest)
        yield name, int(spilled), int(registers), int(shared.group(1)) if shared else 0


def threads_of():
    """Of every kernel that says so itself."""
    made = {}
    for header in (ROOT / "include/foresightkv").rglob("*.hpp"):
        for name, body in re.findall(r"struct (\w+)_kernel\b(.*?)\n};", header.read_text(), re.S):
            threads = re.search(r"static constexpr int threads = (\d+);", body)
            if threads:
                made[name] = int(threads.group(1))
    return made


def label_of(name, threads):
    short = name.replace("foresightkv::v0::", "").replace("detail::kernels::", "")
    body = re.search(r"run_body<(\w+)_kernel", short)
    if not body:
        return None
    kind = body.group(1)
    chooser = re.search(r"row_chooser<\w+, \w+, \w+, (\d+), (\d+), (true|false), (\d+)>", short)
    pages = "paged_cache" in short
    label, count = kind, threads.get(kind, 0)
    if chooser and kind in ("evict", "select"):
        count = int(chooser.group(1))
        label += f" {chooser.group(1)} x {chooser.group(2)}"
        label += " in memory" if chooser.group(3) == "false" else ""
        label += f" x {chooser.group(4)} blocks" if chooser.group(4) != "1" else ""
        label += " row scorer" if "score_stage" in short else ""
    if kind == "tensor_observe":
        label += " judge" if "judge_sink" in short.split(">(")[0] else " statistics"
    golden = re.search(r"golden_evict_kernel<(\d+)", short)
    count = int(golden.group(1)) if golden else count
    dims = re.search(r"tensor_\w+_kernel<(\d+)", short)
    label += f" D {dims.group(1)}" if dims else ""
    return label + (", pages" if pages else ""), count


def blocks(arch, threads, registers, shared):
    warps = threads // 32
    per_warp = (registers * 32 + 255) // 256 * 256
    return min(65536 // (per_warp * warps), 2048 // threads, 32, SHARED_MEMORY[arch] // (shared + 1024))


def span(values, unit=""):
    low, high = min(values), max(values)
    return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"


def main():
    nvcc = sys.argv[1] if len(sys.argv) > 1 else "nvcc"
    archs = (sys.argv[2] if len(sys.argv) > 2 else "80,90,100").split(",")
    threads = threads_of()
    lines = collections.defaultdict(lambda: collections.defaultdict(list))
    for arch in archs:
        for name, spilled, registers, shared in compile_for(nvcc, arch):
            label = label_of(name, threads)
            if label:
                lines[label][arch].append((registers, shared, spilled))
    head = [f"registers, sm_{archs[0]}"] + [f"sm_{arch}" for arch in archs[1:]]
    full = [f"blocks per SM, sm_{archs[0]}"] + [f"sm_{arch}" for arch in archs[1:]]
    print("| kernel | threads | " + " | ".join(head) + " | shared memory | spilled | " + " | ".join(full) + " |")
    print("|---" * (4 + 2 * len(archs)) + "|")
    for (label, count), by_arch in sorted(lines.items()):
        every = [kernel for kernels in by_arch.values() for kernel in kernels]
        cells = [label, str(count)]
        cells += [span([kernel[0] for kernel in by_arch[arch]]) for arch in archs]
        cells += [span([kernel[1] for kernel in every], " B"), span([kernel[2] for kernel in every], " B")]
        cells += [span([blocks(arch, count, *kernel[:2]) for kernel in by_arch[arch]]) for arch in archs]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
