// SPDX-License-Identifier: Apache-2.0
#include "dataplane/options.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <cstring>
#include <sstream>

#include "dataplane/cpu_list.h"

namespace vx {
namespace {

namespace po = boost::program_options;

constexpr unsigned kLeastMemoryMb = 64;
constexpr unsigned kMostMemoryMb = 65536;

po::options_description description() {
  po::options_description options("Options");
  options.add_options()("run-dir",
                        po::value<std::string>()->value_name("D")->default_value("/run/vxplane"),
                        "directory of dataplane.sock")(
      "lcores", po::value<std::string>()->value_name("LIST"),
      "CPUs of the workers, one worker each: 1 or 1,2 or 1-3 (default: the last CPU the process "
      "may use)")("poll", po::value<std::string>()->value_name("MODE")->default_value("adaptive"),
                  "busy: never sleep; adaptive: sleep when idle")(
      kConfiguredLcores, po::value<std::string>()->value_name("LIST"),
      "lcores of the configuration: what a dataplane that starts over gives itself; --lcores wins")(
      "no-huge", po::bool_switch(), "do without hugepages even when there are free ones")(
      "memory", po::value<std::string>()->value_name("MB")->default_value("192"),
      "packet memory; each AF_XDP queue takes 4096 buffers, that is 11 MB")(
      "help", po::bool_switch(), "this text")("version", po::bool_switch(), "version");
  return options;
}

unsigned parse_memory(const std::string& text) {
  unsigned megabytes = 0;
  const bool is_number =
      !text.empty() && text.size() <= 6 &&
      std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (is_number) megabytes = static_cast<unsigned>(std::stoul(text));
  if (megabytes < kLeastMemoryMb || megabytes > kMostMemoryMb)
    throw UsageError(
        fmt::format("--memory {}: expected {} to {} (MB)", text, kLeastMemoryMb, kMostMemoryMb));
  return megabytes;
}

PollMode parse_poll(const std::string& text) {
  if (text == "busy") return PollMode::kBusy;
  if (text == "adaptive") return PollMode::kAdaptive;
  throw UsageError(fmt::format("--poll {}: expected busy or adaptive", text));
}

}  // namespace

std::string help_text() {
  std::ostringstream text;
  text << "Usage: vxplane-dataplane [--run-dir D] [--lcores LIST] [--poll busy|adaptive] "
          "[--no-huge] [--memory MB] [-- EAL...]\n"
          "Forwards frames as vxplane-control tells it to, in the foreground, until SIGTERM. What "
          "follows -- goes to DPDK's EAL.\n\n"
       << description();
  return text.str();
}

Options parse_options(int argc, const char* const* argv) {
  const char* const* end = argv + argc;
  const char* const* dashes =
      std::find_if(argv, end, [](const char* word) { return std::strcmp(word, "--") == 0; });
  Options options;
  if (dashes != end) options.eal_arguments.assign(dashes + 1, end);
  const std::vector<std::string> words(argc > 0 ? argv + 1 : argv, dashes);
  po::variables_map values;
  try {
    // No guessing: an abbreviation that works today is an ambiguity tomorrow.
    const auto style = po::command_line_style::unix_style & ~po::command_line_style::allow_guessing;
    po::store(
        po::command_line_parser(words).options(description()).positional({}).style(style).run(),
        values);
  } catch (const po::error& error) {
    throw UsageError(error.what());
  }
  options.show_help = values["help"].as<bool>();
  options.show_version = values["version"].as<bool>();
  options.run_dir = values["run-dir"].as<std::string>();
  if (options.run_dir.empty()) throw UsageError("--run-dir: expected a directory");
  options.is_poll_given = !values["poll"].defaulted();
  options.poll = parse_poll(values["poll"].as<std::string>());
  options.no_huge = values["no-huge"].as<bool>();
  options.memory_mb = parse_memory(values["memory"].as<std::string>());
  const auto usable = usable_cpus();
  options.is_lcores_given = values.count("lcores") != 0;
  try {
    if (options.is_lcores_given)
      options.cpus = parse_cpu_list("--lcores ", values["lcores"].as<std::string>(), usable);
    else if (values.count(kConfiguredLcores) != 0)
      options.cpus =
          parse_cpu_list("lcores = ", values[kConfiguredLcores].as<std::string>(), usable);
    else
      options.cpus = {usable.back()};
  } catch (const std::invalid_argument& error) {
    // A CPU may have gone between control's wish and the new image: no fault of the command line, and
    // systemd is to start us again without it.
    if (!options.is_lcores_given) throw std::runtime_error(error.what());
    throw UsageError(error.what());
  }
  return options;
}

}  // namespace vx
