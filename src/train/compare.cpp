#include "train/compare.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "core/json_writer.h"
#include "train/baseline_nets.h"
#include "train/decode_model.h"
#include "train/kalman.h"
#include "train/ridge.h"
#include "train/tracking.h"

namespace cortex::train {
namespace {

namespace fs = std::filesystem;

constexpr int kLagSteps = 10;  // each way
constexpr double kUnitShares[] = {1.0, 0.9, 0.75, 0.5, 0.25};
constexpr std::size_t kTraceSteps = 200;

bool is_linear(const std::string& name) { return name == "ridge" || name == "kalman"; }

Result<void> check(const CompareOptions& o) {
  if (!o.data.folds)
    return Error{ErrorCode::invalid_argument, "a comparison is made over --folds N", "folds"};
  if (o.run_dir.empty())
    return Error{ErrorCode::invalid_argument, "--run is missing: where do the models go?", "run"};
  if (o.models.empty()) return Error{ErrorCode::invalid_argument, "--models is empty", "models"};
  for (const std::string& name : o.models)
    if (!is_linear(name))
      if (const auto found = find_preset(name); !found) {
        Error e = found.error();
        e.message += ", ridge, kalman";
        e.field = "models";
        return e;
      }
  return {};
}

/// Fits `name` on the fold's training trials and writes it to `path`; the seconds that it took,
/// with those of earlier processes for what was fitted already.
Result<double> fit(const CompareOptions& options, const std::string& name, int fold,
                   const std::vector<Recording>& recordings, const std::string& path) {
  DataOptions data = options.data;
  data.fold = fold;
  data.val_split = "test";
  // All of a training trial is there to learn from, whichever steps are scored. But a decoder of
  // whole movements errs by more than the hand moves at onset, so there it learns that one step, as
  // published decoders do; a Kalman filter needs steps that follow one another.
  if (data.protocol.protocol != Protocol::onset || name == "kalman")
    data.protocol.protocol = Protocol::causal;
  const auto from = std::chrono::steady_clock::now();
  const auto seconds = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - from).count();
  };
  if (name == "ridge") {
    RidgeOptions ridge_options{.data = data,
                               .eval_nwb = {},
                               .lags = options.lags,
                               .out = path,
                               .threads = options.training.threads};
    const auto done = ridge(ridge_options, recordings, recordings);
    if (!done) return done.error();
    return seconds();
  }
  if (name == "kalman") {
    KalmanOptions kalman_options;
    kalman_options.data = data;
    kalman_options.data.val_split.clear();
    kalman_options.out = path;
    kalman_options.threads = options.training.threads;
    const auto done = kalman(kalman_options, recordings);
    if (!done) return done.error();
    return seconds();
  }
  TrainOptions training = options.training;
  training.data = data;
  // Scored as it learns in the first fold alone, for the curve; the last weights are taken anyhow.
  if (fold > 0) training.data.val_split.clear();
  training.preset = name;
  training.select = "last";
  training.resume = true;
  training.out = path;
  training.run_dir = path + ".run";
  const auto done = train(training, recordings);
  if (!done) return done.error();
  return done->seconds;
}

struct Fitted {
  std::string path;
  double seconds = 0;
};
/// Fits `name` in a fold whose recordings are at hand.
Result<Fitted> fit_in_fold(const CompareOptions& options, const std::string& name, int fold,
                           const std::vector<Recording>& folded,
                           const std::function<void(const std::string&)>& progress) {
  progress(fmt::format("{}, fold {} of {}", name, fold + 1, options.data.folds->folds));
  const fs::path folder = fs::path(options.run_dir) / fmt::format("fold{}", fold);
  std::error_code ec;
  fs::create_directories(folder, ec);
  if (ec) return Error{ErrorCode::io_error, folder.string() + ": " + ec.message(), "run"};
  const std::string path = (folder / (name + ".safetensors")).string();
  const auto seconds = fit(options, name, fold, folded, path);
  if (!seconds) return seconds.error();
  return Fitted{path, *seconds};
}

std::vector<CurvePoint> minutes_curve(const std::string& run_dir) {
  std::vector<CurvePoint> out;
  std::ifstream in(fs::path(run_dir) / "metrics.jsonl");
  const auto number = [](const std::string& line, const std::string& key) {
    const std::size_t at = line.find("\"" + key + "\":");
    return at == std::string::npos ? NAN : std::strtod(line.c_str() + at + key.size() + 3, nullptr);
  };
  for (std::string line; std::getline(in, line);)
    out.push_back({number(line, "elapsed_s") / 60, number(line, "r2")});
  return out;
}

/// Rows [first, last) of scored steps that follow one another in one trial.
struct Span {
  std::size_t first = 0, last = 0;
};
std::vector<Span> spans_of(const DecodedModel& d) {
  std::vector<Span> out;
  std::size_t row = 0;
  for (const TimelinePart& part : d.timeline.parts)
    for (std::size_t s = 0; s < part.mask.size(); ++s, ++row) {
      if (!part.mask[s]) continue;
      const bool goes_on = s > 0 && part.mask[s - 1] &&
                           part.scored_trial[s - 1] == part.scored_trial[s] && !out.empty() &&
                           out.back().last == row;
      if (goes_on)
        ++out.back().last;
      else
        out.push_back({row, row + 1});
    }
  return out;
}

std::vector<CurvePoint> lag_curve(const DecodedModel& d) {
  const std::size_t dims = d.timeline.dims;
  const std::vector<Span> spans = spans_of(d);
  std::vector<CurvePoint> out;
  for (int lag = -kLagSteps; lag <= kLagSteps; ++lag) {
    std::vector<float> truth, decoded;
    for (const Span& span : spans)
      for (std::size_t row = span.first; row < span.last; ++row) {
        const auto other = static_cast<std::int64_t>(row) + lag;
        if (other < static_cast<std::int64_t>(span.first) ||
            other >= static_cast<std::int64_t>(span.last))
          continue;
        for (std::size_t k = 0; k < dims; ++k) {
          truth.push_back(d.decoded.truth[static_cast<std::size_t>(other) * dims + k]);
          decoded.push_back(d.decoded.values[row * dims + k]);
        }
      }
    const std::vector<std::uint8_t> mask(truth.size() / std::max<std::size_t>(1, dims), 1);
    if (mask.size() > 1)
      out.push_back({lag * d.timeline.step_ms, r2_score(truth, decoded, mask, dims).mean});
  }
  return out;
}

std::vector<Trace> traces_of(const DecodedModel& d) {
  std::vector<Trace> out;
  const std::size_t dims = d.timeline.dims;
  std::size_t steps = 0;
  for (const Span& span : spans_of(d)) {
    if (steps >= kTraceSteps) break;
    steps += span.last - span.first;
    const auto copy = [&](const std::vector<float>& from) {
      return std::vector<float>(from.begin() + static_cast<std::ptrdiff_t>(span.first * dims),
                                from.begin() + static_cast<std::ptrdiff_t>(span.last * dims));
    };
    out.push_back({copy(d.decoded.truth), copy(d.decoded.values)});
  }
  return out;
}

/// What is drawn, from the model of the first fold.
Result<void> describe(const CompareOptions& options, const std::string& path,
                      const std::vector<Recording>& recordings, const DecodedModel& decoded,
                      CompareRow& row) {
  row.by_lag = lag_curve(decoded);
  row.traces = traces_of(decoded);
  if (row.learned) row.by_minutes = minutes_curve(path + ".run");
  for (const double share : kUnitShares) {
    DecodeChoices choices;
    choices.units_kept = share;
    choices.units_seed = options.bootstrap_seed;
    choices.device = options.training.device;
    const auto done = decode_model(path, options.data, "test", recordings, choices);
    if (!done) return done.error();
    row.by_units.push_back({share, done->decoded.score.mean});
  }
  return {};
}

std::int64_t parameters_of(const std::string& path) {
  const auto file = is_baseline_file(path) ? load_baseline(path) : load_model(path);
  return file ? file->parameter_count() : 0;
}

Result<CompareRow> run_model(const CompareOptions& options, const std::string& name,
                             const std::vector<Recording>& recordings, CompareReport& report,
                             const std::function<void(const std::string&)>& progress) {
  CompareRow row;
  row.name = name;
  row.learned = !is_linear(name);
  row.baseline = is_linear(name) || is_baseline(name);
  std::vector<TrialScore> reset;
  for (int fold = 0; fold < options.data.folds->folds; ++fold) {
    const auto folded = fold_recordings(recordings, *options.data.folds, fold);
    if (!folded) return folded.error();
    const auto fitted = fit_in_fold(options, name, fold, *folded, progress);
    if (!fitted) return fitted.error();
    const std::string& path = fitted->path;
    row.fit_s += fitted->seconds;
    DecodeChoices choices;
    choices.device = options.training.device;
    const auto done = decode_model(path, options.data, "test", *folded, choices);
    if (!done) return done.error();
    choices.reset_each_trial = true;
    const auto apart = decode_model(path, options.data, "test", *folded, choices);
    if (!apart) return apart.error();
    row.trials.insert(row.trials.end(), done->trials.begin(), done->trials.end());
    reset.insert(reset.end(), apart->trials.begin(), apart->trials.end());
    if (fold > 0) continue;
    row.parameters = parameters_of(path);
    report.output_names = done->timeline.output_names;
    report.output_unit = done->timeline.output_unit;
    report.step_ms = done->timeline.step_ms;
    if (const auto ok = describe(options, path, *folded, *done, row); !ok) return ok.error();
  }
  std::sort(row.trials.begin(), row.trials.end(),
            [](const TrialScore& a, const TrialScore& b) { return a.trial < b.trial; });
  row.score = pooled_r2(row.trials);
  row.reset = pooled_r2(reset);
  row.interval = bootstrap_r2(row.trials, options.resamples, options.bootstrap_seed);
  return row;
}

void write_curve(JsonWriter& w, const char* key, const std::vector<CurvePoint>& curve) {
  w.key(key).begin_array();
  for (const CurvePoint& p : curve) w.begin_array().value(p.x).value(p.r2).end_array();
  w.end_array();
}

}  // namespace

Result<void> fit_fold(const CompareOptions& options,
                      const std::function<void(const std::string&)>& progress) {
  if (const auto ok = check(options); !ok) return ok.error();
  auto recordings = load_recordings(options.data);
  if (!recordings) return recordings.error();
  const int fold = options.data.fold;
  const auto folded = fold_recordings(*recordings, *options.data.folds, fold);
  if (!folded) return folded.error();
  for (const std::string& name : options.models)
    if (const auto fitted = fit_in_fold(options, name, fold, *folded, progress); !fitted)
      return fitted.error();
  return {};
}

Result<CompareReport> compare(const CompareOptions& options,
                              const std::function<void(const std::string&)>& progress) {
  if (const auto ok = check(options); !ok) return ok.error();
  if (options.data.fold >= 0)
    return Error{ErrorCode::invalid_argument, "a comparison is made over all folds", "fold"};
  auto recordings = load_recordings(options.data);
  if (!recordings) return recordings.error();
  CompareReport report;
  report.protocol = to_string(options.data.protocol.protocol);
  report.folds = options.data.folds->folds;
  for (const std::string& name : options.models) {
    auto row = run_model(options, name, *recordings, report, progress);
    if (!row) return row.error();
    report.rows.push_back(*std::move(row));
  }
  const CompareRow* best = nullptr;
  for (const CompareRow& row : report.rows)
    if (row.baseline && (best == nullptr || row.score.mean > best->score.mean)) best = &row;
  if (best != nullptr) {
    report.best_baseline = best->name;
    for (CompareRow& row : report.rows)
      row.difference =
          paired_bootstrap(row.trials, best->trials, options.resamples, options.bootstrap_seed);
  }
  report.steps = report.rows.front().score.rows;
  report.trials = static_cast<std::int64_t>(report.rows.front().trials.size());
  return report;
}

std::string compare_json(const CompareReport& report, const CompareOptions& options) {
  JsonWriter w;
  w.begin_object().key("protocol").value(report.protocol).key("folds").value(report.folds);
  w.key("fold_seed").value(options.data.folds->seed);
  w.key("steps").value(report.steps).key("trials").value(report.trials);
  w.key("step_ms").value(report.step_ms).key("revision").value(source_revision());
  w.key("minutes").value(options.training.minutes);
  w.key("iterations").value(options.training.iterations);
  w.key("crop_steps").value(options.training.crop_steps);
  w.key("resamples").value(options.resamples).key("best_baseline").value(report.best_baseline);
  w.key("models").begin_array();
  for (const CompareRow& row : report.rows) {
    w.begin_object().key("model").value(row.name).key("r2").value(row.score.mean);
    w.key("r2_low").value(row.interval.low).key("r2_high").value(row.interval.high);
    w.key("r2_per_dim").begin_array();
    for (const double v : row.score.per_dim) w.value(v);
    w.end_array().key("r2_reset_each_trial").value(row.reset.mean);
    w.key("difference").begin_object().key("mean").value(row.difference.difference);
    w.key("low").value(row.difference.low).key("high").value(row.difference.high);
    w.key("p").value(row.difference.p).end_object();
    w.key("parameters").value(row.parameters).key("fit_s").value(row.fit_s);
    write_curve(w, "by_lag_ms", row.by_lag);
    write_curve(w, "by_units_kept", row.by_units);
    write_curve(w, "by_minutes", row.by_minutes);
    w.end_object();
  }
  return w.end_array().end_object().text();
}

}  // namespace cortex::train
