// Who may talk to the server, how much, and how.
#include <gtest/gtest.h>

#include <sys/stat.h>

#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "serve/origin.h"
#include "serve/rate_limiter.h"
#include "serve/test_server.h"
#include "serve/unix_path.h"
#include "support/paths.h"

namespace cortex::testing {
namespace {

std::string get(const std::string& path, const std::string& headers = "",
                const std::string& host = "localhost") {
  return "GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\n" + headers + "\r\n";
}

TEST(Pages, AForeignPageIsToldFromAProgram) {
  const std::vector<std::string> none;
  const std::vector<std::string> allowed = {"http://localhost:3000", "https://decoder.lab.org"};
  EXPECT_TRUE(from_trusted_page("", "localhost:8080", none));
  EXPECT_TRUE(from_trusted_page("", "127.0.0.1:8080", none));
  EXPECT_TRUE(from_trusted_page("", "[::1]:8080", none));
  EXPECT_TRUE(from_trusted_page("", "rig7:8080", none));
  EXPECT_TRUE(from_trusted_page("", "", none));
  EXPECT_FALSE(from_trusted_page("http://evil.example", "localhost:8080", none));
  EXPECT_FALSE(from_trusted_page("http://localhost:3000", "localhost:8080", none));
  EXPECT_FALSE(from_trusted_page("null", "localhost:8080", none));
  // Its own name, resolved to 127.0.0.1.
  EXPECT_FALSE(from_trusted_page("", "evil.example:8080", none));
  EXPECT_FALSE(from_trusted_page("", "127.0.0.1.evil.example", none));
  EXPECT_TRUE(from_trusted_page("http://localhost:3000", "localhost:8080", allowed));
  EXPECT_TRUE(from_trusted_page("", "decoder.lab.org:8080", allowed));
  EXPECT_FALSE(from_trusted_page("http://localhost:3001", "localhost:8080", allowed));
}

TEST(Pages, AServerWithoutKeysDoesNotTalkToAWebPage) {
  ServerOptions options;
  options.allow_origins = {"http://localhost:3000"};
  TestServer server({}, options);
  RawClient page(server.port());
  EXPECT_FALSE(page.upgrade("Origin: http://evil.example\r\n"));
  RawClient friendly(server.port());
  EXPECT_TRUE(friendly.upgrade("Origin: http://localhost:3000\r\n"));
  RawClient http(server.port());
  http.send(get("/v1/model", "Origin: http://evil.example\r\n"));
  const std::string refused = http.read_response();
  EXPECT_TRUE(contains(refused, "403 Forbidden")) << refused;
  EXPECT_TRUE(contains(refused, "--allow-origin")) << refused;
  http.send(get("/v1/model", "", "evil.example:8080"));
  EXPECT_TRUE(contains(http.read_response(), "403 Forbidden"));
  http.send(get("/v1/model"));
  EXPECT_TRUE(contains(http.read_response(), "200 OK"));
  http.send(get("/health", "Origin: http://evil.example\r\n"));
  EXPECT_TRUE(contains(http.read_response(), "200 OK")) << "a probe tells nothing";
}

TEST(Pages, WithKeysTheKeyDecides) {
  const TempDir dir;
  std::ofstream(dir.file("keys")) << "0123456789abcdef\n";
  ServerOptions options;
  options.api_key_file = dir.file("keys");
  TestServer server({}, options);
  RawClient client(server.port());
  client.send(get("/v1/model",
                  "Origin: https://panel.example\r\nAuthorization: Bearer 0123456789abcdef\r\n"));
  EXPECT_TRUE(contains(client.read_response(), "200 OK"));
}

TEST(Rates, ABucketFillsWithTimeAndHoldsASecond) {
  RateLimiter limiter(10);
  TimeNs now = 1'000'000'000;
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(limiter.take("a", now));
  EXPECT_FALSE(limiter.take("a", now));
  EXPECT_TRUE(limiter.take("b", now)) << "each client has its own";
  now += 100'000'000;
  EXPECT_TRUE(limiter.take("a", now));
  EXPECT_FALSE(limiter.take("a", now));
  now += 3600'000'000'000;
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(limiter.take("a", now));
  EXPECT_FALSE(limiter.take("a", now));
  RateLimiter none(0);
  for (int i = 0; i < 1000; ++i) EXPECT_TRUE(none.take("a", now));
  RateLimiter slow(0.5);
  EXPECT_TRUE(slow.take("a", now));
  EXPECT_FALSE(slow.take("a", now + 1'000'000'000));
  EXPECT_TRUE(slow.take("a", now + 2'100'000'000));
}

TEST(Rates, AClientThatIsTooFastIs429AndTheFlagIsNamed) {
  ServerOptions options;
  options.max_rate = 3;
  TestServer server({}, options);
  int refused = 0;
  for (int i = 0; i < 6; ++i) {
    const HttpAnswer answer = server.decode(decode_body(""));
    if (answer.status == 200) continue;
    ++refused;
    EXPECT_EQ(answer.status, 429);
    EXPECT_TRUE(contains(answer.body, "--max-rate")) << answer.body;
  }
  EXPECT_GE(refused, 1);
  EXPECT_EQ(server.get("/health").status, 200) << "a probe is never limited";
}

TEST(Rates, AFrameOverTheRateIsRefusedAndTakesNothing) {
  ServerOptions options;
  options.max_rate = 4;
  TestServer server({}, options);
  RawClient client(server.port());
  ASSERT_TRUE(client.upgrade());
  std::int64_t next = 0;
  int refused = 0;
  for (int i = 0; i < 8; ++i) {
    client.send(RawClient::frame(step_frame(next)));
    const std::string answer = client.read_frame();
    if (contains(answer, "\"behavior\"")) {
      ++next;
    } else {
      ++refused;
      EXPECT_TRUE(contains(answer, R"("status":429)")) << answer;
      EXPECT_TRUE(contains(answer, "--max-rate")) << answer;
    }
  }
  EXPECT_GE(refused, 1);
  // The refused ones may be sent again: the session is where it was.
  EXPECT_TRUE(eventually([&] {
    client.send(RawClient::frame(step_frame(next)));
    return contains(client.read_frame(), "\"behavior\"");
  }));
}

TEST(Tenants, AreToldToTheEngine) {
  const TempDir dir;
  std::ofstream(dir.file("keys")) << "a key-of-laboratory-a\nb key-of-laboratory-b\n";
  ServerOptions options;
  options.api_key_file = dir.file("keys");
  TestServer server({}, options);
  const ClientOptions a{.api_key = "key-of-laboratory-a"};
  const ClientOptions b{.api_key = "key-of-laboratory-b"};
  EXPECT_EQ(http_post(server.url(), "/decode", decode_body(""), a)->status, 200);
  EXPECT_EQ(http_post(server.url(), "/decode", decode_body(""), b)->status, 200);
  const auto tenants = server.engine().window_tenants();
  ASSERT_EQ(tenants.size(), 2U);
  EXPECT_NE(tenants[0], tenants[1]);
  const auto client = StreamClient::connect(server.url(), b).value_or_throw();
  ASSERT_TRUE(client->step({.sequence = 0}));
  EXPECT_EQ(server.engine().last_options().tenant, tenants[1]);
}

TEST(Tenants, MeetNoSequencesOfEachOther) {
  const TempDir dir;
  std::ofstream(dir.file("keys")) << "a key-of-laboratory-a\nb key-of-laboratory-b\n";
  ServerOptions options;
  options.api_key_file = dir.file("keys");
  TestServer server({}, options);
  const auto infer = [&](const char* key, const char* parameters) {
    return http_post(
               server.url(), "/v2/models/fake/infer",
               std::string(R"({"parameters":{"sequence_id":1)") + parameters +
                   R"(},"inputs":[{"name":"neuron_id","shape":[0],"datatype":"INT32","data":[]},)"
                   R"({"name":"time_bin","shape":[0],"datatype":"INT32","data":[]},)"
                   R"({"name":"value","shape":[0],"datatype":"INT32","data":[]}]})",
               {.api_key = key})
        ->status;
  };
  EXPECT_EQ(infer("key-of-laboratory-a", R"(,"sequence_start":true)"), 200);
  EXPECT_EQ(infer("key-of-laboratory-b", ""), 404);
  EXPECT_EQ(infer("key-of-laboratory-a", ""), 200);
}

TEST(KeyFiles, AKeyThatIsReplacedWorksAtOnceAndTheOldOneNoMore) {
  const TempDir dir;
  std::ofstream(dir.file("keys")) << "the-first-key-of-all\n";
  ServerOptions options;
  options.api_key_file = dir.file("keys");
  TestServer server({}, options);
  const auto status = [&](const char* key) {
    return http_get(server.url(), "/v1/model", {.api_key = key})->status;
  };
  EXPECT_EQ(status("the-first-key-of-all"), 200);
  std::ofstream(dir.file("keys")) << "the-second-key-of-all\n";
  EXPECT_TRUE(eventually([&] { return status("the-second-key-of-all") == 200; }));
  EXPECT_EQ(status("the-first-key-of-all"), 401);
  std::ofstream(dir.file("keys")) << "broken\n";
  std::this_thread::sleep_for(std::chrono::milliseconds(1200));
  EXPECT_EQ(status("the-second-key-of-all"), 200);
}

TEST(UnixSocket, ServesEveryRouteBesideTcp) {
  const TempDir dir;
  ServerOptions options;
  options.unix_path = dir.file("cortex.sock");
  TestServer server({}, options);
  RawClient http(options.unix_path);
  ASSERT_TRUE(http.connected());
  http.send(get("/ready"));
  EXPECT_TRUE(contains(http.read_response(), "200 OK"));
  RawClient stream(options.unix_path);
  ASSERT_TRUE(stream.upgrade("", "/v1/stream"));
  stream.send(RawClient::frame(step_frame(0, event(1, 0, 3))));
  EXPECT_TRUE(contains(stream.read_frame(), "\"behavior\":[3,"));
  EXPECT_EQ(server.get("/ready").status, 200);
  struct stat s {};
  ASSERT_EQ(::stat(options.unix_path.c_str(), &s), 0);
  EXPECT_EQ(s.st_mode & 0777U, 0600U) << "its owner alone";
  server.stop();
}

TEST(UnixSocket, IsRemovedAtTheEndAndALeftOverOneIsNoObstacle) {
  const TempDir dir;
  ServerOptions options;
  options.port = 0;
  options.unix_path = dir.file("cortex.sock");
  {
    const auto server = Server::create(options).value_or_throw();
    EXPECT_TRUE(std::filesystem::exists(options.unix_path));
    const auto second = Server::create(options);
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().field, "unix");
    EXPECT_TRUE(contains(second.error().message, "another process listens"))
        << second.error().message;
  }
  EXPECT_FALSE(std::filesystem::exists(options.unix_path));
  {
    // What a killed server leaves.
    const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, options.unix_path.c_str(), sizeof address.sun_path - 1);
    ASSERT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    ::close(fd);
  }
  EXPECT_TRUE(std::filesystem::exists(options.unix_path));
  EXPECT_TRUE(Server::create(options));
}

TEST(UnixSocket, APathThatCannotBeASocketIsNamed) {
  const TempDir dir;
  std::ofstream(dir.file("file")) << "precious";
  const auto file = claim_unix_path(dir.file("file"));
  ASSERT_FALSE(file);
  EXPECT_TRUE(contains(file.error().message, "something lies there")) << file.error().message;
  EXPECT_TRUE(std::filesystem::exists(dir.file("file")));
  const auto longer = claim_unix_path(dir.file(std::string(200, 'x')));
  ASSERT_FALSE(longer);
  EXPECT_TRUE(contains(longer.error().message, "at most 107 bytes")) << longer.error().message;
  ServerOptions options;
  options.port = 0;
  options.unix_path = dir.file("no/such/folder.sock");
  EXPECT_FALSE(Server::create(options));
}

TEST(Limits, EventsOverTheLimitNameTheFlag) {
  FakeOptions fake;
  fake.window = true;
  fake.max_events = 2;
  TestServer server(fake);
  const std::string e = event(0, 1, 1);
  const HttpAnswer many = server.decode(decode_body(e + "," + e + "," + e));
  EXPECT_EQ(many.status, 413);
  EXPECT_TRUE(contains(many.body, "--max-events")) << many.body;
}

TEST(Limits, SessionsAndWindowsOverTheLimitNameTheFlag) {
  FakeOptions fake;
  fake.max_sessions = 0;
  fake.max_queued_windows = 0;
  TestServer server(fake);
  RawClient client(server.port());
  ASSERT_TRUE(client.upgrade());
  client.send(RawClient::frame(step_frame(0)));
  EXPECT_TRUE(contains(client.read_frame(), "--max-sessions"));
  EXPECT_TRUE(contains(server.decode(decode_body("")).body, "--max-queued-windows"));
}

TEST(Engines, ThatRecoverAreUnavailableUntilTheyAreBack) {
  TestServer server;
  server.engine().set_state(EngineState::recovering);
  EXPECT_EQ(server.get("/ready").status, 503);
  const HttpAnswer answer = server.decode(decode_body(""));
  EXPECT_EQ(answer.status, 503);
  EXPECT_TRUE(contains(answer.body, "is recovering")) << answer.body;
  server.engine().set_state(EngineState::ready);
  EXPECT_EQ(server.decode(decode_body("")).status, 200);
}

TEST(RequestIds, ComeBackWithTheAnswer) {
  TestServer server;
  RawClient client(server.port());
  client.send(get("/ready", "X-Request-Id: abc-7\r\n"));
  EXPECT_TRUE(contains(client.read_response(), "X-Request-Id: abc-7\r\n"));
  client.send(get("/ready"));
  EXPECT_FALSE(contains(client.read_response(), "X-Request-Id"));
}

}  // namespace
}  // namespace cortex::testing
