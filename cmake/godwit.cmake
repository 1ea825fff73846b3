# SPDX-License-Identifier: Apache-2.0
# The only CMake functions of the project: a stage, a Criterion test, a plain test.

find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
pkg_check_modules(JANSSON REQUIRED IMPORTED_TARGET jansson)
pkg_check_modules(VERBS REQUIRED IMPORTED_TARGET libibverbs)
pkg_check_modules(RDMACM REQUIRED IMPORTED_TARGET librdmacm)
pkg_check_modules(URING REQUIRED IMPORTED_TARGET liburing)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)

add_library(godwit_options INTERFACE)
target_include_directories(godwit_options INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_definitions(godwit_options INTERFACE _GNU_SOURCE GODWIT_VERSION="${PROJECT_VERSION}")
target_compile_options(godwit_options INTERFACE
  -Wall -Wextra -Wconversion -Wshadow -Wformat=2 -Wmissing-prototypes -Wstrict-prototypes -Wvla
  -Wno-sign-conversion # ssize_t, off_t and size_t meet at every system call
)
if(GODWIT_WERROR)
  target_compile_options(godwit_options INTERFACE -Werror)
endif()
if(GODWIT_SANITIZE)
  target_compile_options(godwit_options INTERFACE -fsanitize=${GODWIT_SANITIZE} -fno-omit-frame-pointer)
  target_link_options(godwit_options INTERFACE -fsanitize=${GODWIT_SANITIZE})
  if(GODWIT_SANITIZE MATCHES "undefined")
    target_compile_options(godwit_options INTERFACE -fno-sanitize-recover=undefined)
  endif()
endif()
target_link_libraries(godwit_options INTERFACE Threads::Threads)

# godwit_stage(NAME SOURCES file... [LIBS target...]): the static library gw_NAME of one folder.
function(godwit_stage name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBS" ${ARGN})
  add_library(gw_${name} STATIC ${ARG_SOURCES})
  target_link_libraries(gw_${name} PUBLIC godwit_options ${ARG_LIBS})
endfunction()

# godwit_test(NAME SOURCES file... [LIBS target...] LABEL label [TIMEOUT s]): a Criterion program.
# A Criterion test that skips exits 0; the regular expression keeps that from counting as a pass.
function(godwit_test name)
  cmake_parse_arguments(ARG "" "LABEL;TIMEOUT" "SOURCES;LIBS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE godwit_options ${ARG_LIBS} criterion)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME ${name} COMMAND ${name} --tap)
  set_tests_properties(${name} PROPERTIES LABELS ${ARG_LABEL} TIMEOUT ${ARG_TIMEOUT}
    SKIP_REGULAR_EXPRESSION "# SKIP")
endfunction()

# godwit_program(NAME SOURCES file... [LIBS target...] LABEL label [TIMEOUT s]): a plain test program,
# exit code 0 passed, 1 failed, 77 skipped.
function(godwit_program name)
  cmake_parse_arguments(ARG "" "LABEL;TIMEOUT" "SOURCES;LIBS;ARGS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE godwit_options ${ARG_LIBS})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME ${name} COMMAND ${name} ${ARG_ARGS})
  set_tests_properties(${name} PROPERTIES LABELS ${ARG_LABEL} TIMEOUT ${ARG_TIMEOUT} SKIP_RETURN_CODE 77)
endfunction()

# godwit_script(NAME script LABEL label [TIMEOUT s]): a script with the same exit codes; gets the build folder.
function(godwit_script name script)
  cmake_parse_arguments(ARG "" "LABEL;TIMEOUT" "ARGS" ${ARGN})
  add_test(NAME ${name} COMMAND ${script} ${ARG_ARGS})
  set_tests_properties(${name} PROPERTIES LABELS ${ARG_LABEL} TIMEOUT ${ARG_TIMEOUT} SKIP_RETURN_CODE 77
    ENVIRONMENT "GODWIT_BUILD=${CMAKE_BINARY_DIR}")
endfunction()
