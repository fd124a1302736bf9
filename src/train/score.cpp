#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/json_writer.h"
#include "data/folds.h"
#include "train/decode_model.h"
#include "train/runtime.h"
#include "train/setup.h"
#include "train/spike_head.h"
#include "train/stream_net.h"
#include "train/trainer.h"

namespace cortex::train {
namespace {

/// What stands for a fold's number in the name of a model.
constexpr std::string_view kFold = "{fold}";

Result<void> check_evaluate_options(const EvaluateOptions& o) {
  if (o.resamples < 0 || o.resamples > 1'000'000)
    return Error{ErrorCode::invalid_argument,
                 fmt::format("--resamples is {}, allowed are 0 to 1000000", o.resamples),
                 "resamples"};
  if (!o.data.folds || o.data.fold >= 0) return {};
  for (const std::string& path : {o.model, o.against})
    if (!path.empty() && path.find(kFold) == std::string::npos)
      return Error{ErrorCode::invalid_argument,
                   fmt::format("'{}' is one model for {} folds, of which it has learned {}: put {} "
                               "where the fold's number stands, or name one --fold",
                               path, o.data.folds->folds, o.data.folds->folds - 1, kFold),
                   "model"};
  return {};
}

/// Appends the scores of the trials of every fold that is asked for; without folds, of `split`.
/// `recordings` are as they were loaded, so already those of one fold where one is named.
Result<void> score_folds(const EvaluateOptions& options, const std::string& model,
                         const std::vector<Recording>& recordings, std::vector<TrialScore>& trials,
                         EvaluateReport* report) {
  const bool all = options.data.folds && options.data.fold < 0;
  const int folds = all ? options.data.folds->folds : 1;
  for (int fold = 0; fold < folds; ++fold) {
    std::string path = model;
    std::vector<Recording> dealt;
    if (all) {
      auto renamed = fold_recordings(recordings, *options.data.folds, fold);
      if (!renamed) return renamed.error();
      dealt = *std::move(renamed);
      path.replace(path.find(kFold), kFold.size(), std::to_string(fold));
    }
    const auto done = decode_model(path, options.data, options.data.folds ? "test" : options.split,
                                   all ? dealt : recordings,
                                   {.reset_each_trial = options.reset_each_trial,
                                    .units_kept = options.units_kept,
                                    .units_seed = options.bootstrap_seed,
                                    .device = options.device});
    if (!done) return done.error();
    trials.insert(trials.end(), done->trials.begin(), done->trials.end());
    if (report == nullptr) continue;
    report->output_names = done->timeline.output_names;
    report->unobserved += done->unobserved;
  }
  std::sort(trials.begin(), trials.end(),
            [](const TrialScore& a, const TrialScore& b) { return a.trial < b.trial; });
  return {};
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
    if (const auto ok = check_evaluate_options(options); !ok) return ok.error();
    prepare_process(options.threads);
    if (is_pretrained_file(options.model)) return evaluate_spikes(options, recordings);
    EvaluateReport report;
    report.model = options.model;
    report.protocol = to_string(options.data.protocol.protocol);
    report.clock = options.reset_each_trial ? "reset-each-trial" : "continuous";
    std::vector<TrialScore> trials;
    if (const auto ok = score_folds(options, options.model, recordings, trials, &report); !ok)
      return ok.error();
    const R2 score = pooled_r2(trials);
    report.r2 = score.mean;
    report.r2_per_dim = score.per_dim;
    report.steps = score.rows;
    report.trials = static_cast<std::int64_t>(trials.size());
    report.interval = bootstrap_r2(trials, options.resamples, options.bootstrap_seed);
    if (options.against.empty()) return report;
    std::vector<TrialScore> others;
    if (const auto ok = score_folds(options, options.against, recordings, others, nullptr); !ok)
      return ok.error();
    report.against_r2 = pooled_r2(others).mean;
    try {
      report.difference =
          paired_bootstrap(trials, others, options.resamples, options.bootstrap_seed);
    } catch (const std::invalid_argument& e) {
      return Error{
          ErrorCode::invalid_argument,
          fmt::format("{} and {} cannot be paired: {}", options.model, options.against, e.what()),
          "against"};
    }
    return report;
  });
}

Result<std::string> reference_outputs(const EvaluateOptions& options, std::int64_t steps) {
  return guarded([&]() -> Result<std::string> {
    auto recordings = load_recordings(options.data);
    if (!recordings) return recordings.error();
    auto scored = open_for(options.model, options.data, options.split, *recordings);
    if (!scored) return scored.error();
    if (scored->baseline || scored->model.config.linear())
      return Error{ErrorCode::unsupported, options.model + ": no stream or window decoder",
                   "model"};
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
    const auto mean = output_constant(scored->model, "output.mean", 0);
    const auto std = output_constant(scored->model, "output.std", 1);
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
