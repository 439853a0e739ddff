// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <foresightkv/detail/kernels/collectives.hpp>
#include <foresightkv/detail/kernels/observe.hpp>
#include <foresightkv/detail/kernels/tensor_tile.hpp>

namespace foresightkv::inline v0::detail::kernels {

/// The type in which tensor cores multiply a pass's queries and keys.
template <class Pass>
using pass_element = tensor_element<typename Pass::query_type, key_element<typename Pass::cache_type>>;

/// Position of a token as an unsigned number: an empty slot comes after every query.
FORESIGHTKV_HOST_DEVICE inline std::uint32_t order_of(int position) { return static_cast<std::uint32_t>(position); }

/// Whether a query sees all tokens up to `newest`, see order_of.
FORESIGHTKV_HOST_DEVICE inline bool sees_all(int query, std::uint32_t newest) {
  return query >= 0 && newest <= static_cast<std::uint32_t>(query);
}

/// Scales of tokens in two stages of shared memory; nothing where tokens have none.
template <bool Scaled, int Width>
struct token_scales {
  FORESIGHTKV_HOST_DEVICE static constexpr void set(int, int, float) {}
  FORESIGHTKV_HOST_DEVICE static constexpr float at(int, int) { return 1.0f; }
};
template <int Width>
struct token_scales<true, Width> {
  float scale[2][Width];
  FORESIGHTKV_HOST_DEVICE void set(int stage, int i, float value) { scale[stage][i] = value; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE float at(int stage, int i) const { return scale[stage][i]; }
};

/// Sums for the log-sum-exp of every query of a window on tensor cores: a warp has its queries in registers, of any
/// heads of the row's group, keys stream by. A thread sums over its own columns; four of them meet once, at the end.
template <int Dims, class Pass>
struct tensor_lse_kernel {
  using tile = tensor_tile<pass_element<Pass>, Dims>;
  static constexpr int threads = 256;
  static constexpr int min_blocks = 2;
  static constexpr int queries = threads / warp_size * tile::own;
  static constexpr int together = 32;  // keys whose exponents share a maximum
  enum sync : int { landed = 16 };

  Pass pass{};

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int tiles() const {
    return divide_up(pass.shape().group * pass.window.max_queries, queries);
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int blocks_per_row() const { return tiles() * pass.sums.splits(); }

  using vectors_type = key_vectors<typename Pass::cache_type>;
  using scales_type = token_scales<is_scaled_by_token<vectors_type>(), tile::width>;

  template <class Context>
  struct shared : scales_type {
    typename tile::shared keys[2];
    int position[2][tile::width];
  };

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>& memory) const {
    int const split = c.block() / tiles() % pass.sums.splits();
    visited_row const row = pass.rows.at(c.block() / blocks_per_row());
    if (!row.visited()) return;
    row_positions const positions = pass.rows.positions(row);
    window_place const place = pass.place(row, positions);
    int const count = pass.shape().group * place.count;
    if (c.block() % tiles() * queries >= count) return;
    // Behind the last query a warp repeats it.
    int const first = c.block() % tiles() * queries + c.rank() / warp_size * tile::own;
    auto const query_of = [&](int i) { return smaller(first + i, count - 1); };
    auto const* const of_row = pass.window.queries_of(row.at);
    typename tile::fragments own;
    tile::load(
        c, pass.shape().key_head_dim,
        [&](int i) {
          int const query = query_of(i);
          return pass.window.query(of_row, pass.query_head(row, query / place.count), query % place.count);
        },
        own);
    int asked[tile::own_of_thread];
    exponent_sum sums[tile::own_of_thread];
    for (int i = 0; i < tile::own_of_thread; ++i) asked[i] = place.first + query_of(tile::own_of(c, i)) % place.count;
    stream(c, memory, row, positions, split, own, asked, sums);
    unrolled<tile::own_of_thread>([&](int i) {
      for (int mask = 1; mask < 4; mask *= 2)
        sums[i].add({c.shuffle_xor(sums[i].largest, mask), c.shuffle_xor(sums[i].total, mask)});
      int const query = first + tile::own_of(c, i);
      if (c.rank() % 4 == i && query < count)
        pass.store_sum(c, row, split, query / place.count, query % place.count, sums[i]);
    });
  }

 private:
  template <class Context>
  FORESIGHTKV_HOST_DEVICE void stream(Context const& c, shared<Context>& memory, visited_row const& row,
                                      row_positions const& positions, int split, typename tile::fragments const& own,
                                      int const (&asked)[tile::own_of_thread],
                                      exponent_sum (&sums)[tile::own_of_thread]) const {
    int const begin = split * pass.sums.keys_per_split();
    int const end = smaller(row.length, begin + pass.sums.keys_per_split());
    softmax_rule const rule = softmax_rule_of(pass.window, pass.cache, row.at);
    vectors_type const keys = pass.cache.keys(row.at);
    int oldest = asked[0];
    for (int i = 1; i < tile::own_of_thread; ++i) oldest = smaller(oldest, asked[i]);
    oldest = warp_min(c, oldest);
    auto const fetch = [&](int key, int stage) {
      if (key < end)
        tile::fetch(c, memory.keys[stage], end - key, pass.shape().key_head_dim,
                    [&](int i) { return keys.at(key + i); });
      if (c.rank() < tile::width) {
        int const slot = key + c.rank();
        memory.position[stage][c.rank()] = slot < end ? positions.at(slot) : -1;
        memory.set(stage, c.rank(), slot < end ? token_scale(keys, slot) : 0.0f);
      }
      c.commit();
    };
    fetch(begin, 0);
    int stage = 0;
    for (int key = begin; key < end; key += tile::width, stage = 1 - stage) {
      c.template wait<0>();
      c.sync(landed);  // and nobody reads the other stage any more
      fetch(key + tile::width, 1 - stage);
      std::uint32_t newest = 0;
      for (int i = c.rank() % warp_size; i < tile::width; i += warp_size) {
        std::uint32_t const position = order_of(memory.position[stage][i]);
        newest = position > newest ? position : newest;
      }
      bool const all_seen = rule.soft_cap == 0.0f && sees_all(oldest, warp_max(c, newest));
      for (int step = 0; step < tile::steps; step += together / 8) {
        if (all_seen)
          add_keys<false>(c, memory, stage, rule, own, asked, step, sums);
        else
          add_keys<true>(c, memory, stage, rule, own, asked, step, sums);
      }
    }
  }

  template <bool Edge, class Context>
  FORESIGHTKV_HOST_DEVICE static void add_keys(Context const& c, shared<Context> const& memory, int stage,
                                               softmax_rule const& rule, typename tile::fragments const& own,
                                               int const (&asked)[tile::own_of_thread], int first,
                                               exponent_sum (&sums)[tile::own_of_thread]) {
    constexpr int steps = together / 8;
    constexpr int rows = tile::own_of_thread;
    typename tile::products x[steps] = {};
    float peak[rows];
    unrolled<rows>([&](int i) { peak[i] = sums[i].largest; });
    auto const each = [&](auto const& body) {
      unrolled<steps * rows * 2>([&](int n) {
        int const step = n / (rows * 2), i = n / 2 % rows, side = n % 2;
        body(step, i, side, x[step][i / 2][2 * (i % 2) + side]);
      });
    };
    unrolled<steps>([&](int step) { tile::multiply(c, memory.keys[stage], own, first + step, x[step]); });
    each([&](int step, int i, int side, float& value) {
      int const key = tile::common_of(c, first + step, side);
      value *= memory.at(stage, key);
      if constexpr (Edge) {
        int const where = memory.position[stage][key];
        value = where >= 0 && where <= asked[i] ? exponent_of(rule, value) : -HUGE_VALF;
      } else {
        value = rounded_product(value, rule.multiply);
      }
      peak[i] = larger(value, peak[i]);
    });
    unrolled<rows>([&](int i) {
      sums[i].total *= c.exp2(sums[i].largest - peak[i]);
      sums[i].largest = peak[i];
    });
    each([&](int, int i, int, float value) { sums[i].total += c.exp2(value - peak[i]); });
  }
};

/// Statistics of a window's attention to every token on tensor cores: a warp has its keys in registers, queries stream
/// by, so that every statistic is a running value of a thread: four threads share a token and merge theirs once per
/// query head.
/// Sink is told of them: `begin` before the first query head, `head` after each, `end` after the last.
template <int Dims, class Pass, class Sink>
struct tensor_observe_kernel {
  using tile = tensor_tile<pass_element<Pass>, Dims>;
  using running = folds<typename Sink::list>;
  static constexpr int threads = 192;
  static constexpr int min_blocks = 2;
  static constexpr int tokens = threads / warp_size * tile::own;
  static_assert(running::mergeable);
  enum sync : int { landed = 16 };

  Pass pass{};
  Sink sink{};
  int max_length = 0;

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int tiles() const { return divide_up(max_length, tokens); }

  template <class Context>
  struct shared {
    typename tile::shared queries[2];
    float lse[2][tile::width];
    typename Sink::template shared<Context> sink;
  };

  /// The part of a row that a warp has.
  struct share {
    static constexpr int tokens = tile::own;
    visited_row row{};
    window_place place{};
    int first = 0;  // slot
    int position[tile::own_of_thread] = {};
    float scale[tile::own_of_thread];

    [[nodiscard]] FORESIGHTKV_HOST_DEVICE int slot(int i) const { return smaller(first + i, row.length - 1); }
  };

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>& memory) const {
    share mine;
    mine.row = pass.rows.at(c.block() / tiles());
    int const first = c.block() % tiles() * tokens;
    if (!mine.row.visited() || first >= mine.row.length) return;
    row_positions const positions = pass.rows.positions(mine.row);
    mine.place = pass.place(mine.row, positions);
    mine.first = first + c.rank() / warp_size * tile::own;
    auto const keys = pass.cache.keys(mine.row.at);
    for (int i = 0; i < tile::own_of_thread; ++i) {
      int const slot = mine.slot(tile::own_of(c, i));
      mine.position[i] = positions.at(slot);
      mine.scale[i] = token_scale(keys, slot);
    }
    typename tile::fragments own;
    tile::load(
        c, pass.shape().key_head_dim, [&](int i) { return keys.at(mine.slot(i)); }, own);
    sink.template begin<tile>(c, memory.queries[0], memory.sink, mine, own);
    observe(c, memory, mine, own);
    sink.template end<tile>(c, memory.sink, mine, first, smaller(first + tokens, mine.row.length));
  }

 private:
  template <class Context>
  FORESIGHTKV_HOST_DEVICE void observe(Context const& c, shared<Context>& memory, share const& mine,
                                       typename tile::fragments const& own) const {
    visited_row const& row = mine.row;
    softmax_rule const rule = softmax_rule_of(pass.window, pass.cache, row.at);
    auto const* const of_row = pass.window.queries_of(row.at);
    int const group = pass.shape().group;
    int const per_head = divide_up(mine.place.count, tile::width);
    auto const fetch = [&](int j, int part, int stage) {
      int const first = part * tile::width;
      int const count = mine.place.count - first;
      tile::fetch(c, memory.queries[stage], count, pass.shape().key_head_dim,
                  [&](int i) { return pass.window.query(of_row, pass.query_head(row, j), first + i); });
      if (c.rank() < tile::width)
        memory.lse[stage][c.rank()] = c.rank() < count ? pass.log_sum(row, j, first + c.rank()) : 0.0f;
      c.commit();
    };
    std::uint32_t newest = 0;
    for (int const position : mine.position) newest = order_of(position) > newest ? order_of(position) : newest;
    newest = warp_max(c, newest);
    if (per_head > 0) fetch(0, 0, 0);
    int stage = 0;
    for (int j = 0; j < group; ++j) {
      running of[tile::own_of_thread];
      for (int part = 0; part < per_head; ++part, stage = 1 - stage) {
        c.template wait<0>();
        c.sync(landed);  // and nobody reads the other stage any more
        if (part + 1 < per_head)
          fetch(j, part + 1, 1 - stage);
        else if (j + 1 < group)
          fetch(j + 1, 0, 1 - stage);
        int const first = part * tile::width;
        if (is_edge(c, mine.place, rule, newest, first, memory.lse[stage]))
          fold_tile<true>(c, memory.queries[stage], memory.lse[stage], mine, rule, own, first, of);
        else
          fold_tile<false>(c, memory.queries[stage], memory.lse[stage], mine, rule, own, first, of);
      }
      unrolled<tile::own_of_thread>([&](int i) {
        for (int mask = 1; mask < 4; mask *= 2) {
          running other;
          unrolled<running::size>([&](int s) { other.value[s] = c.shuffle_xor(of[i].value[s], mask); });
          of[i].merge(other);
        }
        unrolled<running::size>([&](int s) { of[i].value[s] = mine.place.count == 0 ? 0.0f : of[i].value[s]; });
      });
      sink.template head<tile>(c, memory.sink, mine, j, of);
    }
  }

  /// Whether anything about a tile of queries is out of the ordinary: then each product is looked at on its own.
  template <class Context>
  FORESIGHTKV_HOST_DEVICE static bool is_edge(Context const& c, window_place const& place, softmax_rule const& rule,
                                              std::uint32_t newest, int first, float const (&lse)[tile::width]) {
    bool masked = false;
    for (int i = c.rank() % warp_size; i < tile::width; i += warp_size) masked = masked || !is_finite(lse[i]);
    int const youngest = place.end - place.first - first - tile::width;  // age of the tile's last query
    return c.vote(masked) != 0 || rule.soft_cap > 0.0f || first + tile::width > place.count ||
           youngest < running::longest_horizon || !sees_all(place.first + first, newest);
  }

  template <bool Edge, class Context>
  FORESIGHTKV_HOST_DEVICE static void fold_tile(Context const& c, typename tile::shared const& queries,
                                                float const (&lse)[tile::width], share const& mine,
                                                softmax_rule const& rule, typename tile::fragments const& own,
                                                int first, running (&of)[tile::own_of_thread]) {
    constexpr int together = Edge ? 1 : 2;  // steps: enough that products do not wait for each other
    window_place const& place = mine.place;
    for (int begin = 0; begin < tile::steps; begin += together) {
      typename tile::products x[together] = {};
      unrolled<together>([&](int step) { tile::multiply(c, queries, own, begin + step, x[step]); });
      unrolled<2 * together>([&](int n) {
        int const step = n / 2, side = n % 2;
        int const query = tile::common_of(c, begin + step, side);
        int const asked = place.first + first + query;
        int const age = place.end - 1 - asked;
        float const sum = lse[query];
        unrolled<tile::own_of_thread>([&](int i) {
          float const product = x[step][i / 2][2 * (i % 2) + side] * mine.scale[i];
          if constexpr (Edge) {
            bool const seen = mine.position[i] >= 0 && mine.position[i] <= asked && is_finite(sum);
            float const p = seen ? c.exp2(exponent_of(rule, product) - sum) : 0.0f;
            if (first + query < place.count) of[i].fold(p, age);
          } else {
            of[i].fold_old(c.exp2(rounded_product(product, rule.multiply) - sum), age);
          }
        });
      });
    }
  }
};

/// Writes statistics to memory, a few query heads at a time so that what goes out is contiguous; then what comes after.
template <class List, class Pass, class After>
struct statistics_sink {
  using list = List;
  static constexpr int together = List::size <= 3   ? 4
                                  : List::size <= 6 ? 2
                                                    : 1;  // query heads: what memory is there for
  enum sync : int { staged = 20, observed };

  Pass pass{};
  statistics_rows<float> out{};
  After after{};

  template <class Context>
  struct shared {
    alignas(vector_bytes) float value[Context::threads / warp_size][32][List::size][together];
    typename After::template shared<Context> after;
  };

  template <class Tile, class Context, class Share>
  FORESIGHTKV_HOST_DEVICE void begin(Context const&, typename Tile::shared&, shared<Context>&, Share const&,
                                     typename Tile::fragments const&) const {}

  template <class Tile, class Context, class Share>
  FORESIGHTKV_HOST_DEVICE void head(Context const& c, shared<Context>& memory, Share const& mine, int j,
                                    folds<List> (&of)[Tile::own_of_thread]) const {
    int const group = pass.shape().group;
    float* const row = out.of(mine.row, List::size * group);
    if (mine.place.count == 0) return leave_unqueried<Tile>(c, mine, row, j);
    auto& mine_staged = memory.value[c.rank() / warp_size];
    unrolled<Tile::own_of_thread>([&](int i) {
      if (c.rank() % 4 != i) return;
      int const token = Tile::own_of(c, i);
      if (pass.window.continues) {
        float const* const earlier = row + std::int64_t{mine.slot(token)} * List::size * group + j;
        auto all = earlier_folds<List>(pass.has_begun(mine.row), earlier, mine.position[i], mine.place, group);
        all.merge(of[i]);
        of[i] = all;
      }
      unrolled<List::size>([&](int s) { mine_staged[token][s][j % together] = of[i].value[s]; });
    });
    if (j % together != together - 1 && j != group - 1) return;
    c.sync_warp(staged);
    int const from = j - j % together;
    for (int i = c.rank() % warp_size; i < Tile::own * List::size; i += warp_size) {
      int const token = i / List::size;
      if (mine.first + token >= mine.row.length) continue;
      float* const to = row + (std::int64_t{mine.first + token} * List::size + i % List::size) * group + from;
      copy_vector(reinterpret_cast<std::byte*>(to),
                  reinterpret_cast<std::byte const*>(mine_staged[token][i % List::size]),
                  static_cast<int>(sizeof(float)) * (j + 1 - from));
    }
  }  // and a tile of the next head has a barrier before anything is staged again

  template <class Tile, class Context, class Share>
  FORESIGHTKV_HOST_DEVICE void end(Context const& c, shared<Context>& memory, Share const& mine, int first,
                                   int last) const {
    if constexpr (!std::same_as<After, no_stage>) c.sync(observed);
    after(c, memory.after, mine.row, first, last);
  }

 private:
  /// What a chunk without a query leaves: that there was none so far, or 0 of all queries before for the tokens behind
  /// them.
  template <class Tile, class Context, class Share>
  FORESIGHTKV_HOST_DEVICE void leave_unqueried(Context const& c, Share const& mine, float* row, int j) const {
    int const group = pass.shape().group;
    bool const continues = pass.window.continues;
    bool const begun = continues && pass.has_begun(mine.row);
    unrolled<Tile::own_of_thread>([&](int i) {
      int const slot = mine.first + Tile::own_of(c, i);
      if (c.rank() % 4 != i || slot >= mine.row.length) return;
      if (continues && mine.position[i] < mine.place.first) return;
      auto const unseen = earlier_folds<List>(begun, nullptr, mine.place.first, mine.place, group);
      float* const to = row + std::int64_t{slot} * List::size * group + j;
      for (int s = 0; s < List::size; ++s) store_or_mark(begun, unseen.value[s], to + s * group);
    });
  }
};

}  // namespace foresightkv::inline v0::detail::kernels
