#pragma once

#include <string_view>

/// Every metric that `/metrics` exports, by name. Durations are in seconds.
namespace cortex::catalog {

struct Metric {
  std::string_view name;
  std::string_view help;
};

inline constexpr Metric kRequests{"cortex_requests_total",
                                  "Answers given, by endpoint and HTTP status; a WebSocket frame "
                                  "counts as one request."};
inline constexpr Metric kErrors{"cortex_errors_total",
                                "Requests refused or failed, by error code."};
inline constexpr Metric kRequestLatency{
    "cortex_request_latency_seconds",
    "From the last byte of a decode request or frame to its answer's hand-over to the socket."};
inline constexpr Metric kQueueWait{"cortex_queue_wait_seconds",
                                   "From submission to the start of computing."};
inline constexpr Metric kInferenceLatency{"cortex_inference_latency_seconds",
                                          "From the start of computing to the answer."};
inline constexpr Metric kBatchSize{"cortex_batch_size",
                                   "Mean steps and windows in a batch since the start."};
inline constexpr Metric kBatches{"cortex_batches_total", "Batches computed."};
inline constexpr Metric kSteps{"cortex_steps_total", "Stream steps computed."};
inline constexpr Metric kWindows{"cortex_windows_total", "Windows computed."};
inline constexpr Metric kLate{"cortex_late_total", "Answers handed over after their deadline."};
inline constexpr Metric kRefused{"cortex_refused_total",
                                 "Answers withheld because their deadline had passed."};
inline constexpr Metric kQueueDepth{"cortex_queue_depth", "Steps and windows waiting."};
inline constexpr Metric kSessions{"cortex_sessions", "Open sessions."};
inline constexpr Metric kPagesUsed{"cortex_kv_cache_pages_used", "Cache pages held by sessions."};
inline constexpr Metric kPagesTotal{"cortex_kv_cache_pages", "Cache pages there are."};
inline constexpr Metric kCacheBytes{"cortex_kv_cache_bytes",
                                    "Bytes of the page pool, all of it reserved at start."};
inline constexpr Metric kConnections{"cortex_connections", "Open connections."};
inline constexpr Metric kConnectionsRefused{"cortex_connections_refused_total",
                                            "Connections turned away over the limit."};
inline constexpr Metric kReady{"cortex_ready", "1 while requests are taken."};
inline constexpr Metric kUptime{"cortex_uptime_seconds", "Since the server was created."};
inline constexpr Metric kRealtime{
    "cortex_realtime_granted",
    "1 where the system granted what real-time mode asked for, 0 where it refused; absent without "
    "--realtime."};
inline constexpr Metric kModelInfo{"cortex_model_info", "1; its labels say which model is served."};

}  // namespace cortex::catalog
