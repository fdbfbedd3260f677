// SPDX-License-Identifier: Apache-2.0
// `vxplane-control --check`: what would be done, with what this machine's kernel says where it takes a bridge over.
#pragma once

#include <iosfwd>
#include <vector>

#include "config/settings.h"

namespace vx::control {

// The effective configurations to `out`; what prevents a takeover to `err`, one line each. Returns the exit code:
// 0, or 2 when one cannot be done. Throws std::system_error without netlink.
int print_effective(const std::vector<config::Settings>& files, std::ostream& out, std::ostream& err);

}  // namespace vx::control
