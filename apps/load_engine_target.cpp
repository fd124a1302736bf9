#include <mutex>
#include <utility>

#include "load_echo.h"
#include "load_engine_port.h"
#include "load_target.h"

namespace cortex {
namespace {

class EngineTarget final : public LoadTarget {
 public:
  explicit EngineTarget(const LoadOptions& options) : options_(options) {
    EngineOptions engine;
    engine.model_path = options.model;
    engine.device = options.device;
    engine.max_batch = options.max_batch;
    engine.batches_in_flight = options.batches_in_flight;
    engine.on_batch_answered = [this] {
      const std::lock_guard lock(mails_mutex_);
      for (const auto& [poller, mail] : mails_) mail->mailbox().wake();
    };
    // One more for what asks beside the load.
    engine.max_sessions = options.sessions + 1;
    slots_ = engine.max_queued_steps;
    engine_ = Engine::create(engine).value_or_throw();
    const ModelInfo& m = engine_->model();
    facts_ = {.name = m.preset,
              .kind = m.kind,
              .digest = m.digest,
              .step_ms = m.step_ms,
              .bins_per_step = std::max(1, m.bins_per_step),
              .units = m.kind == "stream" ? static_cast<int>(m.unit_ids.size()) : m.max_neurons,
              .bins = m.max_bins,
              .max_events = m.max_events,
              .outputs = static_cast<int>(m.outputs.size())};
  }

  Opened open(LoadPoller& poller, LoadEvents&, int ports) override {
    return open_on(*engine_, poller, ports);
  }

  Opened open_echo(LoadPoller& poller, LoadEvents&, int ports) override {
    echo_ = std::make_unique<EchoEngine>(engine_->model());
    return open_on(*echo_, poller, ports);
  }

 private:
  Opened open_on(Engine& engine, LoadPoller& poller, int ports) {
    EngineMail& mail = mail_of(poller);
    Opened opened;
    for (int i = 0; i < ports; ++i) {
      SessionId session = 0;
      if (!options_.windows) {
        SessionOptions open;
        const bool is_paced = options_.arrivals != Arrivals::closed;
        open.best_effort = options_.best_effort || !is_paced;
        if (is_paced) open.step_rate_hz = options_.rate_hz;
        const auto info = engine.open_session(open);
        if (!info) {
          ++opened.refused[to_string(info.error().code)];
          if (opened.refused_because.empty()) opened.refused_because = info.error().message;
          continue;
        }
        session = info->id;
      }
      opened.ports.push_back(std::make_unique<EnginePort>(engine, mail, session, slots_, options_));
    }
    return opened;
  }

  EngineMail& mail_of(LoadPoller& poller) {
    const std::lock_guard lock(mails_mutex_);
    for (const auto& [to, mail] : mails_)
      if (to == &poller) return *mail;
    mails_.emplace_back(&poller, std::make_unique<EngineMail>(poller));
    return *mails_.back().second;
  }

  LoadOptions options_;
  int slots_ = 1;
  std::mutex mails_mutex_;
  // Outlive the engines, whose answers go there.
  std::vector<std::pair<const LoadPoller*, std::unique_ptr<EngineMail>>> mails_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<EchoEngine> echo_;
};

}  // namespace

std::unique_ptr<LoadTarget> make_engine_target(const LoadOptions& options) {
  return std::make_unique<EngineTarget>(options);
}

}  // namespace cortex
