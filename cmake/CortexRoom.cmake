# One function sets language level, warnings and sanitizers for every target; another makes a room.
#
# A room's headers are reached through a folder of their own that holds one link, so that
# `#include "cache/page_pool.h"` resolves only in targets that link cortex::cache: an include that
# the house does not allow fails to build.

find_program(CORTEX_CCACHE ccache)
if(CORTEX_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${CORTEX_CCACHE}")
endif()
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
# -O2: half the compile time of -O3 where it matters not; the kernels ask for -O3 themselves.
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -DNDEBUG")

function(cortex_target_defaults target)
  target_compile_features(${target} PUBLIC cxx_std_20)
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF POSITION_INDEPENDENT_CODE ON)
  # No contraction: a multiply and an add stay two roundings wherever the compiler vectorises, so a
  # value does not depend on whether it fell into a vector body or its tail.
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wshadow -Wnon-virtual-dtor -ffp-contract=off)
  # GCC 12 warns of `"a" + std::string` inside its own library (GCC bug 105651).
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    target_compile_options(${target} PRIVATE -Wno-restrict)
  endif()
  if(CORTEX_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${CORTEX_SANITIZE} -fno-omit-frame-pointer
                                             -fno-sanitize-recover=all)
    target_link_options(${target} PRIVATE -fsanitize=${CORTEX_SANITIZE})
  endif()
  if(CORTEX_FUZZ)
    target_compile_options(${target} PRIVATE -fsanitize=fuzzer-no-link)
  endif()
endfunction()

# cortex_room(NAME [SOURCES ...] [PUBLIC rooms...] [PRIVATE libraries...])
function(cortex_room name)
  cmake_parse_arguments(ROOM "" "" "SOURCES;PUBLIC;PRIVATE" ${ARGN})
  set(target cortex_${name})
  set(links "${PROJECT_BINARY_DIR}/rooms/${name}")
  file(MAKE_DIRECTORY "${links}")
  string(REGEX REPLACE "/.*" "" top "${name}")
  file(CREATE_LINK "${PROJECT_SOURCE_DIR}/src/${name}" "${links}/${name}" SYMBOLIC)
  add_library(${target} STATIC ${ROOM_SOURCES})
  add_library(cortex::${name} ALIAS ${target})
  target_include_directories(${target} PUBLIC "${links}" "${PROJECT_SOURCE_DIR}/include")
  target_link_libraries(${target} PUBLIC ${ROOM_PUBLIC} PRIVATE ${ROOM_PRIVATE})
  cortex_target_defaults(${target})
endfunction()
