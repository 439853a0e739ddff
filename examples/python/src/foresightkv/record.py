# SPDX-License-Identifier: Apache-2.0
"""Records what a model's attention layers are given for a text: traces that evict_trace replays.

    python -m foresightkv.record MODEL TEXT... --out FOLDER [--layers 8,21] [--tokens 4096]

In a program: record(model, input_ids). The format is described in docs/recording_traces.md.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pathlib
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Optional

from ._recorder import DTYPES, describe_left_out, traces_of

__all__ = ["load_model", "main", "record"]


def record(
    model: Any,
    input_ids: Any,
    attention_mask: Any = None,
    layers: Optional[Iterable[int]] = None,
    *,
    dtype: str = "f16",
    on_layer: Optional[Callable[[], None]] = None,
) -> list[dict[str, Any]]:
    """Runs the model once and returns a trace for each row, ready for safetensors.torch.save_file.

    input_ids: int [batch, T]. attention_mask: [batch, T], 1 for text, 0 for padding on either side; None: no padding.
    layers: numbers of the layers to record; None: all. dtype: "f16", "bf16" or "f32". on_layer is called whenever an
    attention layer has run.

    A row's trace has the tensors layer.{i}.query [heads, t, D], layer.{i}.key [kv_heads, t, D] and layer.{i}.value
    [kv_heads, t, value dim] on the CPU, token_ids [t], int32, and losses [t - 1], float32, where t is the row's own
    length: padding is gone, and the row is what it would be alone, up to rounding. Queries are scaled so that logits
    are query . key / sqrt(D).

    Layers that are not plain causal attention (sliding window, chunks, soft cap, learned sinks, biases) are left out,
    and a warning names them. Raises ValueError if no layer is left, or if a value does not fit the dtype.
    """
    traces, left_out = traces_of(model, input_ids, attention_mask, layers, dtype, on_layer)
    if left_out:
        warnings.warn("not recorded: " + describe_left_out(left_out), stacklevel=2)
    return traces


def _options(arguments: Optional[list[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m foresightkv.record", description=__doc__.partition("\n")[0])
    parser.add_argument("model", metavar="MODEL", help="a folder that transformers can load, or a GGUF file")
    parser.add_argument("texts", metavar="TEXT", nargs="+", type=pathlib.Path, help="text files, UTF-8")
    parser.add_argument(
        "--out",
        required=True,
        type=pathlib.Path,
        metavar="DIR_OR_FILE",
        help="a folder for TEXT's name with .safetensors, or with one TEXT a .safetensors file",
    )
    parser.add_argument("--layers", type=_layers, default=None, metavar="8,21|all", help="default: all")
    parser.add_argument("--tokens", type=int, default=4096, help="at most so many of each text (default: %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, default="f16", help="of the file (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="texts in one pass (default: %(default)s)")
    parser.add_argument("--gguf", metavar="FILE", help="the GGUF file in the folder MODEL; its weights are dequantised")
    parser.add_argument("--threads", type=int, help="of PyTorch (default: its own choice)")
    parser.add_argument("--device", help="where the model runs (default: cuda if there is one, else cpu)")
    chosen = parser.parse_args(arguments)
    for name in ("tokens", "batch"):
        if getattr(chosen, name) < (2 if name == "tokens" else 1):
            parser.error(f"--{name} is too small")
    return chosen


def _layers(text: str) -> Optional[list[int]]:
    try:
        return None if text == "all" else sorted({int(number) for number in text.split(",")})
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be all or numbers with commas, is {text!r}") from None


def _outputs(out: pathlib.Path, texts: list[pathlib.Path]) -> list[pathlib.Path]:
    if out.suffix == ".safetensors" and not out.is_dir():
        if len(texts) > 1:
            raise ValueError(f"{out}: is one file for {len(texts)} texts; name a folder")
        return [out]
    outputs = [out / f"{text.stem}.safetensors" for text in texts]
    twice = {path for path in outputs if outputs.count(path) > 1}
    if twice:
        raise ValueError(f"{min(twice)}: two texts would be written here; rename one of them")
    return outputs


def _gguf(chosen: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """(folder, keyword arguments of from_pretrained)."""
    path = pathlib.Path(chosen.model)
    if chosen.gguf is None and path.suffix == ".gguf":
        return str(path.parent), {"gguf_file": path.name}
    return chosen.model, {} if chosen.gguf is None else {"gguf_file": chosen.gguf}


def _model_name(chosen: argparse.Namespace) -> str:
    """Without the folders above it, which are nobody else's business."""
    name = pathlib.Path(chosen.model).name if os.path.exists(chosen.model) else chosen.model
    return f"{name}, {chosen.gguf}" if chosen.gguf else name


def load_model(folder: str, device: str, **where: Any):
    """The model, ready to run: float32 on a CPU, its own type elsewhere; a GGUF file's weights dequantised."""
    import torch
    import transformers

    if "gguf_file" in where and hasattr(transformers, "GgufConfig"):
        where = {**where, "quantization_config": transformers.GgufConfig(dequantize=True)}
    dtype = torch.float32 if device == "cpu" else "auto"
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **where).to(device).eval()


class _Work:
    """One text: its tokens, where its trace goes, and what the file must say to count as done."""

    def __init__(self, text: pathlib.Path, out: pathlib.Path, ids: Any, chosen: argparse.Namespace) -> None:
        self.text, self.out, self.ids = text, out, ids
        layers = "all" if chosen.layers is None else ",".join(map(str, chosen.layers))
        settings = f"{_model_name(chosen)}|{layers}|{chosen.dtype}|{ids.tolist()}"
        self.metadata = {
            "model": _model_name(chosen),
            "text": text.name,
            "tokens": str(len(ids)),
            "layers": layers,
            "settings": hashlib.sha256(settings.encode()).hexdigest()[:16],
        }

    def is_done(self) -> bool:
        """A file appears whole or not at all, so one that is there and says the right thing is complete."""
        import safetensors

        if not self.out.exists():
            return False
        with safetensors.safe_open(self.out, "pt") as file:
            found = (file.metadata() or {}).get("settings")
        if found != self.metadata["settings"]:
            raise ValueError(f"{self.out}: exists, and is not this model's trace of this text with these options")
        return True


def _read(chosen: argparse.Namespace, tokenizer: Any) -> list[_Work]:
    work = []
    for text, out in zip(chosen.texts, _outputs(chosen.out, chosen.texts)):
        ids = tokenizer(text.read_text(encoding="utf-8"), return_tensors="pt", verbose=False).input_ids[
            0, : chosen.tokens
        ]
        if len(ids) < 2:
            raise ValueError(f"{text}: a trace needs at least 2 tokens, has {len(ids)}")
        work.append(_Work(text, out, ids, chosen))
    return work


def _pad(batch: list[_Work]):
    """(input_ids, attention_mask), both [batch, T], padded at the end."""
    import torch

    ids = torch.nn.utils.rnn.pad_sequence([work.ids for work in batch], batch_first=True)
    lengths = torch.tensor([len(work.ids) for work in batch])
    return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()


def _save(trace: dict[str, Any], work: _Work, left_out: dict[int, str]) -> None:
    """Whole or not at all."""
    import safetensors.torch

    metadata = {**work.metadata, "mean_loss": f"{float(trace['losses'].mean()):.6f}"}
    if left_out:
        metadata["layers_left_out"] = describe_left_out(left_out)
    work.out.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=work.out.parent, prefix=f".{work.out.name}.")
    os.close(handle)
    try:
        safetensors.torch.save_file(trace, name, metadata=metadata)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # as open() would have made it
        os.replace(name, work.out)
    except BaseException:
        os.unlink(name)
        raise


class _Progress:
    """One line on standard error: share done, time left."""

    def __init__(self, total: float) -> None:
        self.total, self.done, self.begin, self.shown = total, 0.0, time.monotonic(), 0.0

    def advance(self, amount: float, what: str) -> None:
        self.done += amount
        now = time.monotonic()
        if now - self.shown >= (0.2 if sys.stderr.isatty() else 10):
            self.shown = now
            left = (now - self.begin) * (self.total - self.done) / self.done
            end = "\r" if sys.stderr.isatty() else "\n"
            print(
                f"{100 * self.done / self.total:5.1f} %  {_clock(left)} left  {what:<40.40}", end=end, file=sys.stderr
            )

    def say(self, text: str) -> None:
        print(f"{text:<60}", file=sys.stderr)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if minutes >= 60 else f"{minutes}:{seconds:02}"


def _run(chosen: argparse.Namespace) -> None:
    import torch
    import transformers

    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    device = chosen.device or ("cuda" if torch.cuda.is_available() else "cpu")
    folder, where = _gguf(chosen)
    work = _read(chosen, transformers.AutoTokenizer.from_pretrained(folder, **where))
    pending = [one for one in work if not one.is_done()]
    if len(pending) < len(work):
        print(f"{len(work) - len(pending)} of {len(work)} traces are there already", file=sys.stderr)
    if not pending:
        return
    model = load_model(folder, device, **where)
    batches = [pending[first : first + chosen.batch] for first in range(0, len(pending), chosen.batch)]
    padded = [_pad(batch) for batch in batches]
    layers = model.config.get_text_config().num_hidden_layers
    progress = _Progress(layers * sum(ids.numel() for ids, _ in padded))
    left_out: dict[int, str] = {}
    for batch, (ids, mask) in zip(batches, padded):
        what = ", ".join(one.text.name for one in batch)
        step = ids.numel()
        traces, left_out = traces_of(
            model, ids, mask, chosen.layers, chosen.dtype, lambda step=step, what=what: progress.advance(step, what)
        )
        for one, trace in zip(batch, traces):
            _save(trace, one, left_out)
            progress.say(f"{one.out}: {len(one.ids)} tokens, mean loss {float(trace['losses'].mean()):.4f}")
    if left_out:
        print(f"not recorded: {describe_left_out(left_out)}", file=sys.stderr)


def main(arguments: Optional[list[str]] = None) -> int:
    try:
        _run(_options(arguments))
    except (ValueError, OSError) as error:
        print(f"record: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
