#include <cortex/engine.h>

#include <optional>

#include "core/semaphore.h"

namespace cortex {
namespace {

/// Waits for one answer of up to `outputs` values. The compute thread neither allocates (but for
/// an error's text) nor waits in it.
class Waiter final : public StepSink, public WindowSink {
 public:
  explicit Waiter(std::size_t outputs) { answer_.behavior.reserve(outputs); }

  void on_step(const StepAnswer& a) noexcept override {
    answer_.status = a.status;
    settle(a);
  }
  void on_window(const WindowAnswer& a) noexcept override { settle(a); }
  Result<OwnedAnswer> wait() {
    settled_.wait();
    if (error_) return *std::move(error_);
    return std::move(answer_);
  }

 private:
  template <class Answer>
  void settle(const Answer& a) {
    if (a.error) error_ = *a.error;
    answer_.behavior.assign(a.behavior.begin(), a.behavior.end());
    answer_.submitted_ns = a.submitted_ns;
    answer_.started_ns = a.started_ns;
    answer_.finished_ns = a.finished_ns;
    answer_.batch = a.batch;
    settled_.post();
  }
  Semaphore settled_;
  OwnedAnswer answer_;
  std::optional<Error> error_;
};

}  // namespace

Result<OwnedAnswer> Engine::step(const StepRequest& request) {
  Waiter waiter(model().outputs.size());
  if (auto ok = submit(request, waiter); !ok) return ok.error();
  return waiter.wait();
}

Result<OwnedAnswer> Engine::decode(const WindowRequest& request) {
  Waiter waiter(model().outputs.size());
  if (auto ok = submit(request, waiter); !ok) return ok.error();
  return waiter.wait();
}

}  // namespace cortex
