#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "core/json_writer.h"
#include "serve/binary_frames.h"
#include "serve/codec_binary.h"
#include "serve/codec_json.h"

namespace cortex::testing {
namespace {

std::string hex_bytes(std::string_view frame) {
  std::string out;
  char digits[4];
  for (const char c : frame) {
    std::snprintf(digits, sizeof digits, "%02x", static_cast<unsigned char>(c));
    out += digits;
  }
  return out;
}

TEST(BinaryCodec, TheExampleOfTheDocumentIsAStep) {
  // docs/protocol.md
  const std::string documented =
      "01020000010000000700000000000000"
      "00000000000000000000000000000000"
      "03000000020000001d00000000000000";
  const std::string frame = binary_step(7, {{.unit = 3, .value = 2, .bin = 29}});
  EXPECT_EQ(hex_bytes(frame), documented);
  BinaryParser parser;
  const auto parsed = parser.stream(frame);
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->kind, StreamFrame::Kind::step);
  EXPECT_EQ(parsed->step.sequence, 7);
  ASSERT_EQ(parsed->step.events.size(), 1U);
  EXPECT_EQ(parsed->step.events[0], (Event{3, 2, 29}));
  EXPECT_FALSE(parsed->step.deadline_ms);
  EXPECT_FALSE(parsed->step.best_effort);
}

RC_GTEST_PROP(BinaryCodec, AStepSaysTheSameInBothForms, ()) {
  const auto sequence = *rc::gen::inRange<std::int64_t>(0, std::int64_t{1} << 53);
  const auto gap = *rc::gen::inRange<std::int64_t>(0, 1000);
  const auto deadline_us = *rc::gen::inRange<std::uint64_t>(0, 1'000'000);
  const int flags = *rc::gen::inRange(0, 3);
  const auto n = *rc::gen::inRange(0, 40);
  std::vector<Event> events;
  JsonWriter w;
  w.begin_object().key("sequence_number").value(sequence).key("gap").value(gap);
  if (deadline_us > 0) w.key("deadline_ms").value(static_cast<double>(deadline_us) * 1e-3);
  if (flags != 0) w.key("best_effort").value(flags == 1);
  w.key("events").begin_array();
  for (int i = 0; i < n; ++i) {
    const Event e{*rc::gen::inRange(0, 1 << 30), *rc::gen::inRange(0, 1 << 30),
                  *rc::gen::inRange<std::int64_t>(0, std::int64_t{1} << 53)};
    events.push_back(e);
    w.begin_object().key("neuron_id").value(e.unit).key("time_bin").value(e.bin);
    w.key("value").value(e.value).end_object();
  }
  w.end_array().end_object();
  FrameParser json;
  BinaryParser binary;
  const auto a = json.stream(w.text());
  const auto b = binary.stream(binary_step(sequence, events, gap, deadline_us, flags));
  RC_ASSERT(static_cast<bool>(a));
  RC_ASSERT(static_cast<bool>(b));
  RC_ASSERT(a->step.sequence == b->step.sequence);
  RC_ASSERT(a->step.gap == b->step.gap);
  RC_ASSERT(a->step.deadline_ms == b->step.deadline_ms);
  RC_ASSERT(a->step.best_effort == b->step.best_effort);
  RC_ASSERT(std::equal(a->step.events.begin(), a->step.events.end(), b->step.events.begin(),
                       b->step.events.end()));
}

TEST(BinaryCodec, AnOpenCarriesAllThatJsonDoes) {
  BinaryParser parser;
  const auto frame = parser.stream(binary_open({.flags = 1 | 4 | 8 | 16,
                                                .first_step = 12,
                                                .deadline_us = 15'000,
                                                .rate_hz = 100,
                                                .model = "arm",
                                                .units = {"u17", "", "é"}}));
  ASSERT_TRUE(frame) << frame.error().message;
  EXPECT_EQ(frame->kind, StreamFrame::Kind::open);
  EXPECT_EQ(frame->open.options.first_step, 12);
  EXPECT_EQ(frame->open.options.step_rate_hz, 100);
  EXPECT_TRUE(frame->open.options.allow_missing_units);
  EXPECT_TRUE(frame->open.options.drop_out_of_step);
  EXPECT_TRUE(frame->open.options.best_effort);
  EXPECT_EQ(frame->open.options.unit_ids, (std::vector<std::string>{"u17", "", "é"}));
  EXPECT_EQ(frame->open.model, "arm");
  EXPECT_EQ(frame->open.deadline_ms, 15);
  EXPECT_EQ(frame->open.best_effort, true);
}

TEST(BinaryCodec, EachWrongFrameIsAnErrorThatNamesTheField) {
  const auto patched = [](std::string frame, std::size_t at, auto value) {
    std::memcpy(frame.data() + at, &value, sizeof value);
    return frame;
  };
  const std::string step = binary_step(7, {{3, 2, 29}});
  const std::string open = binary_open({.model = "arm", .units = {"u1"}});
  const double nan = std::numeric_limits<double>::quiet_NaN();
  struct Case {
    std::string frame;
    std::string field;
    std::string says;
  };
  const Case cases[] = {
      {"", "", "the frame has 0 bytes"},
      {step.substr(0, 15), "", "15 bytes"},
      {step.substr(0, 31), "", "31 bytes; a step of 1 events has 48"},
      {step.substr(0, 47), "", "47 bytes"},
      {step + "x", "", "49 bytes"},
      {patched(step, 0, std::uint8_t{2}), "version", "version = 2"},
      {patched(step, 1, std::uint8_t{9}), "type", "type = 9"},
      {patched(step, 1, std::uint8_t{130}), "type", "type = 130"},
      {patched(step, 2, std::uint16_t{3}), "flags", "true and false"},
      {patched(step, 2, std::uint16_t{4}), "flags", "flags = 0x4"},
      {patched(step, 4, std::uint32_t{0xffffffff}), "", "a step of 4294967295 events"},
      {patched(step, 8, std::int64_t{-1}), "sequence_number", "-1 is out of range"},
      {patched(step, 8, std::numeric_limits<std::int64_t>::max()), "sequence_number",
       "out of range"},
      {patched(step, 16, std::int64_t{-5}), "gap", "gap = -5"},
      {patched(step, 24, std::uint64_t{1} << 60), "deadline_ms", "at most 86400000"},
      {patched(step, 32, std::int32_t{-3}), "events[0].neuron_id", "-3"},
      {patched(step, 36, std::int32_t{-1}), "events[0].value", "-1"},
      {patched(step, 40, std::int64_t{-1}), "events[0].time_bin", "-1"},
      {open.substr(0, open.size() - 1), "", "less than its model and 1 units take"},
      {open + "x", "", "more than its model and 1 units take"},
      {open.substr(0, 20), "", "less"},
      {patched(open, 4, std::uint32_t{200'000}), "open.units", "more than 100000"},
      {patched(open, 4, std::uint32_t{90'000}), "", "less than its model and 90000 units"},
      {patched(open, 24, nan), "open.rate_hz", "nan"},
      {patched(open, 24, -1.0), "open.rate_hz", "-1"},
      {patched(open, 2, std::uint16_t{64}), "flags", "0x40"},
      {patched(open, 34, '\xff'), "open.model", "not UTF-8"},
      {patched(open, 39, '\xc0'), "open.units[0]", "not UTF-8"},
      {binary_open({.units = {std::string(257, 'u')}}), "open.units[0]", "257 bytes"},
      {binary_close() + "x", "", "17 bytes"},
      {patched(binary_close(), 2, std::uint16_t{1}), "flags", "0x1"},
  };
  BinaryParser parser;
  for (const Case& c : cases) {
    const auto frame = parser.stream(c.frame);
    ASSERT_FALSE(frame) << c.says;
    EXPECT_EQ(frame.error().field, c.field) << frame.error().message;
    EXPECT_NE(frame.error().message.find(c.says), std::string::npos) << frame.error().message;
  }
  EXPECT_TRUE(parser.stream(step)) << "and none of it did any harm";
}

TEST(BinaryCodec, ARefusedStepStillHasItsNumber) {
  BinaryParser parser;
  EXPECT_FALSE(parser.stream(binary_step(41, {{-1, 1, 0}})));
  EXPECT_EQ(parser.last_sequence(), 41);
  EXPECT_FALSE(parser.stream("x"));
  EXPECT_FALSE(parser.last_sequence());
}

TEST(BinaryCodec, AnAnswerIsLaidOutAsDocumented) {
  std::string out = "what was here before";
  const float behavior[] = {1.5F, -2};
  binary_frames::answer(out, {.sequence = 9,
                              .status = StepStatus::late,
                              .behavior = behavior,
                              .latency_ns = 1000,
                              .queue_wait_ns = 200,
                              .inference_ns = 300,
                              .dropped_events = 4});
  ASSERT_EQ(out.size(), 56U);
  EXPECT_EQ(number_at<std::uint8_t>(out, 0), 1);
  EXPECT_EQ(type_of(out), kTypeAnswer);
  EXPECT_EQ(flags_of(out), 1);
  EXPECT_EQ(count_of(out), 2U);
  EXPECT_EQ(sequence_of(out), 9);
  EXPECT_EQ(number_at<std::int64_t>(out, 16), 1000);
  EXPECT_EQ(number_at<std::int64_t>(out, 24), 200);
  EXPECT_EQ(number_at<std::int64_t>(out, 32), 300);
  EXPECT_EQ(number_at<std::int64_t>(out, 40), 4);
  EXPECT_EQ(number_at<float>(out, 48), 1.5F);
  EXPECT_EQ(number_at<float>(out, 52), -2.0F);
}

TEST(BinaryCodec, ARefusedAnswerHasNoBehavior) {
  std::string out;
  const float behavior[] = {1, 2};
  binary_frames::answer(
      out,
      {.sequence = 9, .status = StepStatus::refused, .behavior = behavior, .dropped_events = {}});
  EXPECT_EQ(out.size(), 48U);
  EXPECT_EQ(count_of(out), 0U);
  EXPECT_EQ(flags_of(out), 2);
}

TEST(BinaryCodec, AnErrorIsLaidOutAsDocumented) {
  std::string out;
  ApiError error(Error{ErrorCode::out_of_order, "expected 3", "sequence_number"});
  error.expected = 3;
  binary_frames::error(out, error, 5);
  EXPECT_EQ(type_of(out), kTypeError);
  EXPECT_EQ(flags_of(out), 409);
  EXPECT_EQ(sequence_of(out), 5);
  EXPECT_EQ(number_at<std::int64_t>(out, 16), 3);
  EXPECT_EQ(strings_from(out, 24),
            (std::vector<std::string>{"out_of_order", "expected 3", "sequence_number"}));
  binary_frames::error(out, ApiError(Error{ErrorCode::internal, "x", ""}), {});
  EXPECT_EQ(sequence_of(out), -1);
  EXPECT_EQ(number_at<std::int64_t>(out, 16), -1);
}

TEST(BinaryCodec, AMessageTooLongForAStringIsCutBetweenCharacters) {
  std::string out;
  std::string message;
  while (message.size() < 70'000) message += "é";
  binary_frames::error(out, ApiError(Error{ErrorCode::internal, message, ""}), {});
  const auto strings = strings_from(out, 24);
  ASSERT_EQ(strings.size(), 3U);
  EXPECT_EQ(strings[1].size(), 65534U);
  EXPECT_EQ(strings[1].substr(65532), "é");
}

}  // namespace
}  // namespace cortex::testing
