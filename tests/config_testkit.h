// SPDX-License-Identifier: Apache-2.0
// Files of a configuration in a directory of their own, for the tests of config/.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "config/load.h"
#include "config/values.h"

namespace vx::config::testing {

// A directory that goes with its object.
class Directory {
 public:
  Directory() {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "vxplane-config-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) std::abort();
    path_ = pattern;
  }
  ~Directory() { std::filesystem::remove_all(path_); }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;

  std::string write(const std::string& name, const std::string& text) const {
    const std::filesystem::path file = std::filesystem::path(path_) / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
    return file.string();
  }
  [[nodiscard]] std::string path(const std::string& name = {}) const { return path_ + "/" + name; }

  // The problems as printed, without this directory's name.
  [[nodiscard]] std::vector<std::string> lines(const std::vector<Problem>& problems) const {
    std::vector<std::string> all;
    for (const Problem& problem : problems) {
      std::string text = to_string(problem);
      for (std::size_t at = text.find(path_ + "/"); at != std::string::npos;
           at = text.find(path_ + "/"))
        text.erase(at, path_.size() + 1);
      all.push_back(text);
    }
    return all;
  }

 private:
  std::string path_;
};

inline IpAddress ip(const std::string& text) {
  IpAddress address;
  if (!read_ip(text, address).empty()) std::abort();
  return address;
}

using Lines = std::vector<std::string>;

}  // namespace vx::config::testing
