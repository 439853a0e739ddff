// SPDX-License-Identifier: Apache-2.0
#include "experiment.hpp"

#include <algorithm>
#include <foresightkv/io/judge_weights.hpp>
#include <set>
#include <utility>

#include "measures.hpp"
#include "support/device.hpp"

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace evict_trace {
namespace {

/// For measuring. Evictions run on one thread unless told otherwise: their times are then comparable, and
/// small rows gain nothing from waiting for each other.
int threads_of(options const& chosen) {
#if defined(_OPENMP)
  return chosen.threads > 0 ? chosen.threads : omp_get_max_threads();
#else
  (void)chosen;
  return 1;
#endif
}

/// The device, if it is wanted or there.
backend backend_of(options const& chosen) {
  backend where;
  where.on_device = chosen.device == device_choice::cuda ||
                    (chosen.device == device_choice::automatic && support::cuda_problem().empty());
  if (where.on_device) where.memory = support::cuda_memory();
  return where;
}

/// The last token to replay.
int end_of(options const& chosen, fkv::io::trace const& trace) {
  int const end = chosen.to.value_or(trace.tokens());
  if (end > trace.tokens())
    throw input_error("--to " + std::to_string(end) + " lies behind the trace's " + std::to_string(trace.tokens()) +
                      " tokens");
  return end;
}

setting setting_of(options const& chosen, backend const& where, int budget, int end) {
  setting given;
  given.budget = budget;
  given.interval = chosen.interval;
  given.recent = chosen.recent.value_or(chosen.interval);
  given.start = std::max(chosen.from.value_or(0), budget + chosen.interval);
  given.end = end;
  given.seed = chosen.seed;
  given.page_size = chosen.page_size;
  given.where = where;
  given.where.host = fkv::host.threads(std::max(1, chosen.threads));
  return given;
}

setting main_setting(options const& chosen, backend const& where, fkv::io::trace const& trace) {
  int const end = end_of(chosen, trace);
  auto const given = setting_of(chosen, where, chosen.budget, end);
  if (end <= given.start)
    throw input_error("nothing to evict: " + std::to_string(end) + " tokens, and the first eviction comes when " +
                      std::to_string(given.start) + " are cached and another one arrives");
  return given;
}

/// The chosen budget, and for the curves a quarter to three times of it, as far as the trace is long enough.
std::vector<setting> settings_of(options const& chosen, backend const& where, fkv::io::trace const& trace) {
  std::vector<setting> settings{main_setting(chosen, where, trace)};
  if (chosen.html.empty()) return settings;
  auto const main = settings.front();
  for (int const quarters : {1, 2, 3, 6, 8, 12}) {
    auto const intervals = std::max<std::int64_t>(1, std::int64_t{main.budget} * quarters / 4 / main.interval);
    auto const budget = intervals * main.interval;
    if (budget + 2 * main.interval > main.end || budget <= main.recent) continue;  // too long, or no choice
    bool const known = std::ranges::any_of(settings, [&](setting const& given) { return given.budget == budget; });
    if (!known) settings.push_back(setting_of(chosen, where, static_cast<int>(budget), main.end));
  }
  return settings;
}

/// Judge weights that fit the trace.
class judge {
 public:
  judge(options const& chosen, backend const& where, fkv::io::trace const& trace, std::vector<int> const& layers)
      : packed_(where.memory) {
    if (chosen.weights.empty()) return;
    for (int const layer : layers) {
      auto const& shape = trace.shape(layer);
      fkv::judge_shape expected;
      expected.num_kv_heads = shape.kv_heads;
      expected.group = shape.group();
      expected.key_head_dim = shape.key_head_dim;
      expected.value_head_dim = shape.value_head_dim;
      if (weights_.packed == nullptr) load(chosen, expected);
      expected.num_layers = weights_.shape.num_layers;
      if (weights_.shape != expected)
        throw input_error("layer " + std::to_string(layer) + " has another shape than the judges in " +
                          chosen.weights.string());
      if (!has_.contains(layer))
        throw input_error(chosen.weights.string() + ": has no judge for layer " + std::to_string(layer));
    }
  }
  judge(judge const&) = delete;
  judge& operator=(judge const&) = delete;

  [[nodiscard]] fkv::judge_weights const& weights() const { return weights_; }

 private:
  void load(options const& chosen, fkv::judge_shape const& expected) {
    auto const file = fkv::io::load_judge(chosen.weights, expected);
    auto const packed = file.packed();
    packed_.assign(packed.begin(), packed.end());
    weights_ = {packed_.data(), file.shape};
    for (auto const& [layer, tensors] : file.layers) has_.insert(layer);
  }

  std::pmr::vector<float> packed_;
  fkv::judge_weights weights_;
  std::set<int> has_;
};

std::vector<policy_entry const*> policies_of(options const& chosen, experiment& result) {
  std::vector<policy_entry const*> policies;
  bool const has_judge = !chosen.weights.empty();
  for (auto const& name : chosen.policies) {
    policies.push_back(find_policy(name));
    if (policies.back()->needs_judge && !has_judge) throw input_error("--policies " + name + " needs --weights FILE");
  }
  if (!policies.empty()) return policies;
  for (auto const& policy : all_policies()) {
    if (!policy.needs_judge || has_judge)
      policies.push_back(&policy);
    else
      result.notes.push_back(std::string(policy.name) + " is left out: it needs judge weights (--weights FILE)");
  }
  return policies;
}

/// What accumulates over layers for one policy at one budget.
struct tally {
  loss lost;
  double golden_overlap = 0.0;
  std::size_t rows = 0;       // evictions of rows
  std::size_t evictions = 0;  // of layers
  std::size_t cache_bytes = 0;
  std::size_t bytes_moved = 0;
  std::vector<double> microseconds;

  void add(record const& what, loss const& measured, int kv_heads) {
    lost += measured;
    golden_overlap += what.golden_overlap;
    evictions += what.microseconds.size();
    rows += what.microseconds.size() * as_size(kv_heads);
    cache_bytes = std::max(cache_bytes, what.cache_bytes);
    bytes_moved += what.bytes_moved;
    microseconds.insert(microseconds.end(), what.microseconds.begin(), what.microseconds.end());
  }

  [[nodiscard]] policy_result result(policy_entry const& policy) {
    policy_result out;
    out.policy = &policy;
    out.attention_recall = lost.attention_recall();
    out.output_error = lost.output_error();
    out.cache_bytes = cache_bytes;
    if (evictions == 0) return out;
    out.golden_overlap = golden_overlap / static_cast<double>(rows);
    out.bytes_moved = static_cast<double>(bytes_moved) / static_cast<double>(evictions);
    auto const middle = microseconds.begin() + std::ssize(microseconds) / 2;
    std::ranges::nth_element(microseconds, middle);
    out.microseconds = *middle;
    return out;
  }
};

}  // namespace

experiment run_experiment(options const& chosen, progress const& report) {
  fkv::io::trace const trace(chosen.trace);
  experiment result;
  result.trace = chosen.trace.filename().string();
  result.layers = chosen.layers.empty() ? trace.layers() : chosen.layers;
  result.shape = trace.shape(result.layers.front());
  for (int const layer : result.layers) (void)trace.shape(layer);  // throws if it was not recorded
  auto const policies = policies_of(chosen, result);
  backend const where = backend_of(chosen);
  if (where.on_device) result.notes.push_back("evictions ran on the CUDA device; time includes waiting for it");
  auto const settings = settings_of(chosen, where, trace);
  judge const judges(chosen, where, trace, result.layers);
  auto const end = settings.front().end;

  if (!chosen.html.empty()) result.maps.resize(policies.size());
  std::vector<tally> tallies(settings.size() * policies.size());
  double done = 0.0;
  double const work = static_cast<double>(result.layers.size() * (tallies.size() + settings.size()));
  for (int const number : result.layers) {
    auto const layer = trace.layer(number);
    auto const at = "layer " + std::to_string(number) + ": ";
    report(done / work, at + "future attention");
    golden_table const golden(layer, chosen.interval, end, fkv::host.threads(threads_of(chosen)), where.memory);
    std::vector<record> records;
    std::vector<replayed> replays;
    records.reserve(tallies.size());
    for (auto const& given : settings)
      for (auto const* policy : policies) {
        report(done++ / work, at + std::string(policy->name));
        records.push_back(policy->replay({layer, golden, judges.weights(), given}));
        replays.push_back({&given, &records.back()});
      }
    report(done / work, at + "measuring");
    auto const losses = measure(layer, replays, end, threads_of(chosen));
    done += static_cast<double>(settings.size());
    for (std::size_t i = 0; i < tallies.size(); ++i) tallies[i].add(records[i], losses[i], layer.shape.kv_heads);
    for (std::size_t i = 0; i < result.maps.size(); ++i) result.maps[i].push_back({number, std::move(records[i])});
  }
  for (std::size_t i = 0; i < tallies.size(); ++i) {
    if (i % policies.size() == 0) result.budgets.push_back({settings[i / policies.size()], {}});
    result.budgets.back().policies.push_back(tallies[i].result(*policies[i % policies.size()]));
  }
  return result;
}

}  // namespace evict_trace
