// Traces: traceparent in, OTLP/HTTP JSON out, and never in a request's way.
#include <gtest/gtest.h>
#include <simdjson.h>

#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "serve/batch_watch.h"
#include "serve/otlp_exporter.h"
#include "serve/otlp_json.h"
#include "serve/request_trace.h"
#include "serve/test_server.h"

namespace cortex::testing {
namespace {

constexpr char kParent[] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
constexpr char kTrace[] = "4bf92f3577b34da6a3ce929d0e0e4736";

/// Takes posts on a port of its own and keeps their bodies.
class Collector {
 public:
  explicit Collector(int status = 200) : status_(status), fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (::bind(fd_, reinterpret_cast<sockaddr*>(&address), size) != 0 || ::listen(fd_, 16) != 0)
      return;
    ::getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { run(); });
  }
  ~Collector() {
    ::shutdown(fd_, SHUT_RDWR);
    if (thread_.joinable()) thread_.join();
    ::close(fd_);
  }
  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }
  std::vector<std::string> bodies() const {
    const std::lock_guard lock(mutex_);
    return bodies_;
  }
  std::string head() const {
    const std::lock_guard lock(mutex_);
    return head_;
  }

 private:
  void run() {
    for (;;) {
      const int client = ::accept(fd_, nullptr, nullptr);
      if (client < 0) return;
      std::string all;
      char chunk[4096];
      std::size_t end = 0;
      std::size_t length = 0;
      for (;;) {
        const auto n = ::recv(client, chunk, sizeof chunk, 0);
        if (n <= 0) break;
        all.append(chunk, static_cast<std::size_t>(n));
        if (end == 0 && all.find("\r\n\r\n") != std::string::npos) {
          end = all.find("\r\n\r\n") + 4;
          length = std::stoul(all.substr(all.find("Content-Length: ") + 16));
        }
        if (end > 0 && all.size() >= end + length) break;
      }
      const std::string answer =
          "HTTP/1.1 " + std::to_string(status_) + " x\r\nContent-Length: 2\r\n\r\n{}";
      {
        // Before the answer, with which the server is done.
        const std::lock_guard lock(mutex_);
        head_ = all.substr(0, end);
        bodies_.push_back(all.substr(end));
      }
      [[maybe_unused]] const auto sent = ::send(client, answer.data(), answer.size(), MSG_NOSIGNAL);
      ::close(client);
    }
  }

  const int status_;
  const int fd_;
  int port_ = 0;
  mutable std::mutex mutex_;
  std::vector<std::string> bodies_;
  std::string head_;
  std::thread thread_;
};

struct Span {
  std::string trace, id, parent, name;
  std::int64_t start = 0, end = 0;
  std::vector<std::string> links = {};  // span ids
  std::map<std::string, std::string> attributes = {};
};

std::vector<Span> spans_of(const std::vector<std::string>& bodies) {
  std::vector<Span> spans;
  for (const std::string& body : bodies) {
    simdjson::dom::parser parser;
    const auto root = parser.parse(body);
    for (const auto span : root["resourceSpans"].at(0)["scopeSpans"].at(0)["spans"].get_array()) {
      const auto text = [&](const char* name) {
        std::string_view value;
        return span[name].get(value) ? std::string() : std::string(value);
      };
      Span s{text("traceId"), text("spanId"), text("parentSpanId"), text("name")};
      s.start = std::stoll(text("startTimeUnixNano"));
      s.end = std::stoll(text("endTimeUnixNano"));
      simdjson::dom::array links;
      if (!span["links"].get(links))
        for (const auto link : links) s.links.emplace_back(std::string_view(link["spanId"]));
      for (const auto a : span["attributes"].get_array()) {
        std::string_view value;
        if (a["value"]["stringValue"].get(value)) value = std::string_view(a["value"]["intValue"]);
        s.attributes[std::string(std::string_view(a["key"]))] = std::string(value);
      }
      spans.push_back(std::move(s));
    }
  }
  return spans;
}

ServerOptions traced(const Collector& collector, double ratio = 0) {
  ServerOptions options;
  options.otlp_url = collector.url();
  options.trace_ratio = ratio;
  return options;
}

void decode_traced(TestServer& server, const char* traceparent) {
  RawClient client(server.port());
  const std::string body = decode_body(event(1, 1, 1));
  client.send("POST /decode HTTP/1.1\r\nHost: x\r\nX-Request-Id: abc\r\ntraceparent: " +
              std::string(traceparent) + "\r\nContent-Length: " + std::to_string(body.size()) +
              "\r\n\r\n" + body);
  EXPECT_TRUE(contains(client.read_response(), "200 OK"));
}

TEST(Traces, ARequestIsFollowedFromIngressToEgressUnderItsParent) {
  Collector collector;
  {
    TestServer server({}, traced(collector));
    decode_traced(server, kParent);
  }
  EXPECT_TRUE(contains(collector.head(), "POST /v1/traces HTTP/1.1\r\n")) << collector.head();
  EXPECT_TRUE(contains(collector.head(), "Content-Type: application/json\r\n"));
  const auto spans = spans_of(collector.bodies());
  std::map<std::string, Span> named;
  for (const Span& s : spans) named[s.name] = s;
  ASSERT_TRUE(named.count("/decode")) << spans.size();
  const Span& root = named["/decode"];
  EXPECT_EQ(root.trace, kTrace);
  EXPECT_EQ(root.parent, "00f067aa0ba902b7");
  EXPECT_EQ(root.attributes.at("http.response.status_code"), "200");
  EXPECT_EQ(root.attributes.at("cortex.model"), "fake");
  EXPECT_EQ(root.attributes.at("cortex.request_id"), "abc");
  std::int64_t before = root.start;
  for (const char* name : {"ingress", "queue", "batch", "compute", "egress"}) {
    ASSERT_TRUE(named.count(name)) << name;
    const Span& s = named[name];
    EXPECT_EQ(s.trace, kTrace) << name;
    EXPECT_EQ(s.parent, root.id) << name;
    EXPECT_GE(s.start, before) << name;
    EXPECT_GE(s.end, s.start) << name;
    EXPECT_LE(s.end, root.end) << name;
    before = s.start;
  }
  ASSERT_TRUE(named.count("engine batch"));
  EXPECT_EQ(named["engine batch"].links, std::vector<std::string>{root.id});
  EXPECT_EQ(named["batch"].links, std::vector<std::string>{named["engine batch"].id});
}

TEST(Traces, OnlySampledRequestsAreFollowed) {
  Collector collector;
  {
    TestServer server({}, traced(collector));
    decode_traced(server, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00");
    decode_traced(server, "garbage");
    EXPECT_EQ(server.decode(decode_body("")).status, 200);
    decode_traced(server, kParent);
  }
  int roots = 0;
  for (const Span& s : spans_of(collector.bodies())) roots += s.name == "/decode" ? 1 : 0;
  EXPECT_EQ(roots, 1);
}

TEST(Traces, WithoutAParentTheRatioDecides) {
  Collector collector;
  constexpr int kRequests = 10;
  {
    TestServer server({}, traced(collector, 1));
    const auto client = StreamClient::connect(server.url()).value_or_throw();
    for (int i = 0; i < kRequests; ++i) ASSERT_TRUE(client->step({.sequence = i}));
  }
  std::set<std::string> traces;
  std::set<std::string> steps;
  for (const Span& s : spans_of(collector.bodies()))
    if (s.name == "/stream") {
      traces.insert(s.trace);
      steps.insert(s.attributes.at("cortex.step"));
    }
  EXPECT_EQ(traces.size(), std::size_t{kRequests}) << "each step is a trace of its own";
  EXPECT_EQ(steps.size(), std::size_t{kRequests});
}

TEST(Traces, ARefusedRequestEndsWithItsStatus) {
  Collector collector;
  {
    TestServer server({}, traced(collector, 1));
    EXPECT_EQ(server.decode("{").status, 400);
  }
  const auto spans = spans_of(collector.bodies());
  ASSERT_FALSE(spans.empty());
  EXPECT_EQ(spans[0].attributes.at("http.response.status_code"), "400");
}

TEST(Traces, ACollectorThatIsAbsentOrRefusesCostsNothingButTheTraces) {
  Collector refusing(503);
  for (const std::string& url : {refusing.url(), std::string("http://127.0.0.1:1")}) {
    ServerOptions options;
    options.otlp_url = url;
    options.trace_ratio = 1;
    TestServer server({}, options);
    for (int i = 0; i < 50; ++i) EXPECT_EQ(server.decode(decode_body("")).status, 200);
    EXPECT_TRUE(eventually([&] {
      const std::string page = server.get("/metrics").body;
      return contains(page, "\ncortex_traces_dropped_total ") &&
             !contains(page, "\ncortex_traces_dropped_total 0\n");
    }));
  }
}

TEST(Traces, ABatchLinksToAllItsRequests) {
  Tracer tracer(true, 1, 16);
  BatchWatch watch;
  const BatchInfo batch{.id = 5, .size = 3, .forward_ns = 20, .computed_ns = 30};
  auto first = tracer.begin("/decode", {}, 1);
  auto second = tracer.begin("/stream", {}, 1);
  watch.answered(tracer, batch, 10, *first, "arm");
  watch.answered(tracer, batch, 10, *second, "arm");
  auto other = tracer.begin("/decode", {}, 1);
  watch.answered(tracer, {.id = 6, .size = 1, .forward_ns = 40, .computed_ns = 50}, 35, *other,
                 "arm");
  TraceRecord record;
  ASSERT_TRUE(tracer.queue().pop(record));
  const auto& got = std::get<BatchRecord>(record);
  EXPECT_EQ(got.batch, 5U);
  EXPECT_EQ(got.size, 3) << "one was not sampled";
  EXPECT_EQ(got.links, (std::vector<TraceContext>{first->record.context, second->record.context}));
  EXPECT_EQ(first->record.batch_span, got.context);
  EXPECT_EQ(second->record.batch_span, got.context);
  EXPECT_FALSE(tracer.queue().pop(record)) << "batch 6 may go on";
  watch.flush(tracer);
  EXPECT_TRUE(tracer.queue().pop(record));
}

TEST(Traces, TheUrlOfACollectorIsReadOrItsFaultIsNamed) {
  const auto plain = parse_otlp_url("http://127.0.0.1:4318").value_or_throw();
  EXPECT_EQ(plain.host, "127.0.0.1");
  EXPECT_EQ(plain.port, "4318");
  EXPECT_EQ(plain.path, "/v1/traces");
  const auto full = parse_otlp_url("http://[::1]/otlp/v1/traces").value_or_throw();
  EXPECT_EQ(full.host, "::1");
  EXPECT_EQ(full.port, "4318");
  EXPECT_EQ(full.path, "/otlp/v1/traces");
  for (const char* url :
       {"", "127.0.0.1:4318", "https://127.0.0.1", "http://", "http://:4318", "http://x:"})
    EXPECT_FALSE(parse_otlp_url(url)) << url;
}

}  // namespace
}  // namespace cortex::testing
