// SPDX-License-Identifier: Apache-2.0
#include "dataplane/bpf_directory.h"

#include <cstdlib>
#include <filesystem>

namespace vx {

std::string find_bpf_directory(const char* object) {
  std::error_code error;
  const auto executable = std::filesystem::read_symlink("/proc/self/exe", error);
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value != nullptr ? value : "");
  };
  for (const std::string& directory :
       {variable("VXPLANE_BPF_DIR"), executable.parent_path().string(),
        (executable.parent_path().parent_path() / "lib/vxplane").string(), variable("VXPLANE_BUILD")})
    if (!directory.empty() &&
        std::filesystem::exists(std::filesystem::path(directory) / object, error))
      return directory;
  return VXPLANE_BPF_DIR;
}

}  // namespace vx
