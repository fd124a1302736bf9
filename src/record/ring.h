#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>

#include "record/format.h"

namespace cortex::record {

/// Records on their way from the threads that make them to the one that writes them. put() neither
/// waits nor allocates: where there is no room the record is lost, and the caller counts it.
class Ring {
 public:
  /// Rounded up to a power of two; touched, so that no page faults later.
  explicit Ring(std::size_t bytes);

  std::size_t capacity() const { return (mask_ + 1) * sizeof(std::uint64_t); }

  /// Any thread. The parts, one after the other, as the body of one record.
  bool put(Kind kind, std::initializer_list<std::span<const std::byte>> parts) noexcept;

  /// Where the next record will begin.
  std::uint64_t end() const { return head_.load(std::memory_order_acquire); }

  struct Taken {
    std::size_t bytes = 0;
    std::int64_t records = 0;
  };
  /// One thread. Whole records that begin before `end`, as many as fit into `into`. Stops early at
  /// one that is still being copied.
  Taken take(std::span<std::byte> into, std::uint64_t end);

 private:
  void copy_in(std::uint64_t word, const std::byte* from, std::size_t bytes, std::size_t skip);

  std::size_t mask_;  // of words
  std::unique_ptr<std::uint64_t[]> words_;
  alignas(64) std::atomic<std::uint64_t> head_{0};  // words reserved so far
  alignas(64) std::atomic<std::uint64_t> tail_{0};  // words taken so far
};

}  // namespace cortex::record
