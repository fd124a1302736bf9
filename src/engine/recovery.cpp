#include <fmt/format.h>

#include <chrono>

#include "core/log.h"
#include "engine/local_engine.h"

/// The device failed: what lay in its memory is lost. On the compute thread, which has nothing else
/// to do until there is a device again.
namespace cortex {
namespace {

constexpr auto kBetweenTries = std::chrono::milliseconds(200);
// After a fault of a kernel CUDA gives a process its device back on no condition (driver 580: reset
// succeeds, everything after it fails); other faults pass.
constexpr int kTries = 10;

}  // namespace

void LocalEngine::recover(const std::string& why) {
  state_ = EngineState::recovering;
  log::error(fmt::format("{} failed and is being set up again: {}", device_, why));
  lose_streams({ErrorCode::unavailable,
                fmt::format("the session is lost: {} failed: {}", device_, why), "session_id"});
  std::string last;
  for (int i = 0;; ++i) {
    const bool on_cpu = i >= kTries;
    const std::string fault = set_up_again(on_cpu ? "cpu" : device_);
    if (fault.empty()) {
      fell_back_ = on_cpu;
      break;
    }
    if (fault != last) log::error(fmt::format("{} cannot be set up again yet: {}", device_, fault));
    last = fault;
    {
      const std::lock_guard lock(queue_mutex_);
      if (stopping_) state_ = EngineState::failed;
    }
    if (state_ == EngineState::failed) return;
    std::this_thread::sleep_for(kBetweenTries);
  }
  count_.recoveries.add();
  state_ = EngineState::ready;
  if (fell_back_)
    log::error(
        fmt::format("{} did not come back: computing goes on on the CPU until this process is "
                    "started again",
                    device_));
  else
    log::info(fmt::format("{} is set up again", device_));
}

void LocalEngine::lose_streams(const Error& error) {
  if (!streams()) return;
  std::vector<std::shared_ptr<Session>> sessions;
  {
    const std::lock_guard lock(registry_mutex_);
    sessions_->for_each([&](const std::shared_ptr<Session>& s) { sessions.push_back(s); });
  }
  std::vector<Work> begun;  // stateless requests that ran as streams
  {
    const std::lock_guard lock(queue_mutex_);
    {
      const std::lock_guard calls(calls_mutex_);
      for (const auto& session : sessions) session->lost = true;
    }
    take_offers();
    scheduler_->drain_steps([&](const Work& work) {
      if (session_of(work.key)->internal) begun.push_back(work);
    });
  }
  for (const auto& session : sessions)
    while (fail_front(*session, error)) {
    }
  for (const Work& work : begun) {
    Session& session = *session_of(work.key);
    while (fail_front(session, error)) {
    }
    const std::lock_guard lock(queue_mutex_);
    end_decode(session, work.tenant);
  }
}

std::string LocalEngine::set_up_again(const std::string& device) {
  stream_.reset();
  window_.reset();
  pool_memory_ = Buffer();
  std::unique_ptr<Ops> gone;
  {
    const std::lock_guard lock(queue_mutex_);
    gone = std::move(ops_);
  }
  gone.reset();
  try {
    // A CPU computes as it is told to: an answer would only wait for the batch behind it.
    if (device == "cpu") lanes_ = 1;
    auto backend = make_backend(device, cpu_options(*kept_, options_),
                                {.fp8 = options_.fp8 && device == device_});
    if (!backend) return backend.error().message;
    const std::lock_guard lock(queue_mutex_);
    ops_ = std::move(backend->ops);
  } catch (const std::exception& fault) {
    return fault.what();
  }
  try {
    place_model(*kept_);
    warm_up();
  } catch (const std::exception& fault) {
    return fault.what();
  }
  return {};
}

void LocalEngine::fail_everything(const Error& error) {
  lose_streams(error);
  std::vector<Refused> waiting;
  {
    const std::lock_guard lock(queue_mutex_);
    (void)scheduler_->erase_windows([&](const Work& work) {
      const WindowJob& job = window_jobs_[work.key];
      waiting.push_back({job.sink, job.submitted_ns});
      end_window(work.key, work.tenant);
      return true;
    });
  }
  for (const Refused& r : waiting) fail_window(*r.sink, r.submitted_ns, error);
}

}  // namespace cortex
