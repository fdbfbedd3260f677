// SPDX-License-Identifier: Apache-2.0
// A request that cannot be done: an errno for the reply's status and one line for its ErrorText.
// Thrown on the management thread by set-up operations, caught once in request_handler.cc.
#pragma once

#include <stdexcept>
#include <string>

namespace vx {

class RequestError : public std::runtime_error {
 public:
  RequestError(int code, const std::string& text) : std::runtime_error(text), code_(code) {}
  [[nodiscard]] int code() const noexcept { return code_; }

 private:
  int code_;
};

}  // namespace vx
