// SPDX-License-Identifier: Apache-2.0
#include "layer_labels.hpp"

#include <algorithm>
#include <cstddef>
#include <foresightkv/golden/eviction.hpp>
#include <stdexcept>
#include <string>

namespace golden_labels {
namespace {

namespace io = foresightkv::io;

std::size_t as_size(std::int64_t count) { return static_cast<std::size_t>(count); }

/// The first `tokens` tokens of the heads [first, first + count) of a tensor [heads, T, dim], in fp32.
std::vector<float> widen(io::tensor const& part, int first, int count, int tokens) {
  auto const token_bytes = as_size(part.shape[2]) * io::element_size(part.dtype);
  auto const head_bytes = as_size(part.shape[1]) * token_bytes;
  std::vector<float> floats;
  floats.reserve(as_size(std::int64_t{count} * tokens * part.shape[2]));
  for (int head = first; head < first + count; ++head) {
    io::tensor const rows{part.label,
                          part.dtype,
                          {tokens, part.shape[2]},
                          part.bytes.subspan(as_size(head) * head_bytes, as_size(tokens) * token_bytes)};
    auto const values = rows.to_float();
    floats.insert(floats.end(), values.begin(), values.end());
  }
  return floats;
}

/// Puts one head's rows [steps][row] where they belong in [steps][kv_heads][row].
template <class Value>
void place(std::vector<Value> const& rows, int head, int kv_heads, int row, std::vector<Value>& all) {
  for (std::size_t step = 0; step * as_size(row) < rows.size(); ++step)
    std::copy_n(rows.begin() + static_cast<std::ptrdiff_t>(step) * row, row,
                all.begin() + (static_cast<std::ptrdiff_t>(step) * kv_heads + head) * row);
}

}  // namespace

layer_labels label_layer(fkv::host_execution host, fkv::golden_config const& config, io::trace const& trace, int layer,
                         int tokens, std::function<void(int heads)> const& done) {
  auto const& recorded = trace.shape(layer);
  fkv::golden_shape const shape{
      .kv_heads = 1, .group = recorded.group(), .tokens = tokens, .head_dim = recorded.key_head_dim};
  auto const steps = as_size(config.steps(tokens));
  std::vector<float> labels(steps * as_size(config.budget));
  std::vector<std::int32_t> evicted(steps * as_size(config.interval));
  std::vector<std::byte> scratch(fkv::golden_eviction_bytes(host, config, shape));
  layer_labels all;
  all.labels.resize(labels.size() * as_size(recorded.kv_heads));
  all.evicted.resize(evicted.size() * as_size(recorded.kv_heads));
  for (int head = 0; head < recorded.kv_heads; ++head) {
    auto const queries = widen(trace.query(layer), head * shape.group, shape.group, tokens);
    auto const keys = widen(trace.key(layer), head, 1, tokens);
    fkv::golden_input<float> const input{.queries = queries.data(), .keys = keys.data(), .shape = shape};
    auto const status =
        fkv::golden_eviction(host, config, input, {.labels = labels.data(), .evicted = evicted.data()}, scratch);
    if (!status.ok()) throw std::runtime_error(std::string("golden_eviction: ") + status.message());
    place(labels, head, recorded.kv_heads, config.budget, all.labels);
    place(evicted, head, recorded.kv_heads, config.interval, all.evicted);
    done(head + 1);
  }
  return all;
}

}  // namespace golden_labels
