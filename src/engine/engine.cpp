#include <cortex/engine.h>

#include <semaphore.h>

#include <cerrno>
#include <optional>

namespace cortex {
namespace {

/// Waits for one answer of up to `outputs` values. The compute thread neither allocates (but for
/// an error's text) nor waits in it.
class Waiter final : public StepSink, public WindowSink {
 public:
  explicit Waiter(std::size_t outputs) {
    ::sem_init(&settled_, 0, 0);
    answer_.behavior.reserve(outputs);
  }
  ~Waiter() override { ::sem_destroy(&settled_); }
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;

  void on_step(const StepAnswer& a) noexcept override {
    answer_.status = a.status;
    settle(a);
  }
  void on_window(const WindowAnswer& a) noexcept override { settle(a); }
  Result<OwnedAnswer> wait() {
    while (::sem_wait(&settled_) != 0 && errno == EINTR) {
    }
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
    ::sem_post(&settled_);
  }
  sem_t settled_;
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
