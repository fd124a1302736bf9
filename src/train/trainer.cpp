#include "train/trainer.h"

#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>

#include "core/file.h"
#include "core/json_writer.h"
#include "train/checkpoint.h"
#include "train/evaluate.h"
#include "train/runtime.h"
#include "train/setup.h"

namespace cortex::train {
namespace {

namespace fs = std::filesystem;
using Seconds = std::chrono::duration<double>;
using SteadyClock = std::chrono::steady_clock;

constexpr double kProgressEvery = 2.0;  // seconds

Error io_error(const std::string& path, const std::string& what) {
  return {ErrorCode::io_error, path + ": " + what, "run"};
}

class Run {
 public:
  Run(const TrainOptions& options, ModelConfig config, const Timeline& training,
      const Timeline* validation, CropSampler sampler, torch::Device device)
      : options_(options),
        config_(std::move(config)),
        training_(training),
        validation_(validation),
        sampler_(std::move(sampler)),
        mean_(training.target_mean()),
        std_(training.target_std()),
        params_(tensor_specs(config_), device),
        network_(make_network(config_, params_, options.data.step_ms)),
        state_(params_.flat()),
        mean_t_(torch::tensor(mean_).to(device)),
        std_t_(torch::tensor(std_).to(device)) {
    optimizer_.weight_decay = options.weight_decay;
    optimizer_.clip = options.clip;
    optimizer_.ema = options.ema;
    fingerprint_ = fingerprint(options_, config_, training_, device.str());
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
      progress(loss, last);
      if (stop && !last) return report(false);
    }
    return finish();
  }

 private:
  std::string in_run(const char* name) const {
    return (fs::path(options_.run_dir) / name).string();
  }
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
    const bool there = fs::exists(path);
    if (there && !options_.resume)
      return Error{ErrorCode::invalid_argument,
                   fmt::format("{} holds a run already: give --resume to go on with it, or another "
                               "--run",
                               options_.run_dir),
                   "run"};
    if (!there) {
      params_.load(initial_weights(config_, options_.seed));
      state_ = OptimizerState(params_.flat());
      const std::string json = to_json(config_);
      fs::remove(in_run("metrics.jsonl"), ec);
      return write_file_atomic(in_run("config.json"),
                               std::as_bytes(std::span(json.data(), json.size())));
    }
    auto saved = load_checkpoint(path, fingerprint_);
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
      best_ = best->second.to(params_.device());
    iteration_ = state_.steps = saved->iteration;
    before_s_ = saved->elapsed_s;
    best_r2_ = saved->best_r2;
    best_iteration_ = saved->best_iteration;
    return trim_metrics();
  }

  std::map<std::string, torch::Tensor> vectors() {
    return {{"parameters", params_.flat()},
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
    return write_file_atomic(in_run("metrics.jsonl"),
                             std::as_bytes(std::span(kept.data(), kept.size())));
  }

  double iterate() {
    const auto from = SteadyClock::now();
    const auto n = static_cast<std::uint64_t>(iteration_);
    const CropBatch batch =
        pack_crops(training_, sampler_.draw(options_.seed, n, options_.batch), sampler_.length(),
                   sampler_.warmup(), {options_.unit_dropout, options_.thinning}, options_.seed, n);
    const torch::Device device = params_.device();
    params_.grad().zero_();
    const auto dims = static_cast<std::int64_t>(training_.dims);
    const torch::Tensor target =
        torch::tensor(batch.target).view({batch.crops, batch.steps, dims}).to(device);
    std::vector<float> weight(batch.mask.begin(), batch.mask.end());
    const torch::Tensor mask = torch::tensor(weight).view({batch.crops, batch.steps, 1}).to(device);
    const torch::Tensor miss = (network_->forward(batch) - (target - mean_t_) / std_t_) * mask;
    const torch::Tensor loss =
        miss.pow(2).sum() / static_cast<double>(std::max<std::int64_t>(1, batch.scored) * dims);
    loss.backward();
    const double value = loss.item<double>();
    const double rate =
        learning_rate(options_.lr, iteration_, options_.warmup_iterations, fraction());
    optimizer_.step(params_.flat(), params_.grad(), params_.decay_mask(), rate, state_);
    ++iteration_;
    ++done_here_;
    smooth_loss_ = done_here_ == 1 ? value : 0.98 * smooth_loss_ + 0.02 * value;
    iterating_s_ += Seconds(SteadyClock::now() - from).count();
    return value;
  }

  Decoded decode(const torch::Tensor& weights) {
    const torch::NoGradGuard no_grad;
    const torch::Tensor keep = params_.flat().clone();
    params_.flat().copy_(weights);
    Decoded out = decode_timeline(*network_, *validation_, mean_, std_);
    params_.flat().copy_(keep);
    return out;
  }

  Result<void> score(double loss) {
    last_score_ = decode(state_.average).score;
    if (best_iteration_ < 0 || last_score_.mean > best_r2_) {
      best_r2_ = last_score_.mean;
      best_iteration_ = iteration_;
      best_ = state_.average.clone();
      if (const auto ok = export_model(in_run("best.safetensors"), best_); !ok) return ok;
    }
    JsonWriter w;
    w.begin_object().key("iteration").value(iteration_).key("loss").value(loss);
    w.key("r2").value(last_score_.mean).key("best_r2").value(best_r2_);
    w.key("elapsed_s").value(elapsed()).end_object();
    std::ofstream out(in_run("metrics.jsonl"), std::ios::app);
    out << w.text() << "\n";
    if (!out.flush()) return io_error(in_run("metrics.jsonl"), "cannot be written");
    return {};
  }

  Result<void> checkpoint() {
    Checkpoint c;
    c.iteration = iteration_;
    c.elapsed_s = elapsed();
    c.best_r2 = best_r2_;
    c.best_iteration = best_iteration_;
    c.fingerprint = fingerprint_;
    c.vectors = vectors();
    if (best_.defined()) c.vectors.emplace("best", best_);
    return save_checkpoint(in_run("checkpoint.safetensors"), c);
  }

  Result<void> export_model(const std::string& path, const torch::Tensor& weights) {
    JsonWriter w;
    w.begin_object().key("seed").value(options_.seed).key("iterations").value(best_or_now());
    if (best_iteration_ >= 0) w.key("r2").value(best_r2_);
    w.key("split").value(options_.data.val_split).key("protocol").value("continuous");
    w.key("target").value(options_.data.target).key("data_digest").value(training_.digest);
    w.key("training_steps").value(training_.scored());
    w.key("step_ms").value(options_.data.step_ms).end_object();
    ModelConfig config = config_;
    config.training_json = w.text();
    auto tensors = params_.save(weights);
    tensors.emplace("output.mean", from_torch(mean_t_));
    tensors.emplace("output.std", from_torch(std_t_));
    return save_model(path, config, tensors);
  }

  std::int64_t best_or_now() const { return best_iteration_ >= 0 ? best_iteration_ : iteration_; }

  void progress(double loss, bool last) {
    if (options_.quiet) return;
    const double now = elapsed();
    if (!last && now - printed_s_ < kProgressEvery) return;
    printed_s_ = now;
    const double f = std::max(1e-6, fraction());
    const double here = now - before_s_;
    const double left = options_.minutes > 0
                            ? 60 * options_.minutes - now
                            : here / std::max<double>(1, static_cast<double>(done_here_)) *
                                  static_cast<double>(options_.iterations - iteration_);
    fmt::print(
        stderr, "iteration {} ({:.0f} %)  loss {:.4f} ({:.4f})  {}  {:.1f} ms  {:.0f} s left\n",
        iteration_, 100 * std::min(1.0, f), loss, smooth_loss_,
        best_iteration_ < 0 ? std::string("not scored yet")
                            : fmt::format("r2 {:.4f} best {:.4f}", last_score_.mean, best_r2_),
        1000 * iterating_s_ / static_cast<double>(done_here_), std::max(0.0, left));
  }

  Result<TrainReport> finish() {
    const torch::Tensor& weights = best_.defined() ? best_ : state_.average;
    if (const auto ok = export_model(options_.out, weights); !ok) return ok.error();
    TrainReport out = report(true);
    if (validation_) {
      const R2 best = decode(weights).score;
      out.r2 = best.mean;
      out.r2_per_dim = best.per_dim;
      out.scored_steps = best.rows;
    }
    return out;
  }

  TrainReport report(bool complete) const {
    TrainReport report;
    report.complete = complete;
    report.model = options_.out;
    report.run_dir = options_.run_dir;
    report.r2 = std::numeric_limits<double>::quiet_NaN();
    report.iterations = iteration_;
    report.best_iteration = best_or_now();
    report.parameters = params_.count();
    report.seconds = elapsed() - before_s_;
    report.ms_per_iteration =
        done_here_ ? 1000 * iterating_s_ / static_cast<double>(done_here_) : 0;
    report.device = params_.device().str();
    return report;
  }

  TrainOptions options_;
  ModelConfig config_;
  const Timeline& training_;
  const Timeline* validation_;
  CropSampler sampler_;
  std::vector<float> mean_, std_;
  ParameterSet params_;
  std::unique_ptr<Network> network_;
  OptimizerState state_;
  torch::Tensor mean_t_, std_t_;
  AdamW optimizer_;
  std::string fingerprint_;

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
  double smooth_loss_ = 0;
  double printed_s_ = -1e9;
};

}  // namespace

Result<TrainReport> train(const TrainOptions& options) {
  if (const auto ok = check_options(options); !ok) return ok.error();
  if (const auto preset = preset_config(options.preset); !preset) return preset.error();
  auto recordings = load_recordings(options.data);
  if (!recordings) return recordings.error();
  return train(options, *recordings);
}

Result<TrainReport> train(const TrainOptions& options, const std::vector<Recording>& recordings) {
  try {
    if (const auto ok = check_options(options); !ok) return ok.error();
    const StepOptions step = step_options(options.data);
    auto training = make_timeline(recordings, step, options.data.train_split, OtherTrials::blank);
    if (!training) return training.error();
    auto config = make_config(options, *training);
    if (!config) return config.error();
    auto device = pick_device(options.device);
    if (!device) return device.error();
    prepare_process(options.threads);
    const TrainOptions resolved = resolve(options, *config);

    std::optional<Timeline> validation;
    if (!options.data.val_split.empty()) {
      auto made = make_timeline(recordings, step, options.data.val_split, OtherTrials::keep);
      if (!made) return made.error();
      if (made->scored() == 0)
        return Error{ErrorCode::invalid_argument,
                     fmt::format("no step of a '{}' trial can be scored: name another --split-val, "
                                 "or none",
                                 options.data.val_split),
                     "split-val"};
      validation = *std::move(made);
    }
    const ParameterSet probe(tensor_specs(*config), torch::kCPU);
    const std::int64_t warmup = make_network(*config, probe, options.data.step_ms)->warmup_steps();
    auto sampler = CropSampler::create(*training, resolved.crop_steps, warmup);
    if (!sampler) return sampler.error();
    Run run(resolved, *config, *training, validation ? &*validation : nullptr, *std::move(sampler),
            *device);
    return run.go();
  } catch (const Exception& e) {
    return e.error;
  } catch (const c10::Error& e) {
    return Error{ErrorCode::internal, std::string("LibTorch: ") + e.what_without_backtrace(), ""};
  }
}

}  // namespace cortex::train
