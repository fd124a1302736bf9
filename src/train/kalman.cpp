#include "train/kalman.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/json_writer.h"
#include "model/linear_model.h"
#include "train/design.h"
#include "train/runtime.h"
#include "train/setup.h"

namespace cortex::train {
namespace {

using torch::Tensor;

constexpr int kMostMemory = 4096;
constexpr double kShrink = 0.99;       // of the transition's eigenvalues, until it forgets in time
constexpr double kRarelyEmpty = 0.01;  // share of steps
constexpr double kTouch = 1e-5;        // of ridge, a row
constexpr int kSettle = 20'000;

/// One row a step whose behaviour is known up to `lead` steps on within its trial.
struct Rows {
  Tensor state;   // [rows, (lead + 1) * dims], latest behaviour first, normalised
  Tensor counts;  // [rows, units]
  Tensor next;    // [rows] index of the row of the step after, -1: none
};

Rows collect(const Timeline& t, int lead, Which which, const std::vector<float>& mean,
             const std::vector<float>& std) {
  const std::size_t dims = t.dims;
  const std::size_t units = t.unit_ids.size();
  std::vector<double> state, counts;
  std::vector<std::int64_t> next;
  for (const TimelinePart& part : t.parts) {
    std::int64_t before = -2;
    for (std::int64_t s = 0; s + lead < part.steps(); ++s) {
      bool whole = in_split(part, s, which);
      for (int j = 1; j <= lead && whole; ++j)
        whole = part.mask[s + j] && part.scored_trial[s + j] == part.scored_trial[s];
      if (!whole) continue;
      for (int j = lead; j >= 0; --j)
        for (std::size_t d = 0; d < dims; ++d)
          state.push_back((part.target[(s + j) * dims + d] - mean[d]) / std[d]);
      counts.resize(counts.size() + units, 0);
      double* row = counts.data() + counts.size() - units;
      for (std::int64_t e = part.indptr[s]; e < part.indptr[s + 1]; ++e)
        row[part.events[e].unit] += part.events[e].value;
      if (before == s - 1) next.back() = static_cast<std::int64_t>(next.size());
      next.push_back(-1);
      before = s;
    }
  }
  const auto n = static_cast<std::int64_t>(next.size());
  const auto copy = [&](const std::vector<double>& values, std::size_t width) {
    return torch::tensor(values, torch::kFloat64).view({n, static_cast<std::int64_t>(width)});
  };
  return {copy(state, dims * (static_cast<std::size_t>(lead) + 1)), copy(counts, units),
          torch::tensor(next, torch::kInt64)};
}

/// w of y = x w, with a touch of ridge for units that are silent and states that barely move.
Tensor regress(const Tensor& x, const Tensor& y) {
  const Tensor penalty =
      torch::full({x.size(1)}, kTouch * static_cast<double>(x.size(0)), torch::kFloat64);
  return solve_ridge(torch::matmul(x.t(), x), torch::matmul(x.t(), y), penalty);
}

Tensor covariance(const Tensor& residual) {
  return torch::matmul(residual.t(), residual) / static_cast<double>(residual.size(0));
}

std::span<const float> values(const cortex::Tensor& t) { return t.f32(); }

/// The smallest power of two within which both matrices forget; 0: none is small enough.
int memory_of(const cortex::Tensor& a, const cortex::Tensor& b, int n) {
  for (int steps = 2; steps <= kMostMemory; steps *= 2)
    if (forgets_within(values(a), n, steps) && forgets_within(values(b), n, steps)) return steps;
  return 0;
}

bool empty_is_gap(const Timeline& t) {
  std::int64_t empty = 0;
  std::int64_t all = 0;
  for (const TimelinePart& part : t.parts)
    for (std::int64_t s = 0; s < part.steps(); ++s) {
      if (!part.mask[s]) continue;
      ++all;
      empty += part.indptr[s] == part.indptr[s + 1];
    }
  return static_cast<double>(empty) < kRarelyEmpty * static_cast<double>(all);
}

/// Wu et al. 2006, equations 3 to 9, iterated until the gain stands still.
ModelFile fit(const Timeline& t, const DataOptions& data, int lead, Which which) {
  const std::vector<float> mean = t.target_mean();
  const std::vector<float> std = t.target_std();
  const Rows rows = collect(t, lead, which, mean, std);
  const Tensor from = (rows.next >= 0).nonzero().view({-1});
  const auto dims = static_cast<std::int64_t>(t.dims);
  const std::int64_t n = rows.state.size(1);
  if (from.size(0) < 2 * n)
    throw Exception{{ErrorCode::invalid_argument,
                     fmt::format("{} steps with {} steps after them are too few for a state of {}",
                                 from.size(0), lead, n),
                     "nwb"}};
  const Tensor level = rows.counts.mean(0);
  const Tensor observe = regress(rows.state, rows.counts - level).t();  // [units, n]
  const Tensor noise = covariance(rows.counts - level - torch::matmul(rows.state, observe.t())) +
                       1e-3 * torch::eye(level.size(0), torch::kFloat64);
  const Tensor x0 = rows.state.index_select(0, from);
  const Tensor x1 = rows.state.index_select(0, rows.next.index_select(0, from)).narrow(1, 0, dims);
  Tensor step = regress(x0, x1).t();  // [dims, n]
  Tensor drive = torch::zeros({n, n}, torch::kFloat64);
  drive.narrow(0, 0, dims).narrow(1, 0, dims).copy_(covariance(x1 - torch::matmul(x0, step.t())));

  // C' R^-1 and C' R^-1 C: the gain then needs no inverse of the size of the population.
  const Tensor factor = torch::linalg_cholesky(noise);
  const Tensor weighed = torch::cholesky_solve(observe, factor).t();
  const Tensor information = torch::matmul(weighed, observe);
  const Tensor eye = torch::eye(n, torch::kFloat64);
  ModelConfig config = linear_config(ModelKind::kalman, t, data);
  config.dim = config.head_dim = static_cast<int>(n);
  config.skip_empty_steps = empty_is_gap(t);
  std::map<std::string, cortex::Tensor> tensors;
  for (config.window_steps = 0; config.window_steps == 0;) {
    Tensor predict = torch::zeros({n, n}, torch::kFloat64);
    predict.narrow(0, 0, dims).copy_(step);
    if (lead > 0)
      predict.narrow(0, dims, n - dims)
          .narrow(1, 0, n - dims)
          .copy_(torch::eye(n - dims, torch::kFloat64));
    Tensor p = eye;
    Tensor gain;
    for (int i = 0; i < kSettle; ++i) {
      p = torch::matmul(torch::matmul(predict, p), predict.t()) + drive;
      const Tensor now = torch::matmul(torch::linalg_inv(eye + torch::matmul(p, information)),
                                       torch::matmul(p, weighed));  // [n, units]
      p = torch::matmul(eye - torch::matmul(now, observe), p);
      p = (p + p.t()) / 2;
      const bool still =
          gain.defined() && (now - gain).abs().max().item<double>() <
                                1e-12 * std::max(1e-12, now.abs().max().item<double>());
      gain = now;
      if (still) break;
    }
    tensors.clear();
    tensors.emplace("kalman.predict", from_torch(predict));
    tensors.emplace("kalman.update",
                    from_torch(torch::matmul(eye - torch::matmul(gain, observe), predict)));
    tensors.emplace("kalman.gain", from_torch(gain.t().contiguous()));
    tensors.emplace("kalman.offset", from_torch(-torch::matmul(gain, level)));
    config.window_steps =
        memory_of(tensors.at("kalman.predict"), tensors.at("kalman.update"), static_cast<int>(n));
    // Behaviour `k` steps back by kShrink to the k: all eigenvalues shrink by that factor.
    for (int k = 0; k <= lead; ++k) step.narrow(1, k * dims, dims).mul_(std::pow(kShrink, k + 1));
  }
  Tensor output = torch::zeros({dims, n}, torch::kFloat64);
  output.narrow(1, n - dims, dims).copy_(torch::eye(dims, torch::kFloat64));
  tensors.emplace("kalman.output", from_torch(output));
  tensors.emplace("output.mean", from_torch(torch::tensor(mean)));
  tensors.emplace("output.std", from_torch(torch::tensor(std)));
  JsonWriter chosen;
  chosen.begin_object().key("lead_steps").value(lead).end_object();
  config.training_json = linear_record(t, data, chosen.text());
  return linear_file(std::move(config), std::move(tensors));
}

Timeline only(Timeline t, Which which) {
  for (TimelinePart& part : t.parts)
    for (std::int64_t s = 0; s < part.steps(); ++s) part.mask[s] = in_split(part, s, which);
  return t;
}

}  // namespace

Result<KalmanReport> kalman(const KalmanOptions& options) {
  auto recordings = load_recordings(options.data);
  if (!recordings) return recordings.error();
  return kalman(options, *recordings);
}

Result<KalmanReport> kalman(const KalmanOptions& options,
                            const std::vector<Recording>& recordings) {
  for (const int lead : options.leads)
    if (lead < 0 || lead > 50)
      return Error{ErrorCode::invalid_argument,
                   fmt::format("--leads holds {}, allowed are 0 to 50", lead), "leads"};
  if (options.leads.empty()) return Error{ErrorCode::invalid_argument, "--leads is empty", "leads"};
  return guarded([&]() -> Result<KalmanReport> {
    prepare_process(options.threads);
    const torch::NoGradGuard no_grad;
    const DataOptions& data = options.data;
    // How a state moves is learned from every step of a trial, whichever of them are scored.
    DataOptions fitted = data;
    fitted.protocol.protocol = Protocol::causal;
    auto training = cut_timeline(recordings, fitted, data.train_split, OtherTrials::blank);
    if (!training) return training.error();
    KalmanReport report;
    report.inner_r2 = -std::numeric_limits<double>::infinity();
    const Timeline inner = only(*training, Which::inner_score);
    for (const int lead : options.leads) {
      const ModelFile tried = fit(*training, data, lead, Which::inner_fit);
      const double r2 = decode_linear(tried, inner).score.mean;
      if (r2 > report.inner_r2) {
        report.inner_r2 = r2;
        report.lead = lead;
      }
    }
    const ModelFile model = fit(*training, data, report.lead, Which::all);
    report.memory_steps = model.config.window_steps;
    report.r2 = std::numeric_limits<double>::quiet_NaN();
    if (!data.val_split.empty()) {
      auto held = cut_timeline(recordings, data, data.val_split, OtherTrials::keep);
      if (!held) return held.error();
      const R2 score = decode_linear(model, *held).score;
      report.r2 = score.mean;
      report.r2_per_dim = score.per_dim;
      report.steps = score.rows;
    }
    if (!options.out.empty())
      if (const auto ok = save_model(options.out, model.config, model.tensors); !ok)
        return ok.error();
    return report;
  });
}

}  // namespace cortex::train
