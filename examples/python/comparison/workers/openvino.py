# SPDX-License-Identifier: Apache-2.0
"""Measures OpenVINO GenAI's cache eviction, in an environment of its own.

How it is asked for the same as the other programs: prompts in chunks of an interval, as many threads, float32
arithmetic, at most `budget` tokens in the cache, the newest interval protected.

What differs and stays so:
- It evicts only while it generates. The prompt is in the cache whole until the first new token, and a given text cannot
  be fed to an evicted cache: there is no loss to measure, but that of its full cache (by echoing the prompt).
- It evicts blocks of 32 tokens, one as soon as one is full, and keeps the first block.
- The weights are those of the other programs rounded to float16, the widest that its reader of GGUF takes.
- It stores keys and values in the type that the table's bytes show.
"""

from __future__ import annotations

import argparse
import platform
import time
from typing import Any

import numpy

from .protocol import Lines, Progress

FULL, EVICTING = "full", "norm_sum"
BLOCK = 32  # of the CPU plug-in


def scheduler(task: dict[str, Any]) -> Any:
    import openvino_genai

    made = openvino_genai.SchedulerConfig()
    made.cache_size = 1  # GiB that may be used; what is used is measured
    made.max_num_batched_tokens = task["interval"]
    made.dynamic_split_fuse = True
    made.enable_prefix_caching = False
    if task["policy"] == EVICTING:
        recent = -(-task["interval"] // BLOCK) * BLOCK
        made.use_cache_eviction = True
        made.cache_eviction_config = openvino_genai.CacheEvictionConfig(
            BLOCK, recent, task["budget"], openvino_genai.AggregationMode.NORM_SUM
        )
    return made


class Pipelines:
    """One pipeline for each setting of the scheduler: loading is the expensive part."""

    def __init__(self, model: str, threads: int) -> None:
        self.model, self.threads = model, threads
        self.made: dict[tuple, Any] = {}
        self.decodings: dict[str, Decoding] = {}

    def get(self, task: dict[str, Any]) -> Any:
        import openvino
        import openvino_genai

        setting = task["policy"], task["budget"], task["interval"]
        if setting not in self.made:
            # Asked for in float32 throughout; what the cache really takes is measured.
            wanted = {
                "INFERENCE_NUM_THREADS": self.threads,
                "INFERENCE_PRECISION_HINT": openvino.Type.f32,
                "KV_CACHE_PRECISION": openvino.Type.f32,
            }
            self.made[setting] = openvino_genai.ContinuousBatchingPipeline(
                self.model, scheduler(task), "CPU", {}, wanted
            )
        return self.made[setting]

    def request(self, task: dict[str, Any], new_tokens: int, **settings: Any) -> Any:
        import openvino
        import openvino_genai

        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = new_tokens, True, False
        config.apply_chat_template = False
        for name, value in settings.items():
            setattr(config, name, value)
        ids = numpy.load(task["ids"]).astype(numpy.int64)[None]
        return self.get(task).add_request(0, openvino.Tensor(ids), config)


def cache_bytes(pipeline: Any) -> int:
    now = pipeline.get_metrics()
    return round(now.cache_usage / 100 * now.kv_cache_size_in_bytes)


def loss(pipelines: Pipelines, task: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Of the full cache, on the tokens that the others' losses are of."""
    if task["policy"] == EVICTING:
        raise ValueError("OpenVINO GenAI evicts only while it generates: a given text has no loss under eviction")
    pipeline, handle = pipelines.get(task), pipelines.request(task, 1, echo=True, logprobs=1)
    length, fed, largest = len(numpy.load(task["ids"])), 0, 0
    while pipeline.has_non_finished_requests():
        pipeline.step()
        fed += task["interval"]
        largest = max(largest, cache_bytes(pipeline))
        progress(min(1.0, fed / length))
    (output,) = handle.read_all()
    # Entry t of the echo is the token t's own probability; the first has none.
    own = output.generated_log_probs[task["budget"] + task["interval"] + 1 : length]
    return {
        "loss": -float(numpy.mean(own)),
        "tokens": len(own),
        "evictions": 0,
        "cache_bytes": largest,
        "state_bytes": 0,
    }


class Decoding:
    """One request, step by step."""

    def __init__(self, pipelines: Pipelines, task: dict[str, Any]) -> None:
        self.pipeline = pipelines.get(task)
        self.handle = pipelines.request(task, task["total_tokens"] + 2)  # two come while the prompt is dealt with
        self.prompt_steps = -(-len(numpy.load(task["ids"])) // task["interval"])

    def fill(self, progress: Progress) -> dict[str, Any]:
        wall, done = time.perf_counter(), 0
        while not self.handle.can_read():  # until the first new token
            self.pipeline.step()
            done += 1
            progress(min(1.0, done / self.prompt_steps))
        self.pipeline.step()  # the blocks of an evicted prompt are given back in the step after it
        seconds, now = time.perf_counter() - wall, self.pipeline.get_metrics()
        return {
            "prompt_seconds": seconds,
            "prompt_cache_bytes": round(now.max_cache_usage / 100 * now.kv_cache_size_in_bytes),
        }

    def more(self, new: int, progress: Progress) -> dict[str, Any]:
        seconds, processor, largest = 0.0, 0.0, 0
        for step in range(new):
            wall, cpu = time.perf_counter(), time.process_time()
            self.pipeline.step()
            seconds, processor = seconds + time.perf_counter() - wall, processor + time.process_time() - cpu
            largest = max(largest, cache_bytes(self.pipeline))
            progress((step + 1) / new)
        return {
            "tokens": new,
            "seconds": seconds,
            "cpu_seconds": processor,
            "cache_bytes": largest,
            "state_bytes": None,
            "evictions": None,
        }

    def end(self) -> None:
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()


def decode_open(pipelines: Pipelines, task: dict[str, Any], progress: Progress) -> dict[str, Any]:
    pipelines.decodings[task["policy"]] = Decoding(pipelines, task)
    return pipelines.decodings[task["policy"]].fill(progress)


def decode_close(pipelines: Pipelines, task: dict[str, Any]) -> dict[str, Any]:
    decoding = pipelines.decodings.pop(task["policy"], None)
    if decoding is not None:
        decoding.end()
    return {}


def main() -> None:
    lines = Lines()
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, help="a GGUF file")
    parser.add_argument("--threads", type=int, required=True)
    chosen = parser.parse_args()
    import openvino_genai

    pipelines = Pipelines(chosen.model, chosen.threads)
    lines.serve(
        {
            "python": platform.python_version(),
            "openvino_genai": openvino_genai.__version__,
            "policies": [EVICTING],
            "missing": None,
        },
        {
            "loss": lambda task, progress: loss(pipelines, task, progress),
            "decode_open": lambda task, progress: decode_open(pipelines, task, progress),
            "decode_more": lambda task, progress: pipelines.decodings[task["policy"]].more(
                task["new_tokens"], progress
            ),
            "decode_close": lambda task, _progress: decode_close(pipelines, task),
        },
    )


if __name__ == "__main__":
    main()
