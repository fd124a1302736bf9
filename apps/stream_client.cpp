#include "stream_client.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/websocket.hpp>
#include <chrono>
#include <string_view>
#include <utility>

#include "core/json_writer.h"

namespace cortex {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using simdjson::dom::element;
using tcp = asio::ip::tcp;

Error lost(std::string message) { return {ErrorCode::unavailable, std::move(message), ""}; }

ErrorCode code_of(std::string_view name) {
  for (int i = 0; i <= static_cast<int>(ErrorCode::internal); ++i)
    if (name == to_string(static_cast<ErrorCode>(i))) return static_cast<ErrorCode>(i);
  return ErrorCode::invalid_argument;
}

/// A field's value, or `fallback` where it is absent or of another type.
template <class T>
T get_or(element e, std::string_view name, T fallback) {
  T value{};
  return e[name].get(value) ? std::move(fallback) : value;
}
std::string text_of(element e, std::string_view name) {
  return std::string(get_or<std::string_view>(e, name, ""));
}
int int_of(element e, std::string_view name) {
  return static_cast<int>(get_or<std::int64_t>(e, name, 0));
}

struct Address {
  std::string host;
  std::string port = "80";
};

Result<Address> parse_url(const std::string& url) {
  std::string_view rest = url;
  const auto scheme = rest.find("://");
  if (scheme != std::string_view::npos) {
    const std::string_view name = rest.substr(0, scheme);
    if (name != "http" && name != "ws")
      return Error{ErrorCode::invalid_argument,
                   fmt::format("{}: only http:// and ws:// are understood", url), "url"};
    rest.remove_prefix(scheme + 3);
  }
  rest = rest.substr(0, rest.find('/'));
  Address address;
  const auto bracket = rest.find(']');
  const auto colon = rest.find(':', bracket == std::string_view::npos ? 0 : bracket);
  if (colon != std::string_view::npos) address.port = std::string(rest.substr(colon + 1));
  rest = rest.substr(0, colon);
  if (!rest.empty() && rest.front() == '[' && rest.back() == ']')
    rest = rest.substr(1, rest.size() - 2);
  address.host = std::string(rest);
  if (address.host.empty() || address.port.empty())
    return Error{ErrorCode::invalid_argument, fmt::format("{}: no host or port", url), "url"};
  return address;
}

/// Runs one asynchronous operation to its end: asio's blocking calls know no timeout.
class Waiter {
 public:
  explicit Waiter(double timeout_s)
      : timeout_(std::chrono::milliseconds(static_cast<std::int64_t>(timeout_s * 1e3))) {}

  template <class Start, class Cancel>
  beast::error_code wait(Start start, Cancel cancel) {
    std::optional<beast::error_code> outcome;
    io_.restart();
    start([&outcome](beast::error_code ec, auto&&...) { outcome = ec; });
    const auto until = std::chrono::steady_clock::now() + timeout_;
    while (!outcome && io_.run_one_until(until) > 0) {
    }
    if (outcome) return *outcome;
    cancel();
    io_.restart();
    while (!outcome && io_.run_one() > 0) {
    }
    return asio::error::timed_out;
  }
  asio::io_context& io() { return io_; }

 private:
  asio::io_context io_{1};
  std::chrono::milliseconds timeout_;
};

Result<void> connect_tcp(Waiter& waiter, beast::tcp_stream& stream, const Address& address,
                         const std::string& url) {
  beast::error_code ec;
  tcp::resolver resolver(waiter.io());
  const auto endpoints = resolver.resolve(address.host, address.port, ec);
  if (!ec)
    ec = waiter.wait([&](auto done) { stream.async_connect(endpoints, std::move(done)); },
                     [&] { stream.close(); });
  if (ec) return lost(fmt::format("cannot connect to {}: {}", url, ec.message()));
  stream.socket().set_option(tcp::no_delay(true), ec);
  return {};
}

Result<HttpAnswer> request(const std::string& url, http::verb verb, const std::string& path,
                           const std::string& body, const ClientOptions& options) {
  const auto address = parse_url(url);
  if (!address) return address.error();
  Waiter waiter(options.timeout_s);
  beast::tcp_stream stream(waiter.io());
  const auto connected = connect_tcp(waiter, stream, *address, url);
  if (!connected) return connected.error();
  http::request<http::string_body> message(verb, path, 11);
  message.set(http::field::host, address->host);
  if (!options.api_key.empty())
    message.set(http::field::authorization, "Bearer " + options.api_key);
  if (!body.empty()) message.set(http::field::content_type, "application/json");
  message.keep_alive(false);
  message.body() = body;
  message.prepare_payload();
  const auto cut = [&] { stream.close(); };
  auto ec =
      waiter.wait([&](auto done) { http::async_write(stream, message, std::move(done)); }, cut);
  beast::flat_buffer buffer;
  http::response<http::string_body> answer;
  if (!ec)
    ec = waiter.wait([&](auto done) { http::async_read(stream, buffer, answer, std::move(done)); },
                     cut);
  if (ec) return lost(fmt::format("{}{}: {}", url, path, ec.message()));
  return HttpAnswer{static_cast<int>(answer.result_int()), std::move(answer.body())};
}

class StreamClientImpl final : public StreamClient {
 public:
  StreamClientImpl(std::string url, const ClientOptions& options)
      : url_(std::move(url)), waiter_(options.timeout_s), ws_(waiter_.io()) {}

  Result<void> connect(const ClientOptions& options) {
    const auto address = parse_url(url_);
    if (!address) return address.error();
    const auto connected = connect_tcp(waiter_, beast::get_lowest_layer(ws_), *address, url_);
    if (!connected) return connected;
    ws_.set_option(beast::websocket::stream_base::decorator(
        [key = options.api_key](beast::websocket::request_type& r) {
          if (!key.empty()) r.set(http::field::authorization, "Bearer " + key);
        }));
    ws_.text(true);
    beast::websocket::response_type response;
    const auto ec = waiter_.wait(
        [&](auto done) {
          ws_.async_handshake(response, address->host + ":" + address->port, "/stream",
                              std::move(done));
        },
        [this] { cut(); });
    if (!ec) return {};
    cut();
    if (ec == beast::websocket::error::upgrade_declined)
      return lost(fmt::format("{}/stream: the server answered {}", url_, response.result_int()));
    return lost(fmt::format("{}/stream: {}", url_, ec.message()));
  }

  Result<StreamInfo> open(const OpenOptions& options) override {
    JsonWriter w;
    w.begin_object().key("open").begin_object();
    const SessionOptions& s = options.session;
    if (!s.unit_ids.empty()) {
      w.key("units").begin_array();
      for (const std::string& id : s.unit_ids) w.value(id);
      w.end_array();
    }
    if (s.allow_missing_units) w.key("allow_missing_units").value(true);
    if (s.first_step != 0) w.key("first_step").value(s.first_step);
    if (s.drop_out_of_step) w.key("drop_out_of_step").value(true);
    if (options.deadline_ms) w.key("deadline_ms").value(*options.deadline_ms);
    if (options.best_effort) w.key("best_effort").value(*options.best_effort);
    w.end_object().end_object();
    const auto sent = write(w.text());
    if (!sent) return sent.error();
    const auto frame = read("opened");
    if (!frame) return frame.error();
    const element e = *frame;
    StreamInfo info;
    info.session_id = text_of(e, "session_id");
    info.kind = text_of(e, "kind");
    info.bin_ms = get_or<double>(e, "bin_ms", 0);
    info.step_ms = get_or<double>(e, "step_ms", 0);
    info.bins_per_step = int_of(e, "bins_per_step");
    info.max_queued_steps = int_of(e, "max_queued_steps");
    info.next_sequence = get_or<std::int64_t>(e, "sequence_number", 0);
    info.target_offset_ms = get_or<double>(e, "target_offset_ms", 0);
    element model;
    if (!e["model"].get(model)) {
      info.preset = text_of(model, "preset");
      info.precision = text_of(model, "precision");
      info.digest = text_of(model, "digest");
    }
    simdjson::dom::array outputs;
    if (!e["outputs"].get(outputs))
      for (const element output : outputs)
        info.outputs.push_back({text_of(output, "name"), text_of(output, "unit")});
    first_unanswered_ = info.next_sequence;
    return info;
  }

  Result<StreamAnswer> step(const StreamStep& step) override {
    const auto sent = send(step);
    if (!sent) return sent.error();
    return receive();
  }

  Result<void> send(const StreamStep& step) override {
    writer_.clear();
    writer_.begin_object().key("sequence_number").value(step.sequence);
    writer_.key("events").begin_array();
    for (const Event& e : step.events) {
      writer_.begin_object().key("neuron_id").value(e.unit).key("time_bin").value(e.bin);
      writer_.key("value").value(e.value).end_object();
    }
    writer_.end_array();
    if (step.gap != 0) writer_.key("gap").value(step.gap);
    if (step.deadline_ms) writer_.key("deadline_ms").value(*step.deadline_ms);
    writer_.end_object();
    if (unanswered_ == 0) first_unanswered_ = step.sequence;
    const auto sent = write(writer_.text());
    if (sent) ++unanswered_;
    return sent;
  }

  Result<StreamAnswer> receive() override {
    const auto frame = read("sequence_number");
    if (!frame) return frame.error();
    StreamAnswer answer;
    answer.sequence = int64_of(*frame);
    first_unanswered_ = answer.sequence + 1;
    simdjson::dom::array behavior;
    if (!root_["behavior"].get(behavior))
      for (const element v : behavior) {
        double d = 0;
        if (v.get(d)) return lost(url_ + ": behavior holds something that is not a number");
        answer.behavior.push_back(static_cast<float>(d));
      }
    const std::string status = text_of(root_, "status");
    answer.status = status == "late"      ? StepStatus::late
                    : status == "refused" ? StepStatus::refused
                                          : StepStatus::fresh;
    answer.latency_ms = get_or<double>(root_, "latency_ms", 0);
    answer.queue_wait_ms = get_or<double>(root_, "queue_wait_ms", 0);
    answer.inference_ms = get_or<double>(root_, "inference_ms", 0);
    return answer;
  }

  Result<SessionSummary> close() override {
    const auto sent = write(R"({"close":true})");
    if (!sent) return sent.error();
    const auto frame = read("closed");
    if (!frame) return frame.error();
    const element e = *frame;
    SessionSummary summary;
    summary.steps = get_or<std::int64_t>(e, "steps", 0);
    summary.late = get_or<std::int64_t>(e, "late", 0);
    summary.refused = get_or<std::int64_t>(e, "refused", 0);
    summary.dropped_events = get_or<std::int64_t>(e, "dropped_events", 0);
    element latency;
    if (!e["latency_us"].get(latency)) {
      summary.p50_us = get_or<double>(latency, "p50", 0);
      summary.p99_us = get_or<double>(latency, "p99", 0);
      summary.p999_us = get_or<double>(latency, "p999", 0);
      summary.max_us = get_or<double>(latency, "max", 0);
    }
    waiter_.wait(
        [this](auto done) {
          ws_.async_close(beast::websocket::close_code::normal, std::move(done));
        },
        [this] { cut(); });
    return summary;
  }

 private:
  static std::int64_t int64_of(element e) {
    std::int64_t n = 0;
    [[maybe_unused]] const auto error = e.get(n);
    return n;
  }

  Error connection_lost(const beast::error_code& ec) {
    std::string why = ec.message();
    if (ec == beast::websocket::error::closed)
      why = fmt::format("the server closed it ({} {})", ws_.reason().code,
                        std::string_view(ws_.reason().reason.data(), ws_.reason().reason.size()));
    std::string what = unanswered_ > 0
                           ? fmt::format("step {} had not been answered", first_unanswered_)
                           : std::string("every step sent had been answered");
    return lost(fmt::format("the connection to {} is lost: {}; {}", url_, why, what));
  }

  Result<void> write(const std::string& text) {
    const auto ec =
        waiter_.wait([&](auto done) { ws_.async_write(asio::buffer(text), std::move(done)); },
                     [this] { cut(); });
    if (!ec) return {};
    cut();
    return connection_lost(ec);
  }

  /// The field of the next frame, or the error that the frame is.
  Result<element> read(const char* field) {
    buffer_.clear();
    const auto ec = waiter_.wait([&](auto done) { ws_.async_read(buffer_, std::move(done)); },
                                 [this] { cut(); });
    if (ec) {
      cut();
      return connection_lost(ec);
    }
    const auto bytes = buffer_.cdata();
    if (parser_.parse(static_cast<const char*>(bytes.data()), bytes.size()).get(root_))
      return lost(url_ + ": the server's frame is not JSON");
    std::int64_t sequence = 0;
    const bool of_a_step = root_["sequence_number"].get(sequence) == simdjson::SUCCESS;
    if (unanswered_ > 0) --unanswered_;
    element error;
    if (!root_["error"].get(error)) {
      if (of_a_step) first_unanswered_ = sequence + 1;
      return Error{code_of(text_of(error, "code")), text_of(error, "message"),
                   text_of(error, "field")};
    }
    element value;
    if (root_[field].get(value))
      return lost(fmt::format("{}: the server's frame has no {}", url_, field));
    return value;
  }

  void cut() { beast::get_lowest_layer(ws_).close(); }

  std::string url_;
  Waiter waiter_;
  beast::websocket::stream<beast::tcp_stream> ws_;
  beast::flat_buffer buffer_;
  simdjson::dom::parser parser_;
  element root_;
  JsonWriter writer_;
  std::int64_t unanswered_ = 0;
  std::int64_t first_unanswered_ = 0;
};

}  // namespace

Result<std::unique_ptr<StreamClient>> StreamClient::connect(const std::string& url,
                                                            const ClientOptions& options) {
  auto client = std::make_unique<StreamClientImpl>(url, options);
  const auto connected = client->connect(options);
  if (!connected) return connected.error();
  return std::unique_ptr<StreamClient>(std::move(client));
}

Result<HttpAnswer> http_get(const std::string& url, const std::string& path,
                            const ClientOptions& options) {
  return request(url, http::verb::get, path, "", options);
}
Result<HttpAnswer> http_post(const std::string& url, const std::string& path,
                             const std::string& json, const ClientOptions& options) {
  return request(url, http::verb::post, path, json, options);
}

}  // namespace cortex
