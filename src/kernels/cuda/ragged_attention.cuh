#pragma once

#include <cstdint>

#include "kernels/cuda/device.cuh"

namespace cortex::cuda {

/// The bins [low, high] that query i of an item sees: exactly |centre - bin| <= reach in float64.
struct Band {
  int low = INT32_MIN;
  int high = INT32_MAX;
};

__device__ inline Band band_of(const RaggedAttentionArgs& a, int item, std::int64_t i) {
  Band band;
  if (!a.key_bins) return band;
  const double centre = static_cast<double>(i) * a.item_bins[item] / static_cast<double>(a.queries);
  // Rounding may have put an edge one bin off. Edges of rows in order are in order, also of rows
  // that see nothing: low is then above high.
  double low = ceil(centre - a.reach_bins), high = floor(centre + a.reach_bins);
  if (centre - (low - 1) <= a.reach_bins) --low;
  if (centre - low > a.reach_bins) ++low;
  if (high + 1 - centre <= a.reach_bins) ++high;
  if (high - centre > a.reach_bins) --high;
  band.low = static_cast<int>(fmin(fmax(low, -1e9), 1e9));
  band.high = static_cast<int>(fmin(fmax(high, -1e9), 1e9));
  return band;
}

}  // namespace cortex::cuda
