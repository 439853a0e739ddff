# SPDX-License-Identifier: Apache-2.0
# cmake -Dnm=<nm> -Dfirst=<library> -Dfirst_arch=<n> -Dsecond=<library> -Dsecond_arch=<n> -P check_symbols.cmake
# No kernel leaves its library, and whatever leads to a launch has the architectures in its name.
cmake_minimum_required(VERSION 3.25)

foreach(library IN ITEMS first second)
  execute_process(COMMAND "${nm}" --dynamic --defined-only --demangle "${${library}}"
    OUTPUT_VARIABLE text COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX REPLACE "[][;]" " " text "${text}")  # these would end or join CMake list items below
  string(REGEX MATCHALL "[^\n]+" symbols "${text}")

  set(${library}_tagged "")
  foreach(symbol IN LISTS symbols)
    string(REGEX REPLACE "^[0-9a-f]+ +[A-Za-z] " "" symbol "${symbol}")
    if(symbol MATCHES "run_body|cuda::kernel_of|device_stub")
      list(APPEND broken "${library} exports a kernel: ${symbol}")
    elseif(symbol MATCHES "basic_cuda_(execution|preparation)")
      list(APPEND ${library}_tagged "${symbol}")
      if(NOT symbol MATCHES "architectures<${${library}_arch}0>")
        list(APPEND broken "${library} does not name architecture ${${library}_arch}: ${symbol}")
      endif()
    elseif(symbol MATCHES "launcher<|kernel_backend<|cudaLaunch")
      list(APPEND broken "${library} exports a way to a kernel without its architecture: ${symbol}")
    endif()
  endforeach()

  list(LENGTH ${library}_tagged count)
  if(count EQUAL 0)
    list(APPEND broken "${library} exports no verb: this test has nothing to look at")
  endif()
  message(STATUS "${library}: ${count} symbols of verbs")
endforeach()

foreach(symbol IN LISTS first_tagged)
  if(symbol IN_LIST second_tagged)
    list(APPEND broken "both libraries export ${symbol}")
  endif()
endforeach()

if(broken)
  list(JOIN broken "\n  " text)
  message(FATAL_ERROR "linkage rules broken:\n  ${text}")
endif()
