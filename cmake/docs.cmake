# SPDX-License-Identifier: Apache-2.0
# Target docs: build/docs/html/index.html from the public headers, README.md and docs/*.md. A warning is an error.
find_package(Doxygen 1.9.4 QUIET)
if(NOT DOXYGEN_FOUND)
  message(FATAL_ERROR "foresightkv: doxygen 1.9.4 or newer is missing: install it (Debian, Ubuntu: doxygen) "
    "or configure with -DFORESIGHTKV_DOCS=OFF")
endif()

file(GLOB foresightkv_docs_pages CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/docs/*.md")
list(TRANSFORM foresightkv_docs_pages REPLACE ".+" "\"\\0\"")
list(JOIN foresightkv_docs_pages " " foresightkv_docs_pages)
configure_file("${PROJECT_SOURCE_DIR}/docs/Doxyfile.in" "${PROJECT_BINARY_DIR}/Doxyfile" @ONLY)
add_custom_target(docs COMMAND Doxygen::doxygen "${PROJECT_BINARY_DIR}/Doxyfile"
  WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}" VERBATIM)
