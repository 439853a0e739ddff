// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <exception>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

namespace support {

/// The processes of one run: those that mpirun started, else this one alone (also where MPI was not found).
///
/// One object per program, made before any work. Collective members are called by all processes, in the same
/// order; results depend on ranks alone, never on who comes first.
class communicator {
 public:
  communicator();
  communicator(communicator const&) = delete;
  communicator& operator=(communicator const&) = delete;
  ~communicator();

  [[nodiscard]] int rank() const { return rank_; }
  [[nodiscard]] int size() const { return size_; }
  [[nodiscard]] bool first() const { return rank_ == 0; }

  /// Collective: nobody goes on before all are here.
  void barrier() const;

  /// Collective: the values of process `root` reach all. Equally many everywhere.
  template <class Value>
  void broadcast(std::span<Value> values, int root = 0) const {
    static_assert(std::is_trivially_copyable_v<Value>);
    broadcast_bytes(std::as_writable_bytes(values), root);
  }

  /// Collective: the values of all reach process 0, in `all` [size][mine.size()], ordered by rank. `all` is
  /// not looked at elsewhere.
  template <class Value>
  void gather(std::span<Value const> mine, std::span<Value> all) const {
    static_assert(std::is_trivially_copyable_v<Value>);
    if (first() && all.size() != mine.size() * static_cast<std::size_t>(size_))
      throw std::logic_error("gather: room for every process's values is needed");
    gather_bytes(std::as_bytes(mine), std::as_writable_bytes(all));
  }

  /// From one process to another, which receives equally many; values arrive in the order in which they were
  /// sent.
  template <class Value>
  void send(std::span<Value const> values, int to) const {
    static_assert(std::is_trivially_copyable_v<Value>);
    send_bytes(std::as_bytes(values), to);
  }
  template <class Value>
  void receive(std::span<Value> values, int from) const {
    static_assert(std::is_trivially_copyable_v<Value>);
    receive_bytes(std::as_writable_bytes(values), from);
  }

  /// Collective: the least of everyone's values.
  [[nodiscard]] int least(int value) const;

  /// Ends all processes at once, wherever they are.
  [[noreturn]] void abort(int exit_status) const;

 private:
  void broadcast_bytes(std::span<std::byte> bytes, int root) const;
  void gather_bytes(std::span<std::byte const> mine, std::span<std::byte> all) const;
  void send_bytes(std::span<std::byte const> bytes, int to) const;
  void receive_bytes(std::span<std::byte> bytes, int from) const;

  int rank_ = 0;
  int size_ = 1;
};

/// What all processes throw where one of them failed: the message of the one of lowest rank.
class agreed_error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Collective: `phase()` on every process, which must not communicate. If it throws anywhere, all throw; so
/// nobody waits for a process that has given up.
template <class Phase>
void together(communicator const& world, Phase&& phase) {
  if (world.size() == 1) return static_cast<void>(phase());
  std::string problem;
  bool failed = false;
  try {
    phase();
  } catch (std::exception const& caught) {
    problem = caught.what();
    failed = true;
  }
  int const speaker = world.least(failed ? world.rank() : world.size());
  if (speaker == world.size()) return;
  auto length = problem.size();
  world.broadcast(std::span(&length, 1), speaker);
  problem.resize(length);
  world.broadcast(std::span(problem), speaker);
  throw agreed_error(problem);
}

}  // namespace support
