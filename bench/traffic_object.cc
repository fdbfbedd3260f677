// SPDX-License-Identifier: Apache-2.0
#include "bench/traffic_object.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>
#include <system_error>

#include "dataplane/bpf_directory.h"
#include "dataplane/bpf_maps.h"

namespace vx::traffic {
namespace {

std::runtime_error other_build(const std::string& file, const char* what) {
  return std::runtime_error(file + ": of another build: " + what);
}

void set_constants(bpf_object* object, const char* file, std::span<const std::byte> values) {
  bpf_map* map = nullptr;
  bpf_object__for_each_map(map, object) {
    std::size_t bytes = 0;
    if (std::strstr(::bpf_map__name(map), ".rodata") == nullptr || ::bpf_map__initial_value(map, &bytes) == nullptr) continue;
    if (bytes != values.size() || ::bpf_map__set_initial_value(map, values.data(), bytes) != 0) throw other_build(file, "constants");
    return;
  }
  throw other_build(file, "no constants");
}

}  // namespace

Object::Object(const char* file, std::span<const std::byte> constants, Sizes sizes) : file_(file) {
  const QuietLibbpf quiet;
  const std::string path = find_bpf_directory(file) + "/" + file;
  object_ = ::bpf_object__open_file(path.c_str(), nullptr);
  if (object_ == nullptr) throw std::system_error(errno, std::system_category(), path);
  try {
    set_constants(object_, file, constants);
    for (const auto& [name, entries] : sizes) {
      bpf_map* map = ::bpf_object__find_map_by_name(object_, name);
      if (map == nullptr || ::bpf_map__set_max_entries(map, entries) != 0) throw other_build(file, name);
    }
    if (const int error = ::bpf_object__load(object_); error != 0)
      throw std::system_error(-error, std::system_category(), path + ": cannot load");
  } catch (...) {
    ::bpf_object__close(object_);
    throw;
  }
}

Object::~Object() { ::bpf_object__close(object_); }

int Object::program(const char* name) const {
  const bpf_program* program = ::bpf_object__find_program_by_name(object_, name);
  if (program == nullptr) throw other_build(file_, name);
  return ::bpf_program__fd(program);
}

int Object::map(const char* name) const {
  const int fd = ::bpf_object__find_map_fd_by_name(object_, name);
  if (fd < 0) throw other_build(file_, name);
  return fd;
}

MapMemory::MapMemory(int map_fd, std::size_t bytes) {
  const auto page = static_cast<std::size_t>(::getpagesize());
  bytes_ = (bytes + page - 1) / page * page;
  memory_ = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, map_fd, 0);
  if (memory_ == MAP_FAILED) throw std::system_error(errno, std::system_category(), "cannot map a BPF array");
}
MapMemory::~MapMemory() { ::munmap(memory_, bytes_); }

}  // namespace vx::traffic
