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
inline constexpr Metric kBatchSize{"cortex_batch_size", "Steps and windows in a batch."};
inline constexpr Metric kBatches{"cortex_batches_total", "Batches computed."};
inline constexpr Metric kSteps{"cortex_steps_total", "Stream steps computed."};
inline constexpr Metric kWindows{"cortex_windows_total", "Windows computed."};
inline constexpr Metric kLate{"cortex_late_total", "Answers handed over after their deadline."};
inline constexpr Metric kRefused{
    "cortex_refused_total",
    "Requests refused or withheld for their deadline: predicted (a window that would miss, refused "
    "at the door), shed (taken, given up before it was computed), withheld (computed, too late)."};
inline constexpr Metric kCancelled{"cortex_cancelled_total",
                                   "Windows whose client went away while they waited."};
inline constexpr Metric kNotFinite{"cortex_not_finite_total",
                                   "Answers withheld because an output was not finite."};
inline constexpr Metric kFailedBatches{"cortex_failed_batches_total",
                                       "Batches whose computation failed."};
inline constexpr Metric kQueueDepth{"cortex_queue_depth", "Steps and windows waiting."};
inline constexpr Metric kSessions{"cortex_sessions", "Open sessions."};
inline constexpr Metric kPagesUsed{"cortex_kv_cache_pages_used", "Cache pages held by sessions."};
inline constexpr Metric kPagesTotal{"cortex_kv_cache_pages", "Cache pages there are."};
inline constexpr Metric kCacheBytes{"cortex_kv_cache_bytes",
                                    "Bytes of the page pool, all of it reserved at start."};
inline constexpr Metric kHitRate{
    "cortex_kv_cache_hit_rate",
    "Share of stream steps since the start that found their session's cache; the others came to a "
    "session that was closed, expired or lost. Absent before the first step."};
inline constexpr Metric kPredictedBatch{
    "cortex_predicted_batch_seconds",
    "What the cost model expects of a batch of one step or window now."};
inline constexpr Metric kCapacity{"cortex_capacity_hz",
                                  "Steps (window model: windows) a second that the engine expects "
                                  "to compute."};
inline constexpr Metric kReserved{"cortex_reserved_hz",
                                  "Steps a second that open sessions have declared."};
inline constexpr Metric kBehind{
    "cortex_behind_hz",
    "Of these, of sessions that the engine does not keep up with: their answers are late while it "
    "is not 0, and after a second no session is admitted."};
inline constexpr Metric kGpuMemory{"cortex_gpu_memory_used_bytes",
                                   "Memory in use on the engine's GPU, by anyone; absent on a "
                                   "CPU."};
inline constexpr Metric kGpuUtilisation{
    "cortex_gpu_utilization_percent",
    "Share of the last second in which the engine's GPU computed for it; absent on a CPU."};
inline constexpr Metric kComputeSeconds{"cortex_compute_seconds_total",
                                        "Time in which batches were computed."};
inline constexpr Metric kRecoveries{"cortex_recoveries_total",
                                    "Times that the device was set up again after it had failed."};
inline constexpr Metric kFellBack{
    "cortex_fell_back", "1 where the device did not come back and the CPU computes in its place."};
inline constexpr Metric kSequences{"cortex_sequences",
                                   "Open sequences of the Open Inference Protocol."};
inline constexpr Metric kTracesDropped{"cortex_traces_dropped_total",
                                       "Sampled requests and batches that were not exported."};
inline constexpr Metric kLogLost{"cortex_log_lines_lost_total",
                                 "Log lines that could not be written."};
inline constexpr Metric kRecorded{"cortex_recorded_total",
                                  "Steps and answers that the flight recorder has on disk; absent "
                                  "without --record, like the others of its kind."};
inline constexpr Metric kRecordLost{"cortex_record_lost_total",
                                    "Steps and answers that the flight recorder lost, because the "
                                    "disk was full or too slow."};
inline constexpr Metric kRecordBytes{"cortex_record_bytes_total",
                                     "Bytes that the flight recorder has on disk."};
inline constexpr Metric kRecordFailing{"cortex_record_failing",
                                       "Flight logs that cannot be written at present."};
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
