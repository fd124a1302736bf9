# Run at build time (cmake -P): writes OUT, and only if it would change.
execute_process(COMMAND git -C "${SOURCE}" rev-parse --short=12 HEAD OUTPUT_VARIABLE revision
                OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE status)
if(NOT status EQUAL 0)
  set(revision unknown)
endif()
execute_process(COMMAND git -C "${SOURCE}" diff --quiet HEAD ERROR_QUIET RESULT_VARIABLE changed)
if(status EQUAL 0 AND NOT changed EQUAL 0)
  string(APPEND revision "+")
endif()
file(CONFIGURE OUTPUT "${OUT}" CONTENT "#pragma once\n#define CORTEX_REVISION \"${revision}\"\n")
