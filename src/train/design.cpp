#include "train/design.h"

#include <algorithm>
#include <cmath>

#include "core/json_writer.h"
#include "train/tracking.h"

namespace cortex::train {
namespace {

// A step may hold this many events even where units and bins are few.
constexpr int kLeastEvents = 256;

}  // namespace

bool in_split(const TimelinePart& part, std::int64_t step, Which which, int fold) {
  const auto s = static_cast<std::size_t>(step);
  if (!part.mask[s]) return false;
  const bool inner = part.scored_trial[s] % kInnerFolds == fold;
  return which == Which::all || inner == (which == Which::inner_score);
}

torch::Tensor solve_ridge(const torch::Tensor& xx, const torch::Tensor& xy,
                          const torch::Tensor& penalty) {
  return torch::cholesky_solve(xy, torch::linalg_cholesky(xx + torch::diag(penalty)));
}

ModelConfig linear_config(ModelKind kind, const Timeline& timeline, const DataOptions& data) {
  ModelConfig c;
  c.kind = kind;
  c.preset = to_string(kind);
  c.set_linear_shape();
  c.bin_ms = data.bin_ms;
  c.step_ms = data.step_ms;
  c.target_offset_ms = data.target_offset_ms.value_or(-data.step_ms / 2);
  c.output_names = timeline.output_names;
  c.output_units.assign(timeline.dims, timeline.output_unit);
  for (std::size_t u = 0; u < timeline.unit_ids.size(); ++u)
    c.units.push_back(
        {timeline.unit_ids[u], timeline.unit_sessions[u], std::nullopt, timeline.unit_rates_hz[u]});
  c.max_events_per_step =
      std::max(kLeastEvents, static_cast<int>(c.units.size()) * c.bins_per_step());
  return c;
}

ModelFile linear_file(ModelConfig config, std::map<std::string, Tensor> tensors) {
  ModelFile file;
  file.config = std::move(config);
  file.tensors = std::move(tensors);
  for (const TensorSpec& spec : tensor_specs(file.config))
    if (file.at(spec.name).shape() != spec.shape)
      throw Exception{{ErrorCode::internal, "'" + spec.name + "' is misshapen", spec.name}};
  return file;
}

std::string linear_record(const Timeline& timeline, const DataOptions& data,
                          const std::string& chosen) {
  JsonWriter w;
  w.begin_object().key("revision").value(source_revision());
  w.key("data_digest").value(timeline.digest).key("split").value(data.train_split);
  w.key("training_steps").value(timeline.scored()).key("chosen").raw(chosen);
  return w.end_object().text();
}

}  // namespace cortex::train
