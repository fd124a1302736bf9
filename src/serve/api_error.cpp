#include "serve/api_error.h"

#include <utility>

#include "core/json_writer.h"

namespace cortex {
namespace {

void write_error(JsonWriter& w, const ApiError& error, bool with_status) {
  w.key("error").begin_object();
  w.key("code").value(error.code).key("message").value(error.message);
  w.key("field").value(error.field);
  if (with_status) w.key("status").value(error.status);
  if (error.expected) w.key("expected").value(*error.expected);
  w.end_object();
}

}  // namespace

int http_status(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument:
      return 400;
    case ErrorCode::not_found:
      return 404;
    case ErrorCode::out_of_order:
      return 409;
    case ErrorCode::too_large:
      return 413;
    case ErrorCode::resource_exhausted:
      return 429;
    case ErrorCode::unsupported:
      return 400;
    case ErrorCode::deadline_exceeded:
      return 504;
    case ErrorCode::unavailable:
      return 503;
    case ErrorCode::corrupt_data:
    case ErrorCode::io_error:
    case ErrorCode::internal:
      return 500;
  }
  return 500;
}

ApiError::ApiError(Error error)
    : status(http_status(error.code)),
      code(to_string(error.code)),
      message(std::move(error.message)),
      field(std::move(error.field)) {}

ApiError::ApiError(int http_status, std::string name, std::string text, std::string where)
    : status(http_status),
      code(std::move(name)),
      message(std::move(text)),
      field(std::move(where)) {}

HttpResponse error_response(const ApiError& error) {
  JsonWriter w;
  w.begin_object();
  write_error(w, error, false);
  w.end_object();
  HttpResponse response{.status = error.status, .body = w.text()};
  if (error.status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  if (error.status == 429 || error.status == 503) response.headers.emplace_back("Retry-After", "1");
  return response;
}

std::string socket_error(const ApiError& error, std::optional<std::int64_t> sequence) {
  JsonWriter w;
  w.begin_object();
  write_error(w, error, true);
  if (sequence) w.key("sequence_number").value(*sequence);
  w.end_object();
  return w.text();
}

}  // namespace cortex
