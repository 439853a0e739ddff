# SPDX-License-Identifier: Apache-2.0
"""Runs the published PyTorch code and this library in turn on one machine and reports both.

Every program stays alive, is warmed up, and is then told to run once, the programs taking turns in each round; so no
start-up time is measured and a slow phase of the machine meets all of them. Results of both sides are compared first;
a disagreement ends the program with exit status 1. README.md says what exactly is timed.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import numpy

import inputs
import worker

HERE = pathlib.Path(__file__).resolve().parent
OURS = {"step": "evict_once", "labels": "golden_once", "ranking": "ranking_once"}
SELECTORS = ("sampled_top_k", "top_k")
SCORE_TOLERANCE = 1e-5  # relative: float32 sums in another order
GRADIENT_TOLERANCE = 1e-4  # relative to the largest element: a pair on the corner of the hinge may fall to either side
EVICTED_OVERLAP = 0.99  # two float32 orders of summation may swap tokens that are nearly tied


class Process:
    """One worker of the protocol in worker.py."""

    def __init__(self, name, command, environment):
        self.name, self.seconds = name, []
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                      env=environment)
        self.about = self._answer()
        worker.reset_peak(self.child.pid)
        self.resident_bytes = worker.resident_bytes(self.child.pid)

    def _answer(self):
        line = self.child.stdout.readline()
        fields = json.loads(line) if line.startswith("{") else {"error": line.strip() or "the program ended"}
        if "error" in fields:
            self.child.kill()
            sys.exit(f"{self.name}: {fields['error']}")
        return fields

    def ask(self, command):
        self.child.stdin.write(command + "\n")
        self.child.stdin.flush()
        return self._answer()

    def close(self):
        self.peak_bytes = worker.peak_bytes(self.child.pid)
        self.child.stdin.write("quit\n")
        self.child.stdin.close()
        self.child.wait()

    def report(self):
        return {"name": self.name, **worker.summary(self.seconds), "seconds": self.seconds,
                "resident_bytes": self.resident_bytes, "peak_bytes": self.peak_bytes, "about": self.about}


def machine():
    with open("/proc/cpuinfo") as lines:
        first = dict(map(str.strip, line.split(":", 1)) for line in lines.read().partition("\n\n")[0].splitlines())
    flags = first.get("flags", "").split()
    return {"processor": first.get("model name", platform.machine()), "cores": len(os.sched_getaffinity(0)),
            "vectors": next((name for name in ("avx512f", "avx2") if name in flags), platform.machine()),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "system": f"{platform.system()} {platform.release()}", "python": platform.python_version()}


def environment(arguments, threads):
    values = dict(os.environ, OMP_NUM_THREADS=str(threads), PYTHONDONTWRITEBYTECODE="1")
    if arguments.keep_memory:
        # glibc then hands nothing back, so that PyTorch's temporaries cost page faults in the first run only.
        values.update(MALLOC_MMAP_THRESHOLD_=str(1 << 40), MALLOC_TRIM_THRESHOLD_=str(1 << 40))
    return values


def peer_command(arguments, script, threads):
    return [sys.executable, str(HERE / script), "--serve", "--reference", str(arguments.reference.resolve()),
            "--threads", str(threads), "--seed", str(arguments.seed)]


def our_commands(arguments, kind, threads, folder):
    """Label -> command line of each of our programs that is timed."""
    if arguments.ours is None:
        return {}
    command = [str(arguments.ours.resolve() / OURS[kind]), "--threads", str(threads), "--inputs", str(folder)]
    if kind == "labels":
        return {"golden_eviction": command}
    if kind == "ranking":
        return {"ranking step": command}
    return {f"evict, {selector}, log-sum-exp {'given' if given else 'computed'}":
            [*command, "--selector", selector, *(["--lse"] if given else [])]
            for selector in SELECTORS for given in (True, False)}


def overlap(lists, others):
    """Mean share of each list (last axis) that is in the other one."""
    rows = zip(lists.reshape(-1, lists.shape[-1]).tolist(), others.reshape(-1, others.shape[-1]).tolist())
    return statistics.fmean(len(set(row) & set(other)) / len(row) for row, other in rows)


def compare_step(ours, published):
    """The published rule draws from the 256 of lowest score; top_k takes the 128 of lowest score."""
    pool = inputs.STEP_INTERVAL * (1 if ours.name.startswith("evict, top_k") else 2)
    ranked = numpy.argsort(inputs.read(published, "score.f32", (inputs.KV_HEADS, inputs.BUDGET)), axis=-1)
    evicted = inputs.read(ours.saved, "evicted.i32", (inputs.KV_HEADS, inputs.STEP_INTERVAL))
    return {"evicted_overlap": overlap(evicted, ranked[:, :pool])}, True


def compare_labels(ours, published):
    """Scores of the first step only: after a swap of two nearly tied tokens, candidates stand one place apart."""
    sides = [{"score": inputs.read(place, "score.f32", (-1, inputs.KV_HEADS, inputs.BUDGET)),
              "evicted": inputs.read(place, "evicted.i32", (-1, inputs.KV_HEADS, inputs.LABEL_INTERVAL))}
             for place in (ours.saved, published)]
    mine, theirs = sides
    if mine["evicted"].shape != theirs["evicted"].shape:
        return {"steps": [side["evicted"].shape[0] for side in sides], "evicted_overlap": 0.0}, False
    error = float((numpy.abs(mine["score"][0] - theirs["score"][0]) / numpy.abs(theirs["score"][0])).max())
    found = {"evicted_overlap": overlap(mine["evicted"], theirs["evicted"]), "largest_relative_score_error": error}
    return found, error <= SCORE_TOLERANCE


def compare_ranking(ours, published):
    """Loss, and gradients of the judge's weights after clipping; that of fc2.bias is 0 but for rounding."""
    error = 0.0
    for name in ("loss", "fc1_weight", "fc1_bias", "fc2_weight"):
        mine, theirs = (inputs.read(place, f"{name}.f32", (-1,)) for place in (ours.saved, published))
        if mine.shape != theirs.shape:
            return {"values": [mine.size, theirs.size]}, False
        error = max(error, float(numpy.abs(mine - theirs).max() / numpy.abs(theirs).max()))
    return {"largest_relative_error": error}, error <= GRADIENT_TOLERANCE


def compare(kind, ours, published):
    """What both sides say about the same inputs; exits if it is not the same."""
    found, good = {"step": compare_step, "labels": compare_labels, "ranking": compare_ranking}[kind](ours, published)
    if not good or found.get("evicted_overlap", 1.0) < EVICTED_OVERLAP:
        sys.exit(f"{ours.name} and the published {kind} disagree: {found}")
    return found


def take_turns(arguments, kind, threads, folder):
    values = environment(arguments, threads)
    published = Process(f"published {kind}", peer_command(arguments, f"published_{kind}.py", threads), values)
    ours = [Process(name, command, values)
            for name, command in our_commands(arguments, kind, threads, folder).items()]
    everyone = [published, *ours]
    for process in everyone:
        for _ in range(arguments.warmups):
            process.ask("run")
    for index, process in enumerate(everyone):
        process.saved = folder / f"result_{index}"
        process.ask(f"save {process.saved}")
    agreement = {process.name: compare(kind, process, published.saved) for process in ours}
    for turn in range(arguments.runs):
        shift = turn % len(everyone)
        for process in everyone[shift:] + everyone[:shift]:
            time.sleep(arguments.pause)  # the previous program's idle OpenMP threads stop spinning meanwhile
            process.seconds.append(process.ask("run")["seconds"])
    for process in everyone:
        process.close()
    ratios = {}
    for process in ours:
        pairs = [theirs / mine for theirs, mine in zip(published.seconds, process.seconds)]
        ratios[process.name] = {"median": statistics.median(pairs), "min": min(pairs), "max": max(pairs),
                                "of_medians": statistics.median(published.seconds) / statistics.median(process.seconds),
                                "peak_memory": process.peak_bytes / published.peak_bytes}
    return {"kind": kind, "threads": threads, "programs": [process.report() for process in everyone],
            "ratios": ratios, "agreement": agreement}


def markdown(report):
    machine_, lines = report["machine"], []
    lines.append(f"{machine_['processor']} ({machine_['vectors']}), {machine_['cores']} cores, "
                 f"{machine_['memory_bytes'] / 2**30:.0f} GiB; {machine_['system']}; {report['date']}; "
                 f"load average {report['load_before']:.2f} before, {report['load_after']:.2f} after.")
    lines.append(f"`{report['command']}`")
    versions = {}
    for program in (program for part in report["comparisons"] for program in part["programs"]):
        about = {key: value for key, value in program["about"].items() if key not in ("ready", "threads")}
        files = about.pop("files", {})
        words = [f"{key} {value}" for key, value in about.items()]
        words += [f"`{name}` {digest}" for name, digest in files.items()]
        versions[f"- {program['about']['ready']}: " + ", ".join(words)] = None
    table = ["| threads | program | median ms | min | max | peak MB | published / ours (min - max) |",
             "|---|---|---|---|---|---|---|"]
    for part in report["comparisons"]:
        for program in part["programs"]:
            ratio = part["ratios"].get(program["name"])
            ratio = f"**{ratio['median']:.2f}** ({ratio['min']:.2f} - {ratio['max']:.2f})" if ratio else ""
            table.append(f"| {part['threads']} | {program['name']} | " + " | ".join(
                f"{1e3 * program[key]:.2f}" for key in ("median", "min", "max"))
                + f" | {program['peak_bytes'] / 1e6:.0f} | {ratio} |")
    runs = f"Medians of {report['runs']} alternating runs; the ratio is the median of the runs' own ratios."
    return "\n\n".join([*lines, "\n".join(versions), "\n".join(table), runs]) + "\n"


def shown_command(arguments):
    """The command line with folders replaced, so that a report can be published as it is."""
    words = ["side_by_side.py --reference REFERENCE"]
    words += ["--ours BUILD"] if arguments.ours else []
    words += [f"--only {' '.join(arguments.only)}", f"--threads {' '.join(map(str, arguments.threads))}",
              f"--runs {arguments.runs}", f"--warmups {arguments.warmups}", f"--seed {arguments.seed}",
              f"--pause {arguments.pause}"]
    return " ".join(words + (["--keep-memory"] if arguments.keep_memory else []))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--reference", required=True, type=pathlib.Path, help="checkout of the published code")
    parser.add_argument("--ours", type=pathlib.Path, help="folder of our programs; without it only the published "
                        "code is timed")
    parser.add_argument("--only", nargs="+", choices=tuple(OURS), default=list(OURS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--warmups", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pause", type=float, default=0.25, help="seconds between two runs")
    parser.add_argument("--keep-memory", action="store_true", help="let malloc keep freed memory (all programs): "
                        "the published code without its page faults")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--markdown", type=pathlib.Path)
    arguments = parser.parse_args()
    if arguments.runs < 1 or arguments.warmups < 1 or min(arguments.threads) < 1:
        parser.error("--runs, --warmups and --threads must be at least 1")
    for kind, program in OURS.items():
        if arguments.ours and kind in arguments.only and not (arguments.ours / program).is_file():
            parser.error(f"{arguments.ours / program}: not found; README.md says how to compile it")
    return arguments


def main():
    arguments = parse()
    report = {"machine": machine(), "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
              "command": shown_command(arguments), "runs": arguments.runs, "load_before": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        report["comparisons"] = []
        for kind in arguments.only:
            inputs_folder = folder / kind
            if arguments.ours is not None:
                subprocess.run([sys.executable, str(HERE / "inputs.py"), kind, str(inputs_folder),
                                str(arguments.seed)], check=True)
            report["comparisons"] += [take_turns(arguments, kind, threads, inputs_folder)
                                      for threads in arguments.threads]
    report["load_after"] = os.getloadavg()[0]
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    if arguments.markdown:
        arguments.markdown.write_text(markdown(report))
    print(markdown(report), end="")


if __name__ == "__main__":
    main()
