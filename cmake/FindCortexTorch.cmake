# Finds LibTorch from its headers and shared libraries and makes one imported target, Cortex::Torch.
#
# TorchConfig.cmake is passed over on purpose: it edits the flags of every target and asks for the
# whole CUDA toolkit, though nothing in src/train compiles device code.
#
# CORTEX_TORCH_ROOT: folder that holds include/ and lib/ (a LibTorch archive, or the `torch` folder
# of a Python installation). Torch_DIR and CMAKE_PREFIX_PATH are honoured as well.

set(CORTEX_TORCH_ROOT "" CACHE PATH "Folder of LibTorch, with include/ and lib/")
set(_torch_hints ${CORTEX_TORCH_ROOT} $ENV{CORTEX_TORCH_ROOT})
if(Torch_DIR)
  list(APPEND _torch_hints "${Torch_DIR}/../../..")
endif()

# `torch.utils.cmake_prefix_path` names share/cmake, two folders below.
foreach(_prefix IN LISTS CMAKE_PREFIX_PATH)
  list(APPEND _torch_hints "${_prefix}/../..")
endforeach()

find_path(CORTEX_TORCH_INCLUDE ATen/ATen.h HINTS ${_torch_hints} PATH_SUFFIXES include)
find_path(CORTEX_TORCH_API_INCLUDE torch/torch.h HINTS ${CORTEX_TORCH_INCLUDE}
          PATH_SUFFIXES torch/csrc/api/include)
foreach(_lib torch torch_cpu c10 torch_cuda c10_cuda)
  find_library(CORTEX_LIB_${_lib} ${_lib} HINTS ${_torch_hints} PATH_SUFFIXES lib)
  mark_as_advanced(CORTEX_LIB_${_lib})
endforeach()
mark_as_advanced(CORTEX_TORCH_INCLUDE CORTEX_TORCH_API_INCLUDE)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  CortexTorch REQUIRED_VARS CORTEX_LIB_torch CORTEX_LIB_torch_cpu CORTEX_LIB_c10
                            CORTEX_TORCH_INCLUDE CORTEX_TORCH_API_INCLUDE)

if(CortexTorch_FOUND AND NOT TARGET Cortex::Torch)
  # Global: the tests link it too, from another folder.
  add_library(Cortex::Torch INTERFACE IMPORTED GLOBAL)
  set(_torch_libs ${CORTEX_LIB_torch} ${CORTEX_LIB_torch_cpu} ${CORTEX_LIB_c10})
  # LibTorch as PyTorch publishes it exports parts of std::filesystem that were linked into it (issue
  # 133437 of pytorch/pytorch). Unless libstdc++ is searched first, its remove_all() would run on
  # LibTorch's iterators, whatever version those are of.
  set(_torch_link_options "LINKER:--push-state,--no-as-needed,-lstdc++,--pop-state")
  if(CORTEX_LIB_torch_cuda AND CORTEX_LIB_c10_cuda)
    list(APPEND _torch_libs ${CORTEX_LIB_torch_cuda} ${CORTEX_LIB_c10_cuda})
    # No symbol of ours names the CUDA library; it registers its kernels when it is loaded.
    list(APPEND _torch_link_options "LINKER:--no-as-needed")
  endif()
  set_target_properties(
    Cortex::Torch
    PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${CORTEX_TORCH_INCLUDE};${CORTEX_TORCH_API_INCLUDE}"
               INTERFACE_LINK_OPTIONS "${_torch_link_options}"
               INTERFACE_LINK_LIBRARIES "${_torch_libs}")
endif()
