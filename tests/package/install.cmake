# SPDX-License-Identifier: Apache-2.0
# cmake -Dbinary_dir=<dir> -Dprefix=<dir> -P install.cmake: install into an empty prefix.
cmake_minimum_required(VERSION 3.25)
file(REMOVE_RECURSE "${prefix}")
execute_process(COMMAND "${CMAKE_COMMAND}" --install "${binary_dir}" --prefix "${prefix}"
  OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)

file(GLOB_RECURSE installed RELATIVE "${prefix}" "${prefix}/*")
foreach(file IN LISTS installed)
  if(NOT file MATCHES "^include/foresightkv/.*\\.(hpp|cuh)$|^share/(cmake|doc)/foresightkv/")
    message(FATAL_ERROR "installed, but neither a header nor part of the package: ${file}")
  endif()
endforeach()
foreach(file IN ITEMS include/foresightkv/version.hpp share/cmake/foresightkv/foresightkv-config.cmake
        share/cmake/foresightkv/foresightkv-config-version.cmake share/doc/foresightkv/LICENSE)
  if(NOT file IN_LIST installed)
    message(FATAL_ERROR "not installed: ${file}")
  endif()
endforeach()
