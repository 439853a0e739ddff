# SPDX-License-Identifier: Apache-2.0
"""Generates with SmolLM2-135M under every cache: one table of loss, speed and bytes, and one plot.

python examples/python/compare.py --quick
python examples/python/compare.py --peers kvpress,openvino
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import pathlib
import platform
import statistics
import sys
from dataclasses import dataclass
from typing import Any

from comparison import models, options, peers, plot, speed, stepping, table, texts
from comparison.work import Failed, Job, Progress, Results, Worker, run

HOW_TO_GET = "skipped; --peers {name} makes an environment for it ({size})"


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    program: str
    policy: str
    worker: Worker
    has_loss: bool = True

    @property
    def name(self) -> str:
        return f"{self.program}, {self.policy}"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def start_workers(chosen: Any) -> dict[str, Worker]:
    """Of every program that was asked for and can be had; of the others, why not."""
    chosen.work.mkdir(parents=True, exist_ok=True)
    folder = chosen.model or models.float32_folder(chosen.work, say)

    def worker(module: str, python: pathlib.Path, model: pathlib.Path) -> Worker:
        return Worker(module, python, model.resolve(), chosen.threads, chosen.work / f"logs/{module}.log")

    started = {"ours": worker("ours", peers.interpreter(), folder)}
    for peer in peers.PEERS.values():
        if peer.name not in chosen.peers:
            say(f"{peer.name}: " + HOW_TO_GET.format(name=peer.name, size=peer.size))
        elif peer.name == "openvino" and chosen.model:
            say("openvino: skipped; it reads the packaged SmolLM2-135M alone, not --model")
        else:
            try:
                python = peers.environment(peer, chosen.work / "venvs" / peer.name, say)
                model = models.float16_gguf(chosen.work, say) if peer.name == "openvino" else folder
                started[peer.name] = worker(peer.name, python, model)
                started[peer.name].ready()
            except (ValueError, OSError, Failed) as error:
                say(f"{peer.name}: skipped; {error}")
                started.pop(peer.name, None)
    if chosen.reference:
        started["published"] = worker("published", peers.interpreter(), chosen.reference)
    elif "step" in chosen.measure:
        say("published step: skipped; --reference names a checkout of it (bench/peers/README.md)")
    return started


def rows_of(workers: dict[str, Worker], chosen: Any) -> list[Row]:
    rows = [Row("transformers", "full", workers["ours"])]
    ready = workers["ours"].ready()
    if ready["missing"]:
        say(f"foresightkv: skipped; pip install ./examples/python ({ready['missing']})")
    rows += [Row("foresightkv", policy, workers["ours"]) for policy in _some(ready["policies"], chosen.policies)]
    if "kvpress" in workers:
        press = chosen.press or (["snap_kv", "streaming_llm"] if chosen.quick else None)
        rows += [
            Row("kvpress", policy, workers["kvpress"])
            for policy in _some(workers["kvpress"].ready()["policies"], press)
        ]
    if "openvino" in workers:
        rows.append(Row("openvino", "full", workers["openvino"]))
        rows += [
            Row("openvino", policy, workers["openvino"], has_loss=False)
            for policy in workers["openvino"].ready()["policies"]
        ]
    return rows


def _some(found: list[str], wanted: list[str] | None) -> list[str]:
    if wanted is None:
        return found
    for absent in (name for name in wanted if found and name not in found):
        say(f"{absent}: skipped; there are {', '.join(found)}")
    return [name for name in found if name in wanted]


def settings(chosen: Any) -> dict[str, Any]:
    """What every task is told."""
    return {
        "budget": chosen.budget,
        "interval": chosen.interval,
        "sinks": chosen.sinks,
        "threads": chosen.threads,
        "weights": str(chosen.weights.resolve()),
    }


def read_texts(chosen: Any) -> tuple[list[texts.Text], texts.Text]:
    """(documents for the losses, the prompt)."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(chosen.model or models.float32_folder(chosen.work, say))
    found = texts.documents(chosen.documents, chosen.work / "texts", chosen.count)
    kept = chosen.work / "texts"
    losses = [texts.tokenized(name, text, chosen.tokens, tokenizer, kept) for name, text in found]
    enough = max(found, key=lambda one: len(one[1]))
    return losses, texts.tokenized(*enough, chosen.context, tokenizer, kept)


def loss_jobs(rows: list[Row], chosen: Any, documents: list[texts.Text]) -> list[Job]:
    """Text by text."""
    return [
        _job(row, {**settings(chosen), "task": "loss", "ids": str(document.ids)}, document.name, document.tokens)
        for document in documents
        for row in rows
        if row.has_loss
    ]


def speed_jobs(rows: list[Row], chosen: Any, prompt: texts.Text) -> list[Job]:
    """One for each row. They are measured against each other, so a result belongs to this list of rows."""
    wanted = chosen.speed_policies
    timed = [
        row
        for row in rows
        if row.policy == "full"
        or row.program == "openvino"
        or wanted is None
        or row.policy in wanted
        or f"{row.program}/{row.policy}" in wanted
    ]
    task = {
        **settings(chosen),
        "task": "decode",
        "ids": str(prompt.ids),
        "new_tokens": chosen.new_tokens // chosen.rounds,
        "total_tokens": chosen.new_tokens // chosen.rounds * chosen.rounds,
        "beside": [row.name for row in timed],
    }
    # The whole prompt at once is how the full cache is filled; a cache that evicts never has to hold all of it.
    return [_job(row, {**task, "chunked": row.policy != "full"}, f"{row.name}: prompt", prompt.tokens) for row in timed]


def _job(row: Row, task: dict[str, Any], about: str, weight: float) -> Job:
    task = {**task, "policy": row.policy}
    versions = {name: value for name, value in row.worker.ready().items() if name not in ("policies", "missing")}
    identity = {
        **task,
        "program": row.program,
        "model": row.worker.command[row.worker.command.index("--model") + 1],
        "ids": hashlib.sha256(pathlib.Path(task["ids"]).read_bytes()).hexdigest(),
        "versions": versions,
    }
    if row.policy != "foresight":
        identity.pop("weights")
    return Job(row.name, row.worker, task, about, weight, identity)


def summary(row: Row, losses: list[tuple[Job, dict[str, Any] | None]], rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The row's measurements, and the figures that the table shows. losses, rounds: its own, if there are any."""
    found: dict[str, Any] = {"program": row.program, "policy": row.policy}
    if losses and all(result for _, result in losses):  # a mean over fewer texts could not be compared
        found["loss"] = statistics.mean(result["loss"] for _, result in losses)
        found["evictions"] = sum(result["evictions"] for _, result in losses)
        for key in ("cache_bytes", "state_bytes"):
            found[key] = max(result[key] for _, result in losses)
        found["losses"] = {job.about: result for job, result in losses}
    if rounds:
        tokens = sum(one["tokens"] for one in rounds)
        found["tokens_per_second"] = tokens / sum(one["seconds"] for one in rounds)
        found["tokens_per_cpu_second"] = tokens / sum(one["cpu_seconds"] for one in rounds)
        found["prompt_seconds"] = rounds[0]["prompt_seconds"]
        for key in ("cache_bytes", "prompt_cache_bytes", "state_bytes"):
            found[key] = max((one[key] for one in rounds if one[key] is not None), default=None)
        if rounds[0]["evictions"] is not None:
            found["evictions"] = found.get("evictions", 0) + sum(one["evictions"] for one in rounds)
        found["decoding"] = rounds
    return found


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def machine() -> dict[str, Any]:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor()
    return {"processor": processor, "cores": os.cpu_count(), "load": [round(load, 2) for load in os.getloadavg()]}


def write(chosen: Any, report: dict[str, Any]) -> None:
    """compare.json, compare.md, compare.svg; the same tables on standard output."""
    threads, documents = _count(chosen.threads, "thread"), _count(len(report["documents"]), "text")
    about = (
        f"{report['model']}, budget {chosen.budget}, interval {chosen.interval}, {threads}, fp32; "
        f"loss on {documents} of {chosen.tokens} tokens, decoding behind {chosen.context}"
    )
    tables = [(table.HEAD, table.rows_of(report["rows"]))]
    if report["steps"]:
        tables.append((table.STEP_HEAD, table.step_rows(report["steps"])))
    chosen.out.mkdir(parents=True, exist_ok=True)
    title = f"{about}\n{report['machine']['processor']}, load {report['machine']['load'][0]}, {report['date']}"
    files = {
        "compare.json": json.dumps(report, indent=1),
        "compare.svg": plot.svg(report["rows"], about),
        "compare.md": "\n\n".join([title, *(table.markdown(*one) for one in tables)]) + "\n",
    }
    for name, content in files.items():
        part = chosen.out / f"{name}.part"
        part.write_text(content, encoding="utf-8")
        part.rename(chosen.out / name)
    print("\n\n".join([title, *(table.text(*one) for one in tables)]))
    say(f"\n{', '.join(str(chosen.out / name) for name in files)}")


def measure(chosen: Any, workers: dict[str, Worker]) -> dict[str, Any]:
    before = machine()
    rows = rows_of(workers, chosen)
    documents, prompt = read_texts(chosen)
    results = Results(chosen.work / "results")
    losses = run(loss_jobs(rows, chosen, documents), results) if "loss" in chosen.measure else []
    rounds = (
        speed.measure(speed_jobs(rows, chosen, prompt), chosen.rounds, results) if "speed" in chosen.measure else {}
    )
    steps: list[dict[str, Any]] = []
    if "step" in chosen.measure and not workers["ours"].ready()["missing"]:
        inputs = chosen.work / f"step-{documents[0].name}-{chosen.budget}-{chosen.interval}.safetensors"
        others = {name: worker for name, worker in workers.items() if name in ("kvpress", "published")}
        steps = stepping.compare(
            workers["ours"],
            others,
            {**settings(chosen), "inputs": str(inputs)},
            documents[0].ids,
            chosen.step_rounds,
            Progress(chosen.step_rounds),
        )
    return {
        "date": datetime.date.today().isoformat(),
        "machine": before,
        "load_after": machine()["load"],
        "model": str(chosen.model.name) if chosen.model else "SmolLM2-135M",
        "settings": {
            **settings(chosen),
            "weights": chosen.weights.name,
            "tokens": chosen.tokens,
            "context": chosen.context,
            "new_tokens": chosen.new_tokens,
            "rounds": chosen.rounds,
        },
        "documents": [document.name for document in documents],
        "prompt": prompt.name,
        "versions": {name: worker.ready() for name, worker in workers.items()},
        "rows": [
            summary(row, [one for one in losses if one[0].row == row.name], rounds.get(row.name, [])) for row in rows
        ],
        "steps": steps,
    }


def main() -> int:
    chosen = options.parse()
    workers: dict[str, Worker] = {}
    try:
        workers = start_workers(chosen)
        write(chosen, measure(chosen, workers))
    except (ValueError, OSError, Failed) as error:
        say(f"compare.py: {error}")
        return 1
    except KeyboardInterrupt:
        say("\nstopped; the same command goes on from here")
        return 130
    finally:
        for worker in workers.values():
            worker.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
