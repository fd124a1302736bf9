// Requests that no client should send, in bulk.
#include <gtest/gtest.h>
#include <simdjson.h>
#include <sys/resource.h>

#include <string>
#include <vector>

#include "serve/binary_frames.h"
#include "serve/test_server.h"

namespace cortex::testing {
namespace {

void expect_alive(TestServer& server) {
  EXPECT_EQ(server.decode(decode_body(event(1, 1, 1))).status, 200);
  const auto client = StreamClient::connect(server.url()).value_or_throw();
  EXPECT_TRUE(client->step({.sequence = 0}));
}

/// The status of a response, or 0; its body is JSON that names an error where it is one.
int checked_status(const std::string& response, const std::string& request) {
  if (!response.starts_with("HTTP/1.1 ")) return 0;
  const int status = std::stoi(response.substr(9));
  const auto at = response.find("\r\n\r\n");
  if (status < 400 || at + 4 >= response.size()) return status;
  simdjson::dom::parser parser;
  simdjson::dom::element root;
  EXPECT_FALSE(parser.parse(response.substr(at + 4)).get(root)) << response << request;
  simdjson::dom::element error;
  EXPECT_FALSE(root["error"].get(error)) << response;
  return status;
}

TEST(Abuse, EightMethodsTimesTwentyMalformedTargetsAreAnsweredOrCut) {
  TestServer server;
  const std::vector<std::string> methods = {"GET",    "HEAD",    "POST",    "PUT",
                                            "DELETE", "OPTIONS", "CONNECT", "BR\x01W"};
  const std::vector<std::string> targets = {
      "",
      "*",
      "//",
      "/../../etc/passwd",
      "/%",
      "/%00",
      "/%2e%2e/decode",
      "/decode/",
      "/decode?" + std::string(8000, 'q'),
      "/" + std::string(15'000, 'a'),
      "/" + std::string(40'000, 'b'),
      "http://evil.example/decode",
      "/\xff\xfe\xc3",
      "/decode\x01",
      "/a b c",
      "/v2/models//infer",
      "/v2/models/" + std::string(5000, 'm') + "/infer",
      "/v2/models/fake/versions//infer",
      "/v2/repository/models/../load",
      "/stream?model=\"'<>{}",
  };
  ASSERT_EQ(methods.size() * targets.size(), 160U);
  for (const std::string& method : methods)
    for (const std::string& target : targets) {
      const std::string request = method + " " + target + " HTTP/1.1\r\nHost: x\r\n\r\n";
      RawClient client(server.port());
      client.send(request);
      client.shutdown_send();
      const std::string response = client.read_to_end();
      if (response.empty()) continue;  // cut
      const int status = checked_status(response, request.substr(0, 100));
      const bool is_probe = status == 200 && target == "*";
      EXPECT_TRUE((status >= 400 && status < 500) || is_probe)
          << request.substr(0, 60) << " -> " << response.substr(0, 200);
    }
  expect_alive(server);
  EXPECT_TRUE(eventually([&] { return server.engine().stats().sessions == 0; }));
}

TEST(Abuse, JsonBombsAreErrors) {
  TestServer server;
  std::string many_keys = "{";
  for (int i = 0; i < 100'000; ++i)
    many_keys += (i ? "," : "") + std::string("\"k") + std::to_string(i) + "\":1";
  many_keys += "}";
  std::string nested_data(3000, '[');
  const std::vector<std::string> bodies = {
      many_keys,
      R"({"request_id":"r","session_id":"s","events":)" + std::string(5000, '[') + "}",
      R"({"request_id":")" + std::string(3'000'000, 'r') + R"(","session_id":"s","events":[]})",
      R"({"request_id":"r","session_id":"s","events":[]}{"request_id":"r"})",
      R"({"request_id":"r","session_id":"s","events":[)" + std::string(100'000, '{') + "]}",
      "\xef\xbb\xbf{}",
      std::string("{\"request_id\":\"\0\"}", 18),
      "{\"request_id\":\"\xff\xff\",\"session_id\":\"s\",\"events\":[]}",
  };
  for (const std::string& body : bodies) {
    const HttpAnswer answer = server.decode(body);
    EXPECT_EQ(answer.status, 400) << body.substr(0, 80);
  }
  EXPECT_EQ(http_post(server.url(), "/v2/models/fake/infer",
                      R"({"inputs":[{"name":"neuron_id","shape":[1],"datatype":"INT32","data":)" +
                          nested_data + "}]}")
                ->status,
            400);
  expect_alive(server);
}

TEST(Abuse, NumbersThatNoModelCanTakeAreErrorsThatNameTheField) {
  TestServer server;
  const std::vector<std::string> numbers = {"NaN",
                                            "Infinity",
                                            "-Infinity",
                                            "nan",
                                            "1e999",
                                            "-1e999",
                                            "1e308",
                                            "-1",
                                            "2.5",
                                            "1e-320",
                                            "18446744073709551615",
                                            "18446744073709551616",
                                            "9223372036854775808",
                                            "-9223372036854775808",
                                            std::string(5000, '9'),
                                            "0x10",
                                            "1_000",
                                            "+1",
                                            "01",
                                            "1.",
                                            ".5",
                                            "\"3\"",
                                            "true",
                                            "null",
                                            "[]"};
  for (const char* name : {"neuron_id", "time_bin", "value"})
    for (const std::string& number : numbers) {
      std::string e = event(1, 1, 1);
      const std::string key = std::string("\"") + name + "\":";
      e.replace(e.find(key) + key.size(), 1, number);
      const HttpAnswer answer = server.decode(decode_body(e));
      EXPECT_EQ(answer.status, 400) << e.substr(0, 100);
      const bool parsed = !contains(answer.body, "not valid JSON");
      if (parsed) {
        EXPECT_TRUE(contains(answer.body, std::string("events[0].") + name)) << answer.body;
      }
    }
  for (const std::string& number : numbers)
    if (number != "null") {
      const HttpAnswer answer = server.decode(decode_body("", ",\"deadline_ms\":" + number));
      const bool is_one = number == "2.5" || number == "1e-320";  // 1e-320 ms have passed
      EXPECT_EQ(answer.status == 400, !is_one) << number << answer.body;
    }
  expect_alive(server);
}

TEST(Abuse, OutOfOrderAndDuplicateStepsChangeNothing) {
  TestServer server;
  RawClient disturbed(server.port());
  RawClient calm(server.port());
  ASSERT_TRUE(disturbed.upgrade());
  ASSERT_TRUE(calm.upgrade());
  const auto behavior = [](const std::string& answer) {
    return answer.substr(0, answer.find(",\"latency_ms\""));
  };
  for (int i = 0; i < 30; ++i) {
    for (const int wrong : {i - 1, i + 1, i + 1000}) {
      if (wrong < 0) continue;
      disturbed.send(RawClient::frame(step_frame(wrong, event(2, 4 * wrong, 7))));
      EXPECT_TRUE(contains(disturbed.read_frame(), R"("status":409)"));
    }
    const std::string frame = RawClient::frame(step_frame(i, event(i % 16, 4 * i, 1)));
    disturbed.send(frame);
    calm.send(frame);
    EXPECT_EQ(behavior(disturbed.read_frame()), behavior(calm.read_frame()));
  }
}

TEST(Abuse, TenThousandConnectionsOpenedAndDroppedLeaveNothingBehind) {
  ServerOptions options;
  options.max_connections = 64;
  TestServer server({}, options);
  const auto resident = [] {
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;  // KiB, the most there has been
  };
  const auto settle = [&] {
    return eventually(
        [&] { return contains(server.get("/metrics").body, "\ncortex_connections 1\n"); });
  };
  const auto open_and_drop = [&](int n) {
    for (int i = 0; i < n; ++i) {
      RawClient client(server.port());
      ASSERT_TRUE(client.connected()) << i;
      if (i % 4 == 0) client.send("GET /re");
      if (i % 8 == 2) client.send("GET /ready HTTP/1.1\r\nHost: x\r\n\r\n");
      if (i % 3 == 0) client.reset();
    }
  };
  open_and_drop(2000);
  ASSERT_TRUE(settle());
  const long before = resident();
  open_and_drop(8000);
  ASSERT_TRUE(settle());
#ifndef CORTEX_SANITIZED  // which keeps what is freed for a while
  EXPECT_LT(resident() - before, 8 * 1024) << "KiB";
#else
  (void)before;
#endif
  expect_alive(server);
}

TEST(Abuse, AResetTakesTheWindowThatWaitsWithIt) {
  TestServer server;
  server.engine().hold();
  const std::string body = decode_body("");
  const auto request = [&](const std::string& path, const std::string& text) {
    return "POST " + path +
           " HTTP/1.1\r\nHost: x\r\nContent-Length: " + std::to_string(text.size()) + "\r\n\r\n" +
           text;
  };
  RawClient gone(server.port());
  gone.send(request("/decode", body));
  RawClient stays(server.port());
  stays.send(request("/decode", decode_body(event(1, 1, 4))));
  ASSERT_TRUE(eventually([&] { return server.engine().stats().queue_depth == 2; }));
  gone.reset();
  EXPECT_TRUE(eventually([&] { return server.engine().stats().queue_depth == 1; }));
  EXPECT_EQ(server.engine().stats().cancelled, 1);
  server.engine().release();
  EXPECT_TRUE(contains(stays.read_response(), "\"behavior\":[4,1]"));
  stays.send(request("/decode", body));
  EXPECT_TRUE(contains(stays.read_response(), "200 OK")) << "and its connection lives on";
}

TEST(Abuse, AWindowSocketThatGoesTakesItsWindowsWithIt) {
  FakeOptions fake;
  fake.window = true;
  TestServer server(fake);
  server.engine().hold();
  RawClient client(server.port());
  ASSERT_TRUE(client.upgrade());
  for (int i = 0; i < 3; ++i) client.send(RawClient::frame(step_frame(i)));
  ASSERT_TRUE(eventually([&] { return server.engine().stats().queue_depth == 3; }));
  client.reset();
  EXPECT_TRUE(eventually([&] { return server.engine().stats().queue_depth == 0; }));
  server.engine().release();
  EXPECT_EQ(server.decode(decode_body("")).status, 200);
}

TEST(Abuse, RandomBytesInBinaryFramesAreErrors) {
  TestServer server;
  RawClient client(server.port());
  ASSERT_TRUE(client.upgrade("", "/v1/stream"));
  std::uint32_t seed = 12345;
  const auto random = [&seed] { return seed = seed * 1664525 + 1013904223; };
  for (int i = 0; i < 500; ++i) {
    std::string frame(random() % 60, ' ');
    for (char& c : frame) c = static_cast<char>(random() >> 24);
    if (frame.size() > 1 && i % 2 == 0) {
      frame[0] = 1;
      frame[1] = 2;  // a step, else random
    }
    client.send(RawClient::frame(frame, 2));
    EXPECT_EQ(type_of(client.read_frame()), kTypeError) << i;
  }
  client.send(RawClient::frame(binary_step(0), 2));
  EXPECT_EQ(type_of(client.read_frame()), kTypeAnswer);
}

}  // namespace
}  // namespace cortex::testing
