#pragma once

#include <cstddef>

namespace cortex {

constexpr std::size_t kCacheLine = 64;

/// Asks for the lines of [begin, end) to be brought near, without waiting for them. Any address may
/// be named.
inline void prefetch_lines(const void* begin, const void* end) {
  for (auto* at = static_cast<const char*>(begin); at < static_cast<const char*>(end);
       at += kCacheLine)
    __builtin_prefetch(at);
}

}  // namespace cortex
