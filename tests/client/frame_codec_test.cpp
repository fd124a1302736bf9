#include "client/frame_codec.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

namespace cortex {
namespace {

std::string bytes(std::initializer_list<int> values) {
  std::string text;
  for (const int v : values) text += static_cast<char>(v);
  return text;
}

template <class T>
void put(std::string& frame, T value) {
  frame.append(reinterpret_cast<const char*>(&value), sizeof value);
}
void put_text(std::string& frame, const std::string& text) {
  put(frame, static_cast<std::uint16_t>(text.size()));
  frame += text;
}
std::string header(int type, int flags, std::uint32_t count, std::int64_t sequence) {
  std::string frame = bytes({1, type});
  put(frame, static_cast<std::uint16_t>(flags));
  put(frame, count);
  put(frame, sequence);
  return frame;
}

TEST(BinaryCodec, AStepIsTheOneThatTheProtocolSpellsOut) {
  const std::vector<Event> events = {{.unit = 3, .value = 2, .bin = 29}};
  const auto codec = make_binary_codec();
  EXPECT_EQ(codec->step({.sequence = 7, .events = events}),
            bytes({1, 2, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0,    0, 0, 0, 0, 0, 0, 0,
                   0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 0x1d, 0, 0, 0, 0, 0, 0, 0}));
}

TEST(BinaryCodec, AnOpenFrameHasEveryOption) {
  const auto codec = make_binary_codec();
  std::string expected = header(1, 1 | 4 | 8, 2, 90);
  put(expected, std::uint64_t{15'500});
  put(expected, 50.0);
  put_text(expected, "arm");
  put_text(expected, "u17");
  put_text(expected, "u4");
  EXPECT_EQ(codec->open({.session = {.unit_ids = {"u17", "u4"},
                                     .allow_missing_units = true,
                                     .first_step = 90,
                                     .drop_out_of_step = true},
                         .deadline_ms = 15.5,
                         .best_effort = true,
                         .rate_hz = 50,
                         .model = "arm"}),
            expected);
  EXPECT_EQ(codec->close(), header(3, 0, 0, 0));
}

TEST(BinaryCodec, AnAnswerIsReadToTheLastField) {
  std::string frame = header(130, 1, 2, 41);
  for (const std::int64_t ns : {2'500'000, 1'000'000, 500'000, 3}) put(frame, ns);
  put(frame, 1.5F);
  put(frame, -2.25F);
  const auto codec = make_binary_codec();
  const auto answer = std::get<StreamAnswer>(codec->parse(frame).value_or_throw());
  EXPECT_EQ(answer.sequence, 41);
  EXPECT_EQ(answer.status, StepStatus::late);
  EXPECT_EQ(answer.behavior, (std::vector<float>{1.5F, -2.25F}));
  EXPECT_DOUBLE_EQ(answer.latency_ms, 2.5);
  EXPECT_DOUBLE_EQ(answer.queue_wait_ms, 1);
  EXPECT_DOUBLE_EQ(answer.inference_ms, 0.5);
  EXPECT_EQ(answer.dropped_events, 3);
}

TEST(BinaryCodec, AnErrorKeepsItsCodePlaceAndWhatWasExpected) {
  std::string frame = header(132, 409, 0, 9);
  put(frame, std::int64_t{7});
  put_text(frame, "out_of_order");
  put_text(frame, "expected 7");
  put_text(frame, "sequence_number");
  const auto codec = make_binary_codec();
  const auto refusal = std::get<Refusal>(codec->parse(frame).value_or_throw());
  EXPECT_EQ(refusal.status, 409);
  EXPECT_EQ(refusal.sequence, 9);
  EXPECT_EQ(refusal.expected, 7);
  EXPECT_EQ(refusal.error.code, ErrorCode::out_of_order);
  EXPECT_EQ(refusal.error.message, "expected 7");
  EXPECT_EQ(refusal.error.field, "sequence_number");
}

TEST(BinaryCodec, ABadFrameIsAnErrorAndReadsNothingBeyondIt) {
  std::string answer = header(130, 0, 2, 41);
  for (int i = 0; i < 4; ++i) put(answer, std::int64_t{1});
  put(answer, 1.0F);
  put(answer, 1.0F);
  const auto codec = make_binary_codec();
  for (std::size_t n = 0; n < answer.size(); ++n)
    EXPECT_FALSE(codec->parse(answer.substr(0, n))) << n;
  EXPECT_TRUE(codec->parse(answer));
  EXPECT_FALSE(codec->parse(answer + "x"));
  std::string version = answer;
  version[0] = 2;
  EXPECT_FALSE(codec->parse(version));
  std::string type = answer;
  type[1] = 99;
  EXPECT_FALSE(codec->parse(type));
  // A count that promises more than there is must not be believed.
  EXPECT_FALSE(codec->parse(header(130, 0, 0xffffffff, 1) + std::string(32, '\0')));
  EXPECT_FALSE(codec->parse(header(129, 0, 0xffffffff, 1) + std::string(72, '\0')));
}

TEST(JsonCodec, FramesAreThoseOfTheProtocol) {
  const auto codec = make_json_codec();
  const std::vector<Event> events = {{.unit = 3, .value = 2, .bin = 29}};
  EXPECT_EQ(
      codec->step({.sequence = 7, .gap = 2, .events = events, .deadline_ms = 4}),
      R"({"sequence_number":7,"events":[{"neuron_id":3,"time_bin":29,"value":2}],"gap":2,"deadline_ms":4})");
  EXPECT_EQ(codec->open({}), R"({"open":{}})");
  EXPECT_EQ(codec->open({.best_effort = false, .rate_hz = 50, .model = "arm"}),
            R"({"open":{"best_effort":false,"rate_hz":50,"model":"arm"}})");
}

TEST(JsonCodec, ABadFrameIsAnError) {
  const auto codec = make_json_codec();
  for (const char* frame : {"", "[", "{}", "7", R"({"sequence_number":1,"behavior":["x"]})"})
    EXPECT_FALSE(codec->parse(frame)) << frame;
}

TEST(FrameCodec, UnknownCodesGoByTheirStatus) {
  EXPECT_EQ(error_code_of("not_found", 404), ErrorCode::not_found);
  EXPECT_EQ(error_code_of("unauthorized", 401), ErrorCode::invalid_argument);
  EXPECT_EQ(error_code_of("new_in_version_9", 503), ErrorCode::unavailable);
}

}  // namespace
}  // namespace cortex
