#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/steps.h"
#include "model/config.h"
#include "quant/calibration.h"

namespace cortex {

struct QuantizeDataOptions {
  std::string nwb;
  std::string split = "val";  ///< held-out trials, comma separated
  std::string target;         ///< behaviour series; empty: "hand_vel"
  bool allow_missing_units = false;
  double seconds = 0;  ///< use only so much of the recording; 0: all
  int windows = 400;   ///< window models: most windows to decode
};

/// A recording as a model is calibrated and scored on it.
struct QuantizeData {
  Calibration calibration;             ///< counted: what choices are made on
  std::vector<std::uint8_t> observed;  ///< [items]
  std::vector<std::uint8_t> held_out;  ///< [items] what R2 is scored on; none without behaviour
  std::vector<float> target;           ///< [items, dims]
  std::size_t dims = 0;                ///< 0: no behaviour, nothing is scored
  std::string held_out_means;          ///< which steps are held out, for a person
};

/// Cuts a recording. Held out are the trials of `split`; in a file without such trials the last
/// fifth of its trials, without trials the last fifth of its observed steps. Choices are made on
/// what is observed and not held out. A window ends with each step; of a window model's, an even
/// sample. Throws Exception.
QuantizeData read_quantize_data(const ModelConfig& config, const QuantizeDataOptions& options);

}  // namespace cortex
