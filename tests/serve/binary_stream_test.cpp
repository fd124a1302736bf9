// WS /v1/stream: binary frames mean what JSON frames mean.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "serve/binary_frames.h"
#include "serve/test_server.h"

namespace cortex::testing {
namespace {

constexpr int kBinary = 2;

class BinaryClient {
 public:
  explicit BinaryClient(TestServer& server) : raw_(server.port()) {
    is_open_ = raw_.upgrade("", "/v1/stream");
  }
  bool is_open() const { return is_open_; }
  void send(const std::string& frame) { raw_.send(RawClient::frame(frame, kBinary)); }
  std::string read() {
    std::string frame = raw_.read_frame();
    EXPECT_EQ(raw_.opcode(), kBinary) << frame;
    return frame;
  }
  std::string ask(const std::string& frame) {
    send(frame);
    return read();
  }
  RawClient& raw() { return raw_; }

 private:
  RawClient raw_;
  bool is_open_ = false;
};

TEST(BinaryStream, AStepIsAnsweredWithItsBehavior) {
  TestServer server;
  BinaryClient client(server);
  ASSERT_TRUE(client.is_open());
  const std::string answer = client.ask(binary_step(0, {{1, 1, 0}, {2, 2, 3}}));
  EXPECT_EQ(type_of(answer), kTypeAnswer);
  EXPECT_EQ(sequence_of(answer), 0);
  ASSERT_EQ(count_of(answer), 2U);
  EXPECT_EQ(number_at<float>(answer, 48), 3.0F);
  EXPECT_GT(number_at<std::int64_t>(answer, 16), 0) << "latency_ns";
}

TEST(BinaryStream, HasTheBitsOfJson) {
  TestServer server;
  const auto json = StreamClient::connect(server.url()).value_or_throw();
  BinaryClient binary(server);
  for (std::int64_t i = 0; i < 60; ++i) {
    const std::vector<Event> events = {{static_cast<std::int32_t>(i % 16), 1 + int(i % 3), 4 * i}};
    const auto expected = json->step({.sequence = i, .events = events}).value_or_throw();
    const std::string answer = binary.ask(binary_step(i, events));
    EXPECT_EQ(number_at<float>(answer, 48), expected.behavior[0]);
    EXPECT_EQ(number_at<float>(answer, 52), expected.behavior[1]);
  }
}

TEST(BinaryStream, AnOpeningSaysWhatAClientMustKnow) {
  TestServer server;
  BinaryClient client(server);
  const std::string opened = client.ask(binary_open({.first_step = 7, .rate_hz = 40}));
  ASSERT_EQ(type_of(opened), kTypeOpened) << opened;
  EXPECT_EQ(flags_of(opened), 0);
  EXPECT_EQ(sequence_of(opened), 7);
  EXPECT_EQ(number_at<double>(opened, 24), 5);           // bin_ms
  EXPECT_EQ(number_at<double>(opened, 32), 20);          // step_ms
  EXPECT_EQ(number_at<std::uint32_t>(opened, 48), 4U);   // bins_per_step
  EXPECT_EQ(number_at<std::uint32_t>(opened, 52), 16U);  // units
  EXPECT_EQ(number_at<std::uint32_t>(opened, 60), 4U);   // max_queued_steps
  EXPECT_EQ(number_at<std::uint32_t>(opened, 64), 50U);  // window_steps
  EXPECT_EQ(number_at<double>(opened, 80), 40);          // rate_hz
  EXPECT_EQ(strings_from(opened, 88),
            (std::vector<std::string>{"fake", "fake", "fp32", "00000000deadbeef", "vel_x", "mm/s",
                                      "vel_y", "mm/s"}));
  EXPECT_EQ(server.engine().last_options().step_rate_hz, 40);
  EXPECT_EQ(type_of(client.ask(binary_step(7))), kTypeAnswer);
}

TEST(BinaryStream, AGapIsAsManyEmptySteps) {
  TestServer server;
  BinaryClient with_gap(server);
  BinaryClient without(server);
  const std::vector<Event> first = {{3, 2, 0}};
  with_gap.ask(binary_step(0, first));
  without.ask(binary_step(0, first));
  for (int i = 1; i < 6; ++i) without.ask(binary_step(i));
  const std::string a = with_gap.ask(binary_step(6, {}, 5));
  const std::string b = without.ask(binary_step(6));
  EXPECT_EQ(number_at<float>(a, 52), number_at<float>(b, 52));
}

TEST(BinaryStream, ErrorsHaveTheStatusTheFieldAndTheNumberOfJson) {
  TestServer server;
  BinaryClient client(server);
  const std::string jump = client.ask(binary_step(3));
  EXPECT_EQ(type_of(jump), kTypeError);
  EXPECT_EQ(flags_of(jump), 409);
  EXPECT_EQ(sequence_of(jump), 3);
  EXPECT_EQ(number_at<std::int64_t>(jump, 16), 0) << "expected";
  EXPECT_EQ(strings_from(jump, 24)[0], "out_of_order");
  const std::string bin = client.ask(binary_step(0, {{0, 1, 9}}));
  EXPECT_EQ(flags_of(bin), 400);
  EXPECT_EQ(strings_from(bin, 24)[1],
            "events[0].time_bin = 9 is out of range: step 0 owns bins 0 to 3");
  const std::string unit = client.ask(binary_step(0, {{99, 1, 0}}));
  EXPECT_EQ(strings_from(unit, 24)[2], "events[0].neuron_id");
  const std::string junk = client.ask("junk");
  EXPECT_EQ(flags_of(junk), 400);
  EXPECT_EQ(sequence_of(junk), -1);
  EXPECT_EQ(type_of(client.ask(binary_step(0))), kTypeAnswer) << "the session is as it was";
}

TEST(BinaryStream, ADuplicateStepIsRefusedAndTakesNothing) {
  TestServer server;
  BinaryClient client(server);
  client.ask(binary_step(0));
  const std::string again = client.ask(binary_step(0));
  EXPECT_EQ(flags_of(again), 409);
  EXPECT_EQ(number_at<std::int64_t>(again, 16), 1);
  EXPECT_EQ(type_of(client.ask(binary_step(1))), kTypeAnswer);
}

TEST(BinaryStream, TextAndBinaryMayAlternateAndEachIsAnsweredInItsForm) {
  TestServer server;
  BinaryClient client(server);
  EXPECT_EQ(type_of(client.ask(binary_step(0))), kTypeAnswer);
  client.raw().send(RawClient::frame(step_frame(1)));
  EXPECT_TRUE(client.raw().read_frame().starts_with("{\"sequence_number\":1,"));
  EXPECT_EQ(client.raw().opcode(), 1);
  // Sent ahead, too, with an error in its place.
  server.engine().hold();
  client.send(binary_step(2));
  client.raw().send(RawClient::frame(step_frame(9)));
  client.send(binary_step(3));
  server.engine().release();
  EXPECT_EQ(sequence_of(client.read()), 2);
  EXPECT_TRUE(contains(client.raw().read_frame(), R"("status":409)"));
  EXPECT_EQ(sequence_of(client.read()), 3);
}

TEST(BinaryStream, ClosingReturnsTheTotals) {
  TestServer server;
  BinaryClient client(server);
  client.ask(binary_open({.flags = 8}));
  for (int i = 0; i < 5; ++i) client.ask(binary_step(i, {{0, 1, 100'000}}));
  const std::string closed = client.ask(binary_close());
  EXPECT_EQ(type_of(closed), kTypeClosed);
  EXPECT_EQ(closed.size(), 80U);
  EXPECT_EQ(number_at<std::int64_t>(closed, 16), 5);
  EXPECT_EQ(number_at<std::int64_t>(closed, 40), 5) << "dropped_events";
  EXPECT_EQ(client.raw().read_frame().substr(0, 2), "\x03\xe8");  // 1000
  EXPECT_EQ(server.engine().stats().sessions, 0);
}

TEST(BinaryStream, LateAndWithheldAnswersSaySo) {
  TestServer server;
  BinaryClient client(server);
  const auto late = [&](const std::string& frame) {
    server.engine().hold();
    client.send(frame);
    EXPECT_TRUE(eventually([&] { return server.engine().stats().queue_depth == 1; }));
    std::this_thread::sleep_for(std::chrono::milliseconds(25));
    server.engine().release();
    return client.read();
  };
  EXPECT_EQ(flags_of(late(binary_step(0))), 1) << "late, the step itself was the deadline";
  const std::string withheld = late(binary_step(1, {}, 0, 1000));
  EXPECT_EQ(flags_of(withheld), 2);
  EXPECT_EQ(count_of(withheld), 0U);
  const std::string anyway = late(binary_step(2, {}, 0, 1000, 1));
  EXPECT_EQ(flags_of(anyway), 1);
  EXPECT_EQ(count_of(anyway), 2U);
}

TEST(BinaryStream, AnOutputThatIsNotFiniteCostsItsStepAlone) {
  TestServer server;
  BinaryClient client(server);
  client.ask(binary_step(0));
  server.engine().lose_finiteness();
  const std::string lost = client.ask(binary_step(1));
  EXPECT_EQ(type_of(lost), kTypeError);
  EXPECT_EQ(flags_of(lost), 500);
  EXPECT_EQ(sequence_of(lost), 1);
  EXPECT_EQ(type_of(client.ask(binary_step(2))), kTypeAnswer);
}

TEST(BinaryStream, AWindowModelTakesEachFrameAsAWindow) {
  FakeOptions fake;
  fake.window = true;
  TestServer server(fake);
  BinaryClient client(server);
  const std::string opened = client.ask(binary_open());
  EXPECT_EQ(flags_of(opened), 1);
  EXPECT_EQ(number_at<std::uint32_t>(opened, 72), 100U) << "max_bins";
  for (const std::int64_t sequence : {17, 3, 3}) {
    const std::string answer = client.ask(binary_step(sequence, {{1, 2, 50}}));
    EXPECT_EQ(sequence_of(answer), sequence);
    EXPECT_EQ(number_at<float>(answer, 48), 2.0F);
  }
  EXPECT_EQ(flags_of(client.ask(binary_step(4, {{1, 2, 100}}))), 400);
}

TEST(BinaryStream, TheOldRouteTakesTextAlone) {
  TestServer server;
  RawClient client(server.port());
  ASSERT_TRUE(client.upgrade());
  client.send(RawClient::frame(binary_step(0), kBinary));
  EXPECT_TRUE(contains(client.read_frame(), R"("status":415)"));
}

}  // namespace
}  // namespace cortex::testing
