#include "record/ring.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <map>
#include <random>
#include <thread>
#include <vector>

namespace cortex::record {
namespace {

/// A record whose body says who made it, its number, and is filled with a function of both.
std::vector<std::byte> body_of(std::uint32_t producer, std::uint32_t number, std::size_t filling) {
  std::vector<std::byte> body(8 + filling, static_cast<std::byte>(producer * 31 + number));
  std::memcpy(body.data(), &producer, 4);
  std::memcpy(body.data() + 4, &number, 4);
  return body;
}

/// Takes all there is; each record must be whole and next of its producer.
void take_all(Ring& ring, std::map<std::uint32_t, std::uint32_t>& next) {
  std::vector<std::byte> into(ring.capacity());
  const auto taken = ring.take(into, ring.end());
  std::size_t at = 0;
  for (std::int64_t i = 0; i < taken.records; ++i) {
    RecordHeader header;
    std::memcpy(&header, into.data() + at, sizeof header);
    ASSERT_EQ(header.kind, Kind::step);
    ASSERT_GE(header.bytes, 16U);
    std::uint32_t producer = 0, number = 0;
    std::memcpy(&producer, into.data() + at + 8, 4);
    std::memcpy(&number, into.data() + at + 12, 4);
    ASSERT_EQ(number, next[producer]++);
    const std::size_t filling = number % 97;
    ASSERT_EQ(header.bytes, 8 + padded(8 + filling));
    for (std::size_t b = 0; b < filling; ++b)
      ASSERT_EQ(into[at + 16 + b], static_cast<std::byte>(producer * 31 + number)) << number;
    at += header.bytes;
  }
  ASSERT_EQ(at, taken.bytes);
}

bool put(Ring& ring, std::uint32_t producer, std::uint32_t number) {
  const auto body = body_of(producer, number, number % 97);
  const std::span<const std::byte> all(body);
  // In two parts, as a step's head and its events are.
  return ring.put(Kind::step, {all.first(8), all.subspan(8)});
}

TEST(Ring, RecordsComeOutWholeAndInOrderThroughManyRounds) {
  Ring ring(4096);
  std::map<std::uint32_t, std::uint32_t> next;
  std::mt19937 random(3);
  std::uint32_t number = 0;
  for (int round = 0; round < 2000; ++round) {
    for (std::uint32_t i = random() % 30; i > 0; --i) {
      if (!put(ring, 0, number)) break;
      ++number;
    }
    take_all(ring, next);
  }
  EXPECT_EQ(next[0], number);
  EXPECT_GT(number, 10'000U);
}

TEST(Ring, WithoutRoomARecordIsRefusedAndTheOthersStayWhole) {
  Ring ring(4096);
  std::uint32_t fits = 0;
  while (put(ring, 0, fits)) ++fits;
  EXPECT_GT(fits, 10U);
  EXPECT_FALSE(put(ring, 0, fits));
  std::map<std::uint32_t, std::uint32_t> next;
  take_all(ring, next);
  EXPECT_EQ(next[0], fits);
  EXPECT_TRUE(put(ring, 0, fits));
  const std::vector<std::byte> too_large(ring.capacity());
  EXPECT_FALSE(ring.put(Kind::step, {too_large}));
}

TEST(Ring, TakesNoMoreThanThereIsRoomFor) {
  Ring ring(4096);
  for (std::uint32_t n = 0; n < 3; ++n) ASSERT_TRUE(put(ring, 0, n));
  std::vector<std::byte> into(16 + 24 + 8);  // the first two, and a part of the third
  const auto taken = ring.take(into, ring.end());
  EXPECT_EQ(taken.records, 2);
  EXPECT_EQ(ring.take(into, ring.end()).records, 1);
  EXPECT_EQ(ring.take(into, ring.end()).records, 0);
}

TEST(Ring, ProducersAtOnceTearNothing) {
  Ring ring(1 << 14);
  constexpr std::uint32_t kEach = 20'000;
  constexpr std::uint32_t kProducers = 3;
  std::atomic<std::uint32_t> running{kProducers};
  std::vector<std::thread> producers;
  for (std::uint32_t p = 0; p < kProducers; ++p)
    producers.emplace_back([&, p] {
      for (std::uint32_t n = 0; n < kEach;)
        if (put(ring, p, n))
          ++n;
        else
          std::this_thread::yield();
      --running;
    });
  std::map<std::uint32_t, std::uint32_t> next;
  while (running > 0 && !::testing::Test::HasFatalFailure()) take_all(ring, next);
  for (std::thread& producer : producers) producer.join();
  take_all(ring, next);
  for (std::uint32_t p = 0; p < kProducers; ++p) EXPECT_EQ(next[p], kEach);
}

}  // namespace
}  // namespace cortex::record
