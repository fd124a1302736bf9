#pragma once

#include <cortex/result.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>

#include "telemetry/spans.h"

namespace cortex {

/// Where traces go: "http://HOST:PORT" or with a path; without one it is OTLP's /v1/traces.
struct OtlpEndpoint {
  std::string host;
  std::string port;
  std::string path;
};
Result<OtlpEndpoint> parse_otlp_url(const std::string& url);

/// Takes records from a queue on a thread of its own and posts them to a collector, which may be
/// slow, refuse or be absent: what cannot be handed over is dropped and counted.
class OtlpExporter {
 public:
  OtlpExporter(OtlpEndpoint endpoint, TraceQueue& queue);
  /// Posts what is left, for as long as one post may take.
  ~OtlpExporter();
  OtlpExporter(const OtlpExporter&) = delete;
  OtlpExporter& operator=(const OtlpExporter&) = delete;

  std::int64_t exported() const { return exported_.load(std::memory_order_relaxed); }
  std::int64_t lost() const { return lost_.load(std::memory_order_relaxed); }

 private:
  void run();
  void export_all();
  bool post(const std::string& body) const;

  const OtlpEndpoint endpoint_;
  TraceQueue& queue_;
  std::mt19937_64 random_{std::random_device{}()};
  std::atomic<std::int64_t> exported_{0};
  std::atomic<std::int64_t> lost_{0};
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace cortex
