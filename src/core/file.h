#pragma once

#include <cortex/result.h>

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace cortex {

/// The whole file, or an error that names it.
Result<std::vector<std::byte>> read_file(const std::string& path);

/// Writes beside `path`, syncs, then renames: a reader sees the old file or the new one, never
/// half.
Result<void> write_file_atomic(const std::string& path, std::span<const std::byte> bytes);

}  // namespace cortex
