// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <foresightkv/detail/kernels/dot_tile.hpp>
#include <foresightkv/detail/kernels/launches.hpp>
#include <foresightkv/detail/kernels/row_keys.hpp>
#include <foresightkv/detail/kernels/rows.hpp>
#include <foresightkv/detail/window.hpp>
#include <foresightkv/golden/config.hpp>
#include <foresightkv/status.hpp>
#include <foresightkv/workspace.hpp>

namespace foresightkv::inline v0::detail::kernels {

/// Causal attention of the queries of every future block, for the KV heads of one launch.
template <class Query, class Key, log_base Base>
struct golden_pass {
  golden_input<Query, Key, Base> input{};  // with its strides made explicit
  golden_config config{};
  int first_head = 0;  // KV heads
  int heads = 0;
  int blocks = 0;         // future blocks
  float multiply = 0.0f;  // base-2 exponent per unit of query . key

  static golden_pass of(golden_config const& config, golden_input<Query, Key, Base> const& input) {
    golden_shape const& shape = input.shape;
    golden_pass made{input, config, 0, shape.kv_heads, config.future_blocks(shape.tokens)};
    made.input.query_strides = input.query_strides.of(shape, shape.head_dim);
    made.input.key_strides = input.key_strides.of(shape, shape.head_dim);
    made.input.lse_strides = input.lse_strides.of(shape, 1);
    made.multiply = input.scale() * log2_e;
    return made;
  }

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE golden_shape const& shape() const { return input.shape; }
  /// Position of the first query of a future block.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int begin(int block) const {
    return (config.first_block() + block) * config.interval;
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int queries() const { return shape().tokens - begin(0); }
  /// Query head j of the launch's own KV head `head`.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE std::int64_t query_head(int head, int j) const {
    return std::int64_t{first_head + head} * shape().group + j;
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE Query const* query(int head, int j, int position) const {
    return input.queries + query_head(head, j) * input.query_strides.head + position * input.query_strides.token;
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE Key const* key(int head, int position) const {
    return input.keys + (first_head + head) * input.key_strides.head + position * input.key_strides.token;
  }
  /// Log-sum-exp that was handed over, base 2.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE float lse(int head, int j, int position) const {
    float const given = input.lse[query_head(head, j) * input.lse_strides.head + position * input.lse_strides.token];
    return Base == log_base::natural ? given * log2_e : given;
  }
};

/// What turns one query's products into probabilities. A log-sum-exp alone would round the sum of large
/// logits away.
struct query_softmax {
  float reference;  // largest exponent, base 2, or a log-sum-exp
  float weight;     // 1 / sum of exponentials relative to it; 0 for a masked query

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE static float exponential(float product, float multiply, float reference) {
    return exp2f(rounded_product(product, multiply) - reference);
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE float probability(float product, float multiply) const {
    return exponential(product, multiply, reference) * weight;
  }
};

/// Largest exponent and sum of every query of a future block: one query per thread, keys stream by up to the
/// last one that the block's own queries see. The longest come first.
template <class Pass>
struct golden_softmax_kernel {
  static constexpr int threads = 128;

  Pass pass{};
  query_softmax* out = nullptr;  // [head][group][queries]

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int tiles() const { return divide_up(pass.queries(), threads); }

  template <class Context>
  using shared = dot_tile::shared<Context::threads>;

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>& memory) const {
    int const group = pass.shape().group;
    int const row = c.block() % (pass.heads * group);
    int const head = row / group;
    int const j = row % group;
    int const first = (tiles() - 1 - c.block() / (pass.heads * group)) * threads;
    int const count = smaller(threads, pass.queries() - first);
    int const begin = pass.begin(0) + first;
    int const own = begin + c.rank();
    float largest = lowest_float;
    float total = 0.0f;
    for (int key = 0; key < begin + count; key += dot_tile::width) {
      int const keys = smaller(dot_tile::width, begin + count - key);
      float x[dot_tile::width];
      dot_tile::multiply(
          c, memory, pass.shape().head_dim, [&](int i) { return i < count ? pass.query(head, j, begin + i) : nullptr; },
          keys, [&](int i) { return pass.key(head, key + i); }, x);
      int const seen = smaller(keys, own - key + 1);
      float peak = largest;
      for (int i = 0; i < dot_tile::width; ++i) {
        float const exponent = i < seen ? rounded_product(x[i], pass.multiply) : peak;
        peak = exponent > peak ? exponent : peak;
      }
      total *= exp2f(largest - peak);
      for (int i = 0; i < dot_tile::width; ++i)
        total += i < seen ? query_softmax::exponential(x[i], pass.multiply, peak) : 0.0f;
      largest = peak;
    }
    if (c.rank() >= count) return;
    bool const masked = !is_finite(total) || !is_finite(largest) || !(total > 0.0f);
    out[std::int64_t{row} * pass.queries() + first + c.rank()] =
        masked ? query_softmax{} : query_softmax{largest, 1.0f / total};
  }
};

/// Block means: one key per thread, the future block's queries stream by, head after head.
template <class Pass>
struct golden_means_kernel {
  static constexpr int threads = 128;
  enum sync : int { looked_up = 16 };

  Pass pass{};
  query_softmax const* softmax = nullptr;  // of golden_softmax_kernel; null: log-sum-exps were handed over
  float* means = nullptr;                  // [head][blocks][tokens], 0 beyond a block's last query

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int tiles() const { return divide_up(pass.shape().tokens, threads); }

  template <class Context>
  struct shared {
    dot_tile::shared<Context::threads> tile;
    query_softmax of[dot_tile::width];
  };

  /// Neighbouring blocks share their queries.
  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>& memory) const {
    int const tokens = pass.shape().tokens;
    int const first = c.block() % tiles() * threads;
    int const block = c.block() / tiles() % pass.blocks;
    int const head = c.block() / tiles() / pass.blocks;
    int const begin = pass.begin(block);
    int const rows = smaller(pass.config.interval, tokens - begin);
    float const mean = first < begin + rows ? mean_of(c, memory, head, block, first, rows) : 0.0f;
    if (tokens - first > c.rank()) means[(std::int64_t{head} * pass.blocks + block) * tokens + first + c.rank()] = mean;
  }

 private:
  template <class Context>
  FORESIGHTKV_HOST_DEVICE float mean_of(Context const& c, shared<Context>& memory, int head, int block, int first,
                                        int rows) const {
    int const group = pass.shape().group;
    bool const maximum = pass.config.reduction == golden_reduction::maximum;
    float total = sum_of(c, memory, head, 0, block, first, rows);
    for (int j = 1; j < group; ++j) {
      float const sum = sum_of(c, memory, head, j, block, first, rows);
      total = maximum ? (sum > total ? sum : total) : total + sum;
    }
    auto const divisor =
        static_cast<float>(pass.config.block_rows(pass.config.first_block() + block, pass.shape().tokens));
    return total / (maximum ? divisor : divisor * static_cast<float>(group));
  }

  /// Probabilities that one query head gives to this thread's key, over the rows of a block.
  template <class Context>
  FORESIGHTKV_HOST_DEVICE float sum_of(Context const& c, shared<Context>& memory, int head, int j, int block, int first,
                                       int rows) const {
    int const keys = pass.shape().tokens - first;
    float sum = 0.0f;
    for (int row = 0; row < rows; row += dot_tile::width) {
      int const count = smaller(dot_tile::width, rows - row);
      int const query = pass.begin(block) + row;
      float x[dot_tile::width];
      dot_tile::multiply(
          c, memory.tile, pass.shape().head_dim, [&](int i) { return i < keys ? pass.key(head, first + i) : nullptr; },
          count, [&](int i) { return pass.query(head, j, query + i); }, x);
      if (c.rank() < dot_tile::width)
        memory.of[c.rank()] = c.rank() < count ? softmax_of(head, j, query + c.rank()) : query_softmax{};
      c.sync(looked_up);
      for (int i = 0; i < dot_tile::width; ++i) {
        bool const seen = first + c.rank() <= query + i && memory.of[i].weight > 0.0f;
        sum += seen ? memory.of[i].probability(x[i], pass.multiply) : 0.0f;
      }
    }
    return sum;
  }

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE query_softmax softmax_of(int head, int j, int position) const {
    if (softmax != nullptr)
      return softmax[(std::int64_t{head} * pass.shape().group + j) * pass.queries() + position - pass.begin(0)];
    float const lse = pass.lse(head, j, position);
    return is_finite(lse) ? query_softmax{lse, 1.0f} : query_softmax{};
  }
};

/// Future scores from block means, in place or not: one token per thread, from the last block to the first.
struct golden_fold_kernel {
  static constexpr int threads = 256;

  golden_config config{};
  golden_means means{};
  float* scores = nullptr;  // [head][blocks][tokens]
  float* wanted = nullptr;  // [head][steps][tokens]; may be null
  int steps = 0;

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int tiles() const { return divide_up(means.tokens, threads); }

  template <class Context>
  struct shared {};

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>&) const {
    int const head = c.block() / tiles();
    int const first = c.block() % tiles() * threads;
    if (means.tokens - first <= c.rank()) return;
    int const token = first + c.rank();
    int const last = means.blocks - 1;
    float future = 0.0f;
    for (int block = last; block >= 0; --block) {
      float const mean = means.at(head, token, block);
      future = block == last ? mean : fold_block(config, mean, future);
      float const score = future_score(config, future, means.blocks - block);
      scores[(std::int64_t{head} * means.blocks + block) * means.tokens + token] = score;
      if (wanted != nullptr && block < steps)
        wanted[(std::int64_t{head} * steps + block) * means.tokens + token] = score;
    }
  }
};

/// The eviction steps, a block per KV head. Threads * Items is a chunk of candidates; in registers there are
/// no more than that.
template <int Threads, int Items, bool InRegisters>
struct golden_evict_kernel {
  static constexpr int threads = Threads;
  enum sync : int { chunk_ranked, stepped };
  using keys_type = row_keys<Threads, Items, InRegisters>;

  golden_config config{};
  float const* scores = nullptr;       // [head][blocks][tokens]
  std::int32_t* candidates = nullptr;  // [head][2][budget] positions: those of a step, and those of the next
  std::uint32_t* keys = nullptr;       // [head][budget], where keys are not in registers
  golden_output output{};
  int tokens = 0;
  int blocks = 0;
  int steps = 0;
  int first_head = 0;  // of the launch
  int kv_heads = 0;    // of the output

  template <class Context>
  struct shared {
    radix_memory radix;
    typename Context::template scan<std::uint64_t> scan;
  };

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>& memory) const {
    keys_type own;
    own.memory = part_of(keys, c.block(), config.budget);
    own.length = config.budget;
    own.rank = c.rank();
    std::int32_t* now = candidates + std::int64_t{2} * c.block() * config.budget;
    std::int32_t* next = now + config.budget;
    own.each([&](int i, std::uint32_t&) { now[i] = i; });
    radix_search<Context, keys_type> search(c, memory.radix, own);
    for (int step = 0; step < steps; ++step) {
      std::int64_t const row = std::int64_t{step} * kv_heads + first_head + c.block();
      float const* const future = scores + (std::int64_t{c.block()} * blocks + step) * tokens;
      own.each([&](int i, std::uint32_t& key) {
        float const score = future[now[i]];
        if (output.labels != nullptr) output.labels[row * config.budget + i] = score;
        key = order_key(score);
      });
      evict(c, memory, own, search.find_lowest(config.interval), row, now, next);
      // The tokens that this step protected are the newest candidates of the next one.
      for (int i = c.rank(); i < config.interval; i += threads)
        next[config.budget - config.interval + i] = config.budget + step * config.interval + i;
      c.sync(stepped);
      std::int32_t* const old = now;
      now = next;
      next = old;
    }
  }

 private:
  /// Writes the lists of one step and who survives it, both ascending.
  template <class Context>
  FORESIGHTKV_HOST_DEVICE void evict(Context const& c, shared<Context>& memory, keys_type& own, lowest_keys lowest,
                                     std::int64_t row, std::int32_t const* now, std::int32_t* next) const {
    std::uint64_t earlier = 0;  // ties above, keys below the threshold below
    for (int first = 0; first < config.budget; first += keys_type::chunk) {
      if (first > 0) c.sync(chunk_ranked);  // the scan's scratch serves again
      std::uint64_t mine = 0;
      own.in_chunk(first, [&](int, std::uint32_t key) { mine += counted(key, lowest.threshold); });
      std::uint64_t all = 0;
      std::uint64_t before = earlier + c.exclusive_sum(memory.scan, mine, all);
      own.in_chunk(first, [&](int i, std::uint32_t key) {
        int const ties = static_cast<int>(before >> 32);
        int const gone = static_cast<int>(before & 0xffffffffu) + smaller(ties, lowest.ties);
        before += counted(key, lowest.threshold);
        bool const stays = key > lowest.threshold || (key == lowest.threshold && ties >= lowest.ties);
        if (stays)
          next[i - gone] = now[i];
        else
          list(row * config.interval + gone, i, now[i]);
      });
      earlier += all;
    }
  }

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE static std::uint64_t counted(std::uint32_t key, std::uint32_t threshold) {
    if (key < threshold) return 1;
    return key == threshold ? std::uint64_t{1} << 32 : 0;
  }
  FORESIGHTKV_HOST_DEVICE void list(std::int64_t place, int index, std::int32_t position) const {
    if (output.evicted != nullptr) output.evicted[place] = index;
    if (output.evicted_positions != nullptr) output.evicted_positions[place] = position;
  }
};

/// Golden Eviction as a sequence of kernels. As many KV heads are worked on together as have MeansTogether
/// block means, 1 GiB by default, but at least one.
template <class Exec, std::int64_t MeansTogether = std::int64_t{1} << 28>
struct golden_kernels {
  static std::size_t block_means_bytes(Exec const&, golden_config const& config, golden_shape const& shape) {
    arena counter;
    (void)arrays::take_softmax(counter, config, shape, shape.kv_heads);
    return counter.bytes();
  }

  static std::size_t golden_eviction_bytes(Exec const&, golden_config const& config, golden_shape const& shape) {
    arena counter;
    (void)arrays::take(counter, config, shape);
    return counter.bytes();
  }

  static std::size_t golden_eviction_bytes(Exec const&, golden_config const& config, golden_means const& means) {
    arena counter;
    (void)arrays::take(counter, config, means);
    return counter.bytes();
  }

  /// 2 launches; 1 where log-sum-exps are handed over.
  template <class Query, class Key, log_base Base>
  static status block_means(Exec const& exec, golden_config const& config, golden_input<Query, Key, Base> const& input,
                            float* means, workspace scratch) {
    arena cutting(scratch);
    auto const softmax = arrays::take_softmax(cutting, config, input.shape, input.shape.kv_heads);
    launches<Exec> run(exec);
    attend(run, golden_pass<Query, Key, Base>::of(config, input), softmax, means);
    return run.result();
  }

  /// As block_means, and 2 launches; so many for each part of the heads that are worked on together.
  template <class Query, class Key, log_base Base>
  static status golden_eviction(Exec const& exec, golden_config const& config,
                                golden_input<Query, Key, Base> const& input, golden_output const& output,
                                workspace scratch) {
    arena cutting(scratch);
    auto const memory = arrays::take(cutting, config, input.shape);
    auto pass = golden_pass<Query, Key, Base>::of(config, input);
    int const kv_heads = input.shape.kv_heads;
    launches<Exec> run(exec);
    for (int first = 0; first < kv_heads; first += memory.heads) {
      pass.first_head = first;
      pass.heads = smaller(memory.heads, kv_heads - first);
      attend(run, pass, memory.softmax, memory.scores);
      auto const means = golden_means::block_major(memory.scores, pass.heads, input.shape.tokens, pass.blocks);
      solve(run, config, means, first, kv_heads, memory, output);
    }
    return run.result();
  }

  /// 2 launches for each part of the heads that are worked on together.
  static status golden_eviction(Exec const& exec, golden_config const& config, golden_means const& means,
                                golden_output const& output, workspace scratch) {
    arena cutting(scratch);
    auto const memory = arrays::take(cutting, config, means);
    launches<Exec> run(exec);
    for (int first = 0; first < means.kv_heads; first += memory.heads) {
      golden_means part = means;
      part.data += first * means.head_stride;
      part.kv_heads = smaller(memory.heads, means.kv_heads - first);
      solve(run, config, part, first, means.kv_heads, memory, output);
    }
    return run.result();
  }

 private:
  static constexpr int register_budget = 256 * 8;

  /// The arrays of one call; the verb and its *_bytes function walk the same list.
  struct arrays {
    int heads = 1;                       // KV heads that are worked on together
    query_softmax* softmax = nullptr;    // [heads][group][queries]
    float* scores = nullptr;             // [heads][blocks][tokens]: block means, then future scores
    std::int32_t* candidates = nullptr;  // [heads][2][budget]
    std::uint32_t* keys = nullptr;       // [heads][budget]

    static query_softmax* take_softmax(arena& memory, golden_config const& config, golden_shape const& shape,
                                       int heads) {
      std::int64_t const queries = shape.tokens - std::int64_t{config.first_block()} * config.interval;
      return memory.take<query_softmax>(static_cast<std::size_t>(heads * queries * shape.group));
    }
    static arrays take(arena& memory, golden_config const& config, golden_shape const& shape) {
      arrays made =
          take(memory, config,
               golden_means::block_major(nullptr, shape.kv_heads, shape.tokens, config.future_blocks(shape.tokens)));
      made.softmax = take_softmax(memory, config, shape, made.heads);
      return made;
    }
    static arrays take(arena& memory, golden_config const& config, golden_means const& means) {
      std::int64_t const per_head = std::int64_t{means.blocks} * means.tokens;
      arrays made;
      made.heads = static_cast<int>(std::clamp<std::int64_t>(MeansTogether / per_head, 1, means.kv_heads));
      auto const heads = static_cast<std::size_t>(made.heads);
      auto const budget = static_cast<std::size_t>(config.budget);
      made.scores = memory.take<float>(heads * static_cast<std::size_t>(per_head));
      made.candidates = memory.take<std::int32_t>(heads * 2 * budget);
      made.keys = memory.take<std::uint32_t>(config.budget > register_budget ? heads * budget : 0);
      return made;
    }
  };

  template <class Pass>
  static void attend(launches<Exec>& run, Pass const& pass, query_softmax* softmax, float* means) {
    golden_means_kernel<Pass> body{pass, nullptr, means};
    if (pass.input.lse == nullptr) {
      golden_softmax_kernel<Pass> const first{pass, softmax};
      run(std::int64_t{pass.heads} * pass.shape().group * first.tiles(), first);
      body.softmax = softmax;
    }
    run(std::int64_t{pass.heads} * pass.blocks * body.tiles(), body);
  }

  static void solve(launches<Exec>& run, golden_config const& config, golden_means const& means, int first_head,
                    int kv_heads, arrays const& memory, golden_output const& output) {
    int const steps = smaller(config.steps(means.tokens), means.blocks);
    golden_fold_kernel const fold{config, means, memory.scores,
                                  part_of(output.future, first_head, std::int64_t{steps} * means.tokens), steps};
    run(std::int64_t{means.kv_heads} * fold.tiles(), fold);
    auto const evict = [&](auto body) {
      body.config = config;
      body.scores = memory.scores;
      body.candidates = memory.candidates;
      body.keys = memory.keys;
      body.output = output;
      body.tokens = means.tokens;
      body.blocks = means.blocks;
      body.steps = steps;
      body.first_head = first_head;
      body.kv_heads = kv_heads;
      run(means.kv_heads, body);
    };
    if (config.budget <= register_budget)
      evict(golden_evict_kernel<256, 8, true>{});
    else
      evict(golden_evict_kernel<512, 16, false>{});
  }
};

}  // namespace foresightkv::inline v0::detail::kernels
