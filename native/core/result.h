// SPDX-License-Identifier: Apache-2.0
// Result<T>: what every function of native/core returns instead of throwing.
#pragma once

#include <cerrno>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>

namespace lb {

// code is a LoadBalancerErrorCode of lib/errors.ts; the binding layer turns the rest into a LoadBalancerError.
struct Error {
  std::string code;
  std::string operation;
  std::string object;
  std::string message;
  int errno_value = 0;  // positive, 0 when the kernel was not the cause
  std::map<std::string, std::variant<double, std::string>> details;
};

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}          // NOLINT: implicit by design
  Result(Error error) : state_(std::move(error)) {}      // NOLINT
  explicit operator bool() const { return state_.index() == 0; }
  T& operator*() { return std::get<0>(state_); }
  const T& operator*() const { return std::get<0>(state_); }
  T* operator->() { return &std::get<0>(state_); }
  const T* operator->() const { return &std::get<0>(state_); }
  Error& error() { return std::get<1>(state_); }
  const Error& error() const { return std::get<1>(state_); }

 private:
  std::variant<T, Error> state_;
};

struct Nothing {};
using Status = Result<Nothing>;
inline Status ok() { return Nothing{}; }

// A failed system call: code from errno where the contract has one for it, hint for people.
inline Error kernel_error(std::string operation, std::string object, int err, std::string hint = "") {
  Error e;
  e.code = err == EPERM || err == EACCES ? "ERR_PERMISSION" : "ERR_KERNEL";
  e.operation = std::move(operation);
  e.object = std::move(object);
  e.errno_value = err;
  e.message = std::strerror(err);
  if (hint.empty() && e.code == "ERR_PERMISSION") hint = "run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN";
  if (!hint.empty()) e.message += "; " + hint;
  return e;
}

inline Error make_error(std::string code, std::string operation, std::string object, std::string message) {
  Error e;
  e.code = std::move(code);
  e.operation = std::move(operation);
  e.object = std::move(object);
  e.message = std::move(message);
  return e;
}

}  // namespace lb

#define LB_TRY(expr)                             \
  do {                                           \
    auto lb_try_status = (expr);                 \
    if (!lb_try_status) return lb_try_status.error(); \
  } while (0)
