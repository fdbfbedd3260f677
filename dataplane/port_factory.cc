// SPDX-License-Identifier: Apache-2.0
#include "dataplane/port_factory.h"

#include <stdexcept>

#include "dataplane/port_drivers.h"

namespace vx {

MadePort make_port(const protocol::PortConfig& config, const PortContext& context) {
  using protocol::PortDriver;
  switch (config.driver) {
    case PortDriver::kAfXdp:
      return make_af_xdp_port(config, context);
    case PortDriver::kTap:
      return make_tap_port(config, context);
    case PortDriver::kNetdev:
      return make_netdev_port(config, context);
    case PortDriver::kDpdk:
      return make_dpdk_port(config, context);
    case PortDriver::kUdp:
      return make_udp_port(config, context);
    case PortDriver::kVhostUser:
      break;
  }
  throw std::runtime_error(std::string(protocol::text_of(config.name)) +
                           ": this build has no such port driver; use af_xdp, udp, tap, netdev or dpdk:DEVARGS");
}

}  // namespace vx
