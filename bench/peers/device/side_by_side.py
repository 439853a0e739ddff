# SPDX-License-Identifier: Apache-2.0
"""Runs the device benchmarks and every peer that is there, one program at a time, and writes device.json.

The file is written anew after each program, and what it already holds of this build on this device is not measured
again: a run that was cut off is taken up by the same command. What is missing (the published code, PyTorch, a device)
is named with its reason.
"""

import argparse
import dataclasses
import datetime
import hashlib
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import report

HERE = pathlib.Path(__file__).resolve().parent
SKIPPED = 77  # exit status of a program that has no device
ONE_BUDGET = "budget:1024/interval:128"  # torch.compile takes long for each shape


@dataclasses.dataclass(frozen=True)
class Job:
    """One program: benchmarks of ours by their names, or a script of this folder on the shapes of such benchmarks."""

    stage: str
    name: str
    benchmarks: str  # regular expression
    script: str = ""
    options: tuple = ()
    peer: bool = True

    @property
    def key(self):
        return f"{self.stage}.{self.name}"


def ours(stage, name, benchmarks):
    return Job(stage, name, benchmarks, peer=False)


JOBS = (  # what matters most comes first; what takes long is alone, so that little is lost if it is stopped
    ours("rates", "ours", "^rates/"),
    ours("evict", "foresight", "^evict/ours/foresight/.*batch:(1|16)/"),
    Job("evict", "published", "^evict/ours/foresight/fill_holes/batch", "published_evict.py"),
    ours("select", "ours", "^select/ours/"),
    Job("select", "torch", "^select/ours/top_k/", "torch_select.py"),
    Job("select", "cub", "^select/cub_sort/"),
    Job("select", "flashinfer", "^select/flashinfer/"),
    ours("compact", "ours", "^compact/(ours|copy)/"),
    Job("compact", "torch", "^compact/ours/ordered/", "torch_compact.py"),
    ours("observe", "ours", "^observe/ours/.*batch:(1|16)/"),
    Job("decode", "torch", "^evict/ours/foresight/ordered/batch", "torch_decode.py"),
    ours("evict", "others", "^evict/(copy|ours/(window_sum|h2o|snap_kv|key_norm))/"),
    ours("evict", "layouts", "^evict/ours/(pages|int8|int8_pages|latent|into_rows|into_int8_pages)/"),
    ours("evict", "foresight_64", "^evict/ours/foresight/.*batch:64/"),
    Job("evict", "published_compiled", f"^evict/ours/foresight/fill_holes/batch:.*{ONE_BUDGET}/", "published_evict.py",
        ("--compile",)),
    ours("observe", "ours_64", "^observe/ours/.*batch:64/"),
    Job("observe", "torch", f"^observe/ours/batch:.*{ONE_BUDGET}/", "torch_observe.py"),
    ours("golden", "ours", "^golden/"),
)
STAGES = tuple(dict.fromkeys(job.stage for job in JOBS))
NOT_CARRIED = {"select.raft": "RAFT's top-k has no program here"}


class NotMeasured(Exception):
    pass


def listed(arguments, benchmarks):
    """Names of our benchmarks that match; the program needs no device for that."""
    command = [arguments.bench, "--benchmark_list_tests", f"--benchmark_filter={benchmarks}"]
    lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    return [line for line in lines if line.startswith(STAGES)]


def shapes(arguments, job):
    if arguments.shapes:
        return arguments.shapes
    return list(dict.fromkeys(report.split_name(name)[2] for name in listed(arguments, job.benchmarks)))


def command_of(arguments, job, out):
    if not job.script:
        if not listed(arguments, job.benchmarks):
            raise NotMeasured("not built in")
        return [arguments.bench, f"--benchmark_filter={job.benchmarks}", f"--benchmark_out={out}",
                "--benchmark_out_format=json"]
    if importlib.util.find_spec("torch") is None:
        raise NotMeasured("this Python has no torch")
    command = [sys.executable, HERE / job.script, "--device", arguments.device, "--layers", str(arguments.layers),
               "--out", out, *job.options, "--shapes", *shapes(arguments, job)]
    if job.script.startswith("published"):
        if arguments.reference is None:
            raise NotMeasured("no --reference")
        command += ["--reference", arguments.reference]
    return command


def measure(arguments, job, folder):
    """What the results hold of a job: its records and context, or the reason why there are none."""
    out = folder / f"{job.key}.json"
    begin = time.monotonic()
    try:
        done = subprocess.run([str(word) for word in command_of(arguments, job, out)], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=arguments.job_limit)
        last_line = (done.stdout.strip().splitlines() or ["no output"])[-1]
        if done.returncode == SKIPPED:
            raise NotMeasured(last_line.removeprefix("skipped: "))
        failure = last_line if done.returncode else ""
    except NotMeasured as reason:
        return {"not_measured": str(reason)}
    except subprocess.TimeoutExpired:
        failure = f"took longer than {arguments.job_limit:.0f} s"
    found = {"seconds": time.monotonic() - begin, **({"failed": failure} if failure else {})}
    try:
        measured = json.loads(out.read_text())
        return {**found, "context": measured["context"], "records": measured["benchmarks"]}
    except (OSError, ValueError):
        return {**found, "failed": failure or "no results"}


def nvidia_smi(fields):
    try:
        found = subprocess.run(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"], capture_output=True,
                               text=True).stdout.strip()
    except OSError:
        found = ""
    return dict(zip(fields.split(","), found.split(", "))) if found else {}


def earlier_results(file, subject):
    """What was measured of the same subject."""
    results = json.loads(file.read_text()) if file.is_file() else {}
    return results if results.get("subject") == subject else {"subject": subject, "jobs": {}}


def parse():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bench", type=pathlib.Path, required=True, help="the program foresightkv_device_bench")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of device.json and table.md")
    parser.add_argument("--reference", type=pathlib.Path, help="checkout of the published code")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--ours-only", action="store_true", help="leave the peers out")
    parser.add_argument("--again", action="store_true", help="measure the stages again, whatever the file holds")
    parser.add_argument("--limit", type=float, default=480, help="seconds after which no program is started")
    parser.add_argument("--job-limit", type=float, default=150, help="seconds after which a program is stopped")
    parser.add_argument("--device", default="cuda", help="cpu tries the PyTorch programs out, see README.md")
    parser.add_argument("--layers", type=int, default=36)
    parser.add_argument("--shapes", nargs="+", help="for every PyTorch program, instead of the benchmarks' own")
    arguments = parser.parse_args()
    for path in filter(None, (arguments.bench, arguments.reference)):
        if not path.exists():
            parser.error(f"{path}: not found; README.md says where it comes from")
    arguments.bench = arguments.bench.resolve()
    return arguments


def main():
    arguments = parse()
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "device.json"
    build = hashlib.sha256(arguments.bench.read_bytes()).hexdigest()[:16]
    results = earlier_results(file, {**nvidia_smi("name,driver_version"), "build": build})
    results.update(date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
                   clocks=nvidia_smi("clocks.sm,clocks.max.sm,clocks.mem,power.limit"))
    begin = time.monotonic()
    for job in JOBS:
        had = results["jobs"].get(job.key, {})
        if job.stage not in arguments.stages or (job.peer and arguments.ours_only):
            continue
        if "records" in had and "failed" not in had and not arguments.again:
            continue
        if time.monotonic() - begin > arguments.limit:
            print(f"{job.key}: not started, --limit is over")
            results["jobs"].setdefault(job.key, {"not_measured": "no time left"})
            continue
        with tempfile.TemporaryDirectory() as folder:
            found = results["jobs"][job.key] = measure(arguments, job, pathlib.Path(folder))
        file.write_text(json.dumps(results, indent=1) + "\n")
        said = found.get("failed") or found.get("not_measured") or f"{len(found['records'])} measurements"
        print(f"{job.key}: {said} ({time.monotonic() - begin:.0f} s)", flush=True)
    for key, reason in NOT_CARRIED.items():
        if key.partition(".")[0] in arguments.stages:
            results["jobs"][key] = {"not_measured": reason}
    file.write_text(json.dumps(results, indent=1) + "\n")
    (arguments.out / "table.md").write_text(report.markdown(results))
    return 1 if report.failures(results) or not report.measurements(results) else 0


if __name__ == "__main__":
    sys.exit(main())
