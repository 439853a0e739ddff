# SPDX-License-Identifier: Apache-2.0
# cmake -Dcompiler=<c++> -Dinclude_dir=<dir> -Dunit=<file> -P check_host_includes.cmake: the files that the compiler
# opens for a host build hold no CUDA and no JSON header, and none of the library's own io and training.
cmake_minimum_required(VERSION 3.25)
execute_process(COMMAND "${compiler}" -std=c++20 -M "-I${include_dir}" "${unit}"
  OUTPUT_VARIABLE rule ERROR_VARIABLE errors RESULT_VARIABLE result)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "${errors}")
endif()

string(REGEX REPLACE "\\\\\n" " " rule "${rule}")
string(REGEX REPLACE "^[^:]*: +" "" rule "${rule}")
string(REPLACE "${unit}" "" rule "${rule}")
string(REPLACE "${include_dir}/" "" rule "${rule}")  # where the tree lies must not matter
separate_arguments(files UNIX_COMMAND "${rule}")

set(own ${files})
list(FILTER own INCLUDE REGEX "^foresightkv/")
if(NOT own)
  message(FATAL_ERROR "no header of the library among the dependencies: ${rule}")
endif()

list(FILTER files INCLUDE REGEX "^foresightkv/(io|training)/|/nlohmann/|/cccl/|/cub/|/thrust/|cuda[^/]*/|/cuda[^/]*\\.h")
if(files)
  list(JOIN files "\n  " text)
  message(FATAL_ERROR "a host build must not reach:\n  ${text}")
endif()
