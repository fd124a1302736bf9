#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "serve/test_server.h"
#include "support/paths.h"

namespace cortex::testing {
namespace {

std::string request(const std::string& method, const std::string& path,
                    const std::string& headers = "", const std::string& body = "") {
  return method + " " + path + " HTTP/1.1\r\nHost: x\r\n" + headers +
         (body.empty() ? "" : "Content-Length: " + std::to_string(body.size()) + "\r\n") + "\r\n" +
         body;
}

TEST(Routes, DecodeAnswersWithBehaviorAndTimes) {
  TestServer server;
  const HttpAnswer answer = server.decode(decode_body(event(3, 2, 2) + "," + event(1, 5, 1)));
  EXPECT_EQ(answer.status, 200);
  EXPECT_TRUE(contains(answer.body, R"({"request_id":"r1","behavior":[3,7],"latency_ms":)"))
      << answer.body;
  EXPECT_TRUE(contains(answer.body, R"("queue_wait_ms":)"));
  EXPECT_TRUE(contains(answer.body, R"("inference_ms":)"));
}

TEST(Routes, PagesSayWhatIsServed) {
  TestServer server;
  EXPECT_TRUE(contains(server.get("/").body, "POST /decode"));
  const HttpAnswer health = server.get("/health");
  EXPECT_EQ(health.status, 200);
  EXPECT_TRUE(contains(health.body, R"("status":"ok","model_loaded":true)"));
  EXPECT_EQ(server.get("/ready").status, 200);
  const HttpAnswer model = server.get("/v1/model");
  EXPECT_EQ(model.status, 200);
  EXPECT_TRUE(contains(model.body, R"("outputs":[{"name":"vel_x","unit":"mm/s"})"));
  EXPECT_TRUE(contains(model.body, R"("bins_per_step":4)"));
  EXPECT_TRUE(contains(model.body, R"("units":["u0","u1")"));
}

TEST(Routes, NothingIsReadyBeforeTheModelIsLoaded) {
  TestServer server({}, {}, false);
  EXPECT_EQ(server.get("/health").status, 200);
  EXPECT_TRUE(contains(server.get("/health").body, R"("status":"loading")"));
  for (const char* path : {"/ready", "/v1/model"}) {
    const HttpAnswer answer = server.get(path);
    EXPECT_EQ(answer.status, 503) << path;
    EXPECT_TRUE(contains(answer.body, R"("code":"unavailable")"));
  }
  EXPECT_EQ(server.decode(decode_body("")).status, 503);
  EXPECT_FALSE(StreamClient::connect(server.url()));
  EXPECT_EQ(server.get("/metrics").status, 200);
  server.server().attach(server.engine());
  EXPECT_TRUE(eventually([&] { return server.get("/ready").status == 200; }));
  EXPECT_EQ(server.decode(decode_body("")).status, 200);
}

TEST(Errors, EachHasItsStatusAndNamesTheField) {
  FakeOptions fake;
  fake.max_events = 4;
  TestServer server(fake);
  struct Case {
    std::string body;
    int status;
    std::string says;
  };
  const Case cases[] = {
      {"{", 400, R"("code":"invalid_argument")"},
      {"{}", 400, R"("field":"request_id")"},
      {decode_body(event(900, 0, 1)), 400, "events[0].neuron_id = 900 is out of range"},
      {decode_body(event(0, 0, 1) + "," + event(0, 0, 0)), 400, "events[1].value = 0"},
      {decode_body(event(0, -1, 1)), 400, "events[0].time_bin = -1"},
      {decode_body("", R"(,"deadline_ms":-4)"), 400, R"("field":"deadline_ms")"},
  };
  for (const Case& c : cases) {
    const HttpAnswer answer = server.decode(c.body);
    EXPECT_EQ(answer.status, c.status) << c.body;
    EXPECT_TRUE(contains(answer.body, R"({"error":{"code":)")) << answer.body;
    EXPECT_TRUE(contains(answer.body, c.says)) << answer.body;
  }
  EXPECT_EQ(server.get("/nope").status, 404);
  EXPECT_EQ(server.get("/nope?x=1").status, 404);
  EXPECT_EQ(server.get("/health?x=1").status, 200);
  EXPECT_EQ(server.get("/stream").status, 426);
  EXPECT_EQ(server.get("/decode").status, 405);
  // And none of it did any harm.
  EXPECT_EQ(server.decode(decode_body(event(1, 1, 1))).status, 200);
}

TEST(Errors, AWindowModelRefusesWhatItsWindowCannotHold) {
  FakeOptions fake;
  fake.window = true;
  fake.max_events = 2;
  TestServer server(fake);
  const HttpAnswer late_bin = server.decode(decode_body(event(0, 100, 1)));
  EXPECT_EQ(late_bin.status, 400);
  EXPECT_TRUE(contains(late_bin.body, "a window has 100 bins, 0 to 99")) << late_bin.body;
  const std::string e = event(0, 1, 1);
  const HttpAnswer many = server.decode(decode_body(e + "," + e + "," + e));
  EXPECT_EQ(many.status, 413);
  EXPECT_TRUE(contains(many.body, R"("field":"events")"));
  EXPECT_EQ(server.decode(decode_body(event(0, 1, 0))).status, 200);  // published models allow it
}

TEST(Errors, MethodsAndTypesThatAreNotOurs) {
  TestServer server;
  RawClient client(server.port());
  client.send(request("PUT", "/health"));
  const std::string put = client.read_response();
  EXPECT_TRUE(contains(put, "405") && contains(put, "Allow: GET")) << put;
  client.send(request("BREW", "/decode"));
  EXPECT_TRUE(contains(client.read_response(), "405"));
  client.send(request("POST", "/decode", "Content-Type: text/csv\r\n", "a,b"));
  EXPECT_TRUE(contains(client.read_response(), "415"));
  client.send(request("POST", "/decode", "Content-Type: Application/JSON; charset=utf-8\r\n",
                      decode_body("")));
  EXPECT_TRUE(contains(client.read_response(), "200 OK"));
  client.send(request("HEAD", "/health"));
  const std::string head = client.read_until("\r\n\r\n");
  EXPECT_TRUE(contains(head, "200 OK") && contains(head, "Content-Length: ")) << head;
  client.send(request("GET", "/ready"));
  EXPECT_TRUE(contains(client.read_response(), "HTTP/1.1 200 OK"));
}

TEST(Errors, ADeadlineThatPassedIs504) {
  TestServer server;
  server.engine().hold();
  auto answer = std::async(std::launch::async, [&] {
    return server.decode(decode_body(event(1, 1, 1), R"(,"deadline_ms":1)"));
  });
  ASSERT_TRUE(eventually([&] { return server.engine().stats().queue_depth == 1; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  server.engine().release();
  const HttpAnswer late = answer.get();
  EXPECT_EQ(late.status, 504);
  EXPECT_TRUE(contains(late.body, R"("code":"deadline_exceeded")"));
}

TEST(Errors, AFullQueueIs429AndTheRestIsAnswered) {
  FakeOptions fake;
  fake.max_queued_windows = 2;
  TestServer server(fake);
  server.engine().hold();
  std::vector<std::future<HttpAnswer>> answers;
  answers.reserve(2);
  for (int i = 0; i < 2; ++i)
    answers.push_back(
        std::async(std::launch::async, [&] { return server.decode(decode_body("")); }));
  ASSERT_TRUE(eventually([&] { return server.engine().stats().queue_depth == 2; }));
  const HttpAnswer full = server.decode(decode_body(""));
  EXPECT_EQ(full.status, 429);
  EXPECT_TRUE(contains(full.body, R"("code":"resource_exhausted")"));
  server.engine().release();
  for (auto& answer : answers) EXPECT_EQ(answer.get().status, 200);
}

TEST(Keys, AreAskedForEverywhereButWhereALoadBalancerLooks) {
  const TempDir dir;
  std::ofstream(dir.file("keys")) << "0123456789abcdef\n";
  ServerOptions options;
  options.api_key_file = dir.file("keys");
  TestServer server({}, options);
  EXPECT_EQ(server.get("/health").status, 200);
  EXPECT_EQ(server.get("/ready").status, 200);
  for (const char* path : {"/", "/metrics", "/v1/model", "/nope"})
    EXPECT_EQ(server.get(path).status, 401) << path;
  const HttpAnswer bare = server.decode(decode_body(""));
  EXPECT_EQ(bare.status, 401);
  EXPECT_TRUE(contains(bare.body, R"("code":"unauthorized")"));
  EXPECT_FALSE(StreamClient::connect(server.url()));
  EXPECT_FALSE(StreamClient::connect(server.url(), {.api_key = "0123456789abcdeX"}));
  const ClientOptions with_key{.api_key = "0123456789abcdef"};
  EXPECT_EQ(http_post(server.url(), "/decode", decode_body(""), with_key)->status, 200);
  const auto client = StreamClient::connect(server.url(), with_key);
  ASSERT_TRUE(client) << client.error().message;
  EXPECT_TRUE((*client)->step({}));
}

TEST(Connections, CarryManyRequestsInOrder) {
  TestServer server;
  RawClient client(server.port());
  std::string all;
  for (int i = 0; i < 20; ++i)
    all += request("POST", "/decode", "", decode_body(event(0, 1, i + 1)));
  client.send(all);
  for (int i = 0; i < 20; ++i) {
    const std::string answer = client.read_response();
    EXPECT_TRUE(contains(answer, "\"behavior\":[" + std::to_string(i + 1) + ",1]")) << answer;
  }
}

TEST(Connections, HoweverARequestIsCutItsAnswerIsTheSame) {
  TestServer server;
  const std::string body = decode_body(event(3, 2, 5));
  const std::string whole = request("POST", "/decode", "", body);
  char size[16];
  std::snprintf(size, sizeof size, "%zx\r\n", body.size());
  const std::string chunked =
      request("POST", "/decode", "Transfer-Encoding: chunked\r\n") + size + body + "\r\n0\r\n\r\n";
  // Long enough for the server to see what was sent so far by itself.
  const auto pause = [] { std::this_thread::sleep_for(std::chrono::microseconds(500)); };
  RawClient client(server.port());
  const auto expect_answer = [&](std::size_t cut) {
    const std::string answer = client.read_response();
    EXPECT_TRUE(contains(answer, "200 OK") && contains(answer, "\"behavior\":[5,2]"))
        << "cut at " << cut << ": " << answer;
  };
  client.set_no_delay();
  for (const std::string& one : {whole, chunked}) {
    client.send(one);
    expect_answer(one.size());
    for (const char c : one) {
      client.send({&c, 1});
      pause();
    }
    expect_answer(1);
    for (std::size_t cut = 1; cut < one.size(); ++cut) {
      client.send(one.substr(0, cut));
      pause();
      client.send(one.substr(cut));
      expect_answer(cut);
    }
    client.send(one + one);
    expect_answer(one.size());
    expect_answer(one.size());
    // The second of two begins in the packet of the first.
    for (std::size_t cut = 1; cut < one.size(); cut += 7) {
      client.send(one + one.substr(0, cut));
      expect_answer(cut);
      client.send(one.substr(cut));
      expect_answer(cut);
    }
  }
}

TEST(Connections, ABadRequestEndsOnlyItsOwn) {
  TestServer server;
  RawClient good(server.port());
  for (const char* junk : {"\x16\x03\x01\x02\x01\n\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n",
                           "POST /decode HTTP/1.1\r\nContent-Length: x\r\n\r\n",
                           "POST /decode HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"}) {
    RawClient bad(server.port());
    bad.send(junk);
    EXPECT_TRUE(contains(bad.read_response(), "400 Bad Request")) << junk;
    EXPECT_TRUE(bad.closed_by_server());
    good.send(request("GET", "/ready"));
    EXPECT_TRUE(contains(good.read_response(), "200 OK"));
  }
}

TEST(Connections, AChunkedBodyIsABody) {
  TestServer server;
  RawClient client(server.port());
  const std::string body = decode_body("");
  char size[16];
  std::snprintf(size, sizeof size, "%zx\r\n", body.size());
  client.send("POST /decode HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" +
              std::string(size) + body + "\r\n0\r\n\r\n");
  EXPECT_TRUE(contains(client.read_response(), "200 OK"));
}

TEST(Connections, ExpectContinueIsAnswered) {
  TestServer server;
  RawClient client(server.port());
  const std::string body = decode_body("");
  client.send("POST /decode HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: " +
              std::to_string(body.size()) + "\r\n\r\n");
  EXPECT_TRUE(contains(client.read_until("\r\n\r\n"), "100 Continue"));
  client.send(body);
  EXPECT_TRUE(contains(client.read_response(), "200 OK"));
}

TEST(Connections, TooManyAreTurnedAwayWithAnAnswer) {
  ServerOptions options;
  options.max_connections = 2;
  TestServer server({}, options);
  RawClient first(server.port());
  RawClient second(server.port());
  for (RawClient* c : {&first, &second}) {
    c->send(request("GET", "/ready"));
    EXPECT_TRUE(contains(c->read_response(), "200 OK"));
  }
  {
    RawClient third(server.port());
    third.send(request("GET", "/ready"));
    EXPECT_TRUE(contains(third.read_response(), "503"));
    EXPECT_TRUE(third.closed_by_server());
  }
  first.close();
  EXPECT_TRUE(eventually([&] {
    RawClient again(server.port());
    again.send(request("GET", "/ready"));
    return contains(again.read_response(), "200 OK");
  }));
}

}  // namespace
}  // namespace cortex::testing
