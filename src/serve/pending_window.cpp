#include "serve/pending_window.h"

#include <memory>
#include <utility>

namespace cortex {
namespace {

/// A window between submit() and its answer; owns itself until then.
class PendingWindow final : public WindowSink, public Mailbox::Item {
 public:
  PendingWindow(ServeState& state, ModelRef model, std::string_view endpoint,
                const RequestTerms& terms, TracePtr trace, WindowDone done)
      : state_(state),
        model_(std::move(model)),
        endpoint_(endpoint),
        terms_(terms),
        trace_(std::move(trace)),
        done_(std::move(done)) {
    answer_.behavior.reserve(model_->engine->model().outputs.size());
  }

  void on_window(const WindowAnswer& answer) noexcept override {
    answer_.keep(answer);
    state_.mailbox.post(*this);
  }

  void deliver() override {
    const std::unique_ptr<PendingWindow> self(this);
    finish();
  }
  void refused(const Error& error) {
    answer_.error = error;
    finish();
  }
  /// Takes the window back where no batch has it yet, and with it goes this object.
  void withdraw() {
    if (model_->engine != nullptr && model_->engine->cancel(*this) > 0) delete this;
  }

 private:
  void finish() {
    hand_over(state_, *model_, endpoint_, answer_, terms_, trace_);
    done_(answer_, std::move(trace_));
  }

  ServeState& state_;
  const ModelRef model_;
  const std::string_view endpoint_;
  const RequestTerms terms_;
  TracePtr trace_;
  WindowDone done_;
  KeptAnswer answer_;
};

}  // namespace

Withdraw submit_window(ServeState& state, const ModelRef& model, std::string_view endpoint,
                       const WindowRequest& window, TimeNs arrived_ns, TracePtr trace,
                       WindowDone done) {
  const RequestTerms terms{arrived_ns, window.deadline_ns, window.best_effort};
  auto pending = std::make_unique<PendingWindow>(state, model, endpoint, terms, std::move(trace),
                                                 std::move(done));
  if (const auto submitted = model->engine->submit(window, *pending); !submitted) {
    Error error = submitted.error();
    if (error.code == ErrorCode::too_large) error.message += " (--max-events)";
    if (error.code == ErrorCode::resource_exhausted)
      error.message +=
          error.field == "tenant" ? " (--max-tenant-windows)" : " (--max-queued-windows)";
    pending->refused(error);
    return {};
  }
  state.expect_answer();
  // deliver() takes it back, or the client going away.
  return [raw = pending.release()] { raw->withdraw(); };
}

}  // namespace cortex
