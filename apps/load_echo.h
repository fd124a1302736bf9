#pragma once

#include <cortex/engine.h>

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "client/address.h"

/// The baselines of a load: whoever asks for nothing but the bytes gets them back.
namespace cortex {

/// Listens on loopback or on a Unix socket, on a thread of its own. Whenever `request_bytes` more
/// bytes have come on a connection, it sends `reply` there.
class EchoServer {
 public:
  /// `path`: of a Unix socket, which must not exist; empty: a free port of 127.0.0.1.
  static Result<std::unique_ptr<EchoServer>> start(const std::string& path,
                                                   std::size_t request_bytes, std::string reply);
  ~EchoServer();
  const Address& address() const { return address_; }

 private:
  EchoServer(int listener, int stop, Address address, std::size_t request_bytes, std::string reply);
  void run();

  int listener_;
  int stop_;  // an eventfd
  Address address_;
  std::size_t request_bytes_;
  std::string reply_;
  std::thread thread_;
};

/// An engine that hands every request over to a thread and back, and does nothing on it.
class EchoEngine final : public Engine {
 public:
  explicit EchoEngine(ModelInfo model);
  ~EchoEngine() override;

  const ModelInfo& model() const override { return model_; }
  Result<SessionInfo> open_session(const SessionOptions& options) override;
  Result<SessionSummary> close_session(SessionId) override { return SessionSummary{}; }
  Result<void> submit(const StepRequest& request, StepSink& sink) override;
  Result<void> submit(const WindowRequest& request, WindowSink& sink) override;
  int expire_idle_sessions() override { return 0; }
  EngineStats stats() const override { return {}; }

 private:
  struct Job {
    std::int64_t sequence = 0;
    std::vector<Event> events;
    StepSink* step = nullptr;
    WindowSink* window = nullptr;
  };
  void hand_over(Job job);
  void run();

  ModelInfo model_;
  std::vector<float> behavior_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> jobs_;
  bool stopping_ = false;
  SessionId last_session_ = 0;
  std::thread thread_;
};

}  // namespace cortex
