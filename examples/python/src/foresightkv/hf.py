# SPDX-License-Identifier: Apache-2.0
"""Generation with transformers under an eviction policy.

    policy = foresightkv.Policy("window_sum", budget=512, interval=128, sinks=4)
    cache = EvictingCache(model, policy)
    output = model.generate(**inputs, cache=cache, max_new_tokens=2000)
    print(cache.report())

A cache is for one generation. Layers with full attention are evicted, each head by itself; layers with a sliding window
keep transformers' own cache. The cache stores the tokens of every sequence without their pads and makes the attention
mask itself, so that a sequence of a padded batch is treated as it would be alone. It never holds more than budget +
interval tokens of a sequence: a longer prompt is attended to as a whole, and cut before the next layer runs.

A model on a CUDA device takes a policy of foresightkv.cuda; keys, values and queries stay there.
"""

from __future__ import annotations

import contextlib
import warnings

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from . import _core
from .report import Report, SequenceReport

__all__ = ["EvictingCache", "Report"]

_NAME = "foresightkv"
_HANDED_OVER = "foresightkv_layer"  # key under which a layer of the cache reaches the attention function


class EvictingCache(Cache):
    """A cache of transformers that a policy cuts while the model runs."""

    def __init__(self, model, policy: _core.Policy, *, threads: int = 0):
        """model: any decoder that calls its attention by name (Llama, Qwen, Gemma and their like); its attention
        implementation becomes "foresightkv", which is "sdpa" for every other cache.
        policy: a foresightkv.Policy; for a model on a CUDA device a foresightkv.cuda.Policy.
        threads: of the evictions on the CPU; 0: as many as PyTorch uses."""
        for device in {parameter.device for parameter in model.parameters()}:
            if device.type != "meta":  # weights that are fetched when they are needed
                Place(device).expect(policy)
        config = model.config.get_text_config(decoder=True)
        layers = DynamicCache(config=model.config).layers
        shared = Shared(policy, threads or torch.get_num_threads())
        for number, layer in enumerate(layers):
            if type(layer) is DynamicLayer:
                layers[number] = EvictingLayer(shared, number)
        if not any(isinstance(layer, EvictingLayer) for layer in layers):
            raise ValueError("EvictingCache: the model has no layer with full attention")
        super().__init__(layers=layers)
        if config._attn_implementation != _NAME:
            model.set_attn_implementation(_NAME)
        self.policy, self._shared = policy, shared

    @property
    def evicting(self) -> list[EvictingLayer]:
        """The layers that are evicted."""
        return [layer for layer in self.layers if isinstance(layer, EvictingLayer)]

    def reset(self) -> None:
        """Starts anew, for another generation."""
        super().reset()
        self._shared.__init__(self._shared.policy, self._shared.threads)

    def report(self) -> Report:
        """What was evicted so far, and what is kept."""
        layers = self.evicting
        first = layers[0]
        sequences = [
            SequenceReport(
                tokens=int(first.position[sequence]),
                evictions=int(first.evictions[sequence]),
                tokens_evicted=int(first.position[sequence] - first.lengths[sequence]),
                kept={layer.number: layer.kept(sequence) for layer in layers},
            )
            for sequence in range(first.num_sequences)
        ]
        made = Report(
            policy=repr(self.policy),
            sequences=sequences,
            bytes_held=self._shared.bytes_held,
            bytes_peak=self._shared.bytes_peak,
            bytes_freed=self._shared.bytes_freed,
        )
        self._warned = True
        if any(first.position) and not made.evictions:
            warnings.warn(self._nothing_evicted(), stacklevel=2)
        return made

    def _nothing_evicted(self) -> str:
        longest = max(self.evicting[0].position, default=0)
        return (
            f"EvictingCache: nothing was evicted, as no sequence of {longest} tokens at most reached budget + interval ="
            f" {self.policy.budget} + {self.policy.interval}"
        )

    def __del__(self):  # a budget that has no effect must not go unnoticed
        layers = self.__dict__.get("layers") or []
        evicting = [layer for layer in layers if isinstance(layer, EvictingLayer) and layer.is_initialized]
        if (
            evicting
            and not self.__dict__.get("_warned")
            and any(evicting[0].position)
            and not any(evicting[0].evictions)
        ):
            warnings.warn(self._nothing_evicted(), stacklevel=2)


class Shared:
    """What the layers of a cache have together."""

    def __init__(self, policy: _core.Policy, threads: int):
        self.policy, self.threads = policy, threads
        self._places: dict[torch.device, Place] = {}
        self.bytes_held = self.bytes_peak = self.bytes_freed = 0
        self.failed = False  # in the middle of a forward call: layers do not hold the same tokens

    def place(self, device: torch.device) -> Place:
        """The same for all layers of a device."""
        if device not in self._places:
            place = Place(device)
            place.expect(self.policy)
            self._places[device] = place
        return self._places[device]

    def hold(self, change: int) -> None:
        """So many bytes of tokens more are stored, or fewer."""
        self.bytes_held += change
        self.bytes_peak = max(self.bytes_peak, self.bytes_held)


class Place:
    """Where a layer's arrays are, and the library for it."""

    def __init__(self, device: torch.device):
        self.device = device
        if device.type == "cuda":
            from . import cuda

            self.library, self.on_host = cuda, False
        elif device.type == "cpu":
            self.library, self.on_host = _core, True
        else:
            raise ValueError(f"EvictingCache: works on the CPU and on CUDA devices, the model is on {device}")
        self._workspace, self._stream = None, None

    def expect(self, policy) -> None:
        """ValueError for a policy that works on other arrays."""
        if not isinstance(policy, self.library.Policy):
            name = "foresightkv.Policy" if self.on_host else "foresightkv.cuda.Policy"
            given = f"{type(policy).__module__}.{type(policy).__name__}"
            raise ValueError(f"EvictingCache: for a model on {self.device} policy must be a {name}, is a {given}")

    def evictor(self, policy, cache, max_queries: int, state_capacity: int, threads: int):
        if self._workspace is None:
            self._workspace = self.library.Workspace()
        more = {"state_capacity": state_capacity, "workspace": self._workspace, **self.schedule(threads)}
        return self.library.Evictor(policy, cache, max_queries, **more)

    def schedule(self, threads: int) -> dict[str, int]:
        if self.on_host:
            return {"threads": threads}
        self._stream = self._stream or torch.cuda.current_stream(self.device)
        return {"stream": self._stream.cuda_stream}

    def working(self):
        """A context for calls of the library: they read what PyTorch has written, and the other way round."""
        if self.on_host:
            return contextlib.nullcontext()
        current = torch.cuda.current_stream(self.device)
        if self._stream is not None and current != self._stream:
            current.synchronize()  # a call waits for its own stream alone
        return torch.cuda.device(self.device)


class Numbers:
    """int32 numbers: `here` is where this module counts, `there` what the library is given."""

    def __init__(self, here: np.ndarray, place: Place):
        self.here = here
        self.there = here
        if not place.on_host:
            with torch.inference_mode(False):  # a report that comes later may write them too
                self.there = torch.empty(here.shape, dtype=torch.int32, device=place.device)

    def push(self) -> None:
        if self.there is not self.here:
            self.there.copy_(torch.from_numpy(self.here))

    def pull(self) -> None:
        if self.there is not self.here:
            self.here[:] = self.there.cpu().numpy()


HOST = Place(torch.device("cpu"))


class EvictingLayer(CacheLayerMixin):
    """One layer with full attention: keys, values and the last queries of every sequence, without pads."""

    is_sliding = False
    is_croppable = False
    is_compileable = False
    supports_early_init = False

    def __init__(self, shared: Shared, number: int):
        super().__init__()
        self.shared, self.number, self.policy = shared, number, shared.policy
        self.limit = self.policy.budget + self.policy.interval
        self.cumulative_length = 0  # columns of the batch that were handed over, pads among them
        self.position = self.evictions = np.zeros(0, np.int32)
        self._lengths = Numbers(self.position, HOST)
        self.num_sequences = 0
        self._expects_attention = False

    @property
    def lengths(self) -> np.ndarray:
        """Tokens that are stored of each sequence."""
        return self._lengths.here

    def push_lengths(self) -> None:
        """Before the library reads them: not for every token, as it waits for the device."""
        self._lengths.push()

    # -- what transformers asks of a layer ---------------------------------------------------------------------------

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.place = self.shared.place(self.device)
        self.num_sequences, self.num_kv_heads = key_states.shape[:2]
        self.keys = key_states.new_empty(*key_states.shape[:2], 0, key_states.shape[3])
        self.values = value_states.new_empty(*value_states.shape[:2], 0, value_states.shape[3])
        self.token_bytes = self.num_kv_heads * (key_states.shape[3] + value_states.shape[3]) * key_states.itemsize
        self._lengths = Numbers(np.zeros(self.num_sequences, np.int32), self.place)
        self.position = np.zeros(self.num_sequences, np.int32)  # tokens that were handed over
        self.evictions = np.zeros(self.num_sequences, np.int32)
        self.queries: QueryWindow | None = None
        self.evictor: _core.Evictor | None = None
        self.is_initialized = True

    def update(self, key_states, value_states, *args, kwargs=None, **others):
        """Hands itself to the attention function, which stores the tokens and attends to them."""
        if kwargs is None:
            raise RuntimeError(
                "EvictingCache: this model's attention hands no kwargs to its cache (transformers 5.24 does)"
            )
        if self.shared.failed:
            raise RuntimeError("EvictingCache: a call failed in its middle: reset() the cache, and begin again")
        if key_states.requires_grad and torch.is_grad_enabled():
            raise ValueError("EvictingCache: evictions have no gradient: run the model under torch.no_grad()")
        if self._expects_attention:
            raise RuntimeError(
                f"EvictingCache: layer {self.number} did not attend by '{_NAME}': keep the model's "
                "attention implementation as EvictingCache set it"
            )
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if key_states.shape[0] != self.num_sequences:
            raise ValueError(f"EvictingCache: holds {self.num_sequences} sequences, was given {key_states.shape[0]}")
        kwargs[_HANDED_OVER] = self
        self._expects_attention = True
        self.cumulative_length += key_states.shape[2]
        return key_states, value_states

    def get_seq_length(self) -> int:
        return self.cumulative_length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """The model's mask has to tell of the new tokens alone which are pads."""
        return query_length, self.cumulative_length

    def get_max_length(self) -> int:
        return -1

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove:
            raise ValueError(
                "EvictingCache: evictions cannot be taken back, so assisted generation does not work with it"
            )

    def reset(self) -> None:
        self.__init__(self.shared, self.number)

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        if self.is_initialized:
            self._take(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.is_initialized:
            self._take(np.arange(self.num_sequences).repeat(repeats))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        if self.is_initialized:
            chosen = indices.cpu().numpy() if isinstance(indices, torch.Tensor) else indices
            self._take(np.arange(self.num_sequences)[chosen])

    # -- attention ---------------------------------------------------------------------------------------------------

    def attend(self, module, query, key, value, mask, scaling=None, **kwargs):
        """Stores keys and values [sequence][kv_head][new][dim], attends by queries [sequence][query head][new][dim] to
        all that is stored, and cuts the sequences that are due."""
        self._expects_attention = False
        self.shared.failed = True  # until it is done
        if kwargs.get("s_aux") is not None:
            raise ValueError("EvictingCache: learned sink logits are not supported")
        new = NewTokens.of(mask, query.shape[2], self.num_sequences, self.device)
        before = self.lengths.copy()
        self._store(key, value, new)
        self.position += new.counts
        tokens = int(self.lengths.max())
        output = _attention(
            module,
            query,
            self.keys[:, :, :tokens],
            self.values[:, :, :tokens],
            new.seen(before, tokens),
            scaling,
            kwargs,
        )
        if self.queries is None:
            self.queries = QueryWindow(query, self, scaling, kwargs.get("softcap"))
        self._cut(query, new)
        self.shared.failed = False
        return output

    def _store(self, key: torch.Tensor, value: torch.Tensor, new: NewTokens) -> None:
        needed = int((self.lengths + new.counts).max())
        if needed > self.keys.shape[2]:
            within = needed <= self.limit
            self._resize(min(max(needed, 2 * self.keys.shape[2], 64), self.limit) if within else needed)
        new.write(self.keys, key, self.lengths)
        new.write(self.values, value, self.lengths)
        self.lengths[:] += new.counts
        self.shared.hold(int(new.counts.sum()) * self.token_bytes)

    def _resize(self, capacity: int) -> None:
        """The same tokens in arrays of another capacity."""
        kept = min(int(self.lengths.max(initial=0)), capacity)
        for name in ("keys", "values"):
            old = getattr(self, name)
            # Zeros, since attention multiplies what stands behind a shorter sequence's end by 0.
            made = old.new_zeros(*old.shape[:2], capacity, old.shape[3])
            made[:, :, :kept] = old[:, :, :kept]
            setattr(self, name, made)
        self.cache = None

    def _view(self, group: int):
        """The arrays as the library sees them, bound anew only when they change."""
        if self.cache is None:
            self.cache = self.place.library.DenseCache(
                self.keys, self.values, self._lengths.there, group=group, layers=[self.number]
            )
        if self.evictor is None:
            self.evictor = self.place.evictor(
                self.policy, self.cache, self.queries.capacity, self.limit, self.shared.threads
            )
        return self.cache

    def _cut(self, query: torch.Tensor, new: NewTokens) -> None:
        due = np.flatnonzero(self.lengths >= self.limit).astype(np.int32)
        with self.place.working():
            view = self._view(query.shape[1] // self.num_kv_heads)
        self.queries.add(query, new, self.evictor, view, due)
        if due.size:
            self.queries.show_last(due)
            self.push_lengths()
            with self.place.working():
                freed = self.evictor.evict(view, self.queries.window, sequences=due) * self.token_bytes
            self._lengths.pull()
            self.queries.forget(due)
            self.evictions[due] += 1
            self.shared.hold(-freed)
            self.shared.bytes_freed += freed
        if self.keys.shape[2] > self.limit:  # what a long prompt needed
            self._resize(self.limit)
            with self.place.working():
                self.evictor.resize_state(self.limit)

    # -- sequences change places -------------------------------------------------------------------------------------

    def _take(self, indices: torch.Tensor | np.ndarray) -> None:
        """Sequence i becomes a copy of what sequence indices[i] was."""
        sources = [int(i) for i in indices.tolist()]
        same_count = len(sources) == self.num_sequences
        stored = int(self.lengths.sum())
        self.num_sequences = len(sources)
        chosen = torch.as_tensor(sources, device=self.device)
        saved = None
        with self.place.working():
            if self.evictor is not None and not same_count:
                saved = [self.evictor.save(source) for source in sources]
                self.evictor = None
            elif self.evictor is not None:
                self.evictor.fork(sources, list(range(len(sources))))
        self.keys, self.values = self.keys.index_select(0, chosen), self.values.index_select(0, chosen)
        self._lengths = Numbers(self.lengths[sources], self.place)
        self.position, self.evictions = self.position[sources], self.evictions[sources]
        self.shared.hold((int(self.lengths.sum()) - stored) * self.token_bytes)
        self.cache = None
        if self.queries is not None:
            self.queries.take(sources, self)
        if saved is not None:
            with self.place.working():
                self._view(self.queries.group)
                for sequence, state in enumerate(saved):
                    self.evictor.restore(sequence, state)

    # -- what is told ------------------------------------------------------------------------------------------------

    def kept(self, sequence: int) -> np.ndarray:
        """[kv_head][token] positions of the tokens that are stored, ascending."""
        if self.evictor is None:
            return np.zeros((0, 0), np.int32)
        self.push_lengths()
        with self.place.working():
            positions = self.evictor.positions(self._view(self.queries.group))[0, sequence]
        return np.sort(positions[:, : self.lengths[sequence]], axis=1)


class NewTokens:
    """Which columns of a forward call are tokens, and how many each sequence has; the others are pads."""

    def __init__(self, columns: int, sequences: int, valid: torch.Tensor | None, device: torch.device):
        self.columns, self.valid, self.device = columns, valid, device
        self.counts = np.full(sequences, columns, np.int32)
        if valid is not None:
            self.counts[:] = valid.sum(1).cpu().numpy()

    @classmethod
    def of(cls, mask: torch.Tensor | None, columns: int, sequences: int, device: torch.device) -> NewTokens:
        """mask: [sequence][1][new][new], True where a query sees a token, as sdpa_mask makes it; None: plain causal."""
        if mask is None:
            return cls(columns, sequences, None, device)
        if mask.dtype != torch.bool or mask.dim() != 4 or mask.shape[-1] != columns:
            raise ValueError("EvictingCache: makes the attention mask itself: hand over a 2-D mask of pads, or none")
        valid = mask[:, 0, -1, :].expand(sequences, columns)
        return cls(columns, sequences, None if bool(valid.all()) else valid, device)

    def _on_device(self, numbers: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(numbers).long().to(self.device)

    def write(self, into: torch.Tensor, new: torch.Tensor, at: np.ndarray) -> None:
        """into[sequence][head][at[sequence] ...] = the tokens among new[sequence][head][column]."""
        if self.valid is None and (at == at[0]).all():
            into[:, :, at[0] : at[0] + self.columns] = new
        elif self.valid is None and self.columns == 1:
            into[torch.arange(len(at), device=self.device), :, self._on_device(at)] = new[:, :, 0]
        else:
            for sequence, first in enumerate(at):
                tokens = new[sequence] if self.valid is None else new[sequence][:, self.valid[sequence]]
                into[sequence, :, first : first + tokens.shape[1]] = tokens

    def seen(self, before: np.ndarray, tokens: int) -> torch.Tensor | None:
        """Mask [sequence or 1][1][column][slot] of what each query sees of `tokens` slots, where `before` were stored
        before. None: all, or plain causal. A pad sees its sequence's first token, as something has to be seen."""
        alike = self.valid is None and (before == before[0]).all()
        if alike and (self.columns == 1 or before[0] == 0):
            return None
        if self.valid is None:
            count = torch.arange(1, self.columns + 1, device=self.device)[None, :]
        else:
            count = self.valid.cumsum(1)
        last = self._on_device(before[:1] if alike else before)[:, None] + count
        return (torch.arange(tokens, device=self.device) < last.clamp(min=1)[..., None])[:, None]


class QueryWindow:
    """The newest queries of each sequence, for the next eviction; older ones are folded into what the policy carries."""

    def __init__(self, like: torch.Tensor, layer: EvictingLayer, scaling: float | None, soft_cap: float | None):
        self.size, self.carries = max(layer.policy.newest_queries, 1), layer.policy.carries
        self.group = like.shape[1] // layer.num_kv_heads
        self.scaling, self.soft_cap = scaling or 0.0, soft_cap or 0.0
        # Behind the window some room, so that queries seldom move; as much again where older ones are folded.
        self.capacity = self.size + (self.size if self.carries else max(8, self.size // 4))
        self._allocate(like.new_zeros(layer.num_sequences, like.shape[1], self.capacity, like.shape[3]), layer)
        self.end = np.zeros(layer.num_sequences, np.int32)  # one past each sequence's newest query
        self.pending = np.zeros(layer.num_sequences, np.int32)  # how many before that nobody was told of yet

    def _allocate(self, queries: torch.Tensor, layer: EvictingLayer) -> None:
        self.queries, self.layer = queries, layer
        sequences, place = queries.shape[0], layer.place
        self._counts, self._ends = (Numbers(np.zeros(sequences, np.int32), place) for _ in range(2))
        self._starts = Numbers(np.zeros(sequences + 1, np.int32), place)
        self.window = self._window(queries)

    def _window(self, queries: torch.Tensor) -> _core.Window:
        with self.layer.place.working():
            return self.layer.place.library.Window(
                queries,
                group=self.group,
                counts=self._counts.there,
                starts=self._starts.there,
                window_end=self._ends.there,
                softmax_scale=self.scaling,
                soft_cap=self.soft_cap,
            )

    def _show(self, counts: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> None:
        """Of each sequence so many queries, from where to which position."""
        for numbers, values in ((self._counts, counts), (self._starts, np.append(starts, 0)), (self._ends, ends)):
            numbers.here[:] = values
            numbers.push()

    def add(self, query: torch.Tensor, new: NewTokens, evictor: _core.Evictor, view, due: np.ndarray) -> None:
        """Takes in [sequence][query head][column][dim]. What will not be in the window any more is carried."""
        if new.columns > self.size:
            self._carry_oldest(self.pending.copy(), self.layer.position - new.counts, evictor, view)
            query, new = self._carry_prompt(query, new, evictor, view)
            self.end[:] = self.pending[:] = 0
        else:
            over = np.where(self.pending + new.counts > self.capacity, self.pending + new.counts - self.size, 0)
            self._carry_oldest(np.minimum(over, self.pending), self.layer.position - new.counts, evictor, view)
            self._make_room(new)
        new.write(self.queries, query, self.end)
        self.end += new.counts
        self.pending += new.counts
        over = np.zeros_like(self.pending)
        over[due] = np.maximum(self.pending[due] - self.size, 0)
        self._carry_oldest(over, self.layer.position, evictor, view)

    def show_last(self, sequences: np.ndarray) -> None:
        """The window becomes the newest queries of some sequences."""
        counts = np.zeros_like(self.pending)
        counts[sequences] = np.minimum(self.pending[sequences], self.size)
        self._show(counts, self.end - counts, self.layer.position)

    def forget(self, sequences: np.ndarray) -> None:
        """An eviction has seen them."""
        self.pending[sequences] = 0

    def take(self, sources: list[int], layer: EvictingLayer) -> None:
        self._allocate(self.queries[sources], layer)
        self.end, self.pending = self.end[sources], self.pending[sources]

    def _make_room(self, new: NewTokens) -> None:
        if (self.end + new.counts <= self.capacity).all():
            return
        for sequence, (end, held) in enumerate(zip(self.end, np.minimum(self.pending, self.end))):
            self.queries[sequence, :, :held] = self.queries[sequence, :, end - held : end].clone()
            self.end[sequence] = held

    def _carry_oldest(self, counts: np.ndarray, position: np.ndarray, evictor: _core.Evictor, view) -> None:
        """Folds the oldest pending queries, so many of each sequence whose newest query stands before `position`."""
        if self.carries and counts.any():
            self._show(counts, self.end - self.pending, position - (self.pending - counts))
            self._carry(evictor, view, self.window, counts)
        self.pending -= counts

    def _carry(self, evictor: _core.Evictor, view, window: _core.Window, counts: np.ndarray) -> None:
        self.layer.push_lengths()
        with self.layer.place.working():
            evictor.carry(view, window, sequences=np.flatnonzero(counts).astype(np.int32))

    def _carry_prompt(self, query: torch.Tensor, new: NewTokens, evictor: _core.Evictor, view):
        """Folds all but the window's own of a long chunk. Returns the rest."""
        if new.valid is not None:  # tokens to the right, pads to the left
            order = new.valid.to(torch.int8).argsort(dim=1, stable=True)
            query = query.gather(2, order[:, None, :, None].expand_as(query))
        older = np.maximum(new.counts - self.size, 0)
        if self.carries and older.any():
            self._show(older, new.columns - new.counts, self.layer.position - (new.counts - older))
            self._carry(evictor, view, self._window(query), older)
        rest, device = query[:, :, -self.size :], query.device
        if new.valid is None:
            return rest, NewTokens(self.size, len(older), None, device)
        held = torch.from_numpy(new.counts - older).to(device)
        valid = torch.arange(self.size, device=device)[None, :] >= self.size - held[:, None]
        return rest, NewTokens(self.size, len(older), valid, device)


def _attention(module, query, keys, values, mask, scaling, kwargs):
    """Attention by PyTorch's own function; with a soft cap, which that does not know, written out."""
    soft_cap = kwargs.get("softcap")
    if soft_cap is None:
        return sdpa_attention_forward(module, query, keys, values, mask, scaling=scaling, **kwargs)
    group = query.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)
    logits = query @ keys.transpose(2, 3) * (scaling or query.shape[-1] ** -0.5)
    logits = soft_cap * torch.tanh(logits / soft_cap)
    if mask is None and query.shape[2] > 1:
        mask = torch.ones(query.shape[2], keys.shape[2], dtype=torch.bool, device=query.device).tril()
    if mask is not None:
        logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)  # finite: a pad may see nothing
    output = logits.softmax(-1, dtype=torch.float32).to(query.dtype) @ values
    return output.transpose(1, 2).contiguous(), None


def attention_forward(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """The attention function "foresightkv": by a layer of an EvictingCache where there is one, else as "sdpa"."""
    layer = kwargs.pop(_HANDED_OVER, None)
    if layer is None:
        return _attention(module, query, key, value, attention_mask, scaling, kwargs)
    return layer.attend(module, query, key, value, attention_mask, scaling, **kwargs)


AttentionInterface.register(_NAME, attention_forward)
AttentionMaskInterface.register(_NAME, sdpa_mask)
