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
            BLOCK, recent, task["budget"], openvino_genai.AggregationMode.NORM_SUM)
    return made


class Pipelines:
    """One pipeline for each setting of the scheduler: loading is the expensive part."""

    def __init__(self, model: str, threads: int) -> None:
        self.model, self.threads, self.made, self.of = model, threads, None, None

    def get(self, task: dict[str, Any]) -> Any:
        import openvino
        import openvino_genai

        setting = task["policy"], task["budget"], task["interval"]
        if self.of != setting:
            self.made = None  # the old one's memory first
            # Asked for in float32 throughout; what the cache really takes is measured.
            wanted = {"INFERENCE_NUM_THREADS": self.threads, "INFERENCE_PRECISION_HINT": openvino.Type.f32,
                      "KV_CACHE_PRECISION": openvino.Type.f32}
            self.made = openvino_genai.ContinuousBatchingPipeline(self.model, scheduler(task), "CPU", {}, wanted)
            self.of = setting
        return self.made

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

    def cache_bytes(self) -> float:
        now = self.made.get_metrics()
        return now.cache_usage / 100 * now.kv_cache_size_in_bytes


def loss(pipelines: Pipelines, task: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Of the full cache, on the tokens that the others' losses are of."""
    if task["policy"] == EVICTING:
        raise ValueError("OpenVINO GenAI evicts only while it generates: a given text has no loss under eviction")
    handle = pipelines.request(task, 1, echo=True, logprobs=1)
    length, fed, largest = len(numpy.load(task["ids"])), 0, 0.0
    while pipelines.made.has_non_finished_requests():
        pipelines.made.step()
        fed += task["interval"]
        largest = max(largest, pipelines.cache_bytes())
        progress(min(1.0, fed / length))
    (output,) = handle.read_all()
    # Entry t of the echo is the token t's own probability; the first has none.
    own = output.generated_log_probs[task["budget"] + task["interval"] + 1 : length]
    return {"loss": -float(numpy.mean(own)), "tokens": len(own), "evictions": 0, "cache_bytes": round(largest)}


def decode(pipelines: Pipelines, task: dict[str, Any], progress: Progress) -> dict[str, Any]:
    new = task["new_tokens"]
    handle = pipelines.request(task, new + 1)
    prompt_bytes = decoding_bytes = 0.0
    begin_prompt = time.perf_counter()
    seconds, processor, tokens = 0.0, 0.0, 0
    prompt_seconds = 0.0
    while pipelines.made.has_non_finished_requests():
        wall, cpu = time.perf_counter(), time.process_time()
        pipelines.made.step()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if prompt_seconds:
            seconds, processor, tokens = seconds + wall, processor + cpu, tokens + 1
            decoding_bytes = max(decoding_bytes, pipelines.cache_bytes())
            progress(0.5 + 0.5 * tokens / new)
        elif handle.can_read():  # the first new token: the prompt is done, and cut if it has to be
            prompt_seconds = time.perf_counter() - begin_prompt
        if tokens == 0:
            prompt_bytes = max(prompt_bytes, pipelines.cache_bytes())
    (output,) = handle.read_all()
    if tokens != new:
        raise RuntimeError(f"{tokens} steps gave {len(output.generated_ids)} tokens, {new} were asked for")
    prompt_bytes = max(prompt_bytes, pipelines.made.get_metrics().max_cache_usage / 100 * _capacity(pipelines))
    return {"tokens_per_second": new / seconds, "tokens_per_cpu_second": new / processor, "prompt_seconds": prompt_seconds,
            "prompt_cache_bytes": round(prompt_bytes), "cache_bytes": round(decoding_bytes),
            "evictions": None, "generated": list(output.generated_ids)}


def _capacity(pipelines: Pipelines) -> int:
    return pipelines.made.get_metrics().kv_cache_size_in_bytes


def main() -> None:
    lines = Lines()
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, help="a GGUF file")
    parser.add_argument("--threads", type=int, required=True)
    chosen = parser.parse_args()
    import openvino_genai

    pipelines = Pipelines(chosen.model, chosen.threads)
    lines.serve(
        {"python": platform.python_version(), "openvino_genai": openvino_genai.__version__, "policies": [EVICTING],
         "missing": None},
        {"loss": lambda task, progress: loss(pipelines, task, progress),
         "decode": lambda task, progress: decode(pipelines, task, progress)},
    )


if __name__ == "__main__":
    main()
