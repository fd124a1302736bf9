#include "train/trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>

#include "core/file.h"
#include "core/json_writer.h"
#include "train/baseline_nets.h"
#include "train/checkpoint.h"
#include "train/evaluate.h"
#include "train/event_file.h"
#include "train/learner.h"
#include "train/runtime.h"
#include "train/setup.h"
#include "train/spike_head.h"
#include "train/tracking.h"

namespace cortex::train {
namespace {

namespace fs = std::filesystem;
using Seconds = std::chrono::duration<double>;
using SteadyClock = std::chrono::steady_clock;

constexpr double kProgressEvery = 2.0;  // seconds
constexpr std::int64_t kTrackEvery = 20;

Error io_error(const std::string& path, const std::string& what) {
  return {ErrorCode::io_error, path + ": " + what, "run"};
}

Result<void> write_text(const std::string& path, const std::string& text) {
  return write_file_atomic(path, std::as_bytes(std::span(text.data(), text.size())));
}

class Run {
 public:
  /// `group`: of the ranks that share the learner, or null.
  Run(const TrainOptions& options, StartingPoint start, const Timeline& training,
      const Timeline* validation, CropSampler sampler, std::unique_ptr<Learner> learner,
      ProcessGroup* group)
      : options_(options),
        config_(std::move(start.config)),
        initial_(std::move(start.weights)),
        training_(training),
        validation_(validation),
        sampler_(std::move(sampler)),
        learner_(std::move(learner)),
        group_(group),
        mean_(std::move(start.mean)),
        std_(std::move(start.std)),
        state_(learner_->flat()),
        mean_t_(torch::tensor(mean_).to(learner_->flat().options())),
        std_t_(torch::tensor(std_).to(learner_->flat().options())),
        events_(in_run("events.out.tfevents.cortex")) {
    augmentation_ = {.unit_dropout = options.unit_dropout,
                     .thinning = options.thinning,
                     .fresh_starts = *options.fresh_starts};
    if (options.hiding) {
      augmentation_.hide_units = options.hiding->units;
      augmentation_.hide_bins = options.hiding->bins;
    }
    optimizer_.weight_decay = options.weight_decay;
    optimizer_.clip = options.clip;
    optimizer_.ema = options.ema;
    // Without the number of the device, which each rank has its own of.
    fingerprint_ =
        fingerprint(options_, config_, training_, torch::Device(learner_->device().type()).str());
    record_ = run_record(options_, &config_, training_);
    short_record_ = run_record(options_, nullptr, training_);
  }

  Result<TrainReport> go() {
    if (const auto ok = start(); !ok) return ok.error();
    while (!finished()) {
      const double loss = iterate();
      if (!std::isfinite(loss) && ++bad_losses_ > 20)
        return Error{ErrorCode::invalid_argument,
                     fmt::format("the loss is not finite any more at iteration {}: lower --lr ({})",
                                 iteration_, options_.lr),
                     "lr"};
      if (std::isfinite(loss)) bad_losses_ = 0;
      const bool last = finished();
      const bool stop = options_.stop_after > 0 && done_here_ >= options_.stop_after;
      const bool scored = validation_ && (last || iteration_ % options_.eval_every == 0);
      if (scored) {
        if (const auto ok = score(loss); !ok) return ok.error();
      }
      if (scored || last || stop || iteration_ % options_.checkpoint_every == 0)
        if (const auto ok = checkpoint(); !ok) return ok.error();
      if (scored || last || iteration_ % kTrackEvery == 0)
        if (const auto ok = track({{"train/loss", loss},
                                   {"train/loss_smooth", smooth_loss_},
                                   {"train/learning_rate", rate_},
                                   {"train/gradient_norm", gradient_norm_},
                                   {"time/ms_per_iteration", ms_per_iteration()}});
            !ok)
          return ok.error();
      progress(loss, last);
      if (stop && !last) return report(false);
    }
    return finish();
  }

 private:
  std::string in_run(const char* name) const {
    return (fs::path(options_.run_dir) / name).string();
  }
  /// One rank writes what is not of a rank alone.
  bool writes() const { return learner_->rank() == 0; }
  double elapsed() const { return before_s_ + Seconds(SteadyClock::now() - started_).count(); }
  double fraction() const {
    if (options_.minutes > 0) return elapsed() / (60 * options_.minutes);
    return static_cast<double>(iteration_) / static_cast<double>(options_.iterations);
  }
  bool finished() const {
    if (options_.iterations > 0 && iteration_ >= options_.iterations) return true;
    return options_.minutes > 0 && elapsed() >= 60 * options_.minutes;
  }

  Result<void> start() {
    started_ = SteadyClock::now();
    std::error_code ec;
    fs::create_directories(options_.run_dir, ec);
    if (ec) return io_error(options_.run_dir, ec.message());
    const std::string path = in_run("checkpoint.safetensors");
    const bool there = group_ != nullptr ? has_parts(options_.run_dir) : fs::exists(path);
    if (there && !options_.resume)
      return Error{ErrorCode::invalid_argument,
                   fmt::format("{} holds a run already: give --resume to go on with it, or another "
                               "--run",
                               options_.run_dir),
                   "run"};
    if (!there) {
      learner_->load(initial_);
      state_ = OptimizerState(learner_->flat());
      if (!writes()) return {};
      fs::remove(in_run("metrics.jsonl"), ec);
      for (const auto& [name, text] :
           {std::pair{"config.json", to_json(config_)}, std::pair{"run.json", record_}})
        if (const auto ok = write_text(in_run(name), text); !ok) return ok;
      return {};
    }
    auto saved = group_ != nullptr ? load_parts(options_.run_dir, fingerprint_,
                                                learner_->stage_lengths(), *group_)
                                   : load_checkpoint(path, fingerprint_);
    if (!saved) return saved.error();
    const torch::NoGradGuard no_grad;
    for (auto& [name, vector] : vectors()) {
      const auto found = saved->vectors.find(name);
      if (found == saved->vectors.end() || found->second.sizes() != vector.sizes())
        return Error{ErrorCode::corrupt_data,
                     fmt::format("{}: '{}' is missing or misshapen", path, name), "run"};
      vector.copy_(found->second);
    }
    if (const auto best = saved->vectors.find("best"); best != saved->vectors.end())
      best_ = best->second.to(learner_->flat().options());
    iteration_ = state_.steps = saved->iteration;
    before_s_ = saved->elapsed_s;
    best_r2_ = saved->best_r2;
    best_iteration_ = saved->best_iteration;
    return writes() ? trim_metrics() : Result<void>();
  }

  std::map<std::string, torch::Tensor> vectors() {
    return {{"parameters", learner_->flat()},
            {"average", state_.average},
            {"first", state_.first},
            {"second", state_.second}};
  }

  /// Drops the lines of iterations that the checkpoint does not hold: they will be written again.
  Result<void> trim_metrics() {
    std::ifstream in(in_run("metrics.jsonl"));
    std::string kept;
    const std::string head = "{\"iteration\":";
    for (std::string line; std::getline(in, line);)
      if (line.rfind(head, 0) == 0 && line.back() == '}' &&
          std::strtoll(line.c_str() + head.size(), nullptr, 10) <= iteration_)
        kept += line + "\n";
    return write_text(in_run("metrics.jsonl"), kept);
  }

  double iterate() {
    const auto from = SteadyClock::now();
    const auto n = static_cast<std::uint64_t>(iteration_);
    const std::vector<CropBatch> parts =
        pack_parts(training_, sampler_, augmentation_, options_.seed, n, options_.batch,
                   options_.accumulate, learner_->rank(), learner_->ranks());
    const double value = learner_->learn(parts, mean_t_, std_t_, options_.bf16);
    gradient_norm_ = learner_->gradient_norm();
    rate_ = learning_rate(options_.lr, iteration_, options_.warmup_iterations, fraction());
    optimizer_.step(learner_->flat(), learner_->grad(), gradient_norm_, learner_->decay_mask(),
                    rate_, state_);
    ++iteration_;
    ++done_here_;
    smooth_loss_ = done_here_ == 1 ? value : 0.98 * smooth_loss_ + 0.02 * value;
    iteration_s_.push_back(Seconds(SteadyClock::now() - from).count());
    iterating_s_ += iteration_s_.back();
    return value;
  }

  Decoded decode(const torch::Tensor& weights) {
    const torch::NoGradGuard no_grad;
    const torch::Tensor keep = learner_->flat().clone();
    learner_->flat().copy_(weights);
    Decoded out = decode_timeline(learner_->network(), *validation_, mean_, std_);
    learner_->flat().copy_(keep);
    return out;
  }

  /// On the validation trials: R², or bits a spike where spikes are learned.
  R2 validate(const torch::Tensor& weights) {
    if (!options_.hiding) return decode(weights).score;
    const torch::NoGradGuard no_grad;
    const torch::Tensor keep = learner_->flat().clone();
    learner_->flat().copy_(weights);
    std::vector<std::uint8_t> hidden = validation_->unit_held_out;
    if (std::find(hidden.begin(), hidden.end(), 1) == hidden.end())
      for (std::size_t u = 3; u < hidden.size(); u += 4) hidden[u] = 1;
    const CoSmoothing told = co_smoothing(learner_->network(), *validation_, hidden);
    learner_->flat().copy_(keep);
    return {.mean = told.bits_per_spike, .per_dim = {}, .rows = told.bins};
  }
  const char* score_name() const { return options_.hiding ? "bits_per_spike" : "r2"; }

  Result<void> score(double loss) {
    last_score_ = validate(state_.average);
    if (best_iteration_ < 0 || last_score_.mean > best_r2_ || options_.select == "last") {
      best_r2_ = last_score_.mean;
      best_iteration_ = iteration_;
      best_ = state_.average.clone();
      if (const auto ok = export_model(in_run("best.safetensors"), best_); !ok) return ok;
    }
    if (!writes()) return {};
    JsonWriter w;
    w.begin_object().key("iteration").value(iteration_).key("loss").value(loss);
    const std::string name = score_name();
    w.key(name).value(last_score_.mean).key("best_" + name).value(best_r2_);
    w.key("elapsed_s").value(elapsed()).end_object();
    std::ofstream out(in_run("metrics.jsonl"), std::ios::app);
    out << w.text() << "\n";
    if (!out.flush()) return io_error(in_run("metrics.jsonl"), "cannot be written");
    return track({{"val/" + name, last_score_.mean}, {"val/best_" + name, best_r2_}});
  }

  Result<void> track(const std::vector<std::pair<std::string, double>>& scalars) {
    if (!writes()) return {};
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    return events_.append(iteration_, scalars, Seconds(now).count());
  }

  Result<void> checkpoint() {
    Checkpoint c;
    c.iteration = iteration_;
    c.elapsed_s = elapsed();
    c.best_r2 = best_r2_;
    c.best_iteration = best_iteration_;
    c.fingerprint = fingerprint_;
    c.record = record_;
    c.vectors = vectors();
    if (best_.defined()) c.vectors.emplace("best", best_);
    if (group_ != nullptr) return save_parts(options_.run_dir, c, *group_);
    return save_checkpoint(in_run("checkpoint.safetensors"), c);
  }

  Result<void> export_model(const std::string& path, const torch::Tensor& weights) {
    auto tensors = learner_->save(weights);
    if (!writes()) return {};
    JsonWriter w;
    w.begin_object().key("seed").value(options_.seed).key("iterations").value(best_or_now());
    if (best_iteration_ >= 0) w.key(score_name()).value(best_r2_);
    w.key("split").value(options_.data.val_split).key("protocol").value("continuous");
    w.key("target").value(options_.data.target).key("data_digest").value(training_.digest);
    w.key("training_steps").value(training_.scored());
    w.key("step_ms").value(options_.data.step_ms);
    w.key("run").raw(short_record_).end_object();
    ModelConfig config = config_;
    config.training_json = w.text();
    if (options_.hiding) return save_pretrained(path, config, tensors);
    tensors.emplace("output.mean", from_torch(mean_t_));
    tensors.emplace("output.std", from_torch(std_t_));
    if (is_baseline(config.preset)) return save_baseline(path, config, tensors);
    return save_model(path, config, tensors);
  }

  Result<void> write_card(const R2& score) {
    // A card is of a model that decodes.
    if (!writes() || options_.hiding) return {};
    return write_text(card_path(options_.out), model_card({.config = config_,
                                                           .options = options_,
                                                           .training = training_,
                                                           .parameters = learner_->count(),
                                                           .iteration = best_or_now(),
                                                           .seconds = elapsed(),
                                                           .device = learner_->device().str(),
                                                           .scored = validation_ != nullptr,
                                                           .score = score}));
  }

  std::int64_t best_or_now() const { return best_iteration_ >= 0 ? best_iteration_ : iteration_; }

  void progress(double loss, bool last) {
    if (options_.quiet || !writes()) return;
    const double now = elapsed();
    if (!last && now - printed_s_ < kProgressEvery) return;
    printed_s_ = now;
    const double f = std::max(1e-6, fraction());
    const double here = now - before_s_;
    const double left = options_.minutes > 0
                            ? 60 * options_.minutes - now
                            : here / std::max<double>(1, static_cast<double>(done_here_)) *
                                  static_cast<double>(options_.iterations - iteration_);
    fmt::print(stderr,
               "iteration {} ({:.0f} %)  loss {:.4f} ({:.4f})  {}  {:.1f} ms  {:.0f} s left\n",
               iteration_, 100 * std::min(1.0, f), loss, smooth_loss_,
               best_iteration_ < 0
                   ? std::string("not scored yet")
                   : fmt::format("{} {:.4f} best {:.4f}", score_name(), last_score_.mean, best_r2_),
               1000 * iterating_s_ / static_cast<double>(done_here_), std::max(0.0, left));
  }

  Result<TrainReport> finish() {
    const torch::Tensor& weights = best_.defined() ? best_ : state_.average;
    if (const auto ok = export_model(options_.out, weights); !ok) return ok.error();
    TrainReport out = report(true);
    if (validation_) {
      const R2 best = validate(weights);
      out.r2 = best.mean;
      out.r2_per_dim = best.per_dim;
      out.scored_steps = best.rows;
      if (const auto ok = write_card(best); !ok) return ok.error();
    } else if (const auto ok = write_card({}); !ok) {
      return ok.error();
    }
    return out;
  }

  double ms_per_iteration() const {
    return done_here_ ? 1000 * iterating_s_ / static_cast<double>(done_here_) : 0;
  }

  /// Of the second half of this process's updates: kernels are chosen and memory is there.
  double median_ms() const {
    std::vector<double> late(
        iteration_s_.begin() + static_cast<std::ptrdiff_t>(iteration_s_.size() / 2),
        iteration_s_.end());
    if (late.empty()) return 0;
    const auto middle = late.begin() + static_cast<std::ptrdiff_t>(late.size() / 2);
    std::nth_element(late.begin(), middle, late.end());
    return 1000 * *middle;
  }

  TrainReport report(bool complete) const {
    TrainReport report;
    report.complete = complete;
    report.model = options_.out;
    report.run_dir = options_.run_dir;
    report.r2 = std::numeric_limits<double>::quiet_NaN();
    report.iterations = iteration_;
    report.best_iteration = best_or_now();
    report.parameters = learner_->count();
    report.seconds = elapsed();
    report.ms_per_iteration = ms_per_iteration();
    report.median_ms = median_ms();
    report.ranks = learner_->ranks();
    report.device = learner_->device().str();
    return report;
  }

  TrainOptions options_;
  ModelConfig config_;
  std::map<std::string, Tensor> initial_;
  const Timeline& training_;
  const Timeline* validation_;
  CropSampler sampler_;
  std::unique_ptr<Learner> learner_;
  ProcessGroup* group_;
  std::vector<float> mean_, std_;
  OptimizerState state_;
  torch::Tensor mean_t_, std_t_;
  Augmentation augmentation_;
  AdamW optimizer_;
  std::string fingerprint_;
  std::string record_;
  std::string short_record_;  // without the model's configuration
  EventFile events_;

  std::int64_t iteration_ = 0;
  std::int64_t done_here_ = 0;
  int bad_losses_ = 0;
  double best_r2_ = 0;
  std::int64_t best_iteration_ = -1;
  torch::Tensor best_;
  R2 last_score_;
  SteadyClock::time_point started_;
  double before_s_ = 0;
  double iterating_s_ = 0;
  std::vector<double> iteration_s_;
  double smooth_loss_ = 0;
  double rate_ = 0;
  double gradient_norm_ = 0;
  double printed_s_ = -1e9;
};

Result<void> check_sharded(const TrainOptions& o, const RankEnvironment& ranks) {
  const auto bad = [](const char* flag, const std::string& what) {
    return Error{ErrorCode::invalid_argument, fmt::format("--{} {}", flag, what), flag};
  };
  if (o.minutes > 0) return bad("minutes", "is one rank's clock: give several ranks --iterations");
  if (o.batch < ranks.ranks)
    return bad("batch", fmt::format("of {} crops is too small for {} ranks", o.batch, ranks.ranks));
  if (o.learn != "all") return bad("learn", "units is for one process");
  if (o.hiding) return bad("mask-units", "is for one process");
  return {};
}

}  // namespace

Result<TrainReport> train(const TrainOptions& options) {
  if (const auto ok = check_options(options); !ok) return ok.error();
  if (const auto preset = find_preset(options.preset); !preset) return preset.error();
  auto recordings = load_recordings(options.data);
  if (!recordings) return recordings.error();
  return train(options, *recordings);
}

Result<TrainReport> train(const TrainOptions& options, const std::vector<Recording>& all) {
  return guarded([&]() -> Result<TrainReport> {
    if (const auto ok = check_options(options); !ok) return ok.error();
    auto kept = !options.train_trials.empty()
                    ? keep_trials(all, options.data.train_split, options.train_trials, options.seed)
                    : Result<std::vector<Recording>>(all);
    if (!kept) return kept.error();
    const std::vector<Recording>& recordings = *kept;
    auto training =
        cut_timeline(recordings, options.data, options.data.train_split, OtherTrials::blank);
    if (!training) return training.error();
    auto begin = starting_point(options, *training);
    if (!begin) return begin.error();
    const ModelConfig& config = begin->config;
    const auto ranks = rank_environment();
    if (!ranks) return ranks.error();
    const auto device =
        ranks->ranks > 1 ? rank_device(options.device, *ranks) : pick_device(options.device);
    if (!device) return device.error();
    prepare_process(options.threads);
    const TrainOptions resolved = resolve(options, config);

    std::optional<Timeline> validation;
    if (!options.data.val_split.empty()) {
      auto made = cut_timeline(recordings, options.data, options.data.val_split, OtherTrials::keep);
      if (!made) return made.error();
      if (made->scored() == 0)
        return Error{ErrorCode::invalid_argument,
                     fmt::format("no step of a '{}' trial can be scored: name another --split-val, "
                                 "or none",
                                 options.data.val_split),
                     "split-val"};
      validation = *std::move(made);
    }
    const ParameterSet probe(parameter_specs(config), torch::kCPU);
    const std::int64_t warmup = make_network(config, probe, options.data.step_ms)->warmup_steps();
    auto sampler = CropSampler::create(*training, resolved.crop_steps, warmup);
    if (!sampler) return sampler.error();
    const auto dtype = options.float64 ? torch::kFloat64 : torch::kFloat32;
    std::unique_ptr<ProcessGroup> group;
    if (ranks->ranks > 1) {
      if (const auto ok = check_sharded(resolved, *ranks); !ok) return ok.error();
      auto joined = join_group(
          *ranks, *device, std::chrono::milliseconds(std::llround(1000 * options.rank_timeout_s)));
      if (!joined) return joined.error();
      group = *std::move(joined);
    } else if (options.resume && has_parts(resolved.run_dir)) {
      group = lone_group(*device);
    }
    auto learner = group ? make_sharded_learner(config, options.data.step_ms, dtype, *group)
                   : options.hiding
                       ? make_spike_learner(config, *device, dtype)
                       : make_learner(config, options.data.step_ms, *device, dtype, begin->learned);
    Run run(resolved, *std::move(begin), *training, validation ? &*validation : nullptr,
            *std::move(sampler), std::move(learner), group.get());
    auto report = run.go();
    // None leaves while another waits for it.
    if (report && group) group->barrier();
    return report;
  });
}

}  // namespace cortex::train
