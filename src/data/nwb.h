#pragma once

#include <cortex/result.h>

#include <cstddef>
#include <span>
#include <string>

#include "data/recording.h"

namespace cortex {

/// Reads an NWB 2.x file laid out as the Neural Latents Benchmark lays it out.
///
/// Errors: not_found; unsupported (NWB 1.x, an unknown major version); corrupt_data (not HDF5,
/// truncated, a column missing or of the wrong shape, spike times or behaviour timestamps not
/// ascending or not finite): the message names the file, the HDF5 path and the row.
Result<Recording> read_nwb(const std::string& path);

/// The same for the bytes of a file held in memory; `name` stands for its path in messages.
Result<Recording> read_nwb_image(std::span<const std::byte> bytes, const std::string& name);

/// Writes `recording` in the same layout, atomically. Spike times become float64, index columns
/// uint32. What `read_nwb` returns for the file equals what was written.
Result<void> write_nwb(const std::string& path, const Recording& recording);

}  // namespace cortex
