// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/foresightkv.hpp>
#include <foresightkv/io/judge_weights.hpp>
#include <memory>
#include <string>

#include "views.hpp"

namespace binding {

/// Python's collector is told of the function that a Type holds: it may well hold what holds the Type.
template <class Type, nb::object& (*FunctionOf)(Type&)>
struct collected {
  static int traverse(PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    if (nb::inst_ready(self)) Py_VISIT(FunctionOf(*nb::inst_ptr<Type>(self)).ptr());
    return 0;
  }
  static int clear(PyObject* self) {
    FunctionOf(*nb::inst_ptr<Type>(self)).reset();
    return 0;
  }
  static inline PyType_Slot slots[] = {{Py_tp_traverse, reinterpret_cast<void*>(&traverse)},
                                       {Py_tp_clear, reinterpret_cast<void*>(&clear)},
                                       {0, nullptr}};
};

/// What a policy is made of at run time.
struct policy_settings {
  std::string name;
  fkv::eviction_config config{};
  bool sampled = false;    ///< evict by lot among the lowest, see sampled_top_k
  std::uint64_t seed = 0;  ///< of the random scorer
  std::shared_ptr<fkv::io::packed_judge const> judge;
  std::shared_ptr<memory const> judge_copy;  ///< its numbers where verbs read them, if that is not where they are
  std::vector<int> judged_layers;            ///< of the model, that the judge's file has
  nb::object scorer;                         ///< a Python function in place of a compiled scorer
};

/// top_k, or the draw: one type, so that what is compiled does not double.
struct selector_by_choice {
  static constexpr fkv::length_domain domain = fkv::length_domain::sequence;
  bool sampled = false;

  template <class Row>
  FORESIGHTKV_HOST_DEVICE void operator()(Row& row) const {
    if (sampled)
      fkv::sampled_top_k{}(row);
    else
      fkv::top_k{}(row);
  }
};

/// What the verbs of a policy work on; the policy itself comes from the settings.
struct policy_call {
  policy_settings const& settings;
  any_cache const& cache;
  fkv::sequence_list sequences;
  fkv::row_state const& state;
  fkv::workspace scratch;
  backend::execution exec;
};

/// The verbs of one compiled policy.
struct policy_verbs {
  std::size_t (*state_bytes)(fkv::cache_shape const&, int capacity);
  fkv::row_state (*make_state)(fkv::cache_shape const&, int capacity, fkv::workspace);
  std::size_t (*evict_bytes)(backend::execution const&, fkv::cache_shape const&, fkv::sequence_list const&,
                             int max_queries);
  fkv::status (*evict)(policy_call const&, any_window const&, fkv::eviction_output const&);  ///< null: in stages
  fkv::status (*score)(policy_call const&, any_window const&, fkv::score_view const&);       ///< null: scored in Python
  fkv::status (*carry)(policy_call const&, any_window const&);
  fkv::status (*select)(policy_call const&, fkv::score_view const&, fkv::selection const&);
  fkv::status (*compact)(policy_call const&, fkv::selection const&, std::int32_t* new_lengths);
  fkv::status (*collect_due)(policy_call const&, std::int32_t* due_slots, std::int32_t* due_count);
  fkv::status (*append)(policy_call const&, std::int32_t const* counts);
  fkv::status (*take_back)(policy_call const&, std::int32_t const* counts, std::int32_t* new_lengths);
  bool carries;        ///< has statistics that are carried from interval to interval
  int newest_queries;  ///< how many of a window's queries it depends on
};

/// The verbs of a compiled scorer, and those that scorers share that carry the same statistics. Instantiated in
/// policies_*.cpp.
template <class Scorer, class Compaction>
policy_verbs verbs_of();
template <class Carried, class Compaction>
policy_verbs verbs_carrying();

/// What a scorer written in Python may read: all that a judge reads.
using python_reads = fkv::paper::reads;

inline namespace FORESIGHTKV_PYTHON_BACKEND {

/// What Python calls a Policy: found and checked once.
class policy_object {
 public:
  policy_object(nb::object const& name, int budget, int interval, int sinks, std::optional<int> recent,
                nb::object const& weights, std::string const& features, std::optional<std::string> const& compaction,
                bool sampled, std::uint64_t seed);

  policy_settings settings;
  policy_verbs verbs{};
  std::string compaction;  ///< "fill_holes" or "ordered"
};

}  // namespace FORESIGHTKV_PYTHON_BACKEND

void bind_policies(nb::module_& into);

}  // namespace binding
