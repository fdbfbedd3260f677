// SPDX-License-Identifier: Apache-2.0
// The command line of vxctl (design.md section 6): words to a request of api.h, and the help texts. Pure; any thread.
#pragma once

#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

#include "control/api.h"

namespace vx::control {

// A command line that cannot be understood: what() is one line that says what to do. Exit 2.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct VxctlCommand {
  std::string run_dir;          // --run-dir; empty: not given
  bool json = false;            // -j
  bool statistics = false;      // -s
  unsigned watch_s = 0;         // --watch: repeat every so many seconds; 0: once
  std::string print;            // help or version: print this, exit 0, ask nobody
  std::string object, command;  // canonical names: "fdb", "show"
  Json request;                 // as api.h describes
};

// `words`: the arguments without the program's name. Objects, commands and filters may be abbreviated to a
// prefix that only one of them has; options may stand anywhere. Throws UsageError.
[[nodiscard]] VxctlCommand parse_command_line(std::span<const std::string> words);

// All of `object`'s commands, or every object's for an empty one; ends with a newline.
[[nodiscard]] std::string help_text(std::string_view object);

}  // namespace vx::control
