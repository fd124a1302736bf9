#pragma once

#include <cortex/result.h>

#include <cstdint>
#include <optional>
#include <string>

#include "serve/transport.h"

namespace cortex {

/// An error as clients see it.
struct ApiError {
  int status = 500;
  std::string code;
  std::string message;
  std::string field;
  std::optional<std::int64_t> expected;  ///< the sequence_number that would have been right

  ApiError(Error error);
  ApiError(int http_status, std::string name, std::string text, std::string where = {});
};

/// The HTTP status that a kind of failure maps to.
int http_status(ErrorCode code);

/// {"error":{"code","message","field"}}
HttpResponse error_response(const ApiError& error);

/// {"error":{"code","message","field","status"},"sequence_number"}
std::string socket_error(const ApiError& error, std::optional<std::int64_t> sequence);

}  // namespace cortex
