# SPDX-License-Identifier: Apache-2.0
# Whether a test program has cases of every file that it is to be made of: cmake -Dprogram=... -Dfiles=a;b -P
execute_process(COMMAND "${program}" --list-test-cases --reporters=xml OUTPUT_VARIABLE listed
  RESULT_VARIABLE status)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "${program} --list-test-cases: ${status}")
endif()
set(absent)
foreach(file IN LISTS files)
  string(REPLACE "." "\\." pattern "${file}")
  if(NOT listed MATCHES "filename=\"[^\"]*/${pattern}\"")
    list(APPEND absent "${file}")
  endif()
endforeach()
if(absent OR NOT files)
  message(FATAL_ERROR "no test case of: ${absent}")
endif()
