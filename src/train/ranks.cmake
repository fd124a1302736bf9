# Ranks meet over c10d: on CPUs over Gloo, on GPUs over NCCL, each where LibTorch was built with it
# and the headers are here that c10d's own headers include.

set(CORTEX_RANKS_OVER "" CACHE INTERNAL "Backends of c10d that are built in")

find_path(CORTEX_GLOO_INCLUDE gloo/context.h HINTS ${CORTEX_TORCH_INCLUDE})
find_path(CORTEX_C10D_INCLUDE torch/csrc/distributed/c10d/ProcessGroupGloo.hpp
          HINTS ${CORTEX_TORCH_INCLUDE})
mark_as_advanced(CORTEX_GLOO_INCLUDE CORTEX_C10D_INCLUDE)

# Adds a source that c10d's headers with `definitions` are for.
function(cortex_ranks source backend)
  target_sources(cortex_train PRIVATE ${source})
  set(CORTEX_RANKS_OVER ${CORTEX_RANKS_OVER} ${backend} CACHE INTERNAL "")
  # The PCH was made without these definitions.
  set_property(SOURCE ${source} process_group.cpp PROPERTY SKIP_PRECOMPILE_HEADERS ON)
  set_property(SOURCE ${source} process_group.cpp APPEND PROPERTY COMPILE_DEFINITIONS USE_DISTRIBUTED)
  set_property(SOURCE ${source} APPEND PROPERTY COMPILE_DEFINITIONS USE_C10D_${backend})
  set_property(SOURCE process_group.cpp APPEND PROPERTY COMPILE_DEFINITIONS CORTEX_WITH_${backend})
endfunction()

if(CORTEX_GLOO_INCLUDE AND CORTEX_C10D_INCLUDE)
  cortex_ranks(process_group_gloo.cpp GLOO)
  if(NOT CORTEX_GLOO_INCLUDE IN_LIST CMAKE_CXX_IMPLICIT_INCLUDE_DIRECTORIES)
    set_property(SOURCE process_group_gloo.cpp APPEND PROPERTY INCLUDE_DIRECTORIES "${CORTEX_GLOO_INCLUDE}")
  endif()
else()
  message(STATUS "Training on several ranks over Gloo is left out: gloo/context.h (libgloo-dev) or c10d's headers are absent")
endif()

# Of CUDA's toolkit, or of the packages beside a `torch` of Python's. The toolkit's come first: a
# package's cuda_runtime.h may lack crt/host_config.h, which it includes, and its cuda_fp16.h
# nv/target, which CUDA 13 may hold in cccl/.
file(GLOB _package_includes "${CORTEX_TORCH_INCLUDE}/../../nvidia/*/include")
set(_cuda_includes ${CUDAToolkit_INCLUDE_DIRS} $ENV{CUDA_HOME}/include /usr/local/cuda/include
                   ${_package_includes})
set(_nccl_lacks "")
if(NOT CORTEX_LIB_torch_cuda OR NOT CORTEX_LIB_c10_cuda)
  set(_nccl_lacks "LibTorch with CUDA")
endif()
set(_nccl_includes "")
foreach(_header torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp crt/host_config.h nv/target
                cuda_runtime_api.h nccl.h cublas_v2.h cublasLt.h cusparse.h cusolverDn.h)
  string(MAKE_C_IDENTIFIER "CORTEX_INCLUDE_OF_${_header}" _found)
  find_path(${_found} ${_header} HINTS ${CORTEX_TORCH_INCLUDE} ${_cuda_includes} PATH_SUFFIXES cccl)
  mark_as_advanced(${_found})
  if(${_found})
    list(APPEND _nccl_includes "${${_found}}")
  elseif(NOT _nccl_lacks)
    set(_nccl_lacks "${_header}")
  endif()
endforeach()
if(NOT _nccl_lacks)
  cortex_ranks(process_group_nccl.cpp NCCL)
  list(REMOVE_DUPLICATES _nccl_includes)
  list(REMOVE_ITEM _nccl_includes "${CORTEX_TORCH_INCLUDE}" ${CMAKE_CXX_IMPLICIT_INCLUDE_DIRECTORIES})
  foreach(_include IN LISTS _nccl_includes)
    set_property(SOURCE process_group_nccl.cpp APPEND PROPERTY COMPILE_OPTIONS "SHELL:-isystem ${_include}")
  endforeach()
else()
  message(STATUS "Training on several GPUs over NCCL is left out: ${_nccl_lacks} was not found")
  set_property(SOURCE process_group.cpp APPEND PROPERTY COMPILE_DEFINITIONS
               "CORTEX_NCCL_LACKS=\"${_nccl_lacks}\"")
endif()
