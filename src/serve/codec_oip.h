#pragma once

#include <cortex/engine.h>
#include <cortex/result.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// Inference requests and answers of the Open Inference Protocol (REST, version 2) with its binary
/// tensor extension. A request is one window or one step: three tensors of whole numbers,
/// neuron_id, time_bin and value, one element an event; the answer is one tensor, behavior.
namespace cortex {

struct InferRequest {
  std::string id;
  std::span<const Event> events;
  std::string sequence_id;  ///< empty: none
  bool sequence_start = false;
  bool sequence_end = false;
  std::optional<std::int64_t> sequence_number;  ///< of the step; absent: the next
  std::int64_t gap = 0;
  SessionOptions session;  ///< where sequence_start opens one
  std::optional<double> deadline_ms;
  std::optional<bool> best_effort;
  bool binary_output = false;
};

/// Keeps its buffers from call to call: the span of a request is valid until the next one.
class OipParser {
 public:
  OipParser();
  ~OipParser();

  /// `json_length`: the header Inference-Header-Content-Length; empty: the body is JSON alone.
  Result<InferRequest> infer(std::string_view body, std::string_view json_length);

 private:
  struct Dom;
  std::unique_ptr<Dom> dom_;
  std::vector<std::int64_t> columns_[3];
  std::vector<Event> events_;
};

struct InferAnswer {
  std::string_view model;
  std::int64_t version = 0;
  std::string_view id;
  std::span<const float> behavior;
  std::string_view sequence_id;
  std::optional<std::int64_t> sequence_number;
  std::string_view status;
  double latency_ms = 0;
  double queue_wait_ms = 0;
  double inference_ms = 0;
};

/// The body, and how many of its bytes are JSON where the tensor follows in binary.
struct InferBody {
  std::string bytes;
  std::optional<std::size_t> json_length;
};
InferBody infer_body(const InferAnswer& answer, bool binary);

/// {"error": "..."}
std::string oip_error(std::string_view message);

}  // namespace cortex
