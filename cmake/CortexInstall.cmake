# `make install`: the program, libcortex with its headers, and what find_package(cortex) reads.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(package "${CMAKE_INSTALL_LIBDIR}/cmake/cortex")

install(TARGETS cortex RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
install(TARGETS cortex_shared EXPORT cortexTargets LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
install(DIRECTORY include/cortex DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(EXPORT cortexTargets NAMESPACE cortex:: DESTINATION "${package}")
configure_package_config_file(cmake/cortexConfig.cmake.in cortexConfig.cmake
  INSTALL_DESTINATION "${package}")
write_basic_package_version_file(cortexConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/cortexConfig.cmake"
  "${CMAKE_CURRENT_BINARY_DIR}/cortexConfigVersion.cmake" DESTINATION "${package}")
