# SPDX-License-Identifier: Apache-2.0
# `cpack -G DEB` in a build directory: vxplane_VERSION_ARCH.deb. What is installed is what install() says, under /usr; only
# what Debian alone wants is added by stage.cmake.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME vxplane)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_PACKAGE_CONTACT "vxplane maintainers <root@localhost>")
set(CPACK_STRIP_FILES ON)
set(CPACK_PRE_BUILD_SCRIPTS ${CMAKE_CURRENT_LIST_DIR}/stage.cmake)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)

set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION net)
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "userspace VXLAN dataplane")
set(CPACK_DEBIAN_PACKAGE_DESCRIPTION
"Does the work of the kernel's vxlan netdev and VLAN-aware bridge in a
DPDK/AF_XDP forwarder: encapsulation, bridging, MTU enforcement, with a
reason for each packet that is dropped. The kernel goes on where it stops.

Services are installed, neither enabled nor started: first comes the
configuration, /etc/vxplane/vxplane.conf.")
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
foreach(file conffiles postinst prerm postrm)
  list(APPEND CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA ${CMAKE_CURRENT_LIST_DIR}/${file})
endforeach()

# What is linked; and the DPDK drivers that are loaded at start: their packages carry DPDK's ABI (librte-net-af-xdp23).
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
pkg_get_variable(dpdk_libraries libdpdk libdir)
file(REAL_PATH ${dpdk_libraries}/librte_eal.so dpdk_eal)
string(REGEX REPLACE "^.*\\.so\\.([0-9]+).*$" "\\1" dpdk_abi ${dpdk_eal})
set(CPACK_DEBIAN_PACKAGE_DEPENDS "adduser")
foreach(driver bus-vdev bus-pci mempool-ring net-af-xdp)
  string(APPEND CPACK_DEBIAN_PACKAGE_DEPENDS ", librte-${driver}${dpdk_abi}")
endforeach()
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "iproute2")
set(CPACK_DEBIAN_PACKAGE_SUGGESTS "bash-completion, ethtool, frr, ifupdown2")
foreach(driver net-memif net-pcap net-ring net-vhost net-virtio)
  string(APPEND CPACK_DEBIAN_PACKAGE_SUGGESTS ", librte-${driver}${dpdk_abi}")
endforeach()
include(CPack)
