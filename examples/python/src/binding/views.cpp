// SPDX-License-Identifier: Apache-2.0
#include "views.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>

#include "calls.hpp"

namespace binding {
namespace {

/// Arrays of keys or values: one, or one for each layer with the same extents and strides.
struct token_arrays {
  tensor first;               // [layer][...], its layer extent 1 where layers have arrays of their own
  std::vector<void*> layers;  // those
};

token_arrays hold_tokens(held_arrays& held, nb::object const& given, char const* name, int dims) {
  token_arrays made;
  if (!nb::isinstance<nb::list>(given) && !nb::isinstance<nb::tuple>(given)) {
    made.first = held.hold(given);
    if (made.first.dims() > dims)
      refuse(std::string(name) + ": at most " + std::to_string(dims) + " dimensions, is " + made.first.text());
    expect_contiguous_tokens(made.first, name);
    made.first = made.first.with_dims(dims);
    return made;
  }
  for (nb::handle const one : given) {
    tensor const layer = held.hold(one);
    expect_contiguous_tokens(layer, name);
    if (made.layers.empty()) made.first = layer;
    if (layer.dtype != made.first.dtype || layer.extents != made.first.extents || layer.strides != made.first.strides)
      refuse(std::string(name) + ": arrays of layers must have one type, shape and strides, found " +
             made.first.text() + " and " + layer.text());
    made.layers.push_back(layer.data);
  }
  if (made.layers.empty()) refuse(std::string(name) + ": no layer");
  if (made.first.dims() > dims - 1)
    refuse(std::string(name) + ": at most " + std::to_string(dims - 1) + " dimensions each, is " + made.first.text());
  made.first = made.first.with_dims(dims);
  return made;
}

/// An eviction writes tokens where they stand: no two may stand in one place. What strides alone make of one array, keys
/// and values side by side, say, is the caller's to know.
void expect_apart(token_arrays const& keys, token_arrays const& values) {
  if (std::ranges::find(keys.first.extents, 0) != keys.first.extents.end()) return;
  for (tensor const* const of : {&keys.first, &values.first})
    for (std::size_t dim = 0; dim < of->extents.size(); ++dim)
      if (of->extents[dim] > 1 && of->strides[dim] == 0)
        refuse(std::string(of == &keys.first ? "keys" : "values") + ": an expanded array: tokens stand in one place");
  std::vector<void*> places;
  for (token_arrays const* const of : {&keys, &values}) {
    places.insert(places.end(), of->layers.begin(), of->layers.end());
    if (of->layers.empty()) places.push_back(of->first.data);
  }
  std::ranges::sort(places);
  if (std::ranges::adjacent_find(places) != places.end())
    refuse("keys and values: two of the arrays stand in one place");
}

void expect_layout(std::string const& layout, std::initializer_list<char const*> known) {
  std::string names;
  for (char const* const one : known) {
    if (layout == one) return;
    names += (names.empty() ? "" : ", ") + std::string(one);
  }
  refuse("layout: one of " + names + ", is '" + layout + "'");
}

std::vector<int> layer_numbers(std::optional<std::vector<int>> const& given, int count) {
  if (given && static_cast<int>(given->size()) != count)
    refuse("layers: " + std::to_string(count) + " numbers of the model's layers, are " + std::to_string(given->size()));
  return given ? *given : std::vector<int>{};
}

template <class Element>
Element* const* layer_pointers(std::vector<void*> const& layers, memory& buffer) {
  std::span<void* const> const pointers(layers);
  return reinterpret_cast<Element* const*>(given<void*>(backend::on(0), pointers, buffer));
}

void expect_same(tensor const& keys, tensor const& values) {
  bool same = keys.dtype == values.dtype && keys.dims() == values.dims();
  for (std::size_t i = 0; same && i + 1 < keys.extents.size(); ++i) same = keys.extents[i] == values.extents[i];
  if (!same)
    refuse("keys and values: one type, and shapes that differ in the last extent alone, are " + keys.text() + " and " +
           values.text());
}

}  // namespace

tensor held_arrays::hold(nb::handle object) {
  array made;
  if (!nb::try_cast<array>(object, made)) refuse(std::string("not a writable array in ") + backend::memory_name);
  backend::expect_device(made.device_id());
  written.push_back(made);
  return describe(made);
}

tensor held_arrays::hold(input_array const& given) {
  backend::expect_device(given.device_id());
  read.push_back(given);
  return describe(given);
}

std::int32_t const* held_arrays::counts(std::optional<input_array> const& given, char const* name,
                                        std::int64_t entries) {
  if (!given) return nullptr;
  return expect(hold(*given), name, dtype_of<std::int32_t>, {entries}).elements<std::int32_t>();
}

void cache_view::name(fkv::cache_shape& shape, std::optional<std::vector<int>> const& layers) {
  layers_ = layer_numbers(layers, shape.num_layers);
  if (!layers_.empty()) shape.layers = given<int>(backend::on(0), layers_, layer_numbers_);
  lengths = expect(held_.hold(given_lengths), "lengths", dtype_of<std::int32_t>, {shape.num_sequences})
                .elements<std::int32_t>();
}

cache_view cache_view::make_dense(nb::object const& keys, nb::object const& values, nb::object const& lengths,
                                  int group, std::string const& layout, std::optional<std::vector<int>> const& layers) {
  expect_layout(layout, {"hnd", "nhd"});
  cache_view made;
  made.keys = keys, made.values = values, made.given_lengths = lengths;
  token_arrays key = hold_tokens(made.held_, keys, "keys", 5), value = hold_tokens(made.held_, values, "values", 5);
  expect_same(key.first, value.first);
  expect_apart(key, value);
  if (key.layers.size() != value.layers.size()) refuse("keys and values: as many layers of both");
  if (layout == "nhd") key.first = key.first.transposed(2, 3), value.first = value.first.transposed(2, 3);

  fkv::cache_shape shape;
  shape.num_layers = key.layers.empty() ? key.first.extent(0) : static_cast<int>(key.layers.size());
  shape.num_sequences = key.first.extent(1);
  shape.num_kv_heads = key.first.extent(2);
  shape.group = group;
  shape.capacity = key.first.extent(3);
  shape.key_head_dim = key.first.extent(4);
  shape.value_head_dim = value.first.extent(4);
  made.key_layers_ = std::move(key.layers);
  made.value_layers_ = std::move(value.layers);
  made.name(shape, layers);

  auto const strides = [](tensor const& of) {
    return fkv::cache_strides{of.strides[0], of.strides[1], of.strides[2], of.strides[3]};
  };
  with_token_element(key.first, "keys", [&]<class Element>(Element) {
    auto view =
        dense<Element>::hnd(key.first.elements<Element>(), value.first.elements<Element>(), made.lengths, shape);
    view.key_layout = strides(key.first);
    view.value_layout = strides(value.first);
    if (!made.key_layers_.empty())
      view = view.with_layers(layer_pointers<Element>(made.key_layers_, made.key_pointers_),
                              layer_pointers<Element>(made.value_layers_, made.value_pointers_));
    made.cache = view;
    require(view.check(), "DenseCache");
  });
  return made;
}

cache_view cache_view::make_paged(nb::object const& keys, nb::object const& values, input_array const& tables,
                                  nb::object const& lengths, int group, std::string const& layout,
                                  std::optional<std::vector<int>> const& layers,
                                  std::optional<input_array> const& owners) {
  expect_layout(layout, {"hnd", "nhd", "one_head"});
  bool const one_head = layout == "one_head";
  int const dims = one_head ? 4 : 5;
  cache_view made;
  made.keys = keys, made.values = values, made.given_lengths = lengths;
  token_arrays key = hold_tokens(made.held_, keys, "keys", dims),
               value = hold_tokens(made.held_, values, "values", dims);
  expect_same(key.first, value.first);
  expect_apart(key, value);
  if (key.layers.size() != value.layers.size()) refuse("keys and values: as many layers of both");
  if (layout == "hnd") key.first = key.first.transposed(2, 3), value.first = value.first.transposed(2, 3);

  tensor const table = made.held_.hold(tables);
  int const table_dims = table.dims();
  if (one_head ? table_dims != 3 && table_dims != 4 : table_dims != 2)
    refuse(std::string("tables: ") +
           (one_head ? "[sequence][kv_head][max_pages] or [layer][sequence][kv_head][max_pages]"
                     : "[sequence][max_pages]") +
           ", is " + table.text());
  expect(table, "tables", dtype_of<std::int32_t>, std::vector<std::int64_t>(as_size(table_dims), -1));
  bool const per_row = table_dims == 4;

  fkv::cache_shape shape;
  int const pools = key.layers.empty() ? key.first.extent(0) : static_cast<int>(key.layers.size());
  shape.num_layers = per_row ? table.extent(0) : pools;
  if (per_row && pools != 1) refuse("keys: one pool for all layers where every layer has tables of its own");
  int const num_pages = key.first.extent(1), page_size = key.first.extent(2), max_pages = table.extent(table_dims - 1);
  shape.num_sequences = table.extent(per_row ? 1 : 0);
  shape.num_kv_heads = one_head ? table.extent(table_dims - 2) : key.first.extent(3);
  shape.group = group;
  if (std::int64_t{max_pages} * page_size > 0x7fffffff) refuse("tables: too many pages");
  shape.capacity = max_pages * page_size;
  shape.key_head_dim = key.first.extent(dims - 1);
  shape.value_head_dim = value.first.extent(dims - 1);
  made.key_layers_ = std::move(key.layers);
  made.value_layers_ = std::move(value.layers);
  made.name(shape, layers);
  auto const* const counts = made.held_.counts(owners, "owners", num_pages);

  auto const* const pages = table.elements<std::int32_t>();
  fkv::page_table const found = per_row    ? fkv::page_table::per_row(shape, pages, max_pages, num_pages)
                                : one_head ? fkv::page_table::per_head(shape, pages, max_pages, num_pages)
                                           : fkv::page_table::per_sequence(pages, max_pages, num_pages);
  auto const strides = [&](tensor const& of) {
    return fkv::page_strides{per_row ? 0 : of.strides[0], of.strides[1], one_head ? 0 : of.strides[3], of.strides[2]};
  };
  with_token_element(key.first, "keys", [&]<class Element>(Element) {
    auto view = paged<Element>::nhd(key.first.elements<Element>(), value.first.elements<Element>(),
                                    {num_pages, page_size}, found, made.lengths, shape)
                    .with_strides(strides(key.first), strides(value.first))
                    .with_owners(counts);
    if (!made.key_layers_.empty())
      view = view.with_layers(layer_pointers<Element>(made.key_layers_, made.key_pointers_),
                              layer_pointers<Element>(made.value_layers_, made.value_pointers_));
    made.cache = view;
    require(view.check(), "PagedCache");
  });
  return made;
}

window_view::window_view(input_array const& queries, int group, std::string const& layout,
                         std::optional<input_array> const& counts, std::optional<input_array> const& starts,
                         std::optional<input_array> const& window_end, std::optional<input_array> const& first_position,
                         std::optional<input_array> const& lse, float softmax_scale, float soft_cap) {
  expect_layout(layout, {"hnd", "nhd"});
  tensor of = held_.hold(queries);
  if (of.dims() < 3 || of.dims() > 5) refuse("queries: [layer][sequence][query head][query][dim], is " + of.text());
  expect_contiguous_tokens(of, "queries");
  of = of.with_dims(5);
  if (layout == "nhd") of = of.transposed(2, 3);
  if (group <= 0 || of.extents[2] % group != 0)
    refuse("group: query heads per KV head, and " + std::to_string(of.extents[2]) + " query heads are no multiple of " +
           std::to_string(group));
  shape.num_layers = of.extent(0);
  shape.num_sequences = of.extent(1);
  shape.num_kv_heads = of.extent(2) / group;
  shape.group = group;
  shape.key_head_dim = of.extent(4);
  int const max_queries = of.extent(3);
  auto const sequences = std::int64_t{shape.num_sequences};

  with_token_element(of, "queries", [&]<class Element>(Element) {
    auto view = fkv::observation<Element>::hnd(of.elements<Element>(), shape, max_queries);
    view.strides = {of.strides[0], of.strides[1], of.strides[2], of.strides[3]};
    view.query_count = held_.counts(counts, "counts", sequences);
    view.query_starts = held_.counts(starts, "starts", sequences + 1);
    view.window_end = held_.counts(window_end, "window_end", sequences);
    view.first_position = held_.counts(first_position, "first_position", sequences);
    view.softmax_scale = softmax_scale;
    view.soft_cap = soft_cap;
    if (lse) {
      tensor found = held_.hold(*lse).with_dims(4);
      if (layout == "nhd") found = found.transposed(2, 3);
      std::vector<std::int64_t> const extents{of.extents.begin(), of.extents.begin() + 4};
      if (!found.is<float>() || found.extents != extents)
        refuse("lse: float32, shaped as the queries without dim, is " + found.text());
      view = view.with_lse(found.elements<float>());
      view.lse_strides = {found.strides[0], found.strides[1], found.strides[2], found.strides[3]};
    }
    window = view;
  });
}

void window_view::check(backend::execution const& exec) const {
  std::visit(
      [&](auto const& view) {
        if (view.query_starts == nullptr) return;
        auto const sequences = as_size(shape.num_sequences);
        host_values const starts(exec, view.query_starts, sequences + 1);
        host_values const counts(exec, view.query_count, view.query_count == nullptr ? 0 : sequences);
        for (std::size_t s = 0; s < sequences; ++s) {
          int const count = view.query_count == nullptr ? starts[s + 1] - starts[s] : counts[s];
          if (starts[s] < 0 || count < 0 || count > view.max_queries - starts[s])
            refuse("window: starts and counts of sequence " + std::to_string(s) + " lead out of the queries");
        }
      },
      window);
}

void const* cache_view::first_key() const {
  if (!key_layers_.empty()) return key_layers_.front();
  return std::visit([](auto const& view) -> void const* { return view.key_data; }, cache);
}

void bind_views(nb::module_& into) {
  nb::class_<cache_view>(into, "Cache",
                         "Keys and values in somebody else's memory: see DenseCache and PagedCache. Nothing is copied; "
                         "the arrays live as long as this object.")
      .def_prop_ro("num_layers", [](cache_view const& c) { return c.shape().num_layers; })
      .def_prop_ro("num_sequences", [](cache_view const& c) { return c.shape().num_sequences; })
      .def_prop_ro("num_kv_heads", [](cache_view const& c) { return c.shape().num_kv_heads; })
      .def_prop_ro(
          "group", [](cache_view const& c) { return c.shape().group; }, "Query heads per KV head.")
      .def_prop_ro("key_head_dim", [](cache_view const& c) { return c.shape().key_head_dim; })
      .def_prop_ro("value_head_dim", [](cache_view const& c) { return c.shape().value_head_dim; })
      .def_prop_ro(
          "capacity", [](cache_view const& c) { return c.shape().capacity; }, "Tokens that one row can hold.")
      .def_prop_ro(
          "layers",
          [](cache_view const& c) {
            std::vector<int> numbers(as_size(c.shape().num_layers));
            for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = c.model_layer(static_cast<int>(i));
            return numbers;
          },
          "Numbers of the layers in the model.")
      .def_ro("keys", &cache_view::keys, "As they were handed over.")
      .def_ro("values", &cache_view::values)
      .def_ro("lengths", &cache_view::given_lengths, "Tokens of each sequence: written by an eviction.")
      .def_prop_ro(
          "data_pointer", [](cache_view const& c) { return reinterpret_cast<std::uintptr_t>(c.first_key()); },
          "Address of the first layer's first key: that of the array it was made of.");
  into.def("DenseCache", &cache_view::make_dense, "keys"_a, "values"_a, "lengths"_a, nb::kw_only(), "group"_a,
           "layout"_a = "hnd", "layers"_a = nb::none(),
           R"(Keys and values in strided arrays, where they stand: float32, float16 or bfloat16.

keys, values: [layer][sequence][kv_head][capacity][head_dim] (layout "hnd") or
    [layer][sequence][capacity][kv_head][head_dim] ("nhd"). Leading extents of 1 may be left out; or a list with an
    array [sequence][kv_head][capacity][head_dim] for each layer. Any strides, but the elements of a token are contiguous.
lengths: int32 [sequence], tokens of each; written by an eviction.
group: query heads per KV head. layers: numbers of the layers in the model; 0, 1, ... without.
Raises ValueError for what does not fit.)");
  into.def("PagedCache", &cache_view::make_paged, "keys"_a, "values"_a, "tables"_a, "lengths"_a, nb::kw_only(),
           "group"_a, "layout"_a = "hnd", "layers"_a = nb::none(), "owners"_a = nb::none(),
           R"(Keys and values in pages of a pool, where they stand: slot s is in page table[s // page_size].

keys, values: [layer][page][kv_head][page_size][head_dim] (layout "hnd"), [layer][page][page_size][kv_head][head_dim]
    ("nhd"), or pages of one head, [layer][page][page_size][head_dim] ("one_head"). Without the first extent, one layer;
    or a list with an array for each layer.
tables: int32 [sequence][max_pages]; for "one_head" [sequence][kv_head][max_pages], or
    [layer][sequence][kv_head][max_pages] over one pool for all layers.
lengths: int32 [sequence]; written by an eviction. owners: int32 [page], how many sequences read each page: tokens of
    pages that more than one reads are not moved (ValueError: shared page).
group, layers: as in DenseCache.)");
  nb::class_<window_view>(
      into, "Window", "The queries that a call observes, after the rotary embedding, oldest first, where they stand.")
      .def(
          nb::init<input_array const&, int, std::string const&, std::optional<input_array> const&,
                   std::optional<input_array> const&, std::optional<input_array> const&,
                   std::optional<input_array> const&, std::optional<input_array> const&, float, float>(),
          "queries"_a, nb::kw_only(), "group"_a, "layout"_a = "hnd", "counts"_a = nb::none(), "starts"_a = nb::none(),
          "window_end"_a = nb::none(), "first_position"_a = nb::none(), "lse"_a = nb::none(), "softmax_scale"_a = 0.0f,
          "soft_cap"_a = 0.0f,
          R"(queries: [layer][sequence][query head][query][dim] ("hnd") or [layer][sequence][query][query head][dim] ("nhd"),
    leading extents of 1 may be left out; of the cache's element type. Query r of a sequence stands at position
    window_end - count + r and sees the tokens up to its own position.
counts: int32 [sequence], queries that each hands over; without, all. starts: int32 [sequence + 1], where each one's
    first query stands; without, 0.
window_end: int32 [sequence], one past the newest position of the window; without, one past the newest token.
first_position: int32 [sequence], of the first query, for queries that are not the window's last.
lse: float32, natural log-sum-exp of each query's scaled logits, shaped as the queries without dim: saves a pass.
softmax_scale: 0 for 1 / sqrt(dim). soft_cap: 0 for none.
The int32 arrays are read by each call: change them in place between two.)")
      .def_prop_ro("max_queries", &window_view::max_queries);
}

}  // namespace binding
