#include "serve/event_rules.h"

#include <fmt/format.h>

#include <string_view>

namespace cortex {
namespace {

Error out_of_range(std::size_t index, std::string_view name, std::int64_t value,
                   const std::string& rule) {
  std::string field = fmt::format("events[{}].{}", index, name);
  std::string message = fmt::format("{} = {} is out of range: {}", field, value, rule);
  return {ErrorCode::invalid_argument, std::move(message), std::move(field)};
}

Result<void> check_count(std::size_t events, int most, std::string_view what) {
  if (most <= 0 || events <= static_cast<std::size_t>(most)) return {};
  return Error{ErrorCode::too_large,
               fmt::format("events has {} entries; a {} may have at most {}{}", events, what, most,
                           what == "window" ? " (--max-events)" : ""),
               "events"};
}

std::string unit_rule(std::size_t units, std::string_view owner) {
  return fmt::format("the {} has {} units, 0 to {}", owner, units, units == 0 ? 0 : units - 1);
}

}  // namespace

std::size_t unit_count(const ModelInfo& model) {
  return model.kind == "stream" ? model.unit_ids.size()
                                : static_cast<std::size_t>(model.max_neurons);
}

Result<void> check_window(std::span<const Event> events, const ModelInfo& model) {
  const bool stream = model.kind == "stream";
  const std::size_t units = unit_count(model);
  if (!stream) {
    auto count = check_count(events.size(), model.max_events, "window");
    if (!count) return count;
  }
  for (std::size_t i = 0; i < events.size(); ++i) {
    const Event& e = events[i];
    if (e.unit < 0 || static_cast<std::size_t>(e.unit) >= units)
      return out_of_range(i, "neuron_id", e.unit, unit_rule(units, "model"));
    // Published window models have an embedding for a count of 0.
    const int least = stream ? 1 : 0;
    if (e.value < least)
      return out_of_range(i, "value", e.value, fmt::format("at least {}", least));
    if (e.bin < 0) return out_of_range(i, "time_bin", e.bin, "at least 0");
    if (!stream && model.max_bins > 0 && e.bin >= model.max_bins)
      return out_of_range(
          i, "time_bin", e.bin,
          fmt::format("a window has {} bins, 0 to {}", model.max_bins, model.max_bins - 1));
  }
  return {};
}

Result<void> check_step(std::span<const Event> events, std::int64_t sequence, std::size_t units,
                        bool drop_out_of_step, const ModelInfo& model) {
  auto count = check_count(events.size(), model.max_events, "step");
  if (!count) return count;
  const std::int64_t first = sequence * model.bins_per_step;
  const std::int64_t last = first + model.bins_per_step - 1;
  for (std::size_t i = 0; i < events.size(); ++i) {
    const Event& e = events[i];
    if (e.unit < 0 || static_cast<std::size_t>(e.unit) >= units)
      return out_of_range(i, "neuron_id", e.unit, unit_rule(units, "session"));
    if (e.value < 1) return out_of_range(i, "value", e.value, "at least 1");
    if (!drop_out_of_step && (e.bin < first || e.bin > last))
      return out_of_range(i, "time_bin", e.bin,
                          fmt::format("step {} owns bins {} to {}", sequence, first, last));
  }
  return {};
}

}  // namespace cortex
