#pragma once

#include <cstdint>
#include <string>

#include "data/steps.h"
#include "quant/quantize_model.h"

namespace cortex {

/// What a quantisation did, measured on the model that was written and read back.
struct QuantizeSummary {
  std::string model;
  std::string out;
  std::string recording;
  std::string precision;         ///< "int8" or "bf16"
  std::size_t bytes_before = 0;  ///< of tensors as they are held
  std::size_t bytes_after = 0;
  std::size_t file_bytes_before = 0;
  std::size_t file_bytes_after = 0;
  double output_error = 0;  ///< over every observed item of the recording
  std::int64_t items = 0;   ///< of which so many were compared
  bool windows = false;     ///< items are windows, not steps
  R2 before;                ///< over held-out items; rows 0: nothing to score
  R2 after;
  std::string held_out;
  double max_error = 0;
  QuantizeReport report;
};

std::string summary_text(const QuantizeSummary& summary);
/// One JSON object, without a newline.
std::string summary_json(const QuantizeSummary& summary);

}  // namespace cortex
