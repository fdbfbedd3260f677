// SPDX-License-Identifier: Apache-2.0
// A source of our own that is ready at once, rather than rte_eal_alarm_set(): the alarm's source stays registered, and
// rte_eal_cleanup() (22.11) takes its memory away under the thread.
#include "dataplane/interrupt_thread.h"

#include <rte_interrupts.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <thread>

#include "dataplane/file_descriptor.h"

// An interrupt handle can be had by functions only that DPDK does not call stable yet.
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

namespace vx {
namespace {

constexpr std::chrono::microseconds kLook{100};

struct Call {
  const std::function<void()>* work;
  int fd;
  std::atomic<bool> is_done{false};
};

void answer(void* argument) {
  auto& call = *static_cast<Call*>(argument);
  std::uint64_t count;
  if (::read(call.fd, &count, sizeof count) < 0) return;  // done before
  (*call.work)();
  call.is_done.store(true, std::memory_order_release);
}

}  // namespace

void run_on_interrupt_thread(const std::function<void()>& work) {
  const FileDescriptor fd(::eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK));
  Call call{&work, fd.get()};
  rte_intr_handle* handle = rte_intr_instance_alloc(RTE_INTR_INSTANCE_F_PRIVATE);
  const bool is_registered = fd && handle != nullptr && rte_intr_fd_set(handle, fd.get()) == 0 &&
                             rte_intr_type_set(handle, RTE_INTR_HANDLE_EXT) == 0 &&
                             rte_intr_callback_register(handle, answer, &call) == 0;
  if (is_registered) {
    while (!call.is_done.load(std::memory_order_acquire)) std::this_thread::sleep_for(kLook);
    while (rte_intr_callback_unregister(handle, answer, &call) == -EAGAIN) std::this_thread::sleep_for(kLook);  // just returning
  } else {
    work();
  }
  rte_intr_instance_free(handle);
}

}  // namespace vx
