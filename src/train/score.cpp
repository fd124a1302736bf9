#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/json_writer.h"
#include "train/evaluate.h"
#include "train/runtime.h"
#include "train/setup.h"
#include "train/stream_net.h"
#include "train/trainer.h"

namespace cortex::train {
namespace {

struct Scored {
  ModelFile model;
  Timeline timeline;
  DataOptions data;
};

std::vector<float> constant(const ModelFile& model, const char* name, float otherwise) {
  const auto found = model.tensors.find(name);
  if (found == model.tensors.end())
    return std::vector<float>(static_cast<std::size_t>(model.config.outputs()), otherwise);
  const auto values = found->second.f32();
  return {values.begin(), values.end()};
}

Result<Scored> open_scored(const EvaluateOptions& options,
                           const std::vector<Recording>& recordings) {
  auto model = load_model(options.model);
  if (!model) return model.error();
  const ModelConfig& c = model->config;
  Scored out;
  out.data = options.data;
  out.data.bin_ms = c.bin_ms;
  if (c.kind == ModelKind::stream) {
    out.data.step_ms = c.step_ms;
    out.data.target_offset_ms = c.target_offset_ms;
  } else {
    // A window decoder states no step: windows end every step_ms, whole bins apart.
    out.data.step_ms = c.bin_ms * std::max(1.0, std::round(options.data.step_ms / c.bin_ms));
  }
  StepOptions step = step_options(out.data);
  for (const ModelUnit& unit : c.units) step.unit_ids.push_back(unit.id);
  auto timeline = make_timeline(recordings, step, options.split, OtherTrials::keep);
  if (!timeline) return timeline.error();
  if (static_cast<int>(timeline->dims) != c.outputs())
    return Error{ErrorCode::invalid_argument,
                 fmt::format("'{}' has {} dimensions, the model decodes {}", out.data.target,
                             timeline->dims, c.outputs()),
                 "target"};
  if (static_cast<int>(timeline->unit_ids.size()) > c.unit_count())
    return Error{ErrorCode::invalid_argument,
                 fmt::format("the recording has {} units, the model {}", timeline->unit_ids.size(),
                             c.unit_count()),
                 "nwb"};
  if (timeline->scored() == 0)
    return Error{ErrorCode::invalid_argument,
                 fmt::format("no step of a '{}' trial can be scored", options.split), "split"};
  out.model = *std::move(model);
  out.timeline = *std::move(timeline);
  return out;
}

template <class F>
auto guarded(F body) -> decltype(body()) {
  try {
    return body();
  } catch (const Exception& e) {
    return e.error;
  } catch (const c10::Error& e) {
    return Error{ErrorCode::internal, std::string("LibTorch: ") + e.what_without_backtrace(), ""};
  }
}

}  // namespace

Result<EvaluateReport> evaluate(const EvaluateOptions& options) {
  auto recordings = load_recordings(options.data);
  if (!recordings) return recordings.error();
  return evaluate(options, *recordings);
}

Result<EvaluateReport> evaluate(const EvaluateOptions& options,
                                const std::vector<Recording>& recordings) {
  return guarded([&]() -> Result<EvaluateReport> {
    auto scored = open_scored(options, recordings);
    if (!scored) return scored.error();
    auto device = pick_device(options.device);
    if (!device) return device.error();
    prepare_process(options.threads);
    const ModelConfig& c = scored->model.config;
    ParameterSet params(tensor_specs(c), *device);
    params.load(scored->model.tensors);
    const auto network = make_network(c, params, scored->data.step_ms);
    const Timeline timeline =
        options.reset_each_trial ? cut_at_trials(scored->timeline) : std::move(scored->timeline);
    const Decoded decoded =
        decode_timeline(*network, timeline, constant(scored->model, "output.mean", 0),
                        constant(scored->model, "output.std", 1));
    EvaluateReport report;
    report.model = options.model;
    report.protocol = options.reset_each_trial ? "reset-each-trial" : "continuous";
    report.r2 = decoded.score.mean;
    report.r2_per_dim = decoded.score.per_dim;
    report.output_names = timeline.output_names;
    report.steps = decoded.score.rows;
    return report;
  });
}

Result<std::string> reference_outputs(const EvaluateOptions& options, std::int64_t steps) {
  return guarded([&]() -> Result<std::string> {
    auto recordings = load_recordings(options.data);
    if (!recordings) return recordings.error();
    auto scored = open_scored(options, *recordings);
    if (!scored) return scored.error();
    const Timeline& timeline = scored->timeline;
    if (steps < 1 || steps > timeline.parts.front().steps())
      return Error{
          ErrorCode::invalid_argument,
          fmt::format("--steps is {}, the recording has {}", steps, timeline.parts.front().steps()),
          "steps"};
    prepare_process(options.threads);
    const torch::NoGradGuard no_grad;
    const ModelConfig& c = scored->model.config;
    ParameterSet params(tensor_specs(c), torch::kCPU, torch::kFloat64);
    params.load(scored->model.tensors);
    CropBatch batch = whole_span(timeline, {0, 0}, steps);
    std::fill(batch.mask.begin(), batch.mask.end(), std::uint8_t{1});
    const torch::Tensor y = (c.kind == ModelKind::stream
                                 ? plain_stream_forward(c, params, batch, 0)
                                 : make_network(c, params, scored->data.step_ms)->forward(batch)[0])
                                .contiguous();
    const auto mean = constant(scored->model, "output.mean", 0);
    const auto std = constant(scored->model, "output.std", 1);
    JsonWriter w;
    w.begin_object().key("model").value(options.model).key("digest").value(scored->model.digest);
    w.key("precision").value("fp64").key("steps").begin_array();
    for (std::int64_t s = 0; s < steps; ++s) {
      w.begin_object().key("sequence").value(s).key("events").begin_array();
      for (std::int64_t e = batch.indptr[s]; e < batch.indptr[s + 1]; ++e) {
        const Event& event = batch.events[e];
        w.begin_array().value(event.unit).value(event.bin).value(event.value).end_array();
      }
      w.end_array().key("behavior").begin_array();
      for (int o = 0; o < c.outputs(); ++o) w.value(y[s][o].item<double>() * std[o] + mean[o]);
      w.end_array().end_object();
    }
    return w.end_array().end_object().text();
  });
}

}  // namespace cortex::train
