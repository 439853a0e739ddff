// SPDX-License-Identifier: Apache-2.0
#include "policy.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>

#include "judge.hpp"

namespace binding {
namespace {

struct policy_entry {
  char const* name;
  char const* summary;
  policy_verbs (*fill_holes)();  ///< null where the scorer needs time order
  policy_verbs (*ordered)();
};

template <class Scorer>
constexpr policy_entry in_any_order(char const* name, char const* summary) {
  return {name, summary, verbs_of<Scorer, fkv::fill_holes>, verbs_of<Scorer, fkv::ordered>};
}
template <class Scorer>
constexpr policy_entry in_time_order(char const* name, char const* summary) {
  return {name, summary, nullptr, verbs_of<Scorer, fkv::ordered>};
}

constexpr policy_entry entries[] = {
    in_any_order<fkv::foresight<fkv::paper>>("foresight", "what the learned judge wants"),
    in_any_order<fkv::window_sum>("window_sum", "attended to by the last interval"),
    in_any_order<fkv::accumulated_sum>("accumulated", "attended to by all queries so far"),
    in_any_order<fkv::h2o>("h2o", "attended to so far, and the newer half"),
    in_any_order<fkv::h2o_per_query>("h2o_per_query", "attended to per query so far"),
    in_any_order<fkv::tova>("tova", "attended to by the last query"),
    in_time_order<fkv::snap_kv<>>("snap_kv", "attended to by the last 8, pooled"),
    in_time_order<fkv::r_kv<>>("r_kv", "attended to by the last 8, less repeats"),
    in_any_order<fkv::key_diff>("key_diff", "keys far from the mean key"),
    in_any_order<fkv::key_norm>("key_norm", "short keys"),
    in_any_order<fkv::streaming_llm>("streaming_llm", "the newest tokens; with sinks=4 as published"),
    in_any_order<fkv::random>("random", "tokens drawn by lot"),
};

std::string names() {
  std::string text;
  for (auto const& entry : entries) text += (text.empty() ? "" : ", ") + std::string(entry.name);
  return text;
}

policy_entry entry_of(std::string const& name, std::string const& features) {
  auto const* const found = std::ranges::find(entries, name, &policy_entry::name);
  if (found == std::end(entries)) refuse("policy: one of " + names() + ", or a function, is '" + name + "'");
  if (name == "foresight" && features == "reference_checkpoint")
    return in_any_order<fkv::foresight<fkv::reference_checkpoint>>(found->name, found->summary);
  if (name == "foresight" && features == "reference_evaluation")
    return in_any_order<fkv::foresight<fkv::reference_evaluation>>(found->name, found->summary);
  if (features != "paper")
    refuse("features: 'paper', 'reference_checkpoint' or 'reference_evaluation' of 'foresight', is '" + features + "'");
  return *found;
}

/// What a Python function as a scorer shares with the compiled ones.
constexpr policy_entry scored_in_python{"", "a function",
                                        verbs_carrying<fkv::carried_statistics<python_reads>, fkv::fill_holes>,
                                        verbs_carrying<fkv::carried_statistics<python_reads>, fkv::ordered>};

/// A copy of a Judge as it stands, or what a file has.
fkv::io::judge_file judge_from(nb::object const& weights) {
  if (nb::isinstance<judge_object>(weights)) return nb::cast<judge_object const&>(weights).file();
  auto const path = nb::cast<std::string>(nb::module_::import_("os").attr("fspath")(weights));
  try {
    return fkv::io::load_judge(path);
  } catch (fkv::io::error const& problem) {
    refuse(problem.what());
  }
}

nb::object& function_of(policy_object& policy) { return policy.settings.scorer; }

}  // namespace

policy_object::policy_object(nb::object const& scorer, int budget, int interval, int sinks, std::optional<int> recent,
                             nb::object const& weights, std::string const& features,
                             std::optional<std::string> const& wanted, bool sampled, std::uint64_t seed) {
  policy_entry entry = scored_in_python;
  if (nb::isinstance<nb::str>(scorer)) {
    settings.name = nb::cast<std::string>(scorer);
    entry = entry_of(settings.name, features);
  } else if (!backend::is_host) {
    refuse("policy: one of " + names() + "; a function as a scorer works on arrays in host memory alone");
  } else if (nb::hasattr(scorer, "__call__")) {
    settings.name = nb::cast<std::string>(nb::str(nb::getattr(scorer, "__name__", nb::type_name(scorer.type()))));
    settings.scorer = scorer;
  } else {
    refuse("policy: a name or a function, is " + std::string(nb::str(nb::type_name(scorer.type())).c_str()));
  }
  settings.config = {
      .budget = budget, .interval = interval, .recent_tokens = recent.value_or(-1), .sink_tokens = sinks};
  if (!settings.config.valid() || recent.value_or(0) < 0)
    require({fkv::errc::invalid_config, 0, fkv::argument::config}, "Policy");
  if (settings.name == "h2o" && !settings.scorer.is_valid()) settings.config = fkv::with_newest_half(settings.config);
  settings.sampled = sampled;
  settings.seed = seed;

  bool const judged = settings.name == "foresight" && !settings.scorer.is_valid();
  if (judged == weights.is_none())
    refuse(judged ? "weights: 'foresight' needs the file of a judge, or a Judge"
                  : "weights: only 'foresight' has a judge");
  if (judged) {
    auto const file = judge_from(weights);
    for (auto const& [number, layer] : file.layers) settings.judged_layers.push_back(number);
    settings.judge = std::make_shared<fkv::io::packed_judge const>(file);
  }

  compaction = wanted.value_or(entry.fill_holes == nullptr ? "ordered" : "fill_holes");
  if (compaction != "ordered" && compaction != "fill_holes")
    refuse("compaction: 'ordered' or 'fill_holes', is '" + compaction + "'");
  if (compaction == "fill_holes" && entry.fill_holes == nullptr)
    refuse("compaction: '" + settings.name + "' needs tokens in time order, which 'fill_holes' does not keep");
  verbs = compaction == "ordered" ? entry.ordered() : entry.fill_holes();
}

void bind_policies(nb::module_& into) {
  nb::class_<policy_object>(into, "Policy", nb::type_slots(collected<policy_object, function_of>::slots),
                            "When and how far a cache is cut, and by what score. Higher scores are kept.")
      .def(nb::init<nb::object const&, int, int, int, std::optional<int>, nb::object const&, std::string const&,
                    std::optional<std::string> const&, bool, std::uint64_t>(),
           "scorer"_a, nb::kw_only(), "budget"_a = 1024, "interval"_a = 128, "sinks"_a = 0, "recent"_a = nb::none(),
           "weights"_a = nb::none(), "features"_a = "paper", "compaction"_a = nb::none(), "sampled"_a = false,
           "seed"_a = 0,
           R"(scorer: a name of policies(), or a function of tokens (see Tokens) that gives
    float scores [layer][sequence][kv_head][slot].
budget: tokens that a row keeps. interval: a row is due when it has grown to budget + interval.
sinks: first tokens, recent: newest tokens that are never evicted (default: interval), both counted inside the budget.
weights: for "foresight", a training.Judge, copied as it stands, or the path of its file; features: what it was trained
    on, "paper", "reference_checkpoint" or "reference_evaluation".
compaction: "ordered" keeps slots in order of time; "fill_holes" moves less, and is the default where the scorer allows.
sampled: evict by lot among the lowest, as the published training does. seed: of "random".
Raises ValueError for what does not go together.)")
      .def_prop_ro("name", [](policy_object const& p) { return p.settings.name; })
      .def_prop_ro("budget", [](policy_object const& p) { return p.settings.config.budget; })
      .def_prop_ro("interval", [](policy_object const& p) { return p.settings.config.interval; })
      .def_prop_ro("sinks", [](policy_object const& p) { return p.settings.config.sink_tokens; })
      .def_prop_ro("recent", [](policy_object const& p) { return p.settings.config.recent(); })
      .def_prop_ro("compaction", [](policy_object const& p) { return p.compaction; })
      .def_prop_ro(
          "carries", [](policy_object const& p) { return p.verbs.carries; },
          "Whether statistics are carried from interval to interval: then every query has to be handed over.")
      .def_prop_ro(
          "newest_queries",
          [](policy_object const& p) { return std::min(p.verbs.newest_queries, p.settings.config.interval); },
          "How many of the newest queries an eviction looks at, the interval at most: older ones need not be kept.")
      .def("__repr__", [](policy_object const& p) {
        auto const& config = p.settings.config;
        return "Policy('" + p.settings.name + "', budget=" + std::to_string(config.budget) +
               ", interval=" + std::to_string(config.interval) + ", sinks=" + std::to_string(config.sink_tokens) +
               ", recent=" + std::to_string(config.recent()) + ", compaction='" + p.compaction + "')";
      });
  into.def(
      "policies",
      [] {
        nb::dict made;
        for (auto const& entry : entries) made[entry.name] = entry.summary;
        return made;
      },
      "Names of the compiled policies, each with what it keeps.");
}

}  // namespace binding
