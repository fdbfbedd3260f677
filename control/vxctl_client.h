// SPDX-License-Identifier: Apache-2.0
// One run of vxctl: command line, request to control, reply printed, exit code.
#pragma once

#include <iosfwd>
#include <span>
#include <string>

#include "control/api.h"

namespace vx::control {

// `words`: the arguments without the program's name. Results go to `out`, everything else, one line each, to `err`.
// Blocks until control has answered, at most 30 s without a byte (`fdb monitor` and `stats --watch`: until control
// goes away or the process is killed). Throws nothing but std::bad_alloc.
[[nodiscard]] api::Exit run_vxctl(std::span<const std::string> words, std::ostream& out,
                                  std::ostream& err);

}  // namespace vx::control
