// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/foresightkv.hpp>
#include <optional>

#include "arrays.hpp"

namespace binding {

template <class Element>
using dense = fkv::dense_cache<Element>;
template <class Element>
using paged = fkv::paged_cache<Element>;
template <class Element>
using window_of = fkv::observation<Element>;

namespace detail {
template <class... Dense, class... Paged>
std::variant<Dense..., Paged...> either(std::variant<Dense...> const&, std::variant<Paged...> const&);
}

/// A cache of any layout and element type that the module knows.
using any_cache = decltype(detail::either(of_each_element<dense>{}, of_each_element<paged>{}));
using any_window = of_each_element<window_of>;

/// Arrays whose memory a view names: it lives as long as the view does.
struct held_arrays {
  std::vector<array> written;
  std::vector<input_array> read;

  tensor hold(nb::handle object);
  tensor hold(input_array const& given);
  /// Data of an int32 array of so many entries, or null where none is given.
  std::int32_t const* counts(std::optional<input_array> const& given, char const* name, std::int64_t entries);
};

inline namespace FORESIGHTKV_PYTHON_BACKEND {

/// Keys and values of somebody else, bound once: what Python calls a DenseCache or a PagedCache.
class cache_view {
 public:
  static cache_view make_dense(nb::object const& keys, nb::object const& values, nb::object const& lengths, int group,
                               std::string const& layout, std::optional<std::vector<int>> const& layers);
  static cache_view make_paged(nb::object const& keys, nb::object const& values, input_array const& tables,
                               nb::object const& lengths, int group, std::string const& layout,
                               std::optional<std::vector<int>> const& layers, std::optional<input_array> const& owners);
  cache_view(cache_view&&) = default;

  any_cache cache;
  nb::object keys, values, given_lengths;  ///< as they were handed over
  std::int32_t* lengths = nullptr;         ///< [num_sequences], the user's: written after an eviction

  /// Its numbers of layers are for verbs to read.
  [[nodiscard]] fkv::cache_shape const& shape() const {
    return std::visit([](auto const& view) -> fkv::cache_shape const& { return view.shape(); }, cache);
  }
  /// A layer's number in the model.
  [[nodiscard]] int model_layer(int layer) const { return layers_.empty() ? layer : layers_[as_size(layer)]; }
  /// Where the first layer's first key stands.
  [[nodiscard]] void const* first_key() const;

 private:
  cache_view() = default;

  /// The layers' numbers in the model, and where the lengths stand.
  void name(fkv::cache_shape& shape, std::optional<std::vector<int>> const& layers);

  held_arrays held_;
  std::vector<int> layers_;                               // numbers of the model's layers
  std::vector<void*> key_layers_, value_layers_;          // where layers have arrays of their own
  memory layer_numbers_, key_pointers_, value_pointers_;  // the same where verbs read them
};

/// The queries that a call observes, bound once.
class window_view {
 public:
  window_view(input_array const& queries, int group, std::string const& layout,
              std::optional<input_array> const& counts, std::optional<input_array> const& starts,
              std::optional<input_array> const& window_end, std::optional<input_array> const& first_position,
              std::optional<input_array> const& lse, float softmax_scale, float soft_cap);

  any_window window;
  fkv::cache_shape shape;  ///< of the caches that it fits, but for their value_head_dim and capacity

  [[nodiscard]] int max_queries() const {
    return std::visit([](auto const& view) { return view.max_queries; }, window);
  }
  /// Refuses starts that lead out of the queries: the library would read what is not there.
  void check(backend::execution const& exec) const;

 private:
  held_arrays held_;
};

}  // namespace FORESIGHTKV_PYTHON_BACKEND

void bind_views(nb::module_& into);  // to nvcc a line that begins with "module" is a directive

}  // namespace binding
