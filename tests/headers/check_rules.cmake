# SPDX-License-Identifier: Apache-2.0
# cmake -Dinclude_dir=<dir> -P check_rules.cmake: the rules that every header keeps, as text.
cmake_minimum_required(VERSION 3.25)
set(max_lines 500)
set(max_macros 5)

file(GLOB_RECURSE headers RELATIVE "${include_dir}" "${include_dir}/*.hpp" "${include_dir}/*.cuh")
if(NOT headers)
  message(FATAL_ERROR "no headers under ${include_dir}")
endif()

foreach(header IN LISTS headers)
  file(READ "${include_dir}/${header}" text)
  string(REGEX REPLACE "[][;\\]" " " text "${text}")  # these would end or join CMake list items below

  string(REGEX MATCHALL "\n" lines "${text}")
  list(LENGTH lines count)
  if(count GREATER max_lines)
    list(APPEND broken "${header}: ${count} lines, at most ${max_lines} are allowed")
  endif()
  if(NOT text MATCHES "^// SPDX-License-Identifier: Apache-2.0\n")
    list(APPEND broken "${header}: the first line is not the SPDX line")
  endif()
  if(NOT text MATCHES "\n#pragma once\n")
    list(APPEND broken "${header}: no '#pragma once'")
  endif()
  if(header MATCHES "\\.hpp$" AND
     text MATCHES "\n[ \t]*#[ \t]*include[ \t]*([<\"](cuda|cub/|thrust/|nv/|cooperative_groups|mma\\.h)[^\n]*)")
    list(APPEND broken "${header}: includes ${CMAKE_MATCH_1}, a CUDA header: that belongs in a .cuh")
  endif()

  # No arrow from a lower room to one above it.
  if(header MATCHES "^foresightkv/detail/" AND text MATCHES "\n#include <foresightkv/((verbs|golden|training|io)/[^>]*)>")
    list(APPEND broken "${header}: includes ${CMAKE_MATCH_1}, which stands above detail/")
  endif()

  string(REGEX MATCHALL "\n[ \t]*#[ \t]*define[ \t]+[A-Za-z_0-9]+" defines "${text}")
  foreach(define IN LISTS defines)
    string(REGEX REPLACE ".*[ \t]" "" name "${define}")
    list(APPEND macros "${name}")
    if(NOT name MATCHES "^FORESIGHTKV_")
      list(APPEND broken "${header}: defines ${name}, which does not begin with FORESIGHTKV_")
    endif()
  endforeach()
endforeach()

list(REMOVE_DUPLICATES macros)
list(LENGTH macros count)
if(count GREATER max_macros)
  list(JOIN macros ", " names)
  list(APPEND broken "${count} macros, at most ${max_macros} are allowed: ${names}")
endif()

if(broken)
  list(JOIN broken "\n  " text)
  message(FATAL_ERROR "header rules broken:\n  ${text}")
endif()
