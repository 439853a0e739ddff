// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdio>
#include <exception>
#include <foresightkv/io/error.hpp>

#include "communicator.hpp"

namespace support {

/// "PROGRAM: problem" as one line on standard error.
inline void complain(char const* program, std::exception const& problem) {
  std::fprintf(stderr, "%s: %s\n", program, foresightkv::io::printable(problem.what(), 4096).c_str());
}

/// What `main` returns: 0, or 2 where `body` threw, with one line on standard error.
template <class Body>
[[nodiscard]] int run_program(char const* program, Body&& body) {
  try {
    body();
    return 0;
  } catch (std::exception const& problem) {
    complain(program, problem);
    return 2;
  }
}

/// The same for a program of many processes: one line from all of them where they agree on what went wrong
/// (`together`). An error that only one process knows of ends the others by force.
template <class Body>
[[nodiscard]] int run_program(char const* program, communicator const& world, Body&& body) {
  try {
    body();
    return 0;
  } catch (agreed_error const& problem) {
    if (world.first()) complain(program, problem);
    return 2;
  } catch (std::exception const& problem) {
    complain(program, problem);
    if (world.size() > 1) world.abort(2);
    return 2;
  }
}

}  // namespace support
