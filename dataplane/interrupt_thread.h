// SPDX-License-Identifier: Apache-2.0
// DPDK's interrupt thread: where some drivers' handlers run without a lock against what other threads do with the device.
#pragma once

#include <functional>

namespace vx {

// Runs `work` on EAL's interrupt thread, in no driver's handler, and returns when it is done; on this thread where that cannot be had.
// EAL is initialised. May be called from every thread but the interrupt thread itself. `work` must not throw.
void run_on_interrupt_thread(const std::function<void()>& work);

}  // namespace vx
