// SPDX-License-Identifier: Apache-2.0
// One line to stderr with journald's level prefix (sd-daemon(3)). For the management thread;
// workers never log.
#pragma once

#include <fmt/format.h>
#include <unistd.h>

#include <string>
#include <string_view>
#include <utility>

namespace vx {

enum class LogLevel : int { kError = 3, kWarning = 4, kInfo = 6 };

// Writes `text` in one system call, so that lines of several threads do not mix; line ends in it
// become spaces.
inline void log_line(LogLevel level, std::string_view text) noexcept {
  try {
    std::string line = fmt::format("<{}>", static_cast<int>(level));
    for (const char c : text) line.push_back(c == '\n' ? ' ' : c);
    line.push_back('\n');
    [[maybe_unused]] const auto written = ::write(STDERR_FILENO, line.data(), line.size());
  } catch (...) {
    // No memory for a log line: the fault itself matters more.
  }
}

template <typename... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::kError, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::kWarning, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::kInfo, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace vx
