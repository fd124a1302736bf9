#include "serve/codec_json.h"

#include <gtest/gtest.h>

#include <string>

namespace cortex {
namespace {

constexpr const char* kEvent = R"({"neuron_id":3,"time_bin":7,"value":2})";

std::string decode_json(const std::string& events, const std::string& more = "") {
  return R"({"request_id":"r","session_id":"s","events":[)" + events + "]" + more + "}";
}

TEST(DecodeCodec, ReadsTheFieldsOfARequest) {
  FrameParser parser;
  const auto frame =
      parser.decode(decode_json(kEvent, R"(,"deadline_ms":12.5,"best_effort":true)"));
  ASSERT_TRUE(frame) << frame.error().message;
  EXPECT_EQ(frame->request_id, "r");
  EXPECT_EQ(frame->session_id, "s");
  ASSERT_EQ(frame->events.size(), 1U);
  EXPECT_EQ(frame->events[0], (Event{.unit = 3, .value = 2, .bin = 7}));
  EXPECT_EQ(frame->deadline_ms, 12.5);
  EXPECT_EQ(frame->best_effort, true);
}

TEST(DecodeCodec, TakesWholeNumbersWrittenAsDoublesAndNoOthers) {
  FrameParser parser;
  const auto whole = parser.decode(decode_json(R"({"neuron_id":3.0,"time_bin":1e3,"value":1.0})"));
  ASSERT_TRUE(whole) << whole.error().message;
  EXPECT_EQ(whole->events[0].bin, 1000);
  const auto half = parser.decode(decode_json(R"({"neuron_id":3,"time_bin":7,"value":1.5})"));
  ASSERT_FALSE(half);
  EXPECT_EQ(half.error().message, "events[0].value = 1.5: must be a whole number");
}

TEST(DecodeCodec, IgnoresUnknownFieldsHoweverDeepTheyAreWithinTheLimit) {
  FrameParser parser;
  EXPECT_TRUE(parser.decode(decode_json(kEvent, R"(,"extra":{"a":[1,{"b":null}]})")));
  EXPECT_TRUE(parser.decode(decode_json(R"({"neuron_id":0,"time_bin":0,"value":1,"x":[]})")));
}

struct Bad {
  const char* json;
  const char* field;
};

class BadDecode : public ::testing::TestWithParam<Bad> {};

TEST_P(BadDecode, IsRefusedNamingTheField) {
  FrameParser parser;
  const auto frame = parser.decode(GetParam().json);
  ASSERT_FALSE(frame);
  EXPECT_EQ(frame.error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(frame.error().field, GetParam().field) << frame.error().message;
  EXPECT_FALSE(frame.error().message.empty());
  // One bad request leaves nothing behind.
  const auto good = parser.decode(decode_json(kEvent));
  ASSERT_TRUE(good);
  EXPECT_EQ(good->events.size(), 1U);
}

INSTANTIATE_TEST_SUITE_P(
    Json, BadDecode,
    ::testing::Values(
        Bad{"", ""}, Bad{"{", ""}, Bad{"[]", ""}, Bad{"null", ""}, Bad{"17", ""}, Bad{"\"x\"", ""},
        Bad{"{}{}", ""}, Bad{R"({"request_id":"r",})", ""}, Bad{"{\"request_id\":\"\xff\"}", ""},
        Bad{R"({"request_id":"r","session_id":"s","events":[{"neuron_id":NaN}]})", ""},
        Bad{R"({"request_id":"r","session_id":"s","events":[{"neuron_id":1e999}]})", ""},
        Bad{R"({"request_id":"r","session_id":"s","events":[{"neuron_id":01}]})", ""},
        Bad{"{}", "request_id"}, Bad{R"({"request_id":7})", "session_id"},
        Bad{R"({"request_id":"r","session_id":"s"})", "events"},
        Bad{R"({"request_id":"r","session_id":"s","events":null})", "events"}));

INSTANTIATE_TEST_SUITE_P(
    Types, BadDecode,
    ::testing::Values(
        Bad{R"({"request_id":7,"session_id":"s","events":[]})", "request_id"},
        Bad{R"({"request_id":"r","session_id":["s"],"events":[]})", "session_id"},
        Bad{R"({"request_id":"r","session_id":"s","events":{}})", "events"},
        Bad{R"({"request_id":"r","session_id":"s","events":[1]})", "events[0]"},
        Bad{R"({"request_id":"r","session_id":"s","events":[[]]})", "events[0]"},
        Bad{R"({"request_id":"r","request_id":"q","session_id":"s","events":[]})", "request_id"},
        Bad{R"({"request_id":"r","session_id":"s","events":[],"deadline_ms":"5"})", "deadline_ms"},
        Bad{R"({"request_id":"r","session_id":"s","events":[],"deadline_ms":0})", "deadline_ms"},
        Bad{R"({"request_id":"r","session_id":"s","events":[],"deadline_ms":-1})", "deadline_ms"},
        Bad{R"({"request_id":"r","session_id":"s","events":[],"deadline_ms":1e300})",
            "deadline_ms"},
        Bad{R"({"request_id":"r","session_id":"s","events":[],"best_effort":1})", "best_effort"}));

INSTANTIATE_TEST_SUITE_P(
    Events, BadDecode,
    ::testing::Values(
        Bad{R"({"request_id":"r","session_id":"s","events":[{}]})", "events[0].neuron_id"},
        Bad{R"({"request_id":"r","session_id":"s","events":[{"neuron_id":1,"value":1}]})",
            "events[0].time_bin"},
        Bad{R"({"request_id":"r","session_id":"s","events":[{"neuron_id":"1"}]})",
            "events[0].neuron_id"},
        Bad{R"({"request_id":"r","session_id":"s","events":[{"neuron_id":null}]})",
            "events[0].neuron_id"},
        Bad{R"({"request_id":"r","session_id":"s","events":[{"neuron_id":-1}]})",
            "events[0].neuron_id"},
        Bad{R"({"request_id":"r","session_id":"s","events":[{"neuron_id":2147483648}]})",
            "events[0].neuron_id"},
        Bad{R"({"request_id":"r","session_id":"s","events":[{"time_bin":-5}]})",
            "events[0].time_bin"},
        Bad{R"({"request_id":"r","session_id":"s","events":[{"time_bin":9223372036854775807}]})",
            "events[0].time_bin"},
        Bad{R"({"request_id":"r","session_id":"s","events":[{"time_bin":18446744073709551615}]})",
            "events[0].time_bin"},
        Bad{R"({"request_id":"r","session_id":"s","events":[{"time_bin":1e18}]})",
            "events[0].time_bin"},
        Bad{R"({"request_id":"r","session_id":"s","events":[{"value":1,"value":2}]})",
            "events[0].value"}));

TEST(DecodeCodec, NamesTheIndexAndTheValue) {
  FrameParser parser;
  std::string events;
  for (int i = 0; i < 17; ++i) events += std::string(kEvent) + ",";
  const auto frame = parser.decode(decode_json(events + R"({"neuron_id":-900})"));
  ASSERT_FALSE(frame);
  EXPECT_EQ(frame.error().field, "events[17].neuron_id");
  EXPECT_NE(frame.error().message.find("events[17].neuron_id = -900"), std::string::npos);
}

TEST(DecodeCodec, SurvivesADepthBomb) {
  FrameParser parser;
  EXPECT_FALSE(parser.decode(std::string(100'000, '[')));
  EXPECT_FALSE(parser.decode("{\"x\":" + std::string(5'000, '[') + std::string(5'000, ']') + "}"));
  EXPECT_TRUE(parser.decode(decode_json(kEvent)));
}

TEST(DecodeCodec, RefusesAnEndlessId) {
  FrameParser parser;
  const auto frame = parser.decode(R"({"request_id":")" + std::string(300, 'x') +
                                   R"(","session_id":"s","events":[]})");
  ASSERT_FALSE(frame);
  EXPECT_EQ(frame.error().field, "request_id");
}

TEST(StreamCodec, TellsStepsOpeningsAndClosingsApart) {
  FrameParser parser;
  const auto step = parser.stream(R"({"sequence_number":9,"events":[],"gap":2})");
  ASSERT_TRUE(step);
  EXPECT_EQ(step->kind, StreamFrame::Kind::step);
  EXPECT_EQ(step->step.sequence, 9);
  EXPECT_EQ(step->step.gap, 2);
  const auto open = parser.stream(
      R"({"open":{"units":["a","b"],"first_step":5,"drop_out_of_step":true,"deadline_ms":10}})");
  ASSERT_TRUE(open) << open.error().message;
  EXPECT_EQ(open->kind, StreamFrame::Kind::open);
  EXPECT_EQ(open->open.options.unit_ids, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(open->open.options.first_step, 5);
  EXPECT_TRUE(open->open.options.drop_out_of_step);
  EXPECT_EQ(open->open.deadline_ms, 10);
  EXPECT_EQ(parser.stream(R"({"close":true})")->kind, StreamFrame::Kind::close);
  EXPECT_EQ(parser.stream(R"({"open":true})")->kind, StreamFrame::Kind::open);
}

TEST(StreamCodec, KeepsTheNumberOfAFrameItRefuses) {
  FrameParser parser;
  EXPECT_FALSE(parser.stream(R"({"events":[{}],"sequence_number":41})"));
  EXPECT_EQ(parser.last_sequence(), 41);
  EXPECT_FALSE(parser.stream("{"));
  EXPECT_FALSE(parser.last_sequence());
}

class BadStream : public ::testing::TestWithParam<Bad> {};

TEST_P(BadStream, IsRefusedNamingTheField) {
  FrameParser parser;
  const auto frame = parser.stream(GetParam().json);
  ASSERT_FALSE(frame);
  EXPECT_EQ(frame.error().field, GetParam().field) << frame.error().message;
}

INSTANTIATE_TEST_SUITE_P(
    Frames, BadStream,
    ::testing::Values(Bad{"{}", "sequence_number"}, Bad{R"({"sequence_number":1})", "events"},
                      Bad{R"({"sequence_number":-1,"events":[]})", "sequence_number"},
                      Bad{R"({"sequence_number":0.5,"events":[]})", "sequence_number"},
                      Bad{R"({"sequence_number":9007199254740993,"events":[]})", "sequence_number"},
                      Bad{R"({"sequence_number":"0","events":[]})", "sequence_number"},
                      Bad{R"({"sequence_number":0,"events":[],"gap":-1})", "gap"},
                      Bad{R"({"close":1})", "close"}, Bad{R"({"close":false})", "close"},
                      Bad{R"({"open":3})", "open"}, Bad{R"({"open":{"units":"a"}})", "open.units"},
                      Bad{R"({"open":{"units":[]}})", "open.units"},
                      Bad{R"({"open":{"units":["a",1]}})", "open.units[1]"},
                      Bad{R"({"open":{"first_step":-1}})", "open.first_step"},
                      Bad{R"({"open":{"drop_out_of_step":"yes"}})", "open.drop_out_of_step"},
                      Bad{R"({"open":{"allow_missing_units":0}})", "open.allow_missing_units"},
                      Bad{R"({"open":{"deadline_ms":-3}})", "open.deadline_ms"}));

}  // namespace
}  // namespace cortex
