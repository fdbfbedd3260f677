// SPDX-License-Identifier: Apache-2.0
// Where the BPF objects are: beside the executable in a build tree, in the installed directory
// else.
#pragma once

#include <string>

#include "ebpf/shared.h"

namespace vx {

// The first of $VXPLANE_BPF_DIR, the executable's own directory, ../lib/vxplane beside that (an
// installation under any prefix), $VXPLANE_BUILD and the configured directory that has the
// object; the last when none has (loading then says what is missing).
[[nodiscard]] std::string find_bpf_directory(const char* object = VXP_XDP_OBJECT);

}  // namespace vx
