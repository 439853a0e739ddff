# SPDX-License-Identifier: Apache-2.0
"""Makes a Markdown table of device.json, and with --plots an SVG per stage: time over floor. Needs no device."""

import argparse
import json
import pathlib
import re
import sys

MICROSECONDS = {"ns": 1e-3, "us": 1.0, "ms": 1e3, "s": 1e6}
OUT_OF_MEMORY = re.compile("out of memory", re.IGNORECASE)


def split_name(name):
    """select/ours/top_k/rows:8/tokens:256/manual_time -> ("select", "ours/top_k", "rows:8/tokens:256")"""
    parts = [part for part in name.split("/") if not re.match(r"iterations:|manual_time$", part)]
    return parts[0], "/".join(part for part in parts[1:] if ":" not in part), "/".join(p for p in parts if ":" in p)


class Measurement:
    def __init__(self, record):
        self.stage, self.program, self.shape = split_name(record["name"])
        self.error = record.get("error_message", "") if record.get("error_occurred") else ""
        if not self.error:
            self.microseconds = record["real_time"] * MICROSECONDS[record["time_unit"]]
            self.least = record["least_us"]
            self.bytes, self.flops, self.floor = (record.get(key) for key in ("bytes", "FLOP", "floor_us"))

    @property
    def ours(self):
        return self.program.partition("/")[0] == "ours"


def measurements(results):
    return [Measurement(record) for job in results["jobs"].values() for record in job.get("records", ())]


def failures(results):
    """What ought to have been measured and was not; want of memory is no failure."""
    stopped = [f"{key}: {job['failed']}" for key, job in results["jobs"].items() if "failed" in job]
    return stopped + [f"{one.stage}/{one.program}/{one.shape}: {one.error}" for one in measurements(results)
                      if one.error and not OUT_OF_MEMORY.search(one.error)]


def beside(one, others):
    """Peers of a measurement: same stage and shape, and the same work."""
    variant = one.program.partition("/")[2]

    def comparable(other):
        kind, _, copied = other.program.partition("/")
        if kind == "copy":
            return copied == variant
        return not other.ours and (not kind.startswith("published") or variant.startswith("foresight"))

    return [other for other in others if (other.stage, other.shape) == (one.stage, one.shape) and comparable(other)]


def number(value):
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def row(one, others):
    seconds = 1e-6 * one.microseconds
    rates = [f"{one.bytes / seconds / 1e9:,.0f}" if one.bytes else "",
             f"{one.flops / seconds / 1e12:.1f}" if one.flops else ""]
    floor = [number(one.floor), f"{100 * one.floor / one.microseconds:.0f} %"]
    peers = "; ".join(f"{other.program} {number(other.microseconds)} (**{other.microseconds / one.microseconds:.2f}**)"
                      for other in beside(one, others))
    cells = [one.stage, one.shape.replace("/", " "), one.program, number(one.microseconds), number(one.least), *rates,
             *floor, peers]
    return "| " + " | ".join(cells) + " |"


def decode_share(found):
    """One eviction over the attention of the decode steps between two of them."""
    steps = {one.shape: one.microseconds for one in found if one.stage == "decode"}
    return [f"| {one.shape.replace('/', ' ')} | {one.program} | {1e-3 * one.microseconds:.3f} | "
            f"{1e-3 * steps[one.shape]:.2f} | {100 * one.microseconds / steps[one.shape]:.2f} % |"
            for one in found if one.stage == "evict" and one.ours and one.shape in steps]


def section(title, head, rows):
    """A titled table; nothing without rows."""
    if not rows:
        return []
    return [f"## {title}", "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *rows])]


def markdown(results):
    found = [one for one in measurements(results) if not one.error]
    alone = [one for one in found if one.stage == "rates"]
    about = {**results["subject"], **results["clocks"], "date": results["date"]}
    lines = [", ".join(f"{name} {value}" for name, value in about.items()) + "."]
    lines += section("Rates", ("program", "us", "GB/s", "TFLOP/s"),
                     [f"| {one.program} | {number(one.microseconds)} | {one.bytes / one.microseconds / 1e3:,.0f} | "
                      f"{one.flops / one.microseconds / 1e6:,.0f} |" for one in alone])
    lines += section("Side by side", ("stage", "shape", "program", "us", "least", "GB/s", "TFLOP/s", "floor us",
                                      "of floor", "beside it: us (times ours)"),
                     [row(one, found) for one in found if one.ours])
    lines += section("Share of decoding", ("shape", "program", "eviction ms", "attention of the steps ms", "share"),
                     decode_share(found))
    absent = [f"- {key}: {job['not_measured']}" for key, job in results["jobs"].items() if "not_measured" in job]
    absent += [f"- {one.stage}/{one.program} {one.shape}: {one.error}" for one in measurements(results)
               if one.error and OUT_OF_MEMORY.search(one.error)]
    lines += ["## Not measured", "\n".join(absent)] if absent else []
    failed = [f"- {problem}" for problem in failures(results)]
    lines += ["## Failed", "\n".join(failed)] if failed else []
    return "\n\n".join(lines) + "\n"


def plot(stage, found, path):
    """Time over floor of every program of a stage, a point per shape; 1 is the floor."""
    import matplotlib.pyplot as pyplot

    mine = [one for one in found if one.stage == stage]
    floors = {}
    for one in mine:
        if one.floor:
            floors.setdefault(one.shape, one.floor)
    shapes = list(floors)
    figure, axis = pyplot.subplots(figsize=(max(7, 0.45 * len(shapes)), 5), layout="constrained")
    for program in dict.fromkeys(one.program for one in mine):
        points = [(shapes.index(one.shape), one.microseconds / (one.floor or floors[one.shape])) for one in mine
                  if one.program == program and one.shape in floors]
        axis.plot(*zip(*points), "o-" if program.startswith("ours") else "x--", label=program, linewidth=0.8)
    axis.axhline(1, color="black", linewidth=0.8)
    axis.set(yscale="log", ylabel="time / floor", title=stage)
    axis.set_xticks(range(len(shapes)), [shape.replace("/", " ") for shape in shapes], rotation=90, fontsize=7)
    axis.legend(fontsize=7)
    figure.savefig(path)
    pyplot.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=pathlib.Path, help="device.json")
    parser.add_argument("--out", type=pathlib.Path, help="folder of table.md and the plots (default: the results' own)")
    parser.add_argument("--plots", action="store_true", help="needs matplotlib")
    arguments = parser.parse_args()
    results = json.loads(arguments.results.read_text())
    out = arguments.out or arguments.results.parent
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(markdown(results))
    print(markdown(results), end="")
    if arguments.plots:
        found = [one for one in measurements(results) if not one.error]
        for stage in dict.fromkeys(one.stage for one in found if one.floor and one.stage != "rates"):
            plot(stage, found, out / f"{stage}.svg")
    return 1 if failures(results) else 0


if __name__ == "__main__":
    sys.exit(main())
