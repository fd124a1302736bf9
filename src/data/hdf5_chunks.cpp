#include "data/hdf5_chunks.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

namespace cortex::hdf5 {
namespace {

using Bytes = std::vector<std::byte>;

constexpr std::size_t kChecksumBytes = 4;

struct Filter {
  H5Z_filter_t kind = 0;
  std::size_t element_bytes = 1;  ///< what a shuffle takes for an element
};

std::vector<Filter> filters_of(hid_t create) {
  std::vector<Filter> filters(static_cast<std::size_t>(std::max(0, H5Pget_nfilters(create))));
  for (std::size_t i = 0; i < filters.size(); ++i) {
    unsigned flags = 0, config = 0;
    std::array<unsigned, 8> values{};
    std::size_t count = values.size();
    filters[i].kind = H5Pget_filter2(create, static_cast<unsigned>(i), &flags, &count,
                                     values.data(), 0, nullptr, &config);
    if (filters[i].kind == H5Z_FILTER_SHUFFLE && count > 0) filters[i].element_bytes = values[0];
  }
  return filters;
}

/// At most `most` bytes of a zlib stream's content; nothing where there is more or it is damaged.
std::optional<Bytes> inflate(const Bytes& packed, std::size_t most) {
  Bytes plain(most);
  z_stream stream{};
  if (inflateInit(&stream) != Z_OK) return std::nullopt;
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(packed.data()));
  stream.avail_in = static_cast<uInt>(packed.size());
  stream.next_out = reinterpret_cast<Bytef*>(plain.data());
  stream.avail_out = static_cast<uInt>(plain.size());
  const int ended = ::inflate(&stream, Z_FINISH);
  plain.resize(stream.total_out);
  inflateEnd(&stream);
  if (ended != Z_STREAM_END) return std::nullopt;
  return plain;
}

/// A shuffle stores the first bytes of all elements, then the second bytes and so on; bytes beyond
/// the last whole element stay where they are.
Bytes unshuffle(const Bytes& from, std::size_t element_bytes) {
  Bytes to = from;
  const std::size_t count = from.size() / element_bytes;
  for (std::size_t b = 0; b < element_bytes; ++b)
    for (std::size_t i = 0; i < count; ++i) to[i * element_bytes + b] = from[b * count + i];
  return to;
}

/// Fletcher's checksum over big-endian 16-bit words, an odd last byte being the high one.
std::uint32_t fletcher32(std::span<const std::byte> data) {
  std::uint64_t first = 0, second = 0;
  for (std::size_t i = 0; i < data.size(); i += 2) {
    const auto high = std::to_integer<std::uint64_t>(data[i]);
    const auto low = i + 1 < data.size() ? std::to_integer<std::uint64_t>(data[i + 1]) : 0;
    first = (first + (high << 8 | low)) % 65535;
    second = (second + first) % 65535;
  }
  return static_cast<std::uint32_t>(second << 16 | first);
}

/// Removes a checksum that fits.
bool strip_checksum(Bytes& data) {
  if (data.size() < kChecksumBytes) return false;
  std::uint32_t stored = 0;
  for (std::size_t b = 0; b < kChecksumBytes; ++b)
    stored |= std::to_integer<std::uint32_t>(data[data.size() - kChecksumBytes + b]) << (8 * b);
  data.resize(data.size() - kChecksumBytes);
  // The library folds its sums, so that where we have 0 it may have 0xffff.
  const auto same = [](std::uint32_t a, std::uint32_t b) { return a % 65535 == b % 65535; };
  const std::uint32_t found = fletcher32(data);
  return same(found & 0xffff, stored & 0xffff) && same(found >> 16, stored >> 16);
}

/// Undoes a chunk's filters, the last one first; what is wrong with the chunk, if anything is.
std::optional<std::string> unfilter(Bytes& data, const std::vector<Filter>& filters,
                                    std::uint32_t skipped, std::size_t chunk_bytes) {
  for (std::size_t i = filters.size(); i-- > 0;) {
    if (i < 32 && (skipped >> i & 1)) continue;
    const Filter& filter = filters[i];
    switch (filter.kind) {
      case H5Z_FILTER_DEFLATE: {
        auto plain = inflate(data, chunk_bytes + kChecksumBytes * filters.size());
        if (!plain) return "does not inflate to its size";
        data = std::move(*plain);
        break;
      }
      case H5Z_FILTER_SHUFFLE:
        if (filter.element_bytes == 0 || filter.element_bytes > chunk_bytes)
          return "is shuffled by elements larger than it";
        data = unshuffle(data, filter.element_bytes);
        break;
      case H5Z_FILTER_FLETCHER32:
        if (!strip_checksum(data)) return "does not match its checksum";
        break;
      default:
        return "has a filter other than gzip, shuffle and fletcher32";
    }
  }
  if (data.size() != chunk_bytes)
    return fmt::format("holds {} bytes where {} belong", data.size(), chunk_bytes);
  return std::nullopt;
}

}  // namespace

Result<void> read_chunks(hid_t dataset, hid_t create, const ChunkedLayout& layout,
                         std::span<std::byte> into) {
  constexpr std::uint64_t kMostStored = std::uint64_t{2} << 30;
  const auto rank = layout.dims.size();
  const auto rows = static_cast<hsize_t>(layout.dims[0]);
  const hsize_t columns = rank > 1 ? static_cast<hsize_t>(layout.dims[1]) : 1;
  const hsize_t chunk_rows = layout.chunk[0], chunk_columns = rank > 1 ? layout.chunk[1] : 1;
  const std::size_t chunk_bytes = chunk_rows * chunk_columns * layout.element_bytes;
  const std::vector<Filter> filters = filters_of(create);
  Bytes data;
  for (hsize_t row = 0; row < rows; row += chunk_rows) {
    for (hsize_t column = 0; column < columns; column += chunk_columns) {
      const std::array<hsize_t, 2> offset = {row, column};
      const auto bad = [&](const std::string& what) {
        return Error{ErrorCode::corrupt_data,
                     fmt::format("the chunk at element ({}, {}) {}", row, column, what), ""};
      };
      hsize_t stored = 0;
      if (H5Dget_chunk_storage_size(dataset, offset.data(), &stored) < 0 || stored == 0)
        return bad("is not stored");
      if (stored > kMostStored) return bad(fmt::format("claims {} stored bytes", stored));
      data.resize(stored);
      std::uint32_t skipped = 0;
      if (H5Dread_chunk(dataset, H5P_DEFAULT, offset.data(), &skipped, data.data()) < 0)
        return bad("cannot be read: " + last_error());
      if (const auto fault = unfilter(data, filters, skipped, chunk_bytes)) return bad(*fault);
      const std::size_t run = std::min(chunk_columns, columns - column) * layout.element_bytes;
      for (hsize_t r = 0; r < std::min(chunk_rows, rows - row); ++r)
        std::memcpy(into.data() + ((row + r) * columns + column) * layout.element_bytes,
                    data.data() + r * chunk_columns * layout.element_bytes, run);
    }
  }
  return {};
}

}  // namespace cortex::hdf5
