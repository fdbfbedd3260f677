// SPDX-License-Identifier: Apache-2.0
// The effective configuration as INI that load() reads back to equal Settings (but for `source`).
#pragma once

#include <string>

#include "config/settings.h"

namespace vx::config {

// Every key, defaults included, in the order of design.md section 5, MTU arithmetic as comments.
[[nodiscard]] std::string print(const Settings& settings);

}  // namespace vx::config
