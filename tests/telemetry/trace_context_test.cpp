#include "telemetry/trace_context.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <string>

#include "telemetry/spans.h"

namespace cortex {
namespace {

constexpr char kGood[] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

TEST(TraceParent, ReadsWhatTheStandardShows) {
  const auto context = parse_traceparent(kGood);
  ASSERT_TRUE(context);
  EXPECT_EQ(hex(context->trace), "4bf92f3577b34da6a3ce929d0e0e4736");
  EXPECT_EQ(hex(context->span), "00f067aa0ba902b7");
  EXPECT_TRUE(context->sampled);
  EXPECT_EQ(format_traceparent(*context), kGood);
  EXPECT_FALSE(
      parse_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00")->sampled);
  EXPECT_TRUE(parse_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff")->sampled)
      << "other flags are not ours";
  EXPECT_TRUE(
      parse_traceparent("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes"))
      << "a later version";
}

TEST(TraceParent, WhatTheStandardForbidsIsNoParent) {
  for (const char* header : {
           "",
           "00",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-011",
           "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
           "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.x",
           "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
           "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
           "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
           "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
           " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
       })
    EXPECT_FALSE(parse_traceparent(header)) << header;
}

RC_GTEST_PROP(TraceParent, ComesBackAsItWasWritten, ()) {
  TraceContext context{.sampled = *rc::gen::arbitrary<bool>()};
  for (auto& byte : context.trace) byte = *rc::gen::arbitrary<std::uint8_t>();
  for (auto& byte : context.span) byte = *rc::gen::arbitrary<std::uint8_t>();
  context.trace[3] |= 1;
  context.span[3] |= 1;
  const auto read = parse_traceparent(format_traceparent(context));
  RC_ASSERT(read.has_value());
  RC_ASSERT(*read == context);
}

TEST(TraceQueue, KeepsTheOrderAndCountsWhatDoesNotFit) {
  TraceQueue queue(3);
  for (int i = 0; i < 5; ++i) queue.push(RequestRecord{.route = "/decode", .status = i});
  EXPECT_EQ(queue.dropped(), 2);
  TraceRecord record;
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(queue.pop(record));
    EXPECT_EQ(std::get<RequestRecord>(record).status, i);
  }
  EXPECT_FALSE(queue.pop(record));
  EXPECT_TRUE(queue.push(BatchRecord{}));
}

TEST(TraceQueue, OfNoLengthDropsEverything) {
  TraceQueue queue(0);
  EXPECT_FALSE(queue.push(RequestRecord{}));
  TraceRecord record;
  EXPECT_FALSE(queue.pop(record));
}

}  // namespace
}  // namespace cortex
