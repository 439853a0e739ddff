// SPDX-License-Identifier: Apache-2.0
#include "recorded.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

namespace binding {
namespace {

void expect_one_type(tensor const& keys, tensor const& other, char const* names) {
  if (keys.dtype != other.dtype)
    refuse(std::string(names) + ": elements of one type, are " + keys.text() + " and " + other.text());
}

void expect_values(tensor const& keys, tensor const& values) {
  expect_one_type(keys, values, "keys and values");
  if (keys.extents[0] != values.extents[0] || keys.extents[1] != values.extents[1])
    refuse("keys and values: as many heads and tokens of both, are " + keys.text() + " and " + values.text());
}

fkv::training::token_strides strides_of(tensor const& heads) { return {heads.strides[0], heads.strides[1]}; }

}  // namespace

input_array input_of(nb::handle given, char const* name) {
  input_array made;
  if (!nb::try_cast<input_array>(given, made))
    refuse(std::string(name) + ": not an array in host memory (NumPy, PyTorch, or anything that speaks DLPack)");
  return made;
}

fkv::judge_shape training_shape(tensor const& packed) {
  // Inputs are all that these calls look at; what they are made of does not show in the packed weights.
  constexpr int rest = 1 + fkv::judge_shape::features;
  int const dims = packed.dims(), inputs = packed.extent(dims - 2) - 3;
  if (inputs <= rest) refuse("weights of judges: [kv_head][inputs + 3][16], are " + packed.text());
  return {1, rows_before(packed, 2), 1, inputs - rest, 1};
}

layer_view::layer_view(nb::object given_queries, nb::object given_keys, nb::object given_values, int number,
                       std::optional<int> tokens, float softmax_scale)
    : queries(std::move(given_queries)), keys(std::move(given_keys)), values(std::move(given_values)) {
  held_ = {input_of(queries, "queries"), input_of(keys, "keys"), input_of(values, "values")};
  tensor const query = expect_heads(describe(held_[0]), "queries"), key = expect_heads(describe(held_[1]), "keys"),
               value = expect_heads(describe(held_[2]), "values");
  expect_one_type(key, query, "keys and queries");
  expect_values(key, value);
  bool const alike = query.extents[1] == key.extents[1] && query.extents[2] == key.extents[2];
  if (!alike || key.extents[0] < 1 || query.extents[0] % key.extents[0] != 0)
    refuse("queries and keys: as many tokens and elements, and query heads that share the KV heads evenly, are " +
           query.text() + " and " + key.text());
  int const recorded = key.extent(1), seen = tokens.value_or(recorded);
  if (seen < 0 || seen > recorded)
    refuse("tokens: between 0 and the " + std::to_string(recorded) + " recorded ones, is " + std::to_string(seen));
  if (number < 0) refuse("number: of a layer, is " + std::to_string(number));
  with_token_element(key, "keys", [&]<class Element>(Element) {
    layer = layer_of<Element>{.queries = query.elements<Element>(),
                              .keys = key.elements<Element>(),
                              .values = value.elements<Element>(),
                              .kv_heads = key.extent(0),
                              .group = query.extent(0) / key.extent(0),
                              .tokens = seen,
                              .key_head_dim = key.extent(2),
                              .value_head_dim = value.extent(2),
                              .softmax_scale = softmax_scale,
                              .layer = number,
                              .query_strides = strides_of(query),
                              .key_strides = strides_of(key),
                              .value_strides = strides_of(value)};
  });
}

rows_view::rows_view(nb::object given_keys, nb::object given_values, nb::object given_statistics,
                     nb::object given_positions)
    : keys(std::move(given_keys)),
      values(std::move(given_values)),
      statistics(std::move(given_statistics)),
      positions(std::move(given_positions)) {
  held_ = {input_of(keys, "keys"), input_of(values, "values"), input_of(statistics, "statistics")};
  tensor const key = expect_heads(describe(held_[0]), "keys"), value = expect_heads(describe(held_[1]), "values");
  expect_values(key, value);
  tensor const given = expect_last(describe(held_[2]), "statistics", dtype_of<float>, {key.extents[0], -1, -1});
  int const width = given.extent(given.dims() - 1);
  if (width < fkv::judge_shape::features || width % fkv::judge_shape::features != 0)
    refuse("statistics: eight of each query head of a KV head, are " + given.text());
  shape = {1, key.extent(0), width / fkv::judge_shape::features, key.extent(2), value.extent(2)};
  steps_ = extents_before(given, 3);
  std::int32_t const* places = nullptr;
  if (!positions.is_none()) {
    held_.push_back(input_of(positions, "positions"));
    std::vector<std::int64_t> const extents(given.extents.begin(), given.extents.end() - 1);
    places = expect(describe(held_.back()), "positions", dtype_of<std::int32_t>, extents).elements<std::int32_t>();
  }
  with_token_element(key, "keys", [&]<class Element>(Element) {
    rows = rows_of<Element>{key.elements<Element>(), value.elements<Element>(), places,
                            given.elements<float>(), rows_before(given, 3),     given.extent(given.dims() - 2),
                            key.extent(1),           strides_of(key),           strides_of(value)};
  });
}

std::vector<std::size_t> rows_view::extents(std::vector<std::size_t> const& last) const {
  auto made = steps_;
  made.push_back(as_size(shape.num_kv_heads));
  made.push_back(as_size(candidates()));
  made.insert(made.end(), last.begin(), last.end());
  return made;
}

void bind_recorded(nb::module_& module) {
  nb::class_<layer_view>(module, "Layer", "One layer of a recorded sequence, read where it stands.")
      .def(nb::init<nb::object, nb::object, nb::object, int, std::optional<int>, float>(), "queries"_a, "keys"_a,
           "values"_a, nb::kw_only(), "number"_a = 0, "tokens"_a = nb::none(), "softmax_scale"_a = 0.0f,
           R"(queries: [query head][token][key_head_dim], keys: [kv_head][token][key_head_dim], values:
    [kv_head][token][value_head_dim], those after the rotary embedding; float32, float16 or bfloat16, all alike. Any
    positive strides, but the elements of a token are contiguous. Extents of 1 may stand in front.
number: of the layer in the model, which names the draws of a sampled replay.
tokens: how many of the first ones count; without, all. softmax_scale: 0 for 1 / sqrt(key_head_dim).
Raises ValueError for what does not fit.)")
      .def_ro("queries", &layer_view::queries, "As they were handed over.")
      .def_ro("keys", &layer_view::keys)
      .def_ro("values", &layer_view::values)
      .def_prop_ro("number",
                   [](layer_view const& l) { return std::visit([](auto const& view) { return view.layer; }, l.layer); })
      .def_prop_ro("tokens", &layer_view::tokens)
      .def_prop_ro("num_kv_heads", [](layer_view const& l) { return l.shape().num_kv_heads; })
      .def_prop_ro(
          "group", [](layer_view const& l) { return l.shape().group; }, "Query heads per KV head.")
      .def_prop_ro("key_head_dim", [](layer_view const& l) { return l.shape().key_head_dim; })
      .def_prop_ro("value_head_dim", [](layer_view const& l) { return l.shape().value_head_dim; });

  nb::class_<rows_view>(module, "Rows",
                        "Candidates of evictions of one layer, with what its judges are told of them, bound once.")
      .def(nb::init<nb::object, nb::object, nb::object, nb::object>(), "keys"_a, "values"_a, "statistics"_a,
           "positions"_a = nb::none(),
           R"(keys: [kv_head][token][key_head_dim], values: [kv_head][token][value_head_dim] of a whole sequence;
    float32, float16 or bfloat16, any positive strides, read in place: a candidate names its token.
statistics: float32 [...][kv_head][candidate][8 * group], statistic after statistic. What stands in front are steps:
    evictions of a sequence, rollouts, both.
positions: int32 [...][kv_head][candidate], the candidates' tokens; without, candidate i is token i.)")
      .def_ro("keys", &rows_view::keys, "As they were handed over.")
      .def_ro("values", &rows_view::values)
      .def_ro("statistics", &rows_view::statistics)
      .def_ro("positions", &rows_view::positions)
      .def_prop_ro("steps", &rows_view::steps, "Of the extents in front, the product.")
      .def_prop_ro("candidates", &rows_view::candidates)
      .def_prop_ro("num_kv_heads", [](rows_view const& r) { return r.shape.num_kv_heads; })
      .def_prop_ro("group", [](rows_view const& r) { return r.shape.group; })
      .def_prop_ro(
          "inputs", [](rows_view const& r) { return r.shape.inputs(); }, "Numbers that a judge reads of a candidate.");
}

}  // namespace binding
