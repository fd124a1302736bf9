#include "train/adapt.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <set>

#include "train/decode_model.h"
#include "train/runtime.h"
#include "train/tracking.h"

namespace cortex::train {
namespace {

namespace fs = std::filesystem;

/// A folder beside the model to write, gone with everything in it at the end.
class WorkFolder {
 public:
  explicit WorkFolder(const std::string& out) : path_(out + ".adapt.XXXXXX") {
    if (::mkdtemp(path_.data()) == nullptr)
      throw Exception{{ErrorCode::io_error, path_ + ": cannot be made", "out"}};
  }
  WorkFolder(const WorkFolder&) = delete;
  WorkFolder& operator=(const WorkFolder&) = delete;
  ~WorkFolder() {
    std::error_code ec;
    fs::remove_all(path_, ec);
  }
  fs::path file(const std::string& name) const { return fs::path(path_) / name; }

 private:
  std::string path_;
};

TrainOptions learning(const AdaptOptions& options, const DataOptions& data, const fs::path& out) {
  TrainOptions t;
  t.data = data;
  // Held-back trials choose nothing: the last weights are taken, and compared once.
  t.data.val_split.clear();
  t.select = "last";
  t.init = options.model;
  t.init_rows = options.init_rows;
  t.learn = "units";
  t.train_trials = {options.trials};
  t.iterations = options.iterations;
  t.minutes = options.iterations > 0 ? 0 : options.minutes;
  t.lr = options.lr;
  t.seed = options.seed;
  // Hundreds of updates, not thousands: a long average would still hold the rows of the start.
  t.ema = 0.98;
  t.warmup_iterations = 20;
  t.threads = options.threads;
  t.device = options.device;
  t.quiet = options.quiet;
  t.out = out.string();
  t.run_dir = out.string() + ".run";
  return t;
}

Result<void> check(const AdaptOptions& o) {
  const auto bad = [](const char* flag, const std::string& what) {
    return Error{ErrorCode::invalid_argument, fmt::format("--{} {}", flag, what), flag};
  };
  if (o.out.empty()) return bad("out", "is missing: where should the model go?");
  if (o.trials < 1) return bad("trials", fmt::format("is {}, must be 1 or more", o.trials));
  if (o.iterations == 0 && !(o.minutes > 0 && std::isfinite(o.minutes)))
    return bad("minutes", fmt::format("is {}", o.minutes));
  if (o.resamples < 0 || o.resamples > 1'000'000)
    return bad("resamples", fmt::format("is {}, allowed are 0 to 1000000", o.resamples));
  if (o.data.val_split.empty())
    return bad("split-val", "is empty: which trials are held back to compare on?");
  return {};
}

std::size_t count_known(const DecodedModel& model, const Recording& day) {
  std::set<std::string> known;
  for (const ModelUnit& unit : model.config.units) known.insert(unit.id);
  const std::string& session = model.timeline.parts.front().session;
  return static_cast<std::size_t>(
      std::count_if(day.units.begin(), day.units.end(), [&](const Unit& unit) {
        return known.contains(unit.id) || known.contains(session_unit_id(session, unit.id));
      }));
}

Result<void> put(const fs::path& from, const std::string& to) {
  std::error_code ec;
  fs::rename(from, to, ec);
  if (ec) return Error{ErrorCode::io_error, fmt::format("{}: {}", to, ec.message()), "out"};
  return {};
}

}  // namespace

Result<AdaptReport> adapt(const AdaptOptions& options) {
  if (const auto ok = check(options); !ok) return ok.error();
  auto recordings = load_recordings(options.data);
  if (!recordings) return recordings.error();
  return adapt(options, *recordings);
}

Result<AdaptReport> adapt(const AdaptOptions& options, const std::vector<Recording>& recordings) {
  const auto from = std::chrono::steady_clock::now();
  return guarded([&]() -> Result<AdaptReport> {
    if (const auto ok = check(options); !ok) return ok.error();
    if (recordings.size() != 1)
      return Error{ErrorCode::invalid_argument,
                   fmt::format("a day is one recording, --nwb names {}", recordings.size()), "nwb"};
    prepare_process(options.threads);
    const auto score = [&](const std::string& path, bool as_it_is) {
      return decode_model(path, options.data, options.data.val_split, recordings,
                          {.ignore_other_units = as_it_is, .device = options.device});
    };
    const auto before = score(options.model, true);
    if (!before) return before.error();

    const WorkFolder folder(options.out);
    const fs::path candidate = folder.file(fs::path(options.out).filename().string());
    DataOptions data = options.data;
    data.bin_ms = before->config.bin_ms;
    data.step_ms = before->config.step_ms;
    data.target_offset_ms = before->config.target_offset_ms;
    const auto learned = train(learning(options, data, candidate), recordings);
    if (!learned) return learned.error();
    const auto after = score(candidate.string(), false);
    if (!after) return after.error();

    AdaptReport report;
    report.before_r2 = pooled_r2(before->trials).mean;
    report.after_r2 = pooled_r2(after->trials).mean;
    report.difference = paired_bootstrap(after->trials, before->trials, options.resamples, 1);
    report.steps = after->decoded.score.rows;
    report.trials = static_cast<std::int64_t>(after->trials.size());
    report.units = recordings.front().units.size();
    report.known_units = count_known(*before, recordings.front());
    report.iterations = learned->iterations;
    // A score that is no number is no improvement either.
    report.written = options.force || report.after_r2 >= report.before_r2;
    if (report.written) {
      if (const auto ok = put(card_path(candidate.string()), card_path(options.out)); !ok)
        return ok.error();
      if (const auto ok = put(candidate, options.out); !ok) return ok.error();
    }
    report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - from).count();
    return report;
  });
}

}  // namespace cortex::train
