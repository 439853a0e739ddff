# SPDX-License-Identifier: Apache-2.0
"""Traces of tiny models with random weights: nothing is downloaded."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors")

from foresightkv import record as recording

pytestmark = pytest.mark.torch

SHAPE = dict(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=512,
)
EVICT_TRACE = pathlib.Path(
    os.environ.get("FORESIGHTKV_EVICT_TRACE", pathlib.Path(__file__).parents[3] / "build/host/examples/evict_trace")
)


def llama():
    return transformers.LlamaConfig(**SHAPE)


def qwen3():
    return transformers.Qwen3Config(**SHAPE)


def gemma3():
    """Its query scale is not 1 / sqrt(D), and two of three layers have a sliding window."""
    return transformers.Gemma3TextConfig(
        **SHAPE,
        query_pre_attn_scalar=24,
        sliding_window=8,
        final_logit_softcapping=20.0,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    )


def model_of(config, attention="sdpa"):
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():  # larger than the initial weights, so that attention is far from even
        for name, weight in model.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                weight.mul_(20)
    return model


def tokens(length, seed=5):
    return torch.randint(1, 97, (1, length), generator=torch.Generator().manual_seed(seed))


def attention_outputs(model, ids):
    """What each attention layer hands to its output projection, [heads * D] per token, and the logits."""
    seen, hooks = {}, []
    for layer in model.base_model.layers:

        def keep(_module, given, number=layer.self_attn.layer_idx):
            seen[number] = given[0][0]

        hooks.append(layer.self_attn.o_proj.register_forward_pre_hook(keep))
    with torch.no_grad():
        logits = model(ids, use_cache=False).logits[0]
    for hook in hooks:
        hook.remove()
    return seen, logits


def replayed(trace, layer):
    """Plain causal attention over the recorded tensors, [T, heads * value dim]."""
    query, key, value = (trace[f"layer.{layer}.{part}"].double() for part in ("query", "key", "value"))
    group, length = len(query) // len(key), query.shape[1]
    key, value = key.repeat_interleave(group, 0), value.repeat_interleave(group, 0)
    logits = query @ key.transpose(1, 2) / query.shape[2] ** 0.5
    later = torch.ones(length, length).triu(1).bool()
    return (logits.masked_fill(later, -torch.inf).softmax(-1) @ value).transpose(0, 1).reshape(length, -1)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("config, layers", [(llama, {0, 1, 2}), (qwen3, {0, 1, 2}), (gemma3, {1})])
@pytest.mark.filterwarnings("ignore:not recorded")
def test_causal_softmax_over_a_trace_is_the_models_attention(config, layers, attention):
    model, ids = model_of(config(), attention), tokens(40)
    outputs, logits = attention_outputs(model, ids)
    (trace,) = recording.record(model, ids, dtype="f32")
    assert {int(name.split(".")[1]) for name in trace if name.startswith("layer.")} == layers
    for layer in layers:
        torch.testing.assert_close(replayed(trace, layer).float(), outputs[layer], rtol=1e-4, atol=1e-5)
    expected = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="none")
    torch.testing.assert_close(trace["losses"], expected, rtol=1e-4, atol=1e-5)
    assert trace["token_ids"].tolist() == ids[0].tolist()


@pytest.mark.parametrize("config", [llama, qwen3, gemma3])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.filterwarnings("ignore:not recorded")
def test_each_row_of_a_padded_batch_is_its_solo_trace(config, side):
    model, texts = model_of(config()), [tokens(31, seed=1), tokens(17, seed=2), tokens(24, seed=3)]
    ids, mask = torch.zeros(3, 31, dtype=torch.long), torch.zeros(3, 31, dtype=torch.long)
    for row, text in enumerate(texts):
        length = text.shape[1]
        place = slice(31 - length, 31) if side == "left" else slice(0, length)
        ids[row, place], mask[row, place] = text[0], 1
    together = recording.record(model, ids, mask, dtype="f32")
    for text, trace in zip(texts, together):
        (solo,) = recording.record(model, text, dtype="f32")
        assert solo.keys() == trace.keys()
        for name, tensor in solo.items():
            torch.testing.assert_close(trace[name], tensor, rtol=1e-4, atol=1e-4)


def test_the_model_is_left_as_it_was():
    model, ids = model_of(llama()), tokens(20)
    before = attention_outputs(model, ids)[1]
    recording.record(model, ids)
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(attention_outputs(model, ids)[1], before)


def test_only_the_wanted_layers_are_recorded():
    (trace,) = recording.record(model_of(llama()), tokens(20), layers=[2])
    assert {name.split(".")[1] for name in trace if name.startswith("layer.")} == {"2"}
    with pytest.raises(ValueError, match="numbers from 0 to 2"):
        recording.record(model_of(llama()), tokens(20), layers=[1, 3])


def test_sliding_layers_are_left_out_and_named():
    with pytest.warns(UserWarning, match=r"layers 0, 2 \(sliding window\)"):
        recording.record(model_of(gemma3()), tokens(20))
    with pytest.raises(ValueError, match=r"no layer to record: layer 0 \(sliding window\)"):
        recording.record(model_of(gemma3()), tokens(20), layers=[0])


def test_soft_caps_and_sinks_are_left_out_and_named():
    capped = transformers.Gemma2Config(
        **SHAPE, query_pre_attn_scalar=16, attn_logit_softcapping=30.0, layer_types=["full_attention"] * 3
    )
    with pytest.raises(ValueError, match="soft cap on logits"):
        recording.record(model_of(capped, "eager"), tokens(20))
    sinks = transformers.GptOssConfig(
        **SHAPE, num_local_experts=2, num_experts_per_tok=1, layer_types=["full_attention"] * 3
    )
    with pytest.raises(ValueError, match="learned sink logits"):
        recording.record(model_of(sinks, "eager"), tokens(20))


def test_what_overflows_f16_says_to_take_bf16():
    model = model_of(llama())
    with torch.no_grad():
        model.base_model.layers[1].self_attn.v_proj.weight.mul_(1e7)
    with pytest.raises(ValueError, match=r"layer 1: a value of .* does not fit float16: take bf16"):
        recording.record(model, tokens(20))
    (trace,) = recording.record(model, tokens(20), dtype="bf16")
    assert trace["layer.1.value"].dtype == torch.bfloat16


def test_padding_in_the_middle_is_refused():
    mask = torch.ones(1, 20, dtype=torch.long)
    mask[0, 7] = 0
    with pytest.raises(ValueError, match="row 0 of attention_mask"):
        recording.record(model_of(llama()), tokens(20), mask)


# The command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A model with a tokenizer of one word a letter, and two texts."""
    letters = {letter: number for number, letter in enumerate("?abcdefghijklmnopqrstuvwxyz ")}
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=_letters(letters), unk_token="?")
    model_of(llama()).save_pretrained(tmp_path / "model")
    made.save_pretrained(tmp_path / "model")
    (tmp_path / "one.txt").write_text("the quick brown fox jumps over the lazy dog " * 4)
    (tmp_path / "two.txt").write_text("a shorter text about nothing much " * 2)
    return tmp_path


def _letters(letters):
    import tokenizers

    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(letters, unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    return made


def run(folder, *options):
    names = [str(folder / name) for name in ("model", "one.txt", "two.txt")]
    return recording.main([*names, "--out", str(folder / "traces"), "--device", "cpu", *options])


def test_the_command_writes_a_file_for_each_text(folder):
    assert run(folder, "--layers", "0,2", "--tokens", "100", "--batch", "2") == 0
    for name, length in (("one", 100), ("two", 68)):
        with safetensors.safe_open(folder / f"traces/{name}.safetensors", "pt") as file:
            assert file.metadata()["model"] == "model" and file.metadata()["tokens"] == str(length)
            assert file.get_tensor("layer.2.query").shape == (4, length, 16)
            assert file.get_tensor("layer.2.key").dtype == torch.float16
            assert file.get_tensor("token_ids").shape == (length,) and file.get_tensor("losses").shape == (length - 1,)
            assert "layer.1.query" not in file.keys()
    assert {path.name for path in (folder / "traces").iterdir()} == {"one.safetensors", "two.safetensors"}


def test_a_second_run_takes_up_what_is_missing(folder, capsys):
    assert run(folder) == 0
    one, two = folder / "traces/one.safetensors", folder / "traces/two.safetensors"
    written = one.stat().st_mtime_ns
    two.unlink()
    assert run(folder) == 0
    assert "1 of 2 traces are there already" in capsys.readouterr().err
    assert one.stat().st_mtime_ns == written and two.exists()
    assert run(folder, "--dtype", "bf16") == 1
    assert "is not this model's trace of this text with these options" in capsys.readouterr().err


def test_two_texts_do_not_fit_one_file(folder, capsys):
    (folder / "traces").mkdir()
    assert run(folder, "--out", str(folder / "all.safetensors")) == 1
    assert "one file for 2 texts" in capsys.readouterr().err


def test_evict_trace_replays_what_was_recorded(folder):
    if not EVICT_TRACE.is_file():
        pytest.skip(f"{EVICT_TRACE} is not built")
    assert run(folder) == 0
    done = subprocess.run(
        [
            EVICT_TRACE,
            folder / "traces/one.safetensors",
            "--budget",
            "32",
            "--interval",
            "16",
            "--json",
            folder / "replay.json",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "layers 0, 1, 2" in done.stdout and "window_sum" in done.stdout
    assert json.loads((folder / "replay.json").read_text())


def test_the_module_imports_without_torch():
    """Only what records needs PyTorch: the NumPy part of the package must not load it."""
    code = "import foresightkv.record, sys; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
