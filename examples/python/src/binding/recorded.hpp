// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/training/judge_gradient.hpp>
#include <foresightkv/training/replay_config.hpp>
#include <optional>

#include "calls.hpp"

namespace binding {

template <class Element>
using layer_of = fkv::training::recorded_layer<Element>;
template <class Element>
using rows_of = fkv::training::judge_rows<Element>;

/// One layer of a recorded sequence, bound once: what Python calls a Layer.
class layer_view {
 public:
  layer_view(nb::object queries, nb::object keys, nb::object values, int number, std::optional<int> tokens,
             float softmax_scale);

  of_each_element<layer_of> layer;
  nb::object queries, keys, values;  ///< as they were handed over

  [[nodiscard]] fkv::judge_shape shape() const {
    return std::visit([](auto const& view) { return view.shape(); }, layer);
  }
  [[nodiscard]] int tokens() const {
    return std::visit([](auto const& view) { return view.tokens; }, layer);
  }

 private:
  std::vector<input_array> held_;
};

/// Candidates of a number of steps, with their statistics: what the judges of one layer look at. Python's Rows.
class rows_view {
 public:
  rows_view(nb::object keys, nb::object values, nb::object statistics, nb::object positions);

  of_each_element<rows_of> rows;
  fkv::judge_shape shape;  ///< of the layer's judges
  nb::object keys, values, statistics, positions;

  /// [...][kv_heads][candidates], and `last`: the extents of what is computed for each candidate.
  [[nodiscard]] std::vector<std::size_t> extents(std::vector<std::size_t> const& last = {}) const;
  [[nodiscard]] std::vector<std::size_t> const& steps_extents() const { return steps_; }
  [[nodiscard]] int steps() const {
    return std::visit([](auto const& view) { return view.steps; }, rows);
  }
  [[nodiscard]] int candidates() const {
    return std::visit([](auto const& view) { return view.candidates; }, rows);
  }

 private:
  std::vector<input_array> held_;
  std::vector<std::size_t> steps_;  // extents in front of kv_heads
};

/// An array that is only read, whatever it was handed over as.
input_array input_of(nb::handle given, char const* name);

/// Weights of one layer's judges, packed: [kv_head][inputs + 3][16].
template <class Real>
Real* packed_weights(tensor const& given, char const* name, fkv::judge_shape const& shape) {
  std::vector<std::int64_t> const extents{shape.num_kv_heads, shape.inputs() + 3, fkv::judge_shape::hidden};
  return expect(given, name, nb::dtype<Real>(), extents).template elements<Real>();
}

/// A shape for calls that look at the inputs alone, from packed weights [...][inputs + 3][16] of any layers and heads.
fkv::judge_shape training_shape(tensor const& packed);

void bind_recorded(nb::module_& module);

}  // namespace binding
