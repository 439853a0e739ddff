# SPDX-License-Identifier: Apache-2.0
# CMake 3.25 has no C++20 flag for nvcc 13: cxx_std_20 adds none to .cu files and cuda_std_20 is an error, so the flag is
# given by hand. From 3.26 on cxx_std_20 does it. Part of the package, since it depends on the CMake of the reader.
function(foresightkv_cuda_standard target)
  if(CMAKE_VERSION VERSION_LESS 3.26)
    target_compile_options(${target} INTERFACE
      "$<BUILD_INTERFACE:$<$<COMPILE_LANG_AND_ID:CUDA,NVIDIA>:-std=c++20>>")
  endif()
endfunction()
