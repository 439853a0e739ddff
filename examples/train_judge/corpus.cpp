// SPDX-License-Identifier: Apache-2.0
#include "corpus.hpp"

#include <algorithm>
#include <cstddef>
#include <foresightkv/golden/eviction.hpp>
#include <foresightkv/io/fingerprint.hpp>
#include <foresightkv/io/label_shard.hpp>
#include <optional>
#include <span>
#include <utility>

#include "shared_work.hpp"

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace train_judge {
namespace {

namespace io = fkv::io;
namespace training = fkv::training;

/// The elements in place, if they are of this type and aligned to it.
template <class Element>
Element const* in_place(io::tensor const& from) {
  if (from.dtype != *io::find_dtype<Element>()) return nullptr;
  auto const* const data = reinterpret_cast<Element const*>(from.bytes.data());
  return reinterpret_cast<std::uintptr_t>(data) % alignof(Element) == 0 ? data : nullptr;
}

template <class Element>
training::recorded_layer<Element> recorded(io::trace_shape const& shape, int number, int tokens, Element const* query,
                                           Element const* key, Element const* value) {
  auto const strides = [&](int dim) { return training::token_strides{std::int64_t{shape.tokens} * dim, dim}; };
  return {.queries = query,
          .keys = key,
          .values = value,
          .kv_heads = shape.kv_heads,
          .group = shape.group(),
          .tokens = tokens,
          .key_head_dim = shape.key_head_dim,
          .value_head_dim = shape.value_head_dim,
          .layer = number,
          .query_strides = strides(shape.key_head_dim),
          .key_strides = strides(shape.key_head_dim),
          .value_strides = strides(shape.value_head_dim)};
}

template <class Element>
std::optional<layer_view> view_in_place(io::trace const& trace, int number, int tokens) {
  auto const* const query = in_place<Element>(trace.query(number));
  auto const* const key = in_place<Element>(trace.key(number));
  auto const* const value = in_place<Element>(trace.value(number));
  if (query == nullptr || key == nullptr || value == nullptr) return {};
  return recorded(trace.shape(number), number, tokens, query, key, value);
}

sequence_layer open_layer(io::trace const& trace, int number, int tokens) {
  sequence_layer layer;
  auto view = view_in_place<float>(trace, number, tokens);
  if (!view) view = view_in_place<fkv::half>(trace, number, tokens);
  if (!view) view = view_in_place<fkv::bfloat16>(trace, number, tokens);
  if (!view) {
    layer.widened = trace.layer(number);
    view = recorded(layer.widened.shape, number, tokens, layer.widened.query.data(), layer.widened.key.data(),
                    layer.widened.value.data());
  }
  layer.view = *view;
  return layer;
}

fkv::judge_shape judge_of(io::trace_shape const& shape, int num_layers) {
  return {num_layers, shape.kv_heads, shape.group(), shape.key_head_dim, shape.value_head_dim};
}

void check_layers(io::trace const& trace, std::string const& name, corpus const& all) {
  for (int const number : all.layers) {
    auto const found = judge_of(trace.shape(number), all.shape.num_layers);  // throws if it was not recorded
    if (found == all.shape) continue;
    auto const text = [](fkv::judge_shape const& shape) {
      return std::to_string(shape.num_kv_heads) + " KV heads of " + std::to_string(shape.group) +
             " query heads, head dims " + std::to_string(shape.key_head_dim) + " and " +
             std::to_string(shape.value_head_dim);
    };
    throw input_error(name + ": layer " + std::to_string(number) + " has " + text(found) + ", expected " +
                      text(all.shape));
  }
}

int last_token(options const& chosen, std::string const& name, int tokens) {
  int const end = chosen.to.value_or(tokens);
  if (end > tokens)
    throw input_error("--to " + std::to_string(end) + " lies behind the " + std::to_string(tokens) + " tokens of " +
                      name);
  return end;
}

sequence training_sequence(options const& chosen, io::trace const& trace, std::string name) {
  sequence made;
  made.name = std::move(name);
  made.trace = &trace;
  int const end = last_token(chosen, made.name, trace.tokens());
  int const first = chosen.budget + chosen.interval;
  made.train_tokens = end - chosen.held_out;
  if (chosen.held_out > 0) {
    made.measure_from = made.train_tokens;
    made.measure_to = end;
    if (made.train_tokens % chosen.interval != 0)
      throw input_error(made.name + ": the " + std::to_string(made.train_tokens) + " tokens before the " +
                        std::to_string(chosen.held_out) + " held out are no multiple of the interval " +
                        std::to_string(chosen.interval));
  }
  if (made.train_tokens <= first)
    throw input_error(made.name + ": nothing to train on: " + std::to_string(made.train_tokens) +
                      " tokens, and the first eviction comes when " + std::to_string(first) +
                      " are cached and another one arrives");
  return made;
}

sequence held_out_sequence(options const& chosen, io::trace const& trace, std::string name) {
  sequence made;
  made.name = std::move(name);
  made.trace = &trace;
  made.measure_from = chosen.budget + chosen.interval;
  made.measure_to = trace.tokens();
  if (made.measure_to <= made.measure_from)
    throw input_error(made.name + ": nothing to measure: " + std::to_string(made.measure_to) + " tokens");
  return made;
}

/// Golden's scores, from queries and keys.
template <class Element>
void solve(training::recorded_layer<Element> const& layer, int interval, fkv::host_execution host, float* future) {
  // The scores depend on the block alone; the smallest budget gives a row for every block from the third on.
  fkv::golden_config const config{.budget = interval, .interval = interval};
  fkv::golden_input<Element> input;
  input.queries = layer.queries;
  input.keys = layer.keys;
  input.shape = {layer.kv_heads, layer.group, layer.tokens, layer.key_head_dim};
  input.query_strides = {layer.query_strides.head, layer.query_strides.token};
  input.key_strides = {layer.key_strides.head, layer.key_strides.token};
  std::vector<std::byte> scratch(fkv::golden_eviction_bytes(host, config, input.shape));
  require(fkv::golden_eviction(host, config, input, {.future = future}, scratch), "golden_eviction");
}

/// Golden's scores of its own candidates, from a shard; those of other tokens are not looked at.
void read_shard(options const& chosen, sequence const& from, int number, sequence_layer& layer) {
  auto const path = chosen.labels / io::label_shard_name(from.name, number);
  io::label_shard const shard(path);
  auto const& source = shard.source();
  auto const& config = source.config;
  bool const fits = config.budget == chosen.budget && config.interval == chosen.interval &&
                    config.future == fkv::golden_future::maximum && source.tokens == from.train_tokens &&
                    source.layer == number;
  if (!fits)
    throw input_error(path.string() + ": was made with other options: expected --budget " +
                      std::to_string(chosen.budget) + " --interval " + std::to_string(chosen.interval) + " --to " +
                      std::to_string(from.train_tokens));
  if (source.fingerprint != io::layer_fingerprint(*from.trace, number))
    throw input_error(path.string() + ": was made from another trace than " + from.name);
  auto const positions = io::candidate_positions(shard);
  auto const labels = shard.labels();
  for (std::size_t i = 0; i < labels.size(); ++i) {
    auto const row = i / as_size(config.budget);
    auto const step = row / as_size(source.kv_heads), head = row % as_size(source.kv_heads);
    layer.future[(head * as_size(layer.scores.rows) + step) * as_size(from.train_tokens) + as_size(positions[i])] =
        labels[i];
  }
}

std::string fingerprint_of(options const& chosen, corpus const& all) {
  std::uint64_t state = 0;
  auto const add = [&](std::span<std::byte const> bytes) { state = io::fingerprint(bytes, state); };
  for (auto const& from : all.sequences) {
    int const extents[] = {from.train_tokens, from.measure_from, from.measure_to};
    add(std::as_bytes(std::span(extents)));
    for (int const number : all.layers) {
      add(std::as_bytes(std::span(&number, 1)));
      for (auto const* part : {&from.trace->query(number), &from.trace->key(number), &from.trace->value(number)})
        add(part->bytes);
    }
  }
  if (!chosen.weights.empty()) add(io::mapped_file(chosen.weights).bytes());
  return io::fingerprint_text(state);
}

}  // namespace

int threads_of(options const& chosen) {
#if defined(_OPENMP)
  return chosen.threads > 0 ? chosen.threads : omp_get_max_threads();
#else
  (void)chosen;
  return 1;
#endif
}

corpus open_corpus(options const& chosen) {
  corpus all;
  auto const open = [&](std::filesystem::path const& path, auto const& made) {
    auto const& trace = all.traces.emplace_back(path);
    auto const name = path.filename().string();
    if (all.sequences.empty()) {
      all.layers = chosen.layers.empty() ? trace.layers() : chosen.layers;
      all.shape = judge_of(trace.shape(all.layers.front()), static_cast<int>(all.layers.size()));
    }
    check_layers(trace, name, all);
    all.sequences.push_back(made(chosen, trace, name));
  };
  for (auto const& path : chosen.traces) open(path, training_sequence);
  for (auto const& path : chosen.held_out_traces) open(path, held_out_sequence);
  for (auto& each : all.sequences)
    for (int const number : all.layers)
      if (each.train_tokens > 0) each.layers.push_back(open_layer(*each.trace, number, each.train_tokens));
  all.fingerprint = fingerprint_of(chosen, all);
  return all;
}

void find_labels(options const& chosen, support::communicator const& world, corpus& all) {
  struct place {
    sequence* from;
    std::size_t layer;
  };
  std::vector<place> places;
  bool const shards = !chosen.labels.empty();
  int const budget = shards ? chosen.budget : chosen.interval;
  fkv::golden_config const config{.budget = budget, .interval = chosen.interval};
  for (auto& from : all.sequences)
    for (std::size_t layer = 0; layer < from.layers.size(); ++layer) {
      auto& made = from.layers[layer];
      int const rows = config.steps(from.train_tokens);
      made.future.assign(as_size(all.shape.num_kv_heads) * as_size(rows) * as_size(from.train_tokens), 0.0f);
      made.scores = {made.future.data(), rows, from.train_tokens, config.first_block()};
      places.push_back({&from, layer});
    }
  auto const host = fkv::host.threads(threads_of(chosen));
  share_work(
      world, places.size(), 1,
      [&](std::size_t task) {
        auto const& [from, layer] = places[task];
        auto& made = from->layers[layer];
        if (shards) return read_shard(chosen, *from, all.layers[layer], made);
        std::visit([&](auto const& view) { solve(view, chosen.interval, host, made.future.data()); }, made.view);
      },
      [&](std::size_t task, auto const& send) {
        send(std::span(places[task].from->layers[places[task].layer].future));
      });
}

}  // namespace train_judge
