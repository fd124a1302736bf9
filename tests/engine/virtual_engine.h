#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <semaphore>
#include <thread>
#include <utility>
#include <vector>

#include "core/clock.h"
#include "engine/local_engine.h"
#include "engine_fixture.h"
#include "support/faulty_ops.h"

namespace cortex::testing {

/// An engine whose time stands still unless a test moves it, and whose forwards do what a test
/// wants. Wherever no test moves the clock, a forward takes no time.
class VirtualEngine {
 public:
  /// `measured`: what the scheduler starts from as the time of any batch, so that it forms large
  /// ones; 0: what a forward takes.
  explicit VirtualEngine(const ModelFile& file, EngineOptions options = {},
                         std::chrono::milliseconds measured = {}) {
    options.model_path = "in memory";
    options.device = "cpu";
    auto inner = std::make_unique<FaultyOps>(make_reference_ops());
    ops_ = inner.get();
    if (measured.count() > 0) ops_->on_forward = [=] { std::this_thread::sleep_for(measured); };
    Backend backend;
    backend.name = "reference";
    backend.ops = std::move(inner);
    engine_ = std::make_unique<LocalEngine>(options, file, std::move(backend), clock_);
    ops_->on_forward = [this] { forward(); };
    ops_->on_output = [this](float* y) {
      if (const auto act = std::exchange(next_output_, {})) act(y);
    };
  }
  ~VirtualEngine() {
    release();
    engine_.reset();
  }

  LocalEngine& operator*() { return *engine_; }
  LocalEngine* operator->() { return engine_.get(); }
  VirtualClock& clock() { return clock_; }
  std::int64_t in_ms(double ms) const { return clock_.now() + static_cast<std::int64_t>(ms * 1e6); }

  // Called while no forward runs, or while one is held.

  /// The next forward waits for release(). Returns once a request is in it.
  template <class Submit>
  void hold_in_forward(Submit submit) {
    hold_ = true;
    submit();
    held_.acquire();
  }
  /// Lets the held forward go on.
  void release() {
    if (!waits_.exchange(false)) return;
    go_.release();
  }
  /// What the next forward does as it begins, e.g. throw or move the clock.
  void in_next_forward(std::function<void()> act) { next_forward_ = std::move(act); }
  /// What is done to the next forward's outputs, in the model's own scale.
  void to_next_output(std::function<void(float*)> act) { next_output_ = std::move(act); }

 private:
  void forward() {
    if (hold_.exchange(false)) {
      waits_ = true;
      held_.release();
      go_.acquire();
    }
    if (const auto act = std::exchange(next_forward_, {})) act();
  }

  VirtualClock clock_;
  FaultyOps* ops_ = nullptr;
  std::atomic<bool> hold_{false};
  std::atomic<bool> waits_{false};
  std::binary_semaphore held_{0};
  std::binary_semaphore go_{0};
  std::function<void()> next_forward_;
  std::function<void(float*)> next_output_;
  std::unique_ptr<LocalEngine> engine_;
};

/// Keeps every answer in the order in which it came.
class KeepingSink final : public StepSink, public WindowSink {
 public:
  struct Kept {
    StepAnswer step;
    WindowAnswer window;
    std::vector<float> behavior;
    std::optional<Error> error;
  };
  void on_step(const StepAnswer& a) noexcept override {
    keep({.step = a, .window = {}, .behavior = {}, .error = {}}, a.behavior, a.error);
  }
  void on_window(const WindowAnswer& a) noexcept override {
    keep({.step = {}, .window = a, .behavior = {}, .error = {}}, a.behavior, a.error);
  }
  /// Waits for `n` answers and gives them.
  const std::vector<Kept>& wait(std::size_t n) {
    while (count_.load() < n) std::this_thread::yield();
    return kept_;
  }
  std::size_t count() const { return count_.load(); }

 private:
  void keep(Kept kept, std::span<const float> behavior, const Error* error) {
    kept.behavior.assign(behavior.begin(), behavior.end());
    if (error != nullptr) kept.error = *error;
    kept_.push_back(std::move(kept));
    count_.fetch_add(1);
  }
  std::vector<Kept> kept_;
  std::atomic<std::size_t> count_{0};
};

/// D 32, one layer, 20 neurons, 64 bins.
inline ModelFile tiny_window_model() {
  ModelConfig c = preset_config("cortex-xs").value_or_throw();
  c.dim = 32;
  c.layers = 1;
  c.heads = 2;
  c.head_dim = 16;
  c.latents = 8;
  c.max_neurons = 20;
  c.max_bins = 64;
  return random_model(c, 1);
}

}  // namespace cortex::testing
