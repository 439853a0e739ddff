// SPDX-License-Identifier: Apache-2.0
#include <mpi.h>

#include <algorithm>
#include <cstdlib>
#include <initializer_list>

#include "communicator.hpp"

// Errors of MPI end the run: that is MPI's own default, so return values are not looked at.

namespace support {
namespace {

constexpr int tag = 0;

/// Without it a program started by hand would have MPI start a daemon for it.
bool started_by_mpirun() {
  auto const names = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"};
  return std::ranges::any_of(names, [](char const* name) { return std::getenv(name) != nullptr; });
}

/// Calls `part` on pieces that MPI's `int` can count.
template <class Bytes, class Part>
void in_parts(Bytes bytes, Part const& part) {
  constexpr std::size_t largest = std::size_t{1} << 30;
  while (!bytes.empty()) {
    auto const now = bytes.first(std::min(bytes.size(), largest));
    part(now.data(), static_cast<int>(now.size()));
    bytes = bytes.subspan(now.size());
  }
}

}  // namespace

communicator::communicator() {
  if (!started_by_mpirun()) return;
  int threads = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &threads);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
  MPI_Comm_size(MPI_COMM_WORLD, &size_);
}

communicator::~communicator() {
  int started = 0;
  MPI_Initialized(&started);
  if (started != 0) MPI_Finalize();
}

void communicator::barrier() const {
  if (size_ > 1) MPI_Barrier(MPI_COMM_WORLD);
}

int communicator::least(int value) const {
  if (size_ == 1) return value;
  int result = value;
  MPI_Allreduce(&value, &result, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
  return result;
}

void communicator::broadcast_bytes(std::span<std::byte> bytes, int root) const {
  if (size_ == 1) return;
  in_parts(bytes, [&](void* data, int count) { MPI_Bcast(data, count, MPI_BYTE, root, MPI_COMM_WORLD); });
}

void communicator::gather_bytes(std::span<std::byte const> mine, std::span<std::byte> all) const {
  if (!first()) return send_bytes(mine, 0);
  std::ranges::copy(mine, all.begin());
  for (int other = 1; other < size_; ++other)
    receive_bytes(all.subspan(static_cast<std::size_t>(other) * mine.size(), mine.size()), other);
}

void communicator::send_bytes(std::span<std::byte const> bytes, int to) const {
  in_parts(bytes, [&](void const* data, int count) { MPI_Send(data, count, MPI_BYTE, to, tag, MPI_COMM_WORLD); });
}

void communicator::receive_bytes(std::span<std::byte> bytes, int from) const {
  in_parts(bytes, [&](void* data, int count) {
    MPI_Recv(data, count, MPI_BYTE, from, tag, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
  });
}

void communicator::abort(int exit_status) const {
  if (size_ > 1) MPI_Abort(MPI_COMM_WORLD, exit_status);
  std::_Exit(exit_status);
}

}  // namespace support
