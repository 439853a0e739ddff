# SPDX-License-Identifier: Apache-2.0
# Runs PROGRAM: it must end with status 0 and print the text of the file EXPECTED.
execute_process(COMMAND "${PROGRAM}" RESULT_VARIABLE status OUTPUT_VARIABLE printed ERROR_VARIABLE errors)
file(READ "${EXPECTED}" expected)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "ended with ${status}\n${printed}${errors}")
elseif(NOT printed STREQUAL expected)
  message(FATAL_ERROR "printed\n${printed}instead of\n${expected}")
endif()
