#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <random>
#include <vector>

#include "cache/page_pool.h"
#include "cache/stream_state.h"
#include "commands.h"
#include "core/clock.h"
#include "engine/session.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/profiling_ops.h"
#include "model/stream_model.h"
#include "model/window_model.h"
#include "model_source.h"
#include "profile_report.h"
#include "replay_report.h"

namespace cortex {
namespace {

constexpr int kWarmForwards = 3;
// Events a step of 20 ms of a busy array, and the window that latencies are usually quoted for.
constexpr int kStreamEvents = 32;
constexpr int kWindowEvents = 512;

struct ProfileFlags {
  ModelSource source;
  int batch = 1;
  int events = 0;
  int steps = 100;
  int threads = 1;
  Ceilings ceilings;
  bool json = false;
};

/// Runs a model's forward again and again on random events.
class Load {
 public:
  virtual ~Load() = default;
  /// Prepares the next forward, untimed.
  virtual void prepare() = 0;
  virtual void forward() = 0;
  virtual int warm_forwards() const = 0;
};

class StreamLoad final : public Load {
 public:
  StreamLoad(const ModelFile& file, Ops& ops, int batch, int events)
      : config_(file.config), events_(events) {
    const DType cached = ops.cache_dtype(file.precision());
    const PageLayout layout = {config_.layers,
                               config_.latents,
                               config_.dim,
                               config_.window_steps,
                               page_steps_for(config_.latents),
                               static_cast<int>(size_of(cached))};
    PagePool pages(batch * layout.pages_per_session());
    pool_ = ops.allocate(static_cast<std::size_t>(layout.page_bytes()) *
                         static_cast<std::size_t>(pages.total()));
    ops.clear(pool_);
    model_ = std::make_unique<StreamModel>(
        file, ops, batch,
        StreamPages{pool_.as<std::byte>(), layout.page_bytes(), layout.page_steps, cached});
    for (int b = 0; b < batch; ++b) {
      sessions_.push_back(std::make_unique<Session>(0, config_, SessionOptions{}, 2, events));
      sessions_.back()->pages = pages.acquire(layout.pages_per_session()).value_or_throw();
    }
  }
  void prepare() override {
    const int bins = config_.bins_per_step();
    model_->batch().clear();
    for (const auto& session : sessions_) {
      const std::int64_t step = session->state.next_step();
      const auto events = random_events(random_, config_, events_, step * bins, bins);
      const auto room = session->store.room(events.size());
      std::copy(events.begin(), events.end(), room.begin());
      session->state.push(room.first(canonicalize(room)));
      session->store.hold(step, room.size());
      session->store.release_before(step + 1 - config_.receptive_steps);
      session->append_to(model_->batch(), bins);
    }
  }
  void forward() override { (void)model_->forward(); }
  /// Until every step of the window is live: later forwards all cost the same.
  int warm_forwards() const override { return config_.window_steps + kWarmForwards; }

 private:
  const ModelConfig config_;
  const int events_;
  Buffer pool_;
  std::unique_ptr<StreamModel> model_;
  std::vector<std::unique_ptr<Session>> sessions_;
  std::mt19937_64 random_{1};
};

class WindowLoad final : public Load {
 public:
  WindowLoad(const ModelFile& file, Ops& ops, int batch, int events)
      : config_(file.config),
        batch_size_(batch),
        events_(events),
        model_(file, ops, batch, static_cast<std::int64_t>(batch) * events) {}
  void prepare() override {
    const int bins = config_.nominal_bins();
    WindowBatch& batch = model_.begin_batch(batch_size_, std::int64_t{batch_size_} * events_);
    for (int b = 0; b < batch_size_; ++b)
      batch.add_window(random_events(random_, config_, events_, 0, bins), bins);
  }
  void forward() override { (void)model_.forward(); }
  int warm_forwards() const override { return kWarmForwards; }

 private:
  const ModelConfig config_;
  const int batch_size_;
  const int events_;
  WindowModel model_;
  std::mt19937_64 random_{1};
};

void run_profile(const ProfileFlags& flags) {
  const ModelFile file = load(flags.source);
  const bool stream = file.config.kind == ModelKind::stream;
  const int events = flags.events > 0 ? flags.events : stream ? kStreamEvents : kWindowEvents;
  if (stream && events > file.config.max_events_per_step)
    throw CLI::ValidationError("--events", "more than a step of this model may hold (" +
                                               std::to_string(file.config.max_events_per_step) +
                                               ")");
  const auto backend = make_cpu_ops({.threads = flags.threads});
  ProfilingOps ops(*backend);
  std::unique_ptr<Load> work;
  if (stream)
    work = std::make_unique<StreamLoad>(file, ops, flags.batch, events);
  else
    work = std::make_unique<WindowLoad>(file, ops, flags.batch, events);
  for (int i = 0; i < work->warm_forwards(); ++i) {
    work->prepare();
    work->forward();
  }
  const RealClock& clock = RealClock::instance();
  std::vector<std::int64_t> took(static_cast<std::size_t>(flags.steps));
  ops.record(true);
  for (std::int64_t& ns : took) {
    work->prepare();
    const TimeNs began = clock.now();
    work->forward();
    ns = clock.now() - began;
  }
  const LatencySummary whole = summarize_latency(took, flags.steps);
  const ProfileContext context{.model = describe(flags.source, file),
                               .backend = ops.name(),
                               .precision = precision_name(file.precision()),
                               .batch = flags.batch,
                               .events = events,
                               .parameters = file.parameter_count(),
                               .p50_us = whole.p50_us,
                               .p99_us = whole.p99_us,
                               .ceilings = flags.ceilings};
  if (flags.json)
    std::puts(profile_json(ops, context).c_str());
  else
    std::fputs(profile_text(ops, context).c_str(), stdout);
}

}  // namespace

void add_profile(CLI::App& app) {
  auto flags = std::make_shared<ProfileFlags>();
  CLI::App* command =
      app.add_subcommand("profile", "Time of a forward by section and operation, and its floors");
  add_model_flags(*command, flags->source);
  command->add_option("--batch", flags->batch, "Sessions or windows in a forward")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command
      ->add_option("--events", flags->events,
                   "Events a step (default 32) or window (default 512), at random")
      ->check(CLI::Range(1, 1'000'000));
  command->add_option("--threads", flags->threads, "Cores that share a forward")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  command->add_option("--steps", flags->steps, "Forwards to record, after a warm-up")
      ->check(CLI::Range(1, 100'000'000))
      ->capture_default_str();
  command
      ->add_option("--peak-gflops", flags->ceilings.gflops,
                   "Arithmetic ceiling at this precision, to print shares of the floor")
      ->check(CLI::PositiveNumber);
  command
      ->add_option("--peak-gbs", flags->ceilings.gbs,
                   "Bandwidth ceiling of where the weights live, likewise")
      ->check(CLI::PositiveNumber);
  command->add_flag("--json", flags->json, "Print one JSON object");
  command->footer(
      "An operation's floor is the larger of its arithmetic and its bytes at the ceilings given.\n"
      "Example:\n"
      "  cortex profile --preset stream-s --batch 4 --peak-gflops 233 --peak-gbs 94");
  command->callback([flags] { run_profile(*flags); });
}

}  // namespace cortex
