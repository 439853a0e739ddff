#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bench/peak_memory.py COMMAND [ARGUMENTS]: runs it and says what it took.

Own memory is the largest RssAnon: without files that are mapped, such as traces. Looked at every 10 ms; needs Linux.
"""
import os
import re
import sys
import time


def memory(process):
    """RssAnon and VmHWM of a running process in KiB; None when it has ended."""
    try:
        with open(f"/proc/{process}/status") as file:
            found = dict(re.findall(r"^(RssAnon|VmHWM):\s+(\d+) kB$", file.read(), re.MULTILINE))
    except FileNotFoundError:
        return None
    return (int(found["RssAnon"]), int(found["VmHWM"])) if len(found) == 2 else None


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__.splitlines()[0])
    began = time.monotonic()
    process = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
    own = everything = 0
    while seen := memory(process):
        own, everything = max(own, seen[0]), seen[1]
        time.sleep(0.01)
    _, status, used = os.wait4(process, 0)
    print(
        f"own memory {own / 1024:.0f} MiB, with mapped files {everything / 1024:.0f} MiB, "
        f"{time.monotonic() - began:.1f} s, processor {used.ru_utime + used.ru_stime:.1f} s",
        file=sys.stderr,
    )
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
