// SPDX-License-Identifier: Apache-2.0
#include "control/vxctl_client.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <ostream>
#include <stdexcept>
#include <thread>

#include "control/format.h"
#include "control/vxctl_arguments.h"

namespace vx::control {
namespace {

constexpr int kAnswerTimeoutS = 30;

// Control cannot be asked: what() is one line that says what to do. Exit 3.
class Unreachable : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

std::string remedy(int error) {
  if (error == EACCES || error == EPERM) return "run vxctl as root or as a member of group vxplane";
  return "start it (systemctl start vxplane-control), or name its --run-dir";
}

// A connection to control.sock. Not shared between threads.
class Connection {
 public:
  explicit Connection(const std::string& run_dir)
      : path_(fmt::format("{}/{}", run_dir, api::kSocketName)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path_.size() >= sizeof address.sun_path) {
      throw UsageError(
          fmt::format("--run-dir {} is too long for a socket's path ({} bytes at most)", run_dir,
                      sizeof address.sun_path - 1));
    }
    std::memcpy(address.sun_path, path_.c_str(), path_.size() + 1);
    fd_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd_ < 0 || connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
      const int error = errno;
      if (fd_ >= 0) close(fd_);
      throw Unreachable(fmt::format("cannot reach vxplane-control at {}: {}; {}", path_,
                                    std::strerror(error), remedy(error)));
    }
    set_timeout(kAnswerTimeoutS);
  }
  ~Connection() { close(fd_); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // 0: wait for ever.
  void set_timeout(int seconds) {
    const timeval timeout{seconds, 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
  }

  void send(const Json& request) {
    const std::string line = api::encode(request);
    for (std::size_t sent = 0; sent < line.size();) {
      const ssize_t n = ::send(fd_, line.data() + sent, line.size() - sent, MSG_NOSIGNAL);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) throw_lost(std::strerror(errno));
      sent += static_cast<std::size_t>(n);
    }
  }

  // The next line's object.
  Json receive() {
    for (;;) {
      if (const auto line = lines_.next()) {
        auto message = api::decode(*line);
        if (!message)
          throw Unreachable(fmt::format(
              "{} does not speak vxplane-control's protocol; are both of one version?", path_));
        return std::move(*message);
      }
      char bytes[65536];
      const ssize_t n = recv(fd_, bytes, sizeof bytes, 0);
      if (n > 0) {
        lines_.append({bytes, static_cast<std::size_t>(n)});
      } else if (n == 0) {
        throw_lost("it closed the connection");
      } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
        throw_lost(fmt::format("no answer in {} s", kAnswerTimeoutS));
      } else if (errno != EINTR) {
        throw_lost(std::strerror(errno));
      }
    }
  }

 private:
  [[noreturn]] void throw_lost(std::string_view why) const {
    throw Unreachable(fmt::format(
        "lost vxplane-control at {}: {}; see journalctl -u vxplane-control", path_, why));
  }

  std::string path_;
  int fd_ = -1;
  api::LineBuffer lines_;
};

// Control's refusal, with the exit code it asks for.
class Refused : public std::runtime_error {
 public:
  Refused(const std::string& what, api::Exit exit) : std::runtime_error(what), exit_(exit) {}
  [[nodiscard]] api::Exit exit() const { return exit_; }

 private:
  api::Exit exit_;
};

// --run-dir, else the environment's (a shell inside the lab), else the usual one.
std::string run_dir_of(const VxctlCommand& command) {
  if (!command.run_dir.empty()) return command.run_dir;
  const char* const environment = std::getenv("VXPLANE_RUN_DIR");
  return environment != nullptr && *environment != '\0' ? std::string(environment)
                                                        : std::string(api::kDefaultRunDir);
}

class Run {
 public:
  Run(const VxctlCommand& command, std::ostream& out, std::ostream& err)
      : command_(command), connection_(run_dir_of(command)), out_(out), err_(err) {}

  api::Exit once() {
    const Json result = ask();
    if (command_.json) {
      out_ << api::encode(result);
    } else {
      out_ << format_result(command_.object, command_.command, result,
                            {.statistics = command_.statistics});
    }
    out_.flush();
    if (!is_bad_news_) return api::Exit::kDone;
    if (!advice_.empty()) err_ << "vxctl: " << advice_ << '\n';
    return api::Exit::kRefused;
  }

  void monitor() {
    static_cast<void>(ask());
    connection_.set_timeout(0);
    while (out_.good()) {
      const Json message = connection_.receive();
      const Json& event = format::child(message, "event");
      out_ << (command_.json ? api::encode(event)
                             : format_fdb_event(event, {.statistics = command_.statistics}) + '\n');
      out_.flush();
    }
  }

  void watch() {
    using Clock = std::chrono::steady_clock;
    Json before = ask();
    auto asked = Clock::now();
    while (out_.good()) {
      std::this_thread::sleep_until(asked + std::chrono::seconds(command_.watch_s));
      Json now = ask();
      const auto answered = Clock::now();
      const std::chrono::duration<double> passed = answered - asked;
      out_ << (command_.json ? api::encode(now) : format_rates(before, now, passed.count()) + '\n');
      out_.flush();
      before = std::move(now);
      asked = answered;
    }
  }

 private:
  // The result of the command's request.
  Json ask() {
    connection_.send(command_.request);
    Json reply = connection_.receive();
    for (const auto& note : format::child(reply, "notes")) {
      if (note.is_string()) err_ << "vxctl: " << note.get<std::string>() << '\n';
    }
    if (api::field<bool>(reply, "ok").value_or(false)) {
      is_bad_news_ = format::number(reply, "exit") == static_cast<std::uint64_t>(api::Exit::kRefused);
      advice_ = format::text(reply, "advice");
      return format::child(reply, "result");
    }
    const bool usage =
        format::number(reply, "exit") == static_cast<std::uint64_t>(api::Exit::kUsage);
    const std::string text = format::text(reply, "error");
    throw Refused(text.empty() ? "refused" : text, usage ? api::Exit::kUsage : api::Exit::kRefused);
  }

  const VxctlCommand& command_;
  Connection connection_;
  std::ostream& out_;
  std::ostream& err_;
  bool is_bad_news_ = false;  // of the last reply
  std::string advice_;
};

}  // namespace

api::Exit run_vxctl(std::span<const std::string> words, std::ostream& out, std::ostream& err) {
  const auto fail = [&err](const char* what, api::Exit exit) {
    err << "vxctl: " << what << '\n';
    return exit;
  };
  try {
    const VxctlCommand command = parse_command_line(words);
    if (!command.print.empty()) {
      out << command.print;
      return api::Exit::kDone;
    }
    Run run(command, out, err);
    if (command.object == "fdb" && command.command == "monitor") {
      run.monitor();
    } else if (command.watch_s != 0) {
      run.watch();
    } else {
      return run.once();
    }
    return api::Exit::kDone;
  } catch (const UsageError& error) {
    return fail(error.what(), api::Exit::kUsage);
  } catch (const Unreachable& error) {
    return fail(error.what(), api::Exit::kUnreachable);
  } catch (const Refused& error) {
    return fail(error.what(), error.exit());
  }
}

}  // namespace vx::control
