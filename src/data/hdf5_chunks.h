#pragma once

#include <cortex/result.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "data/hdf5_handle.h"

namespace cortex::hdf5 {

/// A chunked dataset of rank 1 or 2 and the chunk that tiles it, in elements.
struct ChunkedLayout {
  std::span<const std::int64_t> dims;
  std::span<const hsize_t> chunk;
  std::size_t element_bytes = 0;
};

/// Reads the elements as they are stored, row-major, into `into` (of exactly their size).
///
/// libhdf5 (1.10) believes that a filtered chunk comes out at its full size and copies from beyond
/// its end where it does not. So the library only finds the chunks here, and their filters (gzip,
/// shuffle, fletcher32) are undone with every length checked. A chunk that was never written is an
/// error: a recording with a hole is not one of zeros. Errors are corrupt_data and name the element
/// at which the chunk begins; the caller adds file and path.
Result<void> read_chunks(hid_t dataset, hid_t create, const ChunkedLayout& layout,
                         std::span<std::byte> into);

}  // namespace cortex::hdf5
