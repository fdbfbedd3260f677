// SPDX-License-Identifier: Apache-2.0
// `vxplane-control --check`: what would be done, with what this machine's kernel says where it takes a bridge over.
#pragma once

#include <iosfwd>

#include "config/load.h"

namespace vx::control {

// The effective configurations to `out` (nothing when `all` has an error); every problem, also what prevents a
// takeover, to `err`, one line each. Returns the exit code: 0, or 2 on an error or when a takeover cannot be done. Throws
// std::system_error when the kernel has to be asked and there is no netlink.
int print_effective(const config::LoadAllResult& all, std::ostream& out, std::ostream& err);

}  // namespace vx::control
