// SPDX-License-Identifier: Apache-2.0
// Single-producer single-consumer ring: one worker tells the management thread. Full means the newest is
// lost and counted by the caller; the producer never waits.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>

namespace vx {

inline constexpr std::size_t kCacheLine = 64;

template <typename T>
class SpscQueue {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  // `capacity`: a power of two, 2 or more.
  explicit SpscQueue(std::size_t capacity) : mask_(capacity - 1), slots_(std::make_unique<T[]>(capacity)) {}

  // Producer's thread only. False: full, nothing stored.
  [[nodiscard]] bool try_push(const T& value) noexcept {
    const auto tail = tail_.load(std::memory_order_relaxed);
    if (tail - head_cache_ > mask_) {
      head_cache_ = head_.load(std::memory_order_acquire);
      if (tail - head_cache_ > mask_) return false;
    }
    slots_[tail & mask_] = value;
    tail_.store(tail + 1, std::memory_order_release);
    return true;
  }
  // Consumer's thread only. False: empty.
  [[nodiscard]] bool try_pop(T& value) noexcept {
    const auto head = head_.load(std::memory_order_relaxed);
    if (head == tail_cache_) {
      tail_cache_ = tail_.load(std::memory_order_acquire);
      if (head == tail_cache_) return false;
    }
    value = slots_[head & mask_];
    head_.store(head + 1, std::memory_order_release);
    return true;
  }

 private:
  const std::size_t mask_;
  const std::unique_ptr<T[]> slots_;
  // Producer's line: its index, and its copy of the consumer's (read again only when the ring looks full).
  alignas(kCacheLine) std::atomic<std::size_t> tail_{0};
  std::size_t head_cache_ = 0;
  // Consumer's line, the mirror image.
  alignas(kCacheLine) std::atomic<std::size_t> head_{0};
  std::size_t tail_cache_ = 0;
};

}  // namespace vx
