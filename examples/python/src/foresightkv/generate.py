# SPDX-License-Identifier: Apache-2.0
"""Generates text under an eviction policy, and tells what the cache kept.

python -m foresightkv.generate MODEL --prompt "Once upon a time" --policy window_sum --budget 256 --interval 64
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import time

from . import Policy, policies


def main(arguments: list[str] | None = None) -> int:
    chosen = _options(arguments)
    try:
        _run(chosen)
    except (ImportError, OSError, ValueError) as problem:
        print(f"foresightkv.generate: {problem}", file=sys.stderr)
        return 1
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m foresightkv.generate", description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of a transformers model")
    parser.add_argument("--gguf", metavar="FILE", help="a GGUF file in that folder, in place of its weights")
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument("--prompt")
    text.add_argument("--prompt-file", type=pathlib.Path)
    parser.add_argument(
        "--plain", action="store_true", help="the prompt as it stands, without the model's chat template"
    )
    parser.add_argument("--policy", default="window_sum", help="full, or one of: " + ", ".join(policies()))
    parser.add_argument("--budget", type=int, default=512)
    parser.add_argument("--interval", type=int, default=128)
    parser.add_argument("--sinks", type=int, default=4)
    parser.add_argument("--recent", type=int, help="newest tokens that stay (default: the interval)")
    parser.add_argument("--weights", help="file of a judge, for the policy foresight")
    parser.add_argument("--tokens", type=int, default=200, help="to generate")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda: in half precision, by foresightkv.cuda")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--html", type=pathlib.Path, metavar="PAGE", help="writes a page of the words that were kept")
    return parser.parse_args(arguments)


def _run(chosen: argparse.Namespace) -> None:
    policy = None
    if chosen.policy != "full":  # before a model is loaded for nothing
        policy = _policy_class(chosen.device)(
            chosen.policy,
            budget=chosen.budget,
            interval=chosen.interval,
            sinks=chosen.sinks,
            recent=chosen.recent,
            weights=chosen.weights,
        )

    import torch
    import transformers

    from .hf import EvictingCache
    from .record import load_model

    if chosen.device != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"--device {chosen.device}: PyTorch finds no CUDA device")
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    source = {"gguf_file": chosen.gguf} if chosen.gguf else {}
    tokenizer = transformers.AutoTokenizer.from_pretrained(chosen.model, **source)
    model = load_model(chosen.model, chosen.device, **source)
    if chosen.device != "cpu" and model.dtype == torch.float32:
        for weights in model.parameters():  # buffers, such as the rotary embedding's frequencies, stay as they are
            weights.data = weights.data.to(torch.bfloat16)
    ids = _tokens(tokenizer, chosen).to(model.device)

    cache = EvictingCache(model, policy) if policy else transformers.DynamicCache(config=model.config)
    streamer = transformers.TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    began = time.perf_counter()
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        cache=cache,
        max_new_tokens=chosen.tokens,
        do_sample=False,
        pad_token_id=tokenizer.eos_token_id,
        streamer=streamer,
    )
    seconds = time.perf_counter() - began
    made = output.shape[1] - ids.shape[1]
    print(f"\n{ids.shape[1]} tokens of prompt, {made} generated in {seconds:.1f} s, the prompt included")
    if policy is None:
        return
    report = cache.report()
    print(report)
    if chosen.html:
        words = [tokenizer.decode([token]) for token in output[0].tolist()]
        chosen.html.parent.mkdir(parents=True, exist_ok=True)
        chosen.html.write_text(report.html([words]), encoding="utf-8")
        print(f"what was kept: {chosen.html}")


def _policy_class(device: str):
    if device == "cpu":
        return Policy
    if device.partition(":")[0] != "cuda":
        raise ValueError(f"--device: cpu or cuda, is '{device}'")
    from . import cuda

    return cuda.Policy


def _tokens(tokenizer, chosen: argparse.Namespace):
    text = chosen.prompt if chosen.prompt is not None else chosen.prompt_file.read_text(encoding="utf-8")
    if chosen.plain or not getattr(tokenizer, "chat_template", None):
        return tokenizer(text, return_tensors="pt").input_ids
    message = [{"role": "user", "content": text}]
    return tokenizer.apply_chat_template(message, add_generation_prompt=True, return_tensors="pt", return_dict=True)[
        "input_ids"
    ]


if __name__ == "__main__":
    sys.exit(main())
