// SPDX-License-Identifier: Apache-2.0
// An INI file as entries with their lines. The grammar is Boost.Program_options' (sections in
// brackets, KEY = VALUE, # comments), asked line by line because Boost itself does not say where an
// option stood.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "config/settings.h"

namespace vx::config {

// KEY = VALUE, from an INI file or, with the key that an INI file would use, from a stanza.
struct Entry {
  std::string section;  // empty: before any section
  std::string key;      // '-' for '_'
  std::string value;    // blanks and comment removed
  Origin origin;
};

struct IniFile {
  std::vector<Entry> entries;                // in the order of the file
  std::map<std::string, unsigned> sections;  // name to line of its first header
  std::vector<Problem> problems;             // unreadable file, lines that are neither
};

[[nodiscard]] IniFile read_ini(const std::string& path);

// A file's lines without their ends, "\r" removed; empty optional and `why` when it cannot be read.
[[nodiscard]] std::optional<std::vector<std::string>> read_lines(const std::string& path,
                                                                 std::string& why);

}  // namespace vx::config
