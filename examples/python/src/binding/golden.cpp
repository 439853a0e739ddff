// SPDX-License-Identifier: Apache-2.0
#include "golden.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <foresightkv/golden/eviction.hpp>
#include <foresightkv/io/label_shard.hpp>
#include <optional>

#include "recorded.hpp"

namespace binding {
namespace {

template <class Element>
using input_of_type = fkv::golden_input<Element>;
using any_input = of_each_element<input_of_type>;

/// What golden_eviction gives: Python's Labels.
struct golden_labels {
  nb::ndarray<nb::numpy, float> labels;
  nb::ndarray<nb::numpy, std::int32_t> evicted, evicted_positions;
  std::optional<nb::ndarray<nb::numpy, float>> future;
  int steps = 0;
  int first_block = 0;
};

fkv::golden_shape const& shape_of(any_input const& input) {
  return std::visit([](auto const& view) -> fkv::golden_shape const& { return view.shape; }, input);
}

/// [query head][token] as [query head][token][1], with the distances that the library wants.
tensor expect_lse(tensor given, tensor const& query) {
  given.extents.push_back(1);
  given.strides.push_back(1);
  tensor made = expect_heads(given, "lse");
  if (!made.is<float>() || made.extents[0] != query.extents[0] || made.extents[1] != query.extents[1])
    refuse("lse: float32, shaped as the queries without dim, is " + given.text());
  return made;
}

any_input golden_input_of(input_array const& queries, input_array const& keys, std::optional<input_array> const& lse,
                          float softmax_scale) {
  tensor const query = expect_heads(describe(queries), "queries"), key = expect_heads(describe(keys), "keys");
  bool const alike = query.dtype == key.dtype && query.extents[1] == key.extents[1] &&
                     query.extents[2] == key.extents[2] && key.extents[0] > 0;
  if (!alike || query.extents[0] % key.extents[0] != 0)
    refuse(
        "queries and keys: one type, as many tokens and elements, and query heads that share the KV heads evenly, "
        "are " +
        query.text() + " and " + key.text());
  return with_token_element(query, "queries", [&]<class Element>(Element) -> any_input {
    fkv::golden_input<Element> made{
        .queries = query.elements<Element>(),
        .keys = key.elements<Element>(),
        .shape = {key.extent(0), query.extent(0) / key.extent(0), key.extent(1), key.extent(2)},
        .softmax_scale = softmax_scale,
        .query_strides = {query.strides[0], query.strides[1]},
        .key_strides = {key.strides[0], key.strides[1]}};
    if (lse) {
      tensor const found = expect_lse(describe(*lse), query);
      made.lse = found.elements<float>();
      made.lse_strides = {found.strides[0], found.strides[1]};
    }
    return made;
  });
}

/// The arrays that a call fills, and run(output).
template <class Run>
golden_labels solve(fkv::golden_config const& config, int kv_heads, int tokens, int steps, bool future_scores,
                    Run const& run) {
  auto const rows = as_size(steps), heads = as_size(kv_heads);
  fresh_array<float> labels({rows, heads, as_size(config.budget)});
  fresh_array<std::int32_t> evicted({rows, heads, as_size(config.interval)});
  fresh_array<std::int32_t> positions({rows, heads, as_size(config.interval)});
  std::optional<fresh_array<float>> future;
  if (future_scores) future.emplace(std::vector<std::size_t>{heads, rows, as_size(tokens)});
  fkv::golden_output const output{labels.data, evicted.data, positions.data, future ? future->data : nullptr};
  call_library("golden_eviction", [&] { return run(output); });
  golden_labels made{labels.array, evicted.array, positions.array, {}, steps, config.first_block()};
  if (future) made.future = future->array;
  return made;
}

fkv::status golden_eviction_of(fkv::host_execution exec, fkv::golden_config const& config, any_input const& input,
                               fkv::golden_output const& output) {
  return std::visit(
      [&](auto const& view) {
        std::vector<std::byte> scratch(fkv::golden_eviction_bytes(exec, config, view.shape));
        return fkv::golden_eviction(exec, config, view, output, scratch);
      },
      input);
}

void expect_aligned(fkv::golden_config const& config) {
  if (!config.aligned()) refuse("budget: must be a multiple of the interval under the rules 'exact'");
}

golden_labels golden_from_tokens(input_array const& queries, input_array const& keys, int budget, int interval,
                                 std::string const& future, double discount, std::string const& reduction,
                                 std::string const& rules, float softmax_scale, std::optional<input_array> const& lse,
                                 bool future_scores, int threads) {
  auto const config = golden_config_of(budget, interval, future, discount, reduction, rules);
  auto const input = golden_input_of(queries, keys, lse, softmax_scale);
  auto const exec = on_threads(threads);
  auto const& shape = shape_of(input);
  expect_aligned(config);
  return solve(config, shape.kv_heads, shape.tokens, config.steps(shape.tokens), future_scores,
               [&](fkv::golden_output const& output) { return golden_eviction_of(exec, config, input, output); });
}

golden_labels golden_from_means(input_array const& given, int budget, int interval, std::string const& future,
                                double discount, bool future_scores, int threads) {
  auto const config = golden_config_of(budget, interval, future, discount, "mean", "exact");
  tensor const block_means = describe(given);
  if (!block_means.is<float>() || block_means.dims() != 3)
    refuse("means: float32 [kv_head][token][block], are " + block_means.text());
  fkv::golden_means const means{block_means.elements<float>(), block_means.extent(0),  block_means.extent(1),
                                block_means.extent(2),         block_means.strides[0], block_means.strides[1],
                                block_means.strides[2]};
  auto const exec = on_threads(threads);
  int const steps = std::min(config.steps(means.tokens), means.blocks);
  return solve(config, means.kv_heads, means.tokens, steps, future_scores, [&](fkv::golden_output const& output) {
    std::vector<std::byte> scratch(fkv::golden_eviction_bytes(exec, config, means));
    return fkv::golden_eviction(exec, config, means, output, scratch);
  });
}

nb::ndarray<nb::numpy, float> block_means_of(input_array const& queries, input_array const& keys, int budget,
                                             int interval, std::string const& reduction, std::string const& rules,
                                             float softmax_scale, std::optional<input_array> const& lse, int threads) {
  auto const config = golden_config_of(budget, interval, "maximum", 0.0, reduction, rules);
  auto const input = golden_input_of(queries, keys, lse, softmax_scale);
  auto const exec = on_threads(threads);
  auto const& shape = shape_of(input);
  expect_aligned(config);
  fresh_array<float> means(
      {as_size(shape.kv_heads), as_size(config.future_blocks(shape.tokens)), as_size(shape.tokens)});
  call_library("block_means", [&] {
    return std::visit(
        [&](auto const& view) {
          std::vector<std::byte> scratch(fkv::block_means_bytes(exec, config, shape));
          return fkv::block_means(exec, config, view, means.data, scratch);
        },
        input);
  });
  auto const blocks = means.array.shape(1), tokens = means.array.shape(2);
  std::size_t const extents[] = {means.array.shape(0), tokens, blocks};
  std::int64_t const strides[] = {static_cast<std::int64_t>(tokens * blocks), 1, static_cast<std::int64_t>(tokens)};
  return nb::ndarray<nb::numpy, float>(means.data, 3, extents, means.owner, strides);
}

/// The same numbers as golden_eviction's future, for every block from the third on: they depend on the block alone.
nb::ndarray<nb::numpy, float> future_scores_of(layer_view const& from, int interval, std::string const& future,
                                               double discount, std::string const& reduction, int threads) {
  auto const config = golden_config_of(interval, interval, future, discount, reduction, "exact");
  any_input const input = std::visit(
      []<class Element>(layer_of<Element> const& layer) -> any_input {
        return fkv::golden_input<Element>{.queries = layer.queries,
                                          .keys = layer.keys,
                                          .shape = {layer.kv_heads, layer.group, layer.tokens, layer.key_head_dim},
                                          .softmax_scale = layer.softmax_scale,
                                          .query_strides = {layer.query_strides.head, layer.query_strides.token},
                                          .key_strides = {layer.key_strides.head, layer.key_strides.token}};
      },
      from.layer);
  auto const exec = on_threads(threads);
  auto const& shape = shape_of(input);
  expect_aligned(config);
  fresh_array<float> made({as_size(shape.kv_heads), as_size(config.steps(shape.tokens)), as_size(shape.tokens)});
  call_library("future_scores", [&] { return golden_eviction_of(exec, config, input, {.future = made.data}); });
  return made.array;
}

}  // namespace

fkv::golden_config golden_config_of(int budget, int interval, std::string const& future, double discount,
                                    std::string const& reduction, std::string const& rules) {
  fkv::golden_config const config{
      .budget = budget,
      .interval = interval,
      .future = enumerator<fkv::golden_future>("future", future, fkv::io::golden_future_names),
      .discount = static_cast<float>(discount),
      .reduction = enumerator<fkv::golden_reduction>("reduction", reduction, fkv::io::golden_reduction_names),
      .rules = enumerator<fkv::golden_rules>("rules", rules, fkv::io::golden_rules_names)};
  if (!config.valid()) refuse("golden_eviction: 0 < interval <= budget and a discount between 0 and 1");
  return config;
}

void bind_golden(nb::module_& module) {
  nb::class_<golden_labels>(module, "Labels",
                            "What every candidate of every step is worth to the future, and what Golden Eviction "
                            "takes: higher is kept; of equal scores the lowest index goes first.")
      .def_prop_ro(
          "labels", [](golden_labels const& l) { return l.labels; }, as_owned,
          "float32 [step][kv_head][budget], the candidates in order of time.")
      .def_prop_ro(
          "evicted", [](golden_labels const& l) { return l.evicted; }, as_owned,
          "int32 [step][kv_head][interval], indices among the candidates, ascending.")
      .def_prop_ro(
          "evicted_positions", [](golden_labels const& l) { return l.evicted_positions; }, as_owned,
          "The same as positions in the sequence.")
      .def_prop_ro(
          "future", [](golden_labels const& l) { return l.future; }, as_owned,
          "float32 [kv_head][step][token], the score of every token, evicted or not; None unless future_scores was "
          "asked for.")
      .def_ro("steps", &golden_labels::steps)
      .def_ro("first_block", &golden_labels::first_block,
              "Block of `interval` queries that the first step has not seen.");
  module.def("golden_eviction", &golden_from_tokens, "queries"_a, "keys"_a, nb::kw_only(), "budget"_a, "interval"_a,
             "future"_a = "maximum", "discount"_a = 0.9, "reduction"_a = "mean", "rules"_a = "exact",
             "softmax_scale"_a = 0.0f, "lse"_a = nb::none(), "future_scores"_a = false, "threads"_a = 0,
             R"(What an eviction that knows the future takes from one layer of one sequence. Returns Labels.

queries: [query head][token][head_dim], keys: [kv_head][token][head_dim], of the whole sequence, after the rotary
    embedding; float32, float16 or bfloat16, any positive strides with contiguous tokens.
future: how a candidate's block means become its score, "maximum" (the paper), "sum", "mean" or "discounted" (by
    discount). reduction: over the query heads of a KV head, "mean" (the paper) or "maximum".
rules: "exact", or "published" for those of the paper's code; "exact" needs a budget that is a multiple of the interval.
softmax_scale: 0 for 1 / sqrt(head_dim). lse: float32 [query head][token], natural log-sum-exp of the scaled logits:
    saves a pass. future_scores: Labels.future too. threads: 0 for OpenMP's own default.
No more than budget + interval tokens: no step.)");
  module.def("block_means", &block_means_of, "queries"_a, "keys"_a, nb::kw_only(), "budget"_a, "interval"_a,
             "reduction"_a = "mean", "rules"_a = "exact", "softmax_scale"_a = 0.0f, "lse"_a = nb::none(),
             "threads"_a = 0,
             R"(Mean attention of each future block of queries to each key: float32 [kv_head][token][block], block
1 + budget // interval first; 0 beyond a block's last query. Arguments as those of golden_eviction.)");
  module.def(
      "golden_eviction_of_means", &golden_from_means, "means"_a, nb::kw_only(), "budget"_a, "interval"_a,
      "future"_a = "maximum", "discount"_a = 0.9, "future_scores"_a = false, "threads"_a = 0,
      R"(Golden Eviction from block means float32 [kv_head][token][block], as block_means gives them; any strides.
Any budget of at least the interval; it stops where the blocks run out. Returns Labels.)");
  module.def(
      "future_scores", &future_scores_of, "layer"_a, nb::kw_only(), "interval"_a, "future"_a = "maximum",
      "discount"_a = 0.9, "reduction"_a = "mean", "threads"_a = 0,
      R"(What every token of a Layer is worth to each block of `interval` queries and all later ones, from the third
block on, whatever the budget: float32 [kv_head][row][token], the labels of feature_replay.)");
}

}  // namespace binding
