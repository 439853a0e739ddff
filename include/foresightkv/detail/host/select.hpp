// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <foresightkv/detail/order_key.hpp>
#include <foresightkv/detail/random.hpp>
#include <foresightkv/detail/row_view.hpp>

namespace foresightkv::inline v0::detail::host {

/// The answer among few keys: sorts them.
inline lowest_keys find_lowest_of_few(std::uint32_t* keys, int n, int count) {
  for (int i = 1; i < n; ++i) {
    std::uint32_t const key = keys[i];
    int place = i;
    for (; place > 0 && keys[place - 1] > key; --place) keys[place] = keys[place - 1];
    keys[place] = key;
  }
  lowest_keys lowest{keys[count - 1], 1};
  for (int i = count - 1; i > 0 && keys[i - 1] == lowest.threshold; --i) ++lowest.ties;
  return lowest;
}

/// Finds the `count` lowest of n keys, 0 < count <= n: radix select from the top digit down, which looks at every key
/// once and then only at those that share the threshold's digits. `scratch` holds n + 1 keys.
inline lowest_keys find_lowest(std::uint32_t const* keys, int n, int count, std::uint32_t* scratch) {
  constexpr int digit_bits = 8;
  constexpr int bins = 1 << digit_bits;
  constexpr int few = 24;
  std::uint32_t const* from = keys;
  int remaining = count;
  for (int shift = 32 - digit_bits;; shift -= digit_bits) {
    // Four histograms: scores of a row share their top digit, and one counter would wait for itself.
    std::uint32_t histogram[4][bins] = {};
    int i = 0;
    for (; i + 4 <= n; i += 4)
      for (int lane = 0; lane < 4; ++lane) ++histogram[lane][from[i + lane] >> shift & (bins - 1)];
    for (; i < n; ++i) ++histogram[0][from[i] >> shift & (bins - 1)];
    std::uint32_t digit = 0;
    for (;; ++digit) {
      auto const here =
          static_cast<int>(histogram[0][digit] + histogram[1][digit] + histogram[2][digit] + histogram[3][digit]);
      if (here >= remaining) {
        n = here;
        break;
      }
      remaining -= here;
    }
    int kept = 0;
    for (int k = 0; kept < n; ++k) {  // keys that share the digits above already do
      std::uint32_t const key = from[k];
      scratch[kept] = key;
      kept += (key >> shift & (bins - 1)) == digit;
    }
    from = scratch;
    if (shift == 0) return {scratch[0], remaining};
    if (n <= few) return find_lowest_of_few(scratch, n, remaining);
  }
}

/// One row of scores as a selector sees it.
template <class Positions>
class selection_row {
 public:
  selection_row(float const* scores, std::uint32_t* keys, std::uint32_t* scratch, int length, int count, int candidates,
                Positions positions, draw_source source)
      : scores_(scores),
        keys_(keys),
        scratch_(scratch),
        length_(length),
        count_(count),
        candidates_(candidates),
        positions_(positions),
        source_(source) {}

  [[nodiscard]] int length() const { return length_; }
  [[nodiscard]] int count() const { return count_; }
  [[nodiscard]] int candidates() const { return candidates_; }
  [[nodiscard]] float score(int slot) const { return scores_[slot]; }
  [[nodiscard]] float uniform(int slot) const { return uniform_float(bits(slot)); }
  [[nodiscard]] float gumbel(int slot) const { return gumbel_float(bits(slot)); }

  void restrict_to_lowest(int count) {
    if (count >= candidates_) return;
    lowest_keys lowest = count > 0 ? find_lowest(keys_, length_, count, scratch_) : lowest_keys{};
    for (int slot = 0; slot < length_; ++slot) {
      std::uint32_t const key = keys_[slot];
      bool const tie = key == lowest.threshold && lowest.ties > 0;
      if (key >= lowest.threshold && !tie) keys_[slot] = protected_key;
      lowest.ties -= tie;
    }
    candidates_ = count > 0 ? count : 0;
  }

  template <class Score>
  void rescore(Score const& score) {
    for (int slot = 0; slot < length_; ++slot)
      if (keys_[slot] != protected_key) keys_[slot] = order_key(score(slot));
  }

  void evict_lowest(int count) {
    evicted_ = count < 0 ? 0 : (count < candidates_ ? count : candidates_);
    if (evicted_ > 0) lowest_ = find_lowest(keys_, length_, evicted_, scratch_);
  }

  [[nodiscard]] int evicted() const { return evicted_; }
  [[nodiscard]] lowest_keys lowest() const { return lowest_; }

 private:
  [[nodiscard]] std::uint32_t bits(int slot) const {
    return draw(source_.seed, positions_.at(slot), source_.request, source_.model_row, source_.step);
  }

  float const* scores_;
  std::uint32_t* keys_;
  std::uint32_t* scratch_;
  int length_;
  int count_;
  int candidates_;
  Positions positions_;
  draw_source source_;
  int evicted_ = 0;
  lowest_keys lowest_{};
};

/// Keys of a row: its scores in order, with sinks and recent tokens protected. Returns how many may go.
template <class Positions>
int make_keys(float const* scores, int n, Positions const& positions, int sink_tokens, int protected_from,
              std::uint32_t* keys) {
  if (positions.column != nullptr) {
    int candidates = 0;
    for (int slot = 0; slot < n; ++slot) {
      int const position = positions.at(slot);
      bool const free = position >= sink_tokens && position < protected_from;
      keys[slot] = free ? order_key(scores[slot]) : protected_key;
      candidates += free;
    }
    return candidates;
  }
  int const end = protected_from < 0 ? 0 : (protected_from < n ? protected_from : n);  // slot = position
  int const begin = sink_tokens < end ? sink_tokens : end;
  for (int slot = 0; slot < begin; ++slot) keys[slot] = protected_key;
  for (int slot = begin; slot < end; ++slot) keys[slot] = order_key(scores[slot]);
  for (int slot = end; slot < n; ++slot) keys[slot] = protected_key;
  return end - begin;
}

/// Protects pinned tokens as well. Returns how many of the candidates they are.
template <class Positions>
int protect_pinned(row_pins const& pins, int n, Positions const& positions, std::uint32_t* keys) {
  int count = 0;
  for (int slot = 0; slot < n && pins.bits != nullptr; ++slot) {
    if (keys[slot] == protected_key || !pins.at(positions.at(slot))) continue;
    keys[slot] = protected_key;
    ++count;
  }
  return count;
}

/// Writes both lists of a row, ascending. Branch-free: every slot is stored to both, one of the two cursors
/// advances; so both arrays need room for n + 1 entries.
inline void emit_lists(std::uint32_t const* keys, int n, lowest_keys lowest, std::int32_t* kept,
                       std::int32_t* evicted) {
  int num_kept = 0;
  int num_evicted = 0;
  for (int slot = 0; slot < n; ++slot) {
    std::uint32_t const key = keys[slot];
    int const tie = static_cast<int>(key == lowest.threshold) & static_cast<int>(lowest.ties > 0);
    int const goes = static_cast<int>(key < lowest.threshold) | tie;
    lowest.ties -= tie;
    kept[num_kept] = slot;
    evicted[num_evicted] = slot;
    num_kept += 1 - goes;
    num_evicted += goes;
  }
}

}  // namespace foresightkv::inline v0::detail::host
