#include "serve/serve_state.h"

#include <fmt/format.h>

namespace cortex {

Result<ModelRef> ServeState::model(std::string_view name) const {
  if (draining) return Error{ErrorCode::unavailable, "the server is shutting down", ""};
  auto found = models.find(name);
  if (!found) return found;
  const EngineState state = (*found)->engine->state();
  if (state == EngineState::ready) return found;
  return Error{ErrorCode::unavailable,
               fmt::format("the model '{}' is {}; try again", (*found)->name, to_string(state)),
               ""};
}

std::optional<ApiError> ServeState::not_ready() const {
  if (draining) return ApiError(Error{ErrorCode::unavailable, "the server is shutting down", ""});
  if (!models.is_ready())
    return ApiError(Error{ErrorCode::unavailable, "the model is still loading", ""});
  if (const auto found = model({}); !found && found.error().code == ErrorCode::unavailable)
    return ApiError(found.error());
  return std::nullopt;
}

Error too_fast(double max_rate) {
  return {ErrorCode::resource_exhausted,
          fmt::format("more than {} requests a second of one client (--max-rate)", max_rate), ""};
}

Error explain_refusal(Error error) {
  constexpr std::string_view kFlags[][2] = {{"sessions", "--max-sessions"},
                                            {"tenant", "--max-tenant-sessions"}};
  if (error.code == ErrorCode::resource_exhausted)
    for (const auto& [field, flag] : kFlags)
      if (error.field == field) error.message += fmt::format(" ({})", flag);
  if (error.field == "step_rate_hz") error.field = "rate_hz";
  if (error.field == "units" || error.field == "first_step" || error.field == "rate_hz")
    error.field = "open." + error.field;
  return error;
}

}  // namespace cortex
