#include "record/recording_engine.h"

#include <atomic>
#include <cstdint>
#include <utility>
#include <vector>

namespace cortex::record {
namespace {

class RecordingEngine final : public Engine {
 public:
  RecordingEngine(std::unique_ptr<Engine> engine, std::unique_ptr<Recorder> recorder,
                  int steps_at_once)
      : recorder_(std::move(recorder)),
        slots_(static_cast<std::size_t>(steps_at_once)),
        engine_(std::move(engine)) {
    for (std::uint32_t i = 0; i < slots_.size(); ++i) {
      slots_[i].owner = this;
      slots_[i].next = i + 1 < slots_.size() ? i + 1 : kNone;
    }
    if (!slots_.empty()) free_ = Head{0, 0};
  }

  const ModelInfo& model() const override { return engine_->model(); }
  Result<SessionInfo> open_session(const SessionOptions& options) override {
    auto opened = engine_->open_session(options);
    if (opened) recorder_->opened(*opened, options);
    return opened;
  }
  Result<SessionSummary> close_session(SessionId id) override {
    auto closed = engine_->close_session(id);
    if (closed) recorder_->closed(id, *closed);
    return closed;
  }

  Result<void> submit(const StepRequest& request, StepSink& sink) override {
    Slot* const slot = take();
    if (slot == nullptr) {
      recorder_->lose(2);
      return engine_->submit(request, sink);
    }
    slot->sink = &sink;
    auto taken = engine_->submit(request, *slot);
    if (taken)
      recorder_->step(request);
    else
      give_back(*slot);
    return taken;
  }

  Result<void> submit(const WindowRequest& request, WindowSink& sink) override {
    return engine_->submit(request, sink);
  }
  int cancel(const WindowSink& sink) override { return engine_->cancel(sink); }
  int expire_idle_sessions() override { return engine_->expire_idle_sessions(); }
  EngineStats stats() const override { return engine_->stats(); }
  EngineState state() const override { return engine_->state(); }
  std::span<const RealtimeGrant> realtime() const override { return engine_->realtime(); }

 private:
  static constexpr std::uint32_t kNone = UINT32_MAX;

  /// Stands between the engine and a step's own sink.
  struct Slot final : StepSink {
    void on_step(const StepAnswer& answer) noexcept override {
      owner->recorder_->answer(answer);
      StepSink* const to = sink;
      // Free before the answer leaves, so that its receiver may queue the next step.
      owner->give_back(*this);
      to->on_step(answer);
    }
    RecordingEngine* owner = nullptr;
    StepSink* sink = nullptr;
    std::atomic<std::uint32_t> next = kNone;
  };

  /// The top of the stack of free slots, and how often it changed: without that, one that was taken
  /// and given back in between would be taken for unchanged. Aligned as one word, so that it is
  /// changed as one.
  struct alignas(2 * sizeof(std::uint32_t)) Head {
    std::uint32_t slot;
    std::uint32_t changes;
  };

  Slot* take() noexcept {
    Head head = free_.load(std::memory_order_acquire);
    while (head.slot != kNone) {
      const Head below{slots_[head.slot].next.load(std::memory_order_relaxed), head.changes + 1};
      if (free_.compare_exchange_weak(head, below, std::memory_order_acq_rel,
                                      std::memory_order_acquire))
        return &slots_[head.slot];
    }
    return nullptr;
  }

  void give_back(Slot& slot) noexcept {
    const auto index = static_cast<std::uint32_t>(&slot - slots_.data());
    Head head = free_.load(std::memory_order_relaxed);
    Head top;
    do {
      slot.next.store(head.slot, std::memory_order_relaxed);
      top = {index, head.changes + 1};
    } while (!free_.compare_exchange_weak(head, top, std::memory_order_acq_rel,
                                          std::memory_order_relaxed));
  }

  // In this order: an engine that ends answers what it holds, a recorder writes what it was told.
  std::unique_ptr<Recorder> recorder_;
  std::vector<Slot> slots_;
  std::atomic<Head> free_{Head{kNone, 0}};
  static_assert(std::atomic<Head>::is_always_lock_free);
  std::unique_ptr<Engine> engine_;
};

}  // namespace

std::unique_ptr<Engine> record_sessions(std::unique_ptr<Engine> engine,
                                        std::unique_ptr<Recorder> recorder, int steps_at_once) {
  return std::make_unique<RecordingEngine>(std::move(engine), std::move(recorder), steps_at_once);
}

}  // namespace cortex::record
