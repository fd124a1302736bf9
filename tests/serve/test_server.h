#pragma once

#include <cortex/client.h>
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "serve/fake_engine.h"
#include "serve/raw_client.h"
#include "serve/server.h"
#include "support/text.h"

namespace cortex::testing {

/// A server on a port of its own with a thread of its own, drained at the end of the scope.
class TestServer {
 public:
  explicit TestServer(const FakeOptions& fake = {}, ServerOptions options = {}, bool attach = true)
      : engine_(fake) {
    options.port = 0;
    options.handle_signals = false;
    server_ = Server::create(options).value_or_throw();
    if (attach) server_->attach(engine_);
    thread_ = std::thread([this] { server_->run(); });
  }
  ~TestServer() { stop(); }

  void stop() {
    if (!thread_.joinable()) return;
    server_->stop();
    thread_.join();
  }
  /// Drains while the test goes on; join with stop().
  void begin_stop() { server_->stop(); }

  FakeEngine& engine() { return engine_; }
  Server& server() { return *server_; }
  int port() const { return server_->port(); }
  std::string url() const { return server_->url(); }

  HttpAnswer get(const std::string& path) { return http_get(url(), path).value_or_throw(); }
  HttpAnswer decode(const std::string& body) {
    return http_post(url(), "/decode", body).value_or_throw();
  }

 private:
  std::unique_ptr<Server> server_;  // after the engine is gone, so declared before it
  FakeEngine engine_;
  std::thread thread_;
};

/// Waits for something that another thread brings about; false only after a hang.
inline bool eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < kPatienceMs / 5; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return condition();
}

inline std::string step_frame(std::int64_t sequence, const std::string& events = "") {
  return R"({"sequence_number":)" + std::to_string(sequence) + R"(,"events":[)" + events + "]}";
}

inline std::string event(int unit, std::int64_t bin, int value) {
  return R"({"neuron_id":)" + std::to_string(unit) + R"(,"time_bin":)" + std::to_string(bin) +
         R"(,"value":)" + std::to_string(value) + "}";
}

inline std::string decode_body(const std::string& events, const std::string& more = "") {
  return R"({"request_id":"r1","session_id":"s1","events":[)" + events + "]" + more + "}";
}

}  // namespace cortex::testing
