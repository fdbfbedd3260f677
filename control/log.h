// SPDX-License-Identifier: Apache-2.0
// Lines for the journal: a level prefix as sd-daemon(3) has it, one line a fault, to stderr.
#pragma once

#include <fmt/format.h>

#include <cstdio>
#include <string_view>

namespace vx::control {

inline void log_error(std::string_view text) { fmt::print(stderr, "<3>{}\n", text); }
inline void log_warning(std::string_view text) { fmt::print(stderr, "<4>{}\n", text); }
inline void log_info(std::string_view text) { fmt::print(stderr, "<6>{}\n", text); }

}  // namespace vx::control
