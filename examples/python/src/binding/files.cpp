// SPDX-License-Identifier: Apache-2.0
#include "files.hpp"

#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <filesystem>
#include <foresightkv/io/label_shard.hpp>
#include <foresightkv/io/safetensors.hpp>
#include <foresightkv/io/trace.hpp>
#include <list>
#include <map>
#include <optional>
#include <tuple>

#include "golden.hpp"
#include "recorded.hpp"

namespace binding {
namespace {

namespace io = fkv::io;
using metadata = std::map<std::string, std::string>;

// --- tensors of a file as arrays

/// As NumPy and DLPack name a type of a file; bfloat16 is known to DLPack alone, and the 8-bit floats to neither.
template <class Element>
nb::dlpack::dtype array_type() {
  if constexpr (std::is_arithmetic_v<Element>)
    return nb::dtype<Element>();
  else
    return dtype_of<Element>;
}

template <class Element>
constexpr bool known_to_numpy = std::is_arithmetic_v<Element> || std::is_same_v<Element, fkv::half>;

std::vector<std::size_t> extents_of(io::tensor const& from) { return {from.shape.begin(), from.shape.end()}; }

/// The elements where the file is mapped, read only.
template <class Array>
nb::object in_place(io::tensor const& from, nb::dlpack::dtype type, nb::handle owner) {
  auto const extents = extents_of(from);
  return nb::cast(Array(from.bytes.data(), extents.size(), extents.data(), owner, nullptr, type));
}

nb::object widened(io::tensor const& from) { return nb::cast(to_numpy(from.to_float(), extents_of(from))); }

/// A tensor as NumPy has it, in place where NumPy knows the type. Elements that are not aligned are copied.
nb::object to_array(io::tensor const& from, nb::handle owner) {
  using read_only = nb::ndarray<nb::numpy, nb::ro>;
  if (from.dtype == io::dtype::boolean)
    return in_place<read_only>(from, {static_cast<std::uint8_t>(nb::dlpack::dtype_code::Bool), 8, 1}, owner);
  return io::visit_dtype(from.dtype, [&]<class Element>(std::type_identity<Element>) -> nb::object {
    if constexpr (!known_to_numpy<Element>) {
      return widened(from);
    } else {
      bool const aligned = reinterpret_cast<std::uintptr_t>(from.bytes.data()) % alignof(Element) == 0;
      if (aligned) return in_place<read_only>(from, array_type<Element>(), owner);
      fresh_array<std::uint8_t> copied({from.bytes.size()});
      std::memcpy(copied.data, from.bytes.data(), from.bytes.size());
      auto const extents = extents_of(from);
      return nb::cast(nb::ndarray<nb::numpy>(copied.data, extents.size(), extents.data(), copied.owner, nullptr,
                                             array_type<Element>()));
    }
  });
}

/// The same for a Layer: bfloat16 stays in place too.
nb::object to_layer_array(io::tensor const& from, nb::handle owner) {
  bool const aligned = reinterpret_cast<std::uintptr_t>(from.bytes.data()) % alignof(fkv::bfloat16) == 0;
  if (from.dtype == io::dtype::bf16 && aligned)
    return in_place<nb::ndarray<nb::array_api, nb::ro, nb::device::cpu>>(from, dtype_of<fkv::bfloat16>, owner);
  if (from.dtype == io::dtype::f32 || from.dtype == io::dtype::f16) return to_array(from, owner);
  return widened(from);
}

// --- arrays as tensors of a file

io::dtype file_type(tensor const& of, std::string const& name) {
  for (int i = 0; i < io::dtype_count; ++i) {
    auto const type = static_cast<io::dtype>(i);
    if (type == io::dtype::boolean || type == io::dtype::f8_e4m3 || type == io::dtype::f8_e5m2) continue;
    bool const found = io::visit_dtype(type, [&]<class Element>(std::type_identity<Element>) {
      if constexpr (std::is_same_v<Element, fkv::float8_e4m3> || std::is_same_v<Element, fkv::float8_e5m2>)
        return false;
      else
        return of.dtype == array_type<Element>();
    });
    if (found) return type;
  }
  if (of.dtype == nb::dlpack::dtype{static_cast<std::uint8_t>(nb::dlpack::dtype_code::Bool), 8, 1})
    return io::dtype::boolean;
  refuse(name + ": no type of a safetensors file: " + of.text());
}

std::span<std::byte const> bytes_of(tensor const& contiguous) {
  std::size_t count = contiguous.dtype.bits / 8u;
  for (std::int64_t const extent : contiguous.extents) count *= as_size(extent);
  return {static_cast<std::byte const*>(contiguous.data), count};
}

/// Arrays of one file until it is written, with what had to be converted.
struct kept_arrays {
  std::list<input_array> held;
  std::list<std::vector<std::byte>> converted;

  tensor hold(nb::handle given, std::string const& name) {
    return describe(held.emplace_back(input_of(given, name.c_str())));
  }
};

template <class From, class To>
void convert_heads(tensor const& from, To* to) {
  auto const* const first = from.elements<From>();
  std::int64_t const dim = from.extents[2];
  for (std::int64_t head = 0; head < from.extents[0]; ++head)
    for (std::int64_t token = 0; token < from.extents[1]; ++token, to += dim) {
      auto const* const source = first + head * from.strides[0] + token * from.strides[1];
      for (std::int64_t d = 0; d < dim; ++d) {
        if constexpr (std::is_same_v<From, To>)
          to[d] = source[d];
        else
          to[d] = fkv::element_traits<To>::store(fkv::to_float(source[d]));
      }
    }
}

/// [head][token][dim] one behind the other in the wanted type: where they stand if they are so, else converted.
tensor stored_heads(kept_arrays& kept, nb::handle given, std::string const& name,
                    std::optional<nb::dlpack::dtype> wanted) {
  tensor const from = expect_heads(kept.hold(given, name), name.c_str());
  tensor made = from;
  made.dtype = wanted.value_or(from.dtype);
  made.strides = {from.extents[1] * from.extents[2], from.extents[2], 1};
  if (made.dtype == from.dtype && made.strides[0] == from.strides[0] && made.strides[1] == from.strides[1]) return from;
  auto const elements = as_size(from.extents[0]) * as_size(from.extents[1]) * as_size(from.extents[2]);
  made.data = kept.converted.emplace_back(elements * made.dtype.bits / 8u).data();
  with_token_element(from, name.c_str(), [&]<class From>(From) {
    with_token_element(made, name.c_str(), [&]<class To>(To) { convert_heads<From>(from, made.elements<To>()); });
  });
  return made;
}

// --- traces

/// A mapped trace: Python's Trace.
struct trace_file {
  io::trace trace;

  /// The layer bound over the mapped file.
  static layer_view layer(nb::handle self, int number, std::optional<int> tokens, float softmax_scale) {
    auto const& trace = nb::cast<trace_file const&>(self).trace;
    auto const part = [&](io::tensor const& from) { return to_layer_array(from, self); };
    nb::object query = part(trace.query(number)), key = part(trace.key(number)), value = part(trace.value(number));
    auto const type = [](nb::object const& of) { return describe(input_of(of, "trace")).dtype; };
    if (type(query) != type(key) || type(key) != type(value)) {  // a Layer has one type
      query = widened(trace.query(number));
      key = widened(trace.key(number));
      value = widened(trace.value(number));
    }
    return {query, key, value, number, tokens, softmax_scale};
  }
};

using layer_arrays = std::tuple<nb::object, nb::object, nb::object>;

std::optional<nb::dlpack::dtype> token_type(std::optional<std::string> const& name) {
  if (!name) return {};
  if (*name == "float32") return dtype_of<float>;
  if (*name == "float16") return dtype_of<fkv::half>;
  if (*name == "bfloat16") return dtype_of<fkv::bfloat16>;
  refuse("dtype: one of 'float32', 'float16', 'bfloat16', is '" + *name + "'");
}

/// The rules of io::write_trace over arrays that stay where they are: a recording may be large.
void write_trace(std::filesystem::path const& path, std::map<int, layer_arrays> const& layers, nb::handle token_ids,
                 nb::handle losses, metadata const& notes, std::optional<std::string> const& dtype) {
  if (layers.empty()) refuse(path.string() + ": a trace needs a layer");
  auto const wanted = token_type(dtype);
  kept_arrays kept;
  io::safetensors_writer file(path);
  auto const add = [&](int layer, char const* part, nb::handle given) -> io::tensor const& {
    auto const name = io::detail::trace_tensor(layer, part);
    if (!io::detail::traced_layer(name)) refuse(path.string() + ": bad layer number " + std::to_string(layer));
    tensor const stored = stored_heads(kept, given, name, wanted);
    return file.add(name, file_type(stored, name), stored.extents, bytes_of(stored)).tensors().at(name);
  };
  std::int64_t tokens = io::tensor::any;
  for (auto const& [number, arrays] : layers) {
    auto const& [query, key, value] = arrays;
    auto const &queries = add(number, "query", query), &keys = add(number, "key", key),
               &values = add(number, "value", value);
    tokens = io::detail::check_trace_layer(queries, keys, values, tokens).tokens;
  }
  auto const note = [&](char const* name, nb::handle given) -> io::tensor const* {
    if (given.is_none()) return nullptr;
    tensor const stored = kept.hold(given, name);
    expect(stored, name, stored.dtype, {-1});
    return &file.add(name, file_type(stored, name), stored.extents, bytes_of(stored)).tensors().at(name);
  };
  auto const *const ids = note("token_ids", token_ids), *const rises = note("losses", losses);
  io::detail::check_trace_notes(ids, rises, tokens);
  for (auto const& [key, value] : notes) file.metadata(key, value);
  nb::gil_scoped_release const others_run;
  file.save();
}

// --- label shards

struct shard_file {
  io::label_shard shard;

  [[nodiscard]] std::vector<std::size_t> extents(int last) const {
    return {as_size(shard.steps()), as_size(shard.source().kv_heads), as_size(last)};
  }
};

template <class Element>
auto shard_array(nb::handle self, std::span<Element const> values, int last) {
  auto const extents = nb::cast<shard_file const&>(self).extents(last);
  return nb::ndarray<nb::numpy, Element const>(values.data(), extents.size(), extents.data(), self);
}

void write_labels(std::filesystem::path const& path, input_array const& labels, input_array const& evicted,
                  std::string const& trace, std::string const& fingerprint, int layer, int tokens,
                  std::string const& future, double discount, std::string const& reduction, std::string const& rules) {
  tensor const scores = expect(describe(labels), "labels", dtype_of<float>, {-1, -1, -1});
  tensor const lists =
      expect(describe(evicted), "evicted", dtype_of<std::int32_t>, {scores.extents[0], scores.extents[1], -1});
  io::label_source const source{
      .trace = trace,
      .fingerprint = fingerprint,
      .layer = layer,
      .kv_heads = scores.extent(1),
      .tokens = tokens,
      .config = golden_config_of(scores.extent(2), lists.extent(2), future, discount, reduction, rules)};
  auto const elements = [](tensor const& of) {
    return as_size(of.extents[0]) * as_size(of.extents[1]) * as_size(of.extents[2]);
  };
  nb::gil_scoped_release const others_run;
  io::write_label_shard(path, source, {scores.elements<float>(), elements(scores)},
                        {lists.elements<std::int32_t>(), elements(lists)});
}

// --- any safetensors file

struct tensors_file {
  io::safetensors_file file;

  [[nodiscard]] std::vector<std::string> names() const {
    std::vector<std::string> made;
    for (auto const& [name, tensor] : file) made.push_back(name);
    return made;
  }
};

void write_safetensors(std::filesystem::path const& path, std::map<std::string, nb::object> const& tensors,
                       metadata const& notes) {
  kept_arrays kept;
  io::safetensors_writer file(path);
  for (auto const& [name, given] : tensors) {
    tensor const stored = kept.hold(given, name);
    expect(stored, name.c_str(), stored.dtype, std::vector<std::int64_t>(as_size(stored.dims()), -1));
    file.add(name, file_type(stored, name), stored.extents, bytes_of(stored));
  }
  for (auto const& [key, value] : notes) file.metadata(key, value);
  nb::gil_scoped_release const others_run;
  file.save();
}

metadata metadata_of(io::metadata_map const& from) { return {from.begin(), from.end()}; }

void bind_traces(nb::module_& module) {
  nb::class_<io::trace_shape>(module, "TraceShape", "Extents of a recorded layer.")
      .def_ro("heads", &io::trace_shape::heads, "Query heads.")
      .def_ro("kv_heads", &io::trace_shape::kv_heads)
      .def_prop_ro("group", &io::trace_shape::group, "Query heads per KV head.")
      .def_ro("tokens", &io::trace_shape::tokens)
      .def_ro("key_head_dim", &io::trace_shape::key_head_dim)
      .def_ro("value_head_dim", &io::trace_shape::value_head_dim);
  nb::class_<trace_file>(module, "Trace",
                         "Recorded attention of one sequence, mapped, and checked when it was opened. Arrays are views "
                         "of the file, read only; they keep it open.")
      .def_prop_ro(
          "layers", [](trace_file const& t) { return t.trace.layers(); }, "Numbers of the recorded layers, ascending.")
      .def_prop_ro("tokens", [](trace_file const& t) { return t.trace.tokens(); })
      .def(
          "shape", [](trace_file const& t, int layer) { return t.trace.shape(layer); }, "layer"_a)
      .def(
          "query",
          [](nb::handle self, int layer) {
            return to_array(nb::cast<trace_file const&>(self).trace.query(layer), self);
          },
          "layer"_a, nb::sig("def query(self, layer: int) -> numpy.typing.NDArray"),
          "[query head][token][key_head_dim] in the file's own memory; a type that NumPy does not know, such as "
          "bfloat16, as a copy in float32.")
      .def(
          "key",
          [](nb::handle self, int layer) { return to_array(nb::cast<trace_file const&>(self).trace.key(layer), self); },
          "layer"_a, nb::sig("def key(self, layer: int) -> numpy.typing.NDArray"),
          "[kv_head][token][key_head_dim], as query.")
      .def(
          "value",
          [](nb::handle self, int layer) {
            return to_array(nb::cast<trace_file const&>(self).trace.value(layer), self);
          },
          "layer"_a, nb::sig("def value(self, layer: int) -> numpy.typing.NDArray"),
          "[kv_head][token][value_head_dim], as query.")
      .def("layer", &trace_file::layer, "number"_a, nb::kw_only(), "tokens"_a = nb::none(), "softmax_scale"_a = 0.0f,
           nb::sig("def layer(self, number: int, *, tokens: int | None = None, softmax_scale: float = 0.0) -> Layer"),
           "The three as a Layer, bfloat16 too in the file's own memory. tokens: only the first ones.")
      .def(
          "fingerprint", [](trace_file const& t, int layer) { return io::layer_fingerprint(t.trace, layer); },
          "layer"_a, "16 hexadecimal digits over the layer's queries and keys, by which label shards know it.")
      .def_prop_ro(
          "token_ids",
          [](trace_file const& t) -> std::optional<nb::ndarray<nb::numpy, std::int64_t>> {
            auto ids = t.trace.notes().token_ids;
            auto const count = ids.size();
            if (count == 0) return {};
            return to_numpy(std::move(ids), {count});
          },
          as_owned, "int64 [token], or None.")
      .def_prop_ro(
          "losses",
          [](trace_file const& t) -> std::optional<nb::ndarray<nb::numpy, float>> {
            auto losses = t.trace.notes().losses;
            auto const count = losses.size();
            if (count == 0) return {};
            return to_numpy(std::move(losses), {count});
          },
          as_owned, "float32 [token - 1], -ln p(token t + 1 | tokens 0 .. t) with the full cache, or None.")
      .def_prop_ro("metadata", [](trace_file const& t) { return metadata_of(t.trace.notes().metadata); });
  module.def(
      "read_trace",
      [](std::filesystem::path const& path) {
        nb::gil_scoped_release const others_run;
        return trace_file{io::trace(path)};
      },
      "path"_a, "Maps a trace and checks everything, values included: what opens can be replayed.");
  module.def("write_trace", &write_trace, "path"_a, "layers"_a, nb::kw_only(), "token_ids"_a = nb::none(),
             "losses"_a = nb::none(), "metadata"_a = metadata{}, "dtype"_a = nb::none(),
             R"(Writes a trace; the file appears whole or not at all.

layers: by number in the model, (queries [query head][token][dim], keys [kv_head][token][dim], values
    [kv_head][token][dim]) after the rotary embedding, all of the same tokens; any positive strides.
token_ids: int32 or int64 [token]. losses: float [token - 1]. metadata: text by name.
dtype: "float32", "float16" or "bfloat16", rounded to nearest; without, each array's own: then nothing is copied that
    is contiguous.)");
}

void bind_shards(nb::module_& module) {
  nb::class_<shard_file>(module, "LabelShard",
                         "Golden Eviction's labels of one layer of one trace, mapped and checked.")
      .def_prop_ro(
          "labels",
          [](nb::handle self) {
            auto const& shard = nb::cast<shard_file const&>(self).shard;
            return shard_array<float>(self, shard.labels(), shard.source().config.budget);
          },
          as_owned, "float32 [step][kv_head][budget], the candidates in order of time: higher is kept.")
      .def_prop_ro(
          "evicted",
          [](nb::handle self) {
            auto const& shard = nb::cast<shard_file const&>(self).shard;
            return shard_array<std::int32_t>(self, shard.evicted(), shard.source().config.interval);
          },
          as_owned, "int32 [step][kv_head][interval], indices among the candidates, ascending.")
      .def_prop_ro(
          "positions",
          [](shard_file const& file) {
            return to_numpy(io::candidate_positions(file.shard), file.extents(file.shard.source().config.budget));
          },
          as_owned, "int32 [step][kv_head][budget], where in the sequence the candidates stand.")
      .def_prop_ro("steps", [](shard_file const& f) { return f.shard.steps(); })
      .def_prop_ro(
          "trace", [](shard_file const& f) { return f.shard.source().trace; }, "The trace's file name.")
      .def_prop_ro("fingerprint", [](shard_file const& f) { return f.shard.source().fingerprint; })
      .def_prop_ro("layer", [](shard_file const& f) { return f.shard.source().layer; })
      .def_prop_ro("kv_heads", [](shard_file const& f) { return f.shard.source().kv_heads; })
      .def_prop_ro(
          "tokens", [](shard_file const& f) { return f.shard.source().tokens; },
          "The first tokens of the trace, which alone were looked at.")
      .def_prop_ro("budget", [](shard_file const& f) { return f.shard.source().config.budget; })
      .def_prop_ro("interval", [](shard_file const& f) { return f.shard.source().config.interval; })
      .def_prop_ro(
          "discount",
          [](shard_file const& f) { return std::stod(io::detail::float_text(f.shard.source().config.discount)); })
      .def_prop_ro("future",
                   [](shard_file const& f) {
                     return std::string(io::golden_future_names[static_cast<int>(f.shard.source().config.future)]);
                   })
      .def_prop_ro(
          "reduction",
          [](shard_file const& f) {
            return std::string(io::golden_reduction_names[static_cast<int>(f.shard.source().config.reduction)]);
          })
      .def_prop_ro("rules", [](shard_file const& f) {
        return std::string(io::golden_rules_names[static_cast<int>(f.shard.source().config.rules)]);
      });
  module.def(
      "read_labels",
      [](std::filesystem::path const& path) {
        nb::gil_scoped_release const others_run;
        return shard_file{io::label_shard(path)};
      },
      "path"_a, "Opens a label shard and checks everything, values included.");
  module.def("write_labels", &write_labels, "path"_a, "labels"_a, "evicted"_a, nb::kw_only(), "trace"_a,
             "fingerprint"_a, "layer"_a, "tokens"_a, "future"_a = "maximum", "discount"_a = 0.9, "reduction"_a = "mean",
             "rules"_a = "exact",
             R"(Writes a label shard, once it is sure that the evicted are the candidates of least label.

labels: float32 [step][kv_head][budget], evicted: int32 [step][kv_head][interval], as golden_eviction gives them.
trace: the trace's file name; fingerprint: Trace.fingerprint(layer); tokens: how many of the first ones were looked at;
the rest as golden_eviction was told.)");
  module.def("label_shard_name", &io::label_shard_name, "trace"_a, "layer"_a,
             "The name of a shard's file: math.layer7.labels.safetensors for math.safetensors.");
}

void bind_tensors(nb::module_& module) {
  nb::class_<tensors_file>(module, "Tensors", "A safetensors file, mapped: arrays by name, views of the file.")
      .def("keys", &tensors_file::names)
      .def("__len__", [](tensors_file const& t) { return t.file.size(); })
      .def("__contains__", [](tensors_file const& t, std::string const& name) { return t.file.find(name) != nullptr; })
      .def("__iter__", [](tensors_file const& t) { return nb::iter(nb::cast(t.names())); })
      .def(
          "__getitem__",
          [](nb::handle self, std::string const& name) {
            return to_array(nb::cast<tensors_file const&>(self).file.at(name), self);
          },
          "name"_a, nb::sig("def __getitem__(self, name: str) -> numpy.typing.NDArray"),
          "Read only; a type that NumPy does not know as a copy in float32.")
      .def_prop_ro("metadata", [](tensors_file const& t) { return metadata_of(t.file.metadata()); });
  module.def(
      "read_safetensors",
      [](std::filesystem::path const& path) {
        nb::gil_scoped_release const others_run;
        return tensors_file{io::safetensors_file(path)};
      },
      "path"_a, "Maps a safetensors file and checks its header.");
  module.def(
      "write_safetensors", &write_safetensors, "path"_a, "tensors"_a, nb::kw_only(), "metadata"_a = metadata{},
      "Contiguous arrays by name, and text by name. The bytes depend on these alone, and the file appears whole or "
      "not at all.");
}

}  // namespace

void bind_files(nb::module_& module) {
  nb::register_exception_translator(
      [](std::exception_ptr const& thrown, void*) {
        try {
          std::rethrow_exception(thrown);
        } catch (io::error const& problem) {
          PyErr_SetString(PyExc_ValueError, problem.what());
        }
      },
      nullptr);
  bind_traces(module);
  bind_shards(module);
  bind_tensors(module);
}

}  // namespace binding
