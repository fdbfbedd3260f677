// SPDX-License-Identifier: Apache-2.0
// A BPF object of vxplane-traffic: loaded with its constants and the sizes of its maps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <utility>

struct bpf_object;

namespace vx::traffic {

class Object {
 public:
  using Sizes = std::initializer_list<std::pair<const char*, std::uint32_t>>;
  // `file`: its name in find_bpf_directory(). `constants`: what its `const volatile` variables are, in order. `sizes`: maps and their
  // max_entries. Throws std::runtime_error, with what the verifier or the kernel says.
  template <typename Constants>
  Object(const char* file, const Constants& constants, Sizes sizes)
      : Object(file, std::as_bytes(std::span(&constants, 1)), sizes) {}
  Object(const char* file, std::span<const std::byte> constants, Sizes sizes);
  ~Object();
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;

  // File descriptors. Throw std::runtime_error when it has none of that name.
  [[nodiscard]] int program(const char* name) const;
  [[nodiscard]] int map(const char* name) const;

 private:
  bpf_object* object_ = nullptr;
  const char* file_;
};

// An array made with BPF_F_MMAPABLE.
class MapMemory {
 public:
  // Throws std::system_error.
  MapMemory(int map_fd, std::size_t bytes);
  ~MapMemory();
  MapMemory(const MapMemory&) = delete;
  MapMemory& operator=(const MapMemory&) = delete;
  [[nodiscard]] std::uint8_t* bytes() const noexcept { return static_cast<std::uint8_t*>(memory_); }

 private:
  void* memory_;
  std::size_t bytes_;
};

}  // namespace vx::traffic
