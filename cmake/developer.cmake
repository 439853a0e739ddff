# SPDX-License-Identifier: Apache-2.0
# Everything that only a top-level build has: options, warnings, tests, examples, benchmarks, the reference pages.
find_program(FORESIGHTKV_NVCC nvcc HINTS ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES bin)
mark_as_advanced(FORESIGHTKV_NVCC)
set(foresightkv_has_nvcc OFF)
if(FORESIGHTKV_NVCC)
  set(foresightkv_has_nvcc ON)
endif()

option(FORESIGHTKV_TESTS "Build the tests" ON)
option(FORESIGHTKV_KERNEL_TESTS "Run the device's kernels on emulated blocks in the tests" ON)
option(FORESIGHTKV_EXAMPLES "Build the examples" ON)
option(FORESIGHTKV_BENCHMARKS "Build the benchmarks" ON)
option(FORESIGHTKV_DOCS "Add the target docs: the Doxygen reference" OFF)
option(FORESIGHTKV_CUDA "Compile .cu files (default: where nvcc is found)" ${foresightkv_has_nvcc})
set(FORESIGHTKV_SANITIZE "" CACHE STRING "Sanitizers as -fsanitize= takes them, such as address,undefined")

if((FORESIGHTKV_TESTS OR FORESIGHTKV_EXAMPLES OR FORESIGHTKV_BENCHMARKS) AND NOT FORESIGHTKV_IO)
  message(FATAL_ERROR "foresightkv: tests, examples and benchmarks read safetensors: set FORESIGHTKV_IO=ON")
endif()

find_program(FORESIGHTKV_CCACHE ccache)
mark_as_advanced(FORESIGHTKV_CCACHE)
foreach(language IN ITEMS CXX CUDA)
  if(FORESIGHTKV_CCACHE AND NOT DEFINED CMAKE_${language}_COMPILER_LAUNCHER)
    set(CMAKE_${language}_COMPILER_LAUNCHER "${FORESIGHTKV_CCACHE}")
  endif()
endforeach()

set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

if(NOT (FORESIGHTKV_TESTS OR FORESIGHTKV_EXAMPLES OR FORESIGHTKV_BENCHMARKS))
  message(STATUS "foresightkv: nothing to compile, so CUDA is not looked at")
elseif(FORESIGHTKV_CUDA)
  message(STATUS "foresightkv: with CUDA; configure with -DFORESIGHTKV_CUDA=OFF to do without nvcc")
  if(NOT DEFINED CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX} AND FORESIGHTKV_NVCC)
    set(CMAKE_CUDA_COMPILER "${FORESIGHTKV_NVCC}")
  endif()
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 90)
  endif()
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
else()
  message(STATUS "foresightkv: without CUDA; -DFORESIGHTKV_CUDA=ON, the default where nvcc is found, compiles "
    "the device code too")
endif()

# Stops with one line that says what to install, or how to do without it.
macro(foresightkv_require package version option debian_package)
  find_package(${package} ${version} QUIET)
  if(NOT ${package}_FOUND)
    message(FATAL_ERROR "foresightkv: ${package} ${version} or newer is missing: install it "
      "(Debian, Ubuntu: ${debian_package}) or configure with -D${option}=OFF")
  endif()
endmacro()

# Warnings and sanitizers of our own programs; never part of what a user links.
add_library(foresightkv_developer INTERFACE)
target_compile_options(foresightkv_developer INTERFACE
  "$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wconversion;-Werror>"
  # g++ 12 sees overlapping copies in std::string's operator+ (GCC bug 105651).
  "$<$<AND:$<COMPILE_LANG_AND_ID:CXX,GNU>,$<VERSION_LESS:$<CXX_COMPILER_VERSION>,13>>:-Wno-restrict>"
  "$<$<COMPILE_LANG_AND_ID:CUDA,NVIDIA>:-Werror=all-warnings>")
if(FORESIGHTKV_SANITIZE)
  target_compile_options(foresightkv_developer INTERFACE
    "$<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${FORESIGHTKV_SANITIZE};-fno-sanitize-recover=all;-fno-omit-frame-pointer>")
  target_link_options(foresightkv_developer INTERFACE "-fsanitize=${FORESIGHTKV_SANITIZE}")
  # Half the compile time of the vector kernels: their checked bodies are what register allocation is slow at.
  target_compile_options(foresightkv_developer INTERFACE "$<$<COMPILE_LANG_AND_ID:CXX,GNU>:-fira-region=one>")
endif()

# The library runs without OpenMP; our programs use it where it is there.
add_library(foresightkv_program INTERFACE)
target_link_libraries(foresightkv_program INTERFACE foresightkv foresightkv_io foresightkv_developer)
find_package(OpenMP QUIET COMPONENTS CXX)
if(OpenMP_CXX_FOUND)
  target_link_libraries(foresightkv_program INTERFACE OpenMP::OpenMP_CXX)
endif()
# Only what links foresightkv_support can be many processes.
set(MPI_CXX_SKIP_MPICXX TRUE)
find_package(MPI QUIET COMPONENTS CXX)
target_compile_definitions(foresightkv_program INTERFACE
  "FORESIGHTKV_EXAMPLE_DATA=\"${PROJECT_SOURCE_DIR}/examples/data\"")

if(FORESIGHTKV_TESTS)
  enable_testing()
endif()
if(FORESIGHTKV_EXAMPLES)
  add_subdirectory(examples)
endif()
if(FORESIGHTKV_TESTS)
  add_subdirectory(tests)
endif()
if(FORESIGHTKV_BENCHMARKS)
  add_subdirectory(bench)
endif()
if(FORESIGHTKV_DOCS)
  include(cmake/docs.cmake)
endif()
