// SPDX-License-Identifier: Apache-2.0
// vxctl: the operator's command. Everything is in vxctl_client (a run), vxctl_arguments (words) and format (text).
#include <iostream>
#include <string>
#include <vector>

#include "control/vxctl_client.h"

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  return static_cast<int>(vx::control::run_vxctl(words, std::cout, std::cerr));
}
