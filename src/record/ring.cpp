#include "record/ring.h"

#include <algorithm>
#include <cstring>

namespace cortex::record {
namespace {

constexpr std::size_t kWord = sizeof(std::uint64_t);

/// A record's header is its own sign that it is whole: 0 until all of its body is there.
std::uint64_t as_word(const RecordHeader& header) { return std::bit_cast<std::uint64_t>(header); }

}  // namespace

Ring::Ring(std::size_t bytes)
    : mask_(std::bit_ceil(std::max(bytes, std::size_t{4096}) / kWord) - 1),
      words_(std::make_unique<std::uint64_t[]>(mask_ + 1)) {
  std::memset(words_.get(), 0, capacity());
}

void Ring::copy_in(std::uint64_t word, const std::byte* from, std::size_t bytes, std::size_t skip) {
  auto* const ring = reinterpret_cast<std::byte*>(words_.get());
  const std::size_t at = ((word & mask_) * kWord + skip) & (capacity() - 1);
  const std::size_t straight = std::min(bytes, capacity() - at);
  if (straight > 0) std::memcpy(ring + at, from, straight);
  if (bytes > straight) std::memcpy(ring, from + straight, bytes - straight);
}

bool Ring::put(Kind kind, std::initializer_list<std::span<const std::byte>> parts) noexcept {
  std::size_t body = 0;
  for (const auto& part : parts) body += part.size();
  const std::size_t bytes = sizeof(RecordHeader) + padded(body);
  const std::uint64_t words = bytes / kWord;
  std::uint64_t at = head_.load(std::memory_order_relaxed);
  do {
    if (at + words - tail_.load(std::memory_order_acquire) > mask_ + 1) return false;
  } while (!head_.compare_exchange_weak(at, at + words, std::memory_order_acq_rel,
                                        std::memory_order_relaxed));
  std::size_t skip = sizeof(RecordHeader);
  for (const auto& part : parts) {
    copy_in(at, part.data(), part.size(), skip);
    skip += part.size();
  }
  const RecordHeader header{static_cast<std::uint32_t>(bytes), kind, 0};
  std::atomic_ref(words_[at & mask_]).store(as_word(header), std::memory_order_release);
  return true;
}

Ring::Taken Ring::take(std::span<std::byte> into, std::uint64_t end) {
  auto* const ring = reinterpret_cast<std::byte*>(words_.get());
  Taken taken;
  std::uint64_t tail = tail_.load(std::memory_order_relaxed);
  while (tail < end) {
    const std::uint64_t first =
        std::atomic_ref(words_[tail & mask_]).load(std::memory_order_acquire);
    if (first == 0) break;
    const std::size_t bytes = std::bit_cast<RecordHeader>(first).bytes;
    if (bytes > into.size() - taken.bytes) break;
    const std::size_t at = (tail & mask_) * kWord;
    const std::size_t straight = std::min(bytes, capacity() - at);
    std::memcpy(into.data() + taken.bytes, ring + at, straight);
    std::memcpy(into.data() + taken.bytes + straight, ring, bytes - straight);
    // Whatever begins here next is not there until it says so.
    std::memset(ring + at, 0, straight);
    std::memset(ring, 0, bytes - straight);
    taken.bytes += bytes;
    ++taken.records;
    tail += bytes / kWord;
    tail_.store(tail, std::memory_order_release);
  }
  return taken;
}

}  // namespace cortex::record
