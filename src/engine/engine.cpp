#include <cortex/engine.h>

#include <condition_variable>
#include <mutex>
#include <optional>

namespace cortex {
namespace {

/// Waits for one answer.
class Waiter final : public StepSink, public WindowSink {
 public:
  void on_step(const StepAnswer& a) noexcept override {
    settle(a.error, {{a.behavior.begin(), a.behavior.end()},
                     a.status,
                     a.submitted_ns,
                     a.started_ns,
                     a.finished_ns});
  }
  void on_window(const WindowAnswer& a) noexcept override {
    settle(a.error, {{a.behavior.begin(), a.behavior.end()},
                     StepStatus::fresh,
                     a.submitted_ns,
                     a.started_ns,
                     a.finished_ns});
  }
  Result<OwnedAnswer> wait() {
    std::unique_lock lock(mutex_);
    settled_.wait(lock, [&] { return result_.has_value(); });
    return *std::move(result_);
  }

 private:
  void settle(const Error* error, OwnedAnswer answer) {
    const std::lock_guard lock(mutex_);
    if (error) {
      result_.emplace(*error);
    } else {
      result_.emplace(std::move(answer));
    }
    settled_.notify_one();
  }
  std::mutex mutex_;
  std::condition_variable settled_;
  std::optional<Result<OwnedAnswer>> result_;
};

}  // namespace

Result<OwnedAnswer> Engine::step(const StepRequest& request) {
  Waiter waiter;
  if (auto ok = submit(request, waiter); !ok) return ok.error();
  return waiter.wait();
}

Result<OwnedAnswer> Engine::decode(const WindowRequest& request) {
  Waiter waiter;
  if (auto ok = submit(request, waiter); !ok) return ok.error();
  return waiter.wait();
}

}  // namespace cortex
