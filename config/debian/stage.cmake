# SPDX-License-Identifier: Apache-2.0
# Run by cpack over the staged tree, before the package is made of it: the conffile (which `cmake --install` must not write over
# an operator's), copyright, changelog, compressed manual pages.
set(root ${CPACK_TEMPORARY_INSTALL_DIRECTORY})
set(doc ${root}/usr/share/doc/vxplane)
set(readable OWNER_READ OWNER_WRITE GROUP_READ WORLD_READ)
file(COPY ${CMAKE_CURRENT_LIST_DIR}/vxplane.conf DESTINATION ${root}/etc/vxplane FILE_PERMISSIONS ${readable})
file(COPY ${CMAKE_CURRENT_LIST_DIR}/copyright DESTINATION ${doc} FILE_PERMISSIONS ${readable})
file(COPY ${CMAKE_CURRENT_LIST_DIR}/lintian-overrides DESTINATION ${root}/usr/share/lintian/overrides FILE_PERMISSIONS ${readable})
file(RENAME ${root}/usr/share/lintian/overrides/lintian-overrides ${root}/usr/share/lintian/overrides/vxplane)
# The time of the commit, so that the same commit is the same package; of the build where there is no history.
execute_process(COMMAND git -C ${CMAKE_CURRENT_LIST_DIR} log -1 --format=%cD OUTPUT_VARIABLE date OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
if(NOT date)
  execute_process(COMMAND date -R OUTPUT_VARIABLE date OUTPUT_STRIP_TRAILING_WHITESPACE)
endif()
file(WRITE ${doc}/changelog "vxplane (${CPACK_PACKAGE_VERSION}) unstable; urgency=medium\n\n  * See the history of the repository.\n\n -- ${CPACK_PACKAGE_CONTACT}  ${date}\n")
file(GLOB pages ${root}/usr/share/man/man*/*.[0-9])
execute_process(COMMAND gzip -9n ${pages} ${doc}/changelog COMMAND_ERROR_IS_FATAL ANY)
