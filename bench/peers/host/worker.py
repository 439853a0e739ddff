# SPDX-License-Identifier: Apache-2.0
"""What every timed program here shares: the one-line protocol that side_by_side.py speaks, and the memory reading.

A worker prepares its inputs, prints one JSON line, and then obeys standard input, one JSON line in answer to each:
  run        one timed call, answered by {"seconds": ...}
  save DIR   raw little-endian files of the last call's results, answered by {"saved": DIR}
  quit       leave (so does end of file)
"""

import json
import os
import pathlib
import statistics
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # reference.py


def add_arguments(parser):
    parser.add_argument("--reference", required=True, help="checkout of the published code (see README.md)")
    parser.add_argument("--threads", type=int, default=1, help="threads that PyTorch may use")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=9, help="timed runs when not serving")
    parser.add_argument("--warmups", type=int, default=1, help="untimed runs before them")
    parser.add_argument("--serve", action="store_true", help="wait for commands on standard input")


def limit_threads(count):
    """Has to run before torch or numpy is imported: their thread pools read these once."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(count)


def say(**fields):
    print(json.dumps(fields), flush=True)


def _status_bytes(pid, field):
    with open(f"/proc/{pid}/status") as lines:
        for line in lines:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    raise OSError(f"no {field} for process {pid}")


def resident_bytes(pid="self"):
    return _status_bytes(pid, "VmRSS")


def peak_bytes(pid="self"):
    """High-water mark of this address space; unlike getrusage's it does not inherit the parent's across exec."""
    return _status_bytes(pid, "VmHWM")


def reset_peak(pid="self"):
    """Lets the mark start again from what is resident now; where the kernel forbids it, it stays the whole life's."""
    try:
        with open(f"/proc/{pid}/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass


def summary(seconds):
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds), "runs": len(seconds)}


def work(arguments, about, run, save):
    """run() -> seconds of one call; save(directory) writes the results of the last one."""
    if arguments.serve:
        say(**about)
        for line in sys.stdin:
            command, _, argument = line.strip().partition(" ")
            if command == "run":
                say(seconds=run())
            elif command == "save":
                save(argument)
                say(saved=argument)
            elif command == "quit":
                break
            else:
                say(error=f"unknown command: {command}")
        return
    for _ in range(arguments.warmups):
        run()
    reset_peak()
    before = resident_bytes()
    seconds = []
    for index in range(arguments.runs):
        seconds.append(run())
        say(run=index, seconds=seconds[-1])
    say(**about, **summary(seconds), resident_bytes=before, peak_bytes=peak_bytes())
