// SPDX-License-Identifier: Apache-2.0
// Lists of CPUs, as --lcores and the configuration's lcores have them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace vx {

// CPUs this process may run on, ascending.
[[nodiscard]] std::vector<unsigned> usable_cpus();
// "1", "1,2", "1-3,5" to CPU numbers, in that order. Throws std::invalid_argument with one line
// that begins with `label` ("--lcores ", "lcores = ") and the list: bad syntax, a CPU twice, or one
// that is not among `usable`.
[[nodiscard]] std::vector<unsigned> parse_cpu_list(std::string_view label, std::string_view list,
                                                   const std::vector<unsigned>& usable);

}  // namespace vx
