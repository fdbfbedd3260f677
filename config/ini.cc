// SPDX-License-Identifier: Apache-2.0
// INI files: one pass that knows the lines, Boost's parser for what stands on each.
#include "config/ini.h"

#include <sys/stat.h>

#include <boost/program_options/errors.hpp>
#include <boost/program_options/options_description.hpp>
#include <boost/program_options/parsers.hpp>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "config/values.h"

namespace vx::config {
namespace {

namespace po = boost::program_options;

std::string without_comment(const std::string& line) {
  const std::string text = line.substr(0, line.find('#'));
  const std::size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

// The one option on `line`, or an empty optional when Boost cannot read it.
std::optional<Entry> read_option(const std::string& section, const std::string& line) {
  std::istringstream stream((section.empty() ? "" : "[" + section + "]\n") + line + "\n");
  try {
    const po::options_description nothing_registered;
    const auto parsed =
        po::parse_config_file(stream, nothing_registered, /*allow_unregistered=*/true);
    if (parsed.options.size() != 1 || parsed.options[0].value.empty()) return std::nullopt;
    const std::string& name =
        parsed.options[0]
            .string_key;  // "section.key", as "section.key = value" outside of any section
    const std::size_t dot = name.find('.');
    Entry entry;
    if (dot != std::string::npos) entry.section = name.substr(0, dot);
    entry.key = dashed(dot == std::string::npos ? name : name.substr(dot + 1));
    entry.value = parsed.options[0].value[0];
    return entry;
  } catch (const po::error&) {
    return std::nullopt;
  }
}

}  // namespace

std::optional<std::vector<std::string>> read_lines(const std::string& path, std::string& why) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) return why = std::strerror(errno), std::nullopt;
  if (S_ISDIR(status.st_mode)) return why = std::strerror(EISDIR), std::nullopt;
  std::ifstream file(path);
  if (!file) return why = std::strerror(errno), std::nullopt;
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    lines.push_back(line);
  }
  return lines;
}

IniFile read_ini(const std::string& path) {
  IniFile ini;
  std::string why;
  const auto lines = read_lines(path, why);
  if (!lines) {
    ini.problems.push_back({path, 0, "config", "cannot be read: " + why, Severity::kError});
    return ini;
  }
  std::string section;
  for (unsigned number = 1; number <= lines->size(); ++number) {
    const std::string line = without_comment((*lines)[number - 1]);
    if (line.empty()) continue;
    if (line.front() == '[' && line.back() == ']') {
      section = line.substr(1, line.size() - 2);
      ini.sections.emplace(section, number);
      continue;
    }
    std::optional<Entry> entry = read_option(section, line);
    if (!entry || entry->key.empty()) {
      ini.problems.push_back(
          {path, number, line, "is neither KEY = VALUE nor [SECTION]", Severity::kError});
      continue;
    }
    entry->origin = {path, number};
    ini.entries.push_back(std::move(*entry));
  }
  return ini;
}

}  // namespace vx::config
