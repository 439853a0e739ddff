# SPDX-License-Identifier: Apache-2.0
# Headers, targets and the package. io is an export set of its own: without nlohmann-json the rest is found.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(foresightkv_package_dir "${CMAKE_INSTALL_DATADIR}/cmake/foresightkv")

install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/foresightkv" DESTINATION include
  FILES_MATCHING PATTERN "*.hpp" PATTERN "*.cuh")
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DATADIR}/doc/foresightkv")

install(TARGETS foresightkv foresightkv_training EXPORT foresightkv-targets)
install(EXPORT foresightkv-targets NAMESPACE foresightkv:: DESTINATION "${foresightkv_package_dir}")
install(TARGETS foresightkv_io EXPORT foresightkv-io-targets)
install(EXPORT foresightkv-io-targets NAMESPACE foresightkv:: DESTINATION "${foresightkv_package_dir}")

configure_package_config_file(
  "${PROJECT_SOURCE_DIR}/cmake/foresightkv-config.cmake.in" "${PROJECT_BINARY_DIR}/foresightkv-config.cmake"
  INSTALL_DESTINATION "${foresightkv_package_dir}" NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file("${PROJECT_BINARY_DIR}/foresightkv-config-version.cmake"
  COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES
  "${PROJECT_BINARY_DIR}/foresightkv-config.cmake"
  "${PROJECT_BINARY_DIR}/foresightkv-config-version.cmake"
  "${PROJECT_SOURCE_DIR}/cmake/foresightkv-cuda-standard.cmake"
  DESTINATION "${foresightkv_package_dir}")
