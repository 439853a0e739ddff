# SPDX-License-Identifier: Apache-2.0
"""Generation with transformers: small models with random weights, nothing is downloaded."""

import contextlib
import types
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import foresightkv as fkv
from foresightkv import hf
from foresightkv.hf import EvictingCache

pytestmark = pytest.mark.torch

SIZES = dict(
    vocab_size=97,
    hidden_size=48,
    intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=4096,
)
GREEDY = dict(do_sample=False, pad_token_id=0, eos_token_id=None)


def model_of(kind: str, **more):
    """A model whose weights are drawn wide enough that tokens attend to each other unevenly."""
    config, build = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
        "gemma3": (transformers.Gemma3TextConfig, transformers.Gemma3ForCausalLM),
        "gemma2": (transformers.Gemma2Config, transformers.Gemma2ForCausalLM),
    }[kind]
    torch.manual_seed(7)
    model = build(config(**SIZES, **more)).eval()
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "proj" in name or "embed" in name:
                weights.normal_(0.0, 0.25)
    return model


def plain(model, **inputs):
    model.set_attn_implementation("eager" if model.config.model_type == "gemma2" else "sdpa")
    return model.generate(**inputs, **GREEDY)


def tokens(rows, columns, seed=0):
    return torch.randint(1, 97, (rows, columns), generator=torch.Generator().manual_seed(seed))


def small(scorer="window_sum", **more):
    return fkv.Policy(scorer, **{"budget": 24, "interval": 8, **more})


@pytest.fixture(scope="module")
def llama():
    return model_of("llama")


MODELS = {
    "llama": {},
    "qwen3": {},
    "gemma3": dict(sliding_window=8, layer_types=["sliding_attention", "full_attention", "sliding_attention"]),
    "gemma2": dict(sliding_window=8, layer_types=["sliding_attention", "full_attention", "sliding_attention"]),
}


@pytest.mark.filterwarnings("ignore:EvictingCache. nothing was evicted")
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("form", ["single", "padded", "beams"])
def test_a_budget_that_is_never_reached_changes_no_token(kind, form):
    model = model_of(kind, **MODELS[kind])
    inputs = dict(input_ids=tokens(2 if form == "padded" else 1, 20), max_new_tokens=30)
    if form == "padded":
        inputs["attention_mask"] = torch.ones(2, 20, dtype=torch.long)
        inputs["attention_mask"][1, :7] = 0
    if form == "beams":
        inputs["num_beams"] = 3
    expected = plain(model, **inputs)
    cache = EvictingCache(model, fkv.Policy("window_sum", budget=512, interval=128))
    assert torch.equal(model.generate(**inputs, **GREEDY, cache=cache), expected)
    assert cache.report().evictions == 0


@pytest.mark.filterwarnings("ignore:EvictingCache. nothing was evicted")
@pytest.mark.filterwarnings("ignore:.past_key_values.")
def test_the_older_keyword_works_too(llama):
    inputs = dict(input_ids=tokens(1, 12), max_new_tokens=8)
    expected = plain(llama, **inputs)
    cache = EvictingCache(llama, small(budget=512, interval=128))
    assert torch.equal(llama.generate(**inputs, **GREEDY, past_key_values=cache), expected)


@pytest.mark.parametrize("name", [name for name in fkv.policies() if name != "foresight"])
@pytest.mark.parametrize("prompt", [5, 24, 61])
def test_every_policy_stays_within_its_budget(llama, name, prompt):
    """Prompts below the budget, at it, and beyond twice the budget."""
    policy = small(name)
    held = []

    class Watched(EvictingCache):
        def update(self, key, value, layer, *args, **kwargs):
            held.extend(int(each.lengths.max(initial=0)) for each in self.evicting)
            held.extend(each.keys.shape[2] for each in self.evicting if each.is_initialized)
            return super().update(key, value, layer, *args, **kwargs)

    cache = Watched(llama, policy)
    llama.generate(tokens(1, prompt), cache=cache, max_new_tokens=50, **GREEDY)
    report = cache.report()
    assert max(held) <= policy.budget + policy.interval
    seen = prompt + 49
    first = max(prompt, 32)
    assert report.evictions == 1 + (seen - first) // 8
    assert report.sequences[0].tokens == seen
    assert report.tokens_evicted == seen - cache.evicting[0].lengths[0] > 0
    for positions in report.sequences[0].kept.values():
        assert positions.shape == (2, seen - report.tokens_evicted)
        assert (np.diff(positions, axis=1) > 0).all()  # each once
        assert (positions[:, -7:] == np.arange(seen - 7, seen)).all()  # the newest are there
    assert report.bytes_freed == 3 * 2 * 2 * 16 * 4 * report.tokens_evicted
    assert report.bytes_held == 3 * 2 * 2 * 16 * 4 * (seen - report.tokens_evicted)


def attention_of_kept(query, keys, values, kept, scale):
    logits = query @ keys[kept].T * scale
    return logits.softmax(-1) @ values[kept]


def test_attention_is_that_of_the_kept_tokens(llama):
    """What a layer attends to, against all its keys and values of old: the kept positions, and no other."""
    cache = EvictingCache(llama, small("h2o", sinks=2))
    layer = cache.evicting[0]
    every, attend = {"keys": [], "values": []}, type(layer).attend
    checked = []

    def watched(self, module, query, key, value, mask, scaling=None, **kwargs):
        if self is not layer:
            return attend(self, module, query, key, value, mask, scaling, **kwargs)
        before = self.kept(0)
        output = attend(self, module, query, key, value, mask, scaling, **kwargs)
        every["keys"].append(key[0])
        every["values"].append(value[0])
        keys, values = torch.cat(every["keys"], 1), torch.cat(every["values"], 1)
        if query.shape[2] == 1:
            for head in range(6):
                kept = [*before[head // 3], keys.shape[1] - 1]
                right = attention_of_kept(query[0, head, 0], keys[head // 3], values[head // 3], kept, scaling)
                torch.testing.assert_close(output[0][0, 0, head], right, atol=1e-5, rtol=1e-5)
                checked.append(head)
        return output

    type(layer).attend = watched
    try:
        llama.generate(tokens(1, 40), cache=cache, max_new_tokens=40, **GREEDY)
    finally:
        type(layer).attend = attend
    assert len(checked) == 6 * 39 and cache.report().evictions > 4


@pytest.mark.parametrize("name", ["window_sum", "h2o_per_query", "snap_kv", "accumulated"])
def test_each_row_of_a_padded_batch_is_its_solo_run(llama, name):
    lengths = [45, 30, 6]
    prompts = [tokens(1, length, seed)[0] for seed, length in enumerate(lengths)]
    ids, mask = torch.zeros(3, 45, dtype=torch.long), torch.zeros(3, 45, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, 45 - len(prompt) :] = prompt
        mask[row, 45 - len(prompt) :] = 1
    together = EvictingCache(llama, small(name))
    output = llama.generate(ids, attention_mask=mask, cache=together, max_new_tokens=60, **GREEDY)
    report = together.report()
    for row, prompt in enumerate(prompts):
        alone = EvictingCache(llama, small(name))
        expected = llama.generate(prompt[None], cache=alone, max_new_tokens=60, **GREEDY)
        assert output[row, 45:].tolist() == expected[0, len(prompt) :].tolist()
        for layer, positions in alone.report().sequences[0].kept.items():
            np.testing.assert_array_equal(report.sequences[row].kept[layer], positions)


class Copied(EvictingCache):
    """Sequences change places through saved states and a new evictor."""

    def reorder_cache(self, beam_idx):
        two = torch.cat([beam_idx, beam_idx])
        for layer in self.evicting:
            layer._take(two)
            layer._take(torch.arange(len(beam_idx)))


def test_beams_carry_their_own_evictions(llama):
    """A beam search under eviction, against the same search with a cache that is copied instead of reordered."""
    cache = EvictingCache(llama, small("accumulated"))
    output = llama.generate(tokens(1, 30), cache=cache, max_new_tokens=40, num_beams=3, **GREEDY)
    assert cache.report().evictions >= 3 * 4

    again = Copied(llama, small("accumulated"))
    assert torch.equal(llama.generate(tokens(1, 30), cache=again, max_new_tokens=40, num_beams=3, **GREEDY), output)


@pytest.mark.parametrize("name", ["window_sum", "accumulated"])
def test_chunks_of_a_prompt(llama, name):
    """A prompt in chunks of an interval is cut on the way; the last logits are those of the tokens one by one."""
    ids = tokens(1, 72)

    def logits(size):
        cache = EvictingCache(llama, small(name))
        with torch.no_grad():
            for first in range(0, 72, size):
                last = llama(ids[:, first : first + size], cache=cache).logits[0, -1]
        return last, cache.report()

    by_interval, chunks = logits(8)
    one_by_one, singles = logits(1)
    torch.testing.assert_close(by_interval, one_by_one, atol=1e-4, rtol=1e-4)
    for layer, positions in singles.sequences[0].kept.items():
        np.testing.assert_array_equal(chunks.sequences[0].kept[layer], positions)
    assert chunks.evictions == singles.evictions == 6


def test_generate_fills_the_cache_in_chunks(llama):
    """By prefill_chunk_size, as a loop of one's own would."""
    ids, cache, own = tokens(1, 61), EvictingCache(llama, small("h2o")), EvictingCache(llama, small("h2o"))
    output = llama.generate(ids, cache=cache, prefill_chunk_size=16, max_new_tokens=20, **GREEDY)
    with torch.no_grad():
        for chunk in ids.split(16, dim=1):
            logits = llama(chunk, cache=own).logits
        made = [logits[0, -1].argmax()]
        while len(made) < 20:
            made.append(llama(made[-1].view(1, 1), cache=own).logits[0, -1].argmax())
    assert output[0, 61:].tolist() == [int(token) for token in made]
    assert cache.report().evictions == own.report().evictions > 4


def test_causality(llama):
    """A token changes nothing before it, evictions included."""
    ids = tokens(1, 72)
    other = ids.clone()
    other[0, 50:] = (other[0, 50:] + 1) % 97
    kept = []
    for each in (ids, other):
        cache = EvictingCache(llama, small("window_sum"))
        outputs = []
        with torch.no_grad():
            for first in range(0, 72, 8):
                outputs.append(llama(each[:, first : first + 8], cache=cache).logits[0])
        kept.append(torch.cat(outputs)[:50])
    assert torch.equal(*kept)


def test_a_scorer_in_python_is_the_compiled_one(llama):
    def by_window(tokens: fkv.Tokens):
        return tokens.statistics["sum"].mean(-1)

    def by_torch(tokens: fkv.Tokens):
        return torch.from_numpy(tokens.statistics["sum"]).mean(-1)

    outputs = []
    for scorer in ("window_sum", by_window, by_torch):
        cache = EvictingCache(llama, small(scorer))
        outputs.append(llama.generate(tokens(1, 40), cache=cache, max_new_tokens=40, **GREEDY))
        assert cache.report().evictions > 4
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])


def test_rows_that_finish_early(llama):
    ids = tokens(2, 30)
    free = llama.generate(ids, cache=EvictingCache(llama, small()), max_new_tokens=40, **GREEDY)
    stop = int(free[0, 40])
    cache = EvictingCache(llama, small())
    output = llama.generate(ids, cache=cache, max_new_tokens=40, do_sample=False, pad_token_id=0, eos_token_id=stop)
    end = (output[1] == stop).nonzero()
    length = int(end[0]) + 1 if len(end) else output.shape[1]
    assert output[1, :length].tolist() == free[1, :length].tolist()
    assert cache.report().evictions > 0


def test_half_precision():
    model = model_of("llama").to(torch.bfloat16)
    cache = EvictingCache(model, small())
    model.generate(tokens(1, 40), cache=cache, max_new_tokens=40, **GREEDY)
    assert cache.report().evictions > 4
    assert cache.evicting[0].keys.dtype == torch.bfloat16


def test_nothing_evicted_is_said(llama):
    cache = EvictingCache(llama, fkv.Policy("window_sum", budget=512, interval=128))
    llama.generate(tokens(1, 20), cache=cache, max_new_tokens=10, **GREEDY)
    with pytest.warns(UserWarning, match="nothing was evicted, as no sequence of 29 tokens"):
        cache.report()
    forgotten = EvictingCache(llama, fkv.Policy("window_sum", budget=512, interval=128))
    llama.generate(tokens(1, 20), cache=forgotten, max_new_tokens=10, **GREEDY)
    with pytest.warns(UserWarning, match="nothing was evicted"):
        del forgotten


def test_what_cannot_work_is_refused(llama):
    cache = EvictingCache(llama, small())
    with pytest.raises(ValueError, match="Assisted decoding"):
        llama.generate(tokens(1, 40), cache=cache, max_new_tokens=20, assistant_model=model_of("llama"), **GREEDY)
    with pytest.raises(ValueError, match="no_grad"):
        llama(tokens(1, 10), cache=EvictingCache(llama, small()))
    with torch.no_grad(), pytest.raises(ValueError, match="holds 1 sequences, was given 2"):
        cache = EvictingCache(llama, small())
        llama(tokens(1, 10), cache=cache)
        llama(tokens(2, 10), cache=cache)
    with torch.no_grad(), pytest.raises(RuntimeError, match="did not attend"):
        cache = EvictingCache(llama, small())
        llama.set_attn_implementation("sdpa")
        llama(tokens(1, 10), cache=cache)
        llama(tokens(1, 1), cache=cache)


def test_a_cache_that_failed_says_so_until_it_is_reset(llama):
    fails = [True]

    def scorer(tokens: fkv.Tokens):
        if fails:
            fails.clear()
            raise KeyError("once")
        return tokens.statistics["sum"].mean(-1)

    cache = EvictingCache(llama, small(scorer))
    assert cache.report().sequences == []
    with torch.no_grad():
        with pytest.raises(KeyError, match="once"):
            llama(tokens(1, 40), cache=cache)
        with pytest.raises(RuntimeError, match="reset"):
            llama(tokens(1, 1), cache=cache)
        cache.reset()
        again = llama(tokens(1, 40), cache=cache).logits
        other = llama(tokens(1, 40), cache=EvictingCache(llama, small())).logits
    assert torch.equal(again, other) and cache.report().evictions == 1
    assert cache.get_seq_length() == 40
    with pytest.raises(ValueError, match=r"foresightkv\.Policy"):
        EvictingCache(llama, "h2o")


class Elsewhere(hf.Place):
    """The CPU as a device is treated: what the library reads are tensors of its own, and each call of it is announced."""

    def __init__(self, device):
        super().__init__(device)
        self.on_host, self.calls = False, []
        self._inside = 0
        self.library = types.SimpleNamespace(
            Policy=fkv.Policy,
            Workspace=fkv.Workspace,
            Evictor=lambda *given, **more: self.announced(fkv.Evictor(*given, **more)),
            DenseCache=self._cache,
            Window=self._window,
        )

    def schedule(self, threads):
        return {"threads": threads}

    @contextlib.contextmanager
    def working(self):
        self._inside += 1
        yield
        self._inside -= 1

    def _cache(self, keys, values, lengths, **more):
        assert self._inside and isinstance(lengths, torch.Tensor)
        return fkv.DenseCache(keys, values, lengths, **more)

    def _window(self, queries, **more):
        assert self._inside and all(isinstance(more[name], torch.Tensor) for name in ("counts", "starts", "window_end"))
        return fkv.Window(queries, **more)

    def announced(self, evictor):
        place = self

        class Announced:
            def __getattr__(self, name):
                assert place._inside, name
                place.calls.append(name)
                return getattr(evictor, name)

        return Announced()


@pytest.mark.parametrize("name", ["window_sum", "accumulated"])
@pytest.mark.parametrize("form", ["padded", "beams", "copied"])
def test_numbers_of_a_device_are_copied_there_and_back(llama, monkeypatch, name, form):
    inputs = dict(input_ids=tokens(2, 45), max_new_tokens=40, attention_mask=torch.ones(2, 45, dtype=torch.long))
    inputs["attention_mask"][1, :9] = 0
    if form != "padded":
        inputs["num_beams"] = 3
    classes = {"padded": EvictingCache, "beams": EvictingCache, "copied": Copied}
    here = classes[form](llama, small(name))
    expected = llama.generate(**inputs, **GREEDY, cache=here)
    monkeypatch.setattr(hf, "Place", Elsewhere)
    there = classes[form](llama, small(name))
    assert torch.equal(llama.generate(**inputs, **GREEDY, cache=there), expected)
    report, other = here.report(), there.report()
    assert report.evictions == other.evictions > 8 and report.bytes_freed == other.bytes_freed
    for mine, of in zip(report.sequences, other.sequences):
        for layer, positions in mine.kept.items():
            np.testing.assert_array_equal(of.kept[layer], positions)
    (place,) = there._shared._places.values()
    wanted = {"evict", "positions", "resize_state"} | ({"carry"} if name == "accumulated" else set())
    wanted |= {"padded": set(), "beams": {"fork"}, "copied": {"save", "restore"}}[form]
    assert wanted <= set(place.calls)
    layer = there.evicting[0]
    assert layer._lengths.there is not layer.lengths and layer._lengths.there.tolist() == layer.lengths.tolist()


def test_a_report_behind_inference_mode(llama, monkeypatch):
    monkeypatch.setattr(hf, "Place", Elsewhere)
    cache = EvictingCache(llama, small())
    with torch.inference_mode():
        llama(tokens(1, 40), cache=cache)
    assert cache.report().evictions == 1


def test_a_policy_has_to_be_made_for_the_models_device():
    with pytest.raises(ValueError, match="on the CPU and on CUDA devices, the model is on xpu"):
        hf.Place(torch.device("xpu"))
    place = hf.Place(torch.device("cpu"))
    place.expect(small())
    place.library = types.SimpleNamespace(Policy=dict)
    with pytest.raises(ValueError, match=r"for a model on cpu policy must be a foresightkv\.Policy, is a foresightkv"):
        place.expect(small())


def test_other_caches_are_left_alone(llama):
    inputs = dict(input_ids=tokens(1, 20), max_new_tokens=20)
    expected = plain(llama, **inputs)
    EvictingCache(llama, small())  # the attention function is set now
    assert torch.equal(llama.generate(**inputs, **GREEDY), expected)


def test_the_page_holds_every_word(llama):
    cache = EvictingCache(llama, small())
    output = llama.generate(tokens(1, 40), cache=cache, max_new_tokens=20, **GREEDY)
    words = [[f"<w{i}>" for i in range(output.shape[1])]]
    page = cache.report().html(words, title="a <page>")
    assert "a &lt;page&gt;" in page and '"<w59>"' in page and "</script>" in page
    assert page.count("</script>") == 1
    share = cache.report().sequences[0].share_kept()
    assert share.shape == (3, 59) and np.isclose(share.sum(1), cache.evicting[0].lengths[0]).all()


def test_caches_do_not_leak_into_each_other(llama):
    ids = tokens(1, 40)
    alone = llama.generate(ids, cache=EvictingCache(llama, small()), max_new_tokens=40, **GREEDY)
    used = EvictingCache(llama, small())
    llama.generate(tokens(1, 50, seed=5), cache=used, max_new_tokens=30, **GREEDY)
    used.reset()
    assert torch.equal(llama.generate(ids, cache=used, max_new_tokens=40, **GREEDY), alone)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert used.report().evictions > 0
