// What clients do to a server that they should not.
#include <cortex/live_session.h>
#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <string>
#include <thread>

#include "serve/test_server.h"

namespace cortex::testing {
namespace {

void expect_alive(TestServer& server) {
  EXPECT_EQ(server.decode(decode_body(event(1, 1, 1))).status, 200);
  const auto client = StreamClient::connect(server.url()).value_or_throw();
  EXPECT_TRUE(client->step({.sequence = 0}));
}

bool no_sessions(TestServer& server) {
  return eventually([&] { return server.engine().stats().sessions == 0; });
}

/// Sends the same bytes over and over, whole, without reading.
class Flood {
 public:
  Flood(RawClient& client, std::string_view what) : client_(client), what_(what), rest_(what) {}
  /// Sends until nothing more fits; whether the server has given up.
  bool given_up() {
    while (const std::size_t n = client_.send_some(rest_)) {
      rest_.remove_prefix(n);
      if (rest_.empty()) rest_ = what_;
    }
    return client_.closed_by_server_now();
  }

 private:
  RawClient& client_;
  std::string_view what_;
  std::string_view rest_;
};

TEST(Faults, AClientKilledInTheMiddleOfAFrame) {
  TestServer server;
  for (const std::size_t cut : {1U, 2U, 5U, 20U}) {
    RawClient client(server.port());
    ASSERT_TRUE(client.upgrade());
    client.send(RawClient::frame(step_frame(0)));
    EXPECT_FALSE(client.read_frame().empty());
    client.send(RawClient::frame(step_frame(1)).substr(0, cut));
    client.reset();
    EXPECT_TRUE(no_sessions(server));
  }
  expect_alive(server);
}

TEST(Faults, AClientThatGoesTakesItsQueuedStepsWithIt) {
  TestServer server;
  server.engine().hold();
  RawClient client(server.port());
  ASSERT_TRUE(client.upgrade());
  for (int i = 0; i < 3; ++i) client.send(RawClient::frame(step_frame(i)));
  ASSERT_TRUE(eventually([&] { return server.engine().stats().queue_depth == 3; }));
  client.reset();
  EXPECT_TRUE(no_sessions(server));
  EXPECT_EQ(server.engine().stats().queue_depth, 0);
  server.engine().release();
  expect_alive(server);
}

TEST(Faults, AClientThatGoesBetweenRequestAndAnswer) {
  TestServer server;
  server.engine().hold();
  {
    RawClient client(server.port());
    const std::string body = decode_body("");
    client.send("POST /decode HTTP/1.1\r\nHost: x\r\nContent-Length: " +
                std::to_string(body.size()) + "\r\n\r\n" + body);
    ASSERT_TRUE(eventually([&] { return server.engine().stats().queue_depth == 1; }));
    client.reset();
  }
  server.engine().release();
  expect_alive(server);
}

TEST(Faults, AHalfClosedClientStillGetsItsAnswer) {
  TestServer server;
  RawClient client(server.port());
  const std::string body = decode_body(event(1, 1, 3));
  client.send("POST /decode HTTP/1.1\r\nHost: x\r\nContent-Length: " + std::to_string(body.size()) +
              "\r\n\r\n" + body);
  client.shutdown_send();
  EXPECT_TRUE(contains(client.read_response(), "\"behavior\":[3,1]"));
  EXPECT_TRUE(client.closed_by_server());
  RawClient cut(server.port());
  cut.send("POST /decode HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{\"request");
  cut.shutdown_send();
  EXPECT_TRUE(cut.closed_by_server());
  RawClient socket(server.port());
  ASSERT_TRUE(socket.upgrade());
  socket.send(RawClient::frame(step_frame(0)));
  EXPECT_FALSE(socket.read_frame().empty());
  socket.shutdown_send();
  EXPECT_TRUE(no_sessions(server));
  expect_alive(server);
}

TEST(Faults, AStalledWriterIsGivenUp) {
  ServerOptions options;
  options.read_timeout_s = 0.3;
  TestServer server({}, options);
  for (const char* part : {"GET /hea", "POST /decode HTTP/1.1\r\nContent-Le",
                           "POST /decode HTTP/1.1\r\nContent-Length: 10\r\n\r\n{"}) {
    RawClient client(server.port());
    client.send(part);
    const std::string answer = client.read_response();
    EXPECT_TRUE(contains(answer, "408 Request Timeout")) << answer;
    EXPECT_TRUE(contains(answer, R"("code":"timeout")")) << answer;
    EXPECT_TRUE(client.closed_by_server());
  }
  RawClient silent(server.port());
  EXPECT_TRUE(silent.closed_by_server());
  // A frame in two fragments of which the second never comes.
  RawClient socket(server.port());
  ASSERT_TRUE(socket.upgrade());
  socket.send(RawClient::frame(step_frame(0)));
  EXPECT_FALSE(socket.read_frame().empty());
  socket.send(RawClient::frame(step_frame(1)).substr(0, 12));
  EXPECT_TRUE(socket.closed_by_server());
  EXPECT_TRUE(no_sessions(server));
  expect_alive(server);
}

TEST(Faults, AWriterOfOneByteAtATimeIsGivenUpToo) {
  ServerOptions options;
  options.read_timeout_s = 0.3;
  TestServer server({}, options);
  RawClient client(server.port());
  EXPECT_TRUE(eventually([&] { return !client.send("x"); }));
  expect_alive(server);
}

TEST(Faults, AnIdleConnectionIsClosed) {
  ServerOptions options;
  options.idle_timeout_s = 0.3;
  TestServer server({}, options);
  RawClient client(server.port());
  client.send("GET /ready HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_TRUE(contains(client.read_response(), "200 OK"));
  EXPECT_TRUE(client.closed_by_server());
}

TEST(Faults, ASilentWebSocketPeerIsGone) {
  ServerOptions options;
  options.ping_s = 0.4;
  TestServer server({}, options);
  RawClient client(server.port());  // answers no ping
  ASSERT_TRUE(client.upgrade());
  client.send(RawClient::frame(step_frame(0)));
  EXPECT_FALSE(client.read_frame().empty());
  EXPECT_TRUE(client.closed_by_server());
  EXPECT_TRUE(no_sessions(server));
}

TEST(Faults, AQuietPeerThatAnswersPingsStays) {
  ServerOptions options;
  options.ping_s = 0.4;
  TestServer server({}, options);
  RawClient client(server.port());
  ASSERT_TRUE(client.upgrade());
  for (int i = 0; i < 4; ++i) {  // longer than it may be silent
    client.read_frame();
    ASSERT_EQ(client.opcode(), 9) << "a ping";
    client.send(RawClient::frame("", 10));
  }
  client.send(RawClient::frame(step_frame(0)));
  EXPECT_TRUE(contains(client.read_frame(), R"("behavior")"));
}

TEST(Faults, APeerThatTheServerDoesNotReadIsNotTakenForASilentOne) {
  ServerOptions options;
  options.ping_s = 0.4;
  TestServer server({}, options);
  server.engine().hold();
  RawClient client(server.port());
  ASSERT_TRUE(client.upgrade());
  // More than may be queued: the rest, and any pong behind it, is left unread.
  const int steps = options.max_queued_steps + 2;
  for (int i = 0; i < steps; ++i) client.send(RawClient::frame(step_frame(i)));
  ASSERT_TRUE(
      eventually([&] { return server.engine().stats().queue_depth == options.max_queued_steps; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(1200));
  server.engine().release();
  for (int i = 0; i < steps; ++i) {
    std::string answer = client.read_frame();
    for (int pings = 0; client.opcode() == 9 && pings < 20; ++pings) answer = client.read_frame();
    ASSERT_TRUE(contains(answer, R"("behavior")")) << i << ": " << answer;
  }
}

TEST(Faults, ASessionThatFellBehindIsClosedAndToldWhichStepsWereLost) {
  ServerOptions options;
  options.max_behind_s = 0.3;
  TestServer server({}, options);
  RawClient client(server.port());
  ASSERT_TRUE(client.upgrade());
  client.send(RawClient::frame(step_frame(0)));
  EXPECT_TRUE(contains(client.read_frame(), R"("behavior")"));
  server.engine().hold();
  for (int i = 1; i <= 3; ++i) client.send(RawClient::frame(step_frame(i)));
  for (int i = 1; i <= 3; ++i) {
    const std::string answer = client.read_frame();
    EXPECT_TRUE(contains(answer, R"("status":503)")) << answer;
    EXPECT_TRUE(contains(answer,
                         "more than 0.3 s (--max-behind-s): the last step decoded is 0, 3 "
                         "after it were not"))
        << answer;
    EXPECT_TRUE(contains(answer, R"("sequence_number":)" + std::to_string(i))) << answer;
  }
  EXPECT_EQ(client.read_frame().substr(0, 2), "\x03\xf5");  // 1013, try again later
  EXPECT_EQ(client.opcode(), 8);
  EXPECT_TRUE(no_sessions(server));
  server.engine().release();
  EXPECT_TRUE(
      contains(server.get("/metrics").body, "cortex_errors_total{error_type=\"unavailable\"} 3\n"));
  expect_alive(server);
}

TEST(Faults, WithoutALimitASessionMayFallBehind) {
  ServerOptions options;
  options.max_behind_s = 0;
  TestServer server({}, options);
  server.engine().hold();
  RawClient client(server.port());
  ASSERT_TRUE(client.upgrade());
  client.send(RawClient::frame(step_frame(0)));
  ASSERT_TRUE(eventually([&] { return server.engine().stats().queue_depth == 1; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  server.engine().release();
  EXPECT_TRUE(contains(client.read_frame(), R"("behavior")"));
}

TEST(Faults, ALiveSessionGoesOnAfterItFellBehind) {
  ServerOptions options;
  options.max_behind_s = 0.3;
  TestServer server({}, options);
  const auto session = LiveSession::open(server.url(), {}).value_or_throw();
  EXPECT_TRUE(session->step(0, {}));
  server.engine().hold();
  auto late = std::async(std::launch::async, [&] { return session->step(1, {}); });
  EXPECT_TRUE(eventually([&] {
    return contains(server.get("/metrics").body,
                    "cortex_errors_total{error_type=\"unavailable\"} 1\n");
  }));
  server.engine().release();
  EXPECT_FALSE(late.get().value_or_throw().is_lost());
  EXPECT_GE(session->totals().resumed, 1);
}

TEST(Faults, AReaderThatReadsNothingIsDropped) {
  ServerOptions options;
  options.write_timeout_s = 0.5;
  TestServer server({}, options);
  RawClient client(server.port(), 4096);
  const std::string request =
      "POST /decode HTTP/1.1\r\nHost: x\r\nContent-Type: " + std::string(8000, 'x') + "\r\n\r\n";
  Flood flood(client, request);
  EXPECT_TRUE(eventually([&] { return flood.given_up(); }));
  expect_alive(server);
}

TEST(Faults, AWebSocketReaderThatReadsNothingIsDropped) {
  ServerOptions options;
  options.write_timeout_s = 0.5;
  TestServer server({}, options);
  RawClient client(server.port(), 4096);
  ASSERT_TRUE(client.upgrade());
  const std::string frame =
      RawClient::frame(R"({"open":{"units":[")" + std::string(250, 'x') + R"("]}})");
  std::string many;
  while (many.size() < 200'000) many += frame;
  Flood flood(client, many);
  EXPECT_TRUE(eventually([&] { return flood.given_up(); }));
  expect_alive(server);
}

TEST(Faults, BodiesAndHeadersHaveALimit) {
  ServerOptions options;
  options.max_body = 2000;
  TestServer server({}, options);
  RawClient announced(server.port());
  announced.send("POST /decode HTTP/1.1\r\nHost: x\r\nContent-Length: 2001\r\n\r\n");
  const std::string answer = announced.read_response();
  EXPECT_TRUE(contains(answer, "413") && contains(answer, "2000 bytes")) << answer;
  RawClient sent(server.port());
  sent.send("POST /decode HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" +
            std::string(100'000, ' '));
  EXPECT_TRUE(contains(sent.read_response(), "413"));
  RawClient chunked(server.port());
  chunked.send("POST /decode HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\n" +
               std::string(4096, ' ') + "\r\n0\r\n\r\n");
  EXPECT_TRUE(contains(chunked.read_response(), "413"));
  RawClient header(server.port());
  header.send("GET /health HTTP/1.1\r\nX: " + std::string(20'000, 'x') + "\r\n\r\n");
  EXPECT_TRUE(contains(header.read_response(), "431"));
  RawClient socket(server.port());
  ASSERT_TRUE(socket.upgrade());
  socket.send(RawClient::frame(std::string(3000, ' ')));
  const std::string close = socket.read_frame();
  EXPECT_EQ(socket.opcode(), 8);
  EXPECT_EQ(close.substr(0, 2), "\x03\xf1");  // 1009, too big
  expect_alive(server);
}

TEST(Faults, DeepJsonIsAnErrorAndNotACrash) {
  TestServer server;
  EXPECT_EQ(server.decode(std::string(1'000'000, '[')).status, 400);
  std::string nested;
  for (int i = 0; i < 50'000; ++i) nested += R"({"a":)";
  EXPECT_EQ(server.decode(nested).status, 400);
  RawClient socket(server.port());
  ASSERT_TRUE(socket.upgrade());
  socket.send(RawClient::frame(std::string(60'000, '[')));
  EXPECT_TRUE(contains(socket.read_frame(), R"("status":400)"));
  socket.send(RawClient::frame(step_frame(0)));
  EXPECT_TRUE(contains(socket.read_frame(), R"("status":")"));
}

TEST(Faults, FramesThatBreakTheProtocolEndTheSocketOnly) {
  TestServer server;
  const std::string unmasked = "\x81\x02{}";
  const std::string bad_utf8 = RawClient::frame("\xff\xfe");
  const std::string bad_opcode = RawClient::frame("x", 7);
  for (const std::string& bytes : {unmasked, bad_utf8, bad_opcode}) {
    RawClient socket(server.port());
    ASSERT_TRUE(socket.upgrade());
    socket.send(RawClient::frame(step_frame(0)));
    EXPECT_FALSE(socket.read_frame().empty());
    socket.send(bytes);
    EXPECT_TRUE(socket.closed_by_server());
  }
  EXPECT_TRUE(no_sessions(server));
  expect_alive(server);
}

TEST(Faults, ManyClientsThatVanishLeaveNothingBehind) {
  TestServer server;
  for (int i = 0; i < 60; ++i) {
    RawClient client(server.port());
    if (i % 3 == 0) continue;
    client.upgrade();
    if (i % 3 == 1) client.send(RawClient::frame(step_frame(0)));
    if (i % 2 == 0) client.reset();
  }
  EXPECT_TRUE(no_sessions(server));
  EXPECT_TRUE(eventually(
      [&] { return contains(server.get("/metrics").body, "\ncortex_connections 1\n"); }));
  expect_alive(server);
}

TEST(Drain, AcceptedWorkIsAnsweredAndSocketsCloseAs1001) {
  TestServer server;
  RawClient socket(server.port());
  ASSERT_TRUE(socket.upgrade());
  RawClient idle_socket(server.port());
  ASSERT_TRUE(idle_socket.upgrade());
  RawClient idle(server.port());
  server.engine().hold();
  socket.send(RawClient::frame(step_frame(0, event(2, 0, 5))));
  auto decoded =
      std::async(std::launch::async, [&] { return server.decode(decode_body(event(1, 1, 7))); });
  ASSERT_TRUE(eventually([&] { return server.engine().stats().queue_depth == 2; }));
  server.begin_stop();
  EXPECT_TRUE(idle.closed_by_server());
  EXPECT_EQ(idle_socket.read_frame().substr(0, 2), "\x03\xe9");  // 1001, going away
  idle_socket.send(RawClient::frame("\x03\xe9", 8));
  idle_socket.close();
  RawClient late(server.port());
  EXPECT_FALSE(late.connected());
  server.engine().release();
  EXPECT_TRUE(contains(decoded.get().body, "\"behavior\":[7,1]"));
  EXPECT_TRUE(contains(socket.read_frame(), "\"behavior\":[5,"));
  EXPECT_EQ(socket.read_frame().substr(0, 2), "\x03\xe9");
  EXPECT_EQ(socket.opcode(), 8);
  socket.send(RawClient::frame("\x03\xe9", 8));
  socket.close();
  server.stop();
  EXPECT_EQ(server.engine().stats().sessions, 0);
}

TEST(Drain, IsBoundedHoweverLongTheEngineTakes) {
  ServerOptions options;
  options.drain_s = 0.2;
  TestServer server({}, options);
  server.engine().hold();
  RawClient socket(server.port());
  ASSERT_TRUE(socket.upgrade());
  socket.send(RawClient::frame(step_frame(0)));
  RawClient decode(server.port());
  const std::string body = decode_body("");
  decode.send("POST /decode HTTP/1.1\r\nHost: x\r\nContent-Length: " + std::to_string(body.size()) +
              "\r\n\r\n" + body);
  ASSERT_TRUE(eventually([&] { return server.engine().stats().queue_depth == 2; }));
  server.stop();
  EXPECT_TRUE(socket.closed_by_server());
  EXPECT_TRUE(decode.closed_by_server());
}

}  // namespace
}  // namespace cortex::testing
