#include "train/ridge.h"

#include <fmt/format.h>

#include <cmath>

#include "core/json_writer.h"
#include "train/design.h"
#include "train/runtime.h"
#include "train/setup.h"

namespace cortex::train {
namespace {

using torch::Tensor;

constexpr double kMostSmoothSteps = 1000;

struct Rows {
  Tensor x;  // [rows, features + 1], the last column 1
  Tensor y;  // [rows, dims]
};

/// Weights of the steps around one, of odd number and sum 1.
std::vector<double> gaussian(double steps) {
  const auto reach = static_cast<std::int64_t>(3 * steps);
  std::vector<double> kernel;
  double sum = 0;
  for (std::int64_t k = -reach; k <= reach; ++k) {
    const double z = steps > 0 ? static_cast<double>(k) / steps : 0;
    kernel.push_back(std::exp(-z * z / 2));
    sum += kernel.back();
  }
  for (double& weight : kernel) weight /= sum;
  return kernel;
}

Rows collect(const Timeline& timeline, int lags, const std::vector<double>& kernel, Which which,
             int fold = 0) {
  const auto units = static_cast<std::int64_t>(timeline.unit_ids.size());
  const auto dims = static_cast<std::int64_t>(timeline.dims);
  const auto reach = static_cast<std::int64_t>(kernel.size() / 2);
  std::vector<std::pair<const TimelinePart*, std::int64_t>> rows;
  for (const TimelinePart& part : timeline.parts)
    for (std::int64_t s = 0; s < part.steps(); ++s)
      if (in_split(part, s, which, fold)) rows.emplace_back(&part, s);
  const auto n = static_cast<std::int64_t>(rows.size());
  Rows out{torch::zeros({n, lags * units + 1}, torch::kFloat64),
           torch::zeros({n, dims}, torch::kFloat64)};
  auto* x = out.x.data_ptr<double>();
  auto* y = out.y.data_ptr<double>();
  for (const auto& [part, s] : rows) {
    for (int lag = 0; lag < lags && lag <= s; ++lag)
      for (std::int64_t k = -reach; k <= reach; ++k) {
        const std::int64_t at = s - lag + k;
        if (at < 0 || at >= part->steps()) continue;
        const double weight = kernel[static_cast<std::size_t>(reach + k)];
        for (std::int64_t e = part->indptr[at]; e < part->indptr[at + 1]; ++e)
          x[lag * units + part->events[e].unit] += weight * part->events[e].value;
      }
    x[lags * units] = 1;
    for (std::int64_t d = 0; d < dims; ++d) *y++ = part->target[s * dims + d];
    x += lags * units + 1;
  }
  return out;
}

struct Moments {
  Tensor xx, xy;
};

Moments moments(const Rows& rows) {
  return {torch::matmul(rows.x.t(), rows.x), torch::matmul(rows.x.t(), rows.y)};
}

Tensor solve(const Moments& m, double alpha) {
  const std::int64_t p = m.xx.size(0);
  Tensor penalty = torch::full({p}, alpha, torch::kFloat64);
  // The intercept is free, but for what keeps the matrix definite.
  penalty[p - 1] = 1e-9;
  return solve_ridge(m.xx, m.xy, penalty);
}

R2 score(const Rows& rows, const Tensor& weights) {
  const Tensor y = rows.y.to(torch::kFloat32).contiguous();
  const Tensor d = torch::matmul(rows.x, weights).to(torch::kFloat32).contiguous();
  const auto n = static_cast<std::size_t>(y.numel());
  const std::vector<std::uint8_t> mask(static_cast<std::size_t>(y.size(0)), 1);
  return r2_score({y.data_ptr<float>(), n}, {d.data_ptr<float>(), n}, mask,
                  static_cast<std::size_t>(y.size(1)));
}

Result<void> export_ridge(const RidgeOptions& options, const Timeline& fit,
                          const RidgeReport& report) {
  ModelConfig config = linear_config(ModelKind::ridge, fit, options.data);
  config.receptive_steps = options.lags;
  JsonWriter chosen;
  chosen.begin_object().key("alpha").value(report.alpha).end_object();
  config.training_json = linear_record(fit, options.data, chosen.text());
  const auto outputs = static_cast<std::int64_t>(fit.dims);
  const auto units = static_cast<std::int64_t>(fit.unit_ids.size());
  const Tensor all = torch::tensor(report.weights, torch::kFloat64).view({-1, outputs});
  std::map<std::string, cortex::Tensor> tensors;
  tensors.emplace(
      "ridge.weight",
      from_torch(all.narrow(0, 0, options.lags * units).view({options.lags, units, outputs})));
  tensors.emplace("ridge.bias", from_torch(all[options.lags * units]));
  tensors.emplace("output.mean", from_torch(torch::zeros({outputs})));
  tensors.emplace("output.std", from_torch(torch::ones({outputs})));
  const ModelFile file = linear_file(std::move(config), std::move(tensors));
  return save_model(options.out, file.config, file.tensors);
}

}  // namespace

Result<RidgeReport> ridge(const RidgeOptions& options) {
  auto training = load_recordings(options.data);
  if (!training) return training.error();
  if (options.eval_nwb.empty()) return ridge(options, *training, *training);
  DataOptions other = options.data;
  other.nwb = options.eval_nwb;
  auto scoring = load_recordings(other);
  if (!scoring) return scoring.error();
  return ridge(options, *training, *scoring);
}

Result<RidgeReport> ridge(const RidgeOptions& options, const std::vector<Recording>& training,
                          const std::vector<Recording>& scoring) {
  if (options.lags < 1 || options.lags > 1000)
    return Error{ErrorCode::invalid_argument,
                 fmt::format("--lags is {}, allowed are 1 to 1000", options.lags), "lags"};
  const double smooth_steps = options.smooth_ms / options.data.step_ms;
  if (!(smooth_steps >= 0 && smooth_steps <= kMostSmoothSteps))
    return Error{ErrorCode::invalid_argument,
                 fmt::format("--smooth-ms is {}, allowed are 0 to {} steps", options.smooth_ms,
                             kMostSmoothSteps),
                 "smooth-ms"};
  if (smooth_steps > 0 && !options.out.empty())
    return Error{ErrorCode::invalid_argument,
                 "--smooth-ms looks ahead: what it fits cannot be served, so there is no --out",
                 "smooth-ms"};
  return guarded([&]() -> Result<RidgeReport> {
    prepare_process(options.threads);
    const torch::NoGradGuard no_grad;
    auto fit = cut_timeline(training, options.data, options.data.train_split, OtherTrials::blank);
    if (!fit) return fit.error();
    StepOptions step = step_options(options.data);
    step.unit_ids = fit->unit_ids;
    auto held = make_timeline(scoring, step, options.data.val_split, OtherTrials::keep,
                              options.data.protocol, *units_by(options.data));
    if (!held) return held.error();
    const std::vector<double> kernel = gaussian(smooth_steps);
    std::vector<Rows> inner;
    for (int fold = 0; fold < kInnerFolds; ++fold)
      inner.push_back(collect(*fit, options.lags, kernel, Which::inner_score, fold));
    const Rows outer = collect(*held, options.lags, kernel, Which::all);
    const bool nlb = options.data.protocol.protocol == Protocol::nlb;
    const int tried = nlb ? kInnerFolds : 1;
    std::int64_t rows = 0;
    for (const Rows& fold : inner) rows += fold.x.size(0);
    for (int fold = 0; fold < tried; ++fold)
      if (const std::int64_t n = inner[fold].x.size(0); n < 2 || rows - n < 2)
        return Error{ErrorCode::invalid_argument, "too few training trials can be scored", "nwb"};
    if (outer.x.size(0) < 2)
      return Error{ErrorCode::invalid_argument, "too few validation trials can be scored", "nwb"};
    std::vector<Moments> parts;
    for (const Rows& fold : inner) parts.push_back(moments(fold));
    Moments m{parts[0].xx.clone(), parts[0].xy.clone()};
    for (int fold = 1; fold < kInnerFolds; ++fold) {
      m.xx += parts[fold].xx;
      m.xy += parts[fold].xy;
    }
    std::vector<Moments> others;  // of all inner folds but one
    for (int fold = 0; fold < tried; ++fold)
      others.push_back({m.xx - parts[fold].xx, m.xy - parts[fold].xy});
    RidgeReport report;
    report.inner_r2 = -INFINITY;
    for (double power = nlb ? -4 : -1; power <= (nlb ? 0 : 5); power += 0.5) {
      const double alpha = std::pow(10.0, power);
      double r2 = 0;
      for (int fold = 0; fold < tried; ++fold)
        r2 += score(inner[fold], solve(others[fold], alpha)).mean / tried;
      if (r2 > report.inner_r2) {
        report.inner_r2 = r2;
        report.alpha = alpha;
      }
    }
    const Tensor weights = solve(m, report.alpha).contiguous();
    const R2 result = score(outer, weights);
    report.r2 = result.mean;
    report.r2_per_dim = result.per_dim;
    report.steps = result.rows;
    report.weights.assign(weights.data_ptr<double>(), weights.data_ptr<double>() + weights.numel());
    if (!options.out.empty())
      if (const auto ok = export_ridge(options, *fit, report); !ok) return ok.error();
    return report;
  });
}

}  // namespace cortex::train
