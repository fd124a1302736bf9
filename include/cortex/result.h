#pragma once

#include <optional>
#include <string>
#include <utility>
#include <variant>

/// Errors that can be expected (bad input, a full queue, a missing file) travel as values.
///
///     cortex::Result<int> parse(std::string_view text);
///     auto n = parse("12");
///     if (!n) return n.error();
///     use(*n);
namespace cortex {

/// What kind of failure it is; each maps to one HTTP status and one exit code.
enum class ErrorCode {
  invalid_argument,    ///< a value the caller gave is wrong (400)
  not_found,           ///< no such file, session, route, tensor (404)
  out_of_order,        ///< a step that is not the session's next (409)
  too_large,           ///< over a stated limit (413)
  resource_exhausted,  ///< queue or page pool full, refused at the door (429)
  corrupt_data,        ///< a file that is not what it claims to be
  unsupported,         ///< well formed, but not something this build handles
  deadline_exceeded,   ///< the answer would have come too late (504)
  unavailable,         ///< not ready, draining, or lost (503)
  io_error,            ///< the operating system said no
  internal             ///< our bug
};

/// Short, stable name of a code, e.g. "out_of_order".
const char* to_string(ErrorCode code);

/// A failure a person can act on: the message names the value and the place.
struct Error {
  ErrorCode code = ErrorCode::internal;
  std::string message;
  std::string field;  ///< the request field, tensor, column or flag at fault; may be empty
};

/// A value of type T or an Error.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  explicit operator bool() const { return state_.index() == 0; }
  T& operator*() & { return *std::get_if<0>(&state_); }
  const T& operator*() const& { return *std::get_if<0>(&state_); }
  T&& operator*() && { return std::move(*std::get_if<0>(&state_)); }
  T* operator->() { return std::get_if<0>(&state_); }
  const T* operator->() const { return std::get_if<0>(&state_); }
  const Error& error() const { return *std::get_if<1>(&state_); }
  /// The value, or std::runtime_error-like Exception with the error's message.
  T value_or_throw() &&;

 private:
  std::variant<T, Error> state_;
};

/// Success or an Error.
template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}
  explicit operator bool() const { return !error_.has_value(); }
  const Error& error() const { return *error_; }
  void value_or_throw() &&;

 private:
  std::optional<Error> error_;
};

/// Thrown only by `value_or_throw` while constructing; caught once, in apps/.
struct Exception {
  Error error;
};

template <class T>
T Result<T>::value_or_throw() && {
  if (!*this) throw Exception{error()};
  return std::move(**this);
}
inline void Result<void>::value_or_throw() && {
  if (!*this) throw Exception{error()};
}

}  // namespace cortex
