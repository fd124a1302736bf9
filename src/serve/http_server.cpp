#include <fmt/format.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <csignal>

#include "core/log.h"
#include "core/thread.h"
#include "serve/beast_http.h"
#include "serve/beast_socket.h"
#include "serve/server.h"

namespace cortex {
namespace {

using tcp = asio::ip::tcp;

class ServerImpl final : public Server {
 public:
  ServerImpl(const ServerOptions& options, const tcp::endpoint& endpoint)
      : state_(options), router_(state_), host_{state_, router_, {}, {}} {
    acceptor_.open(endpoint.protocol());
    acceptor_.set_option(tcp::acceptor::reuse_address(true));
    acceptor_.bind(endpoint);
    acceptor_.listen();
    port_ = acceptor_.local_endpoint().port();
    wake_.assign(state_.mailbox.fd());
    state_.after = [this](std::chrono::milliseconds delay, std::function<void()> run) {
      auto timer = std::make_shared<asio::steady_timer>(io_, delay);
      timer->async_wait([timer, run = std::move(run)](beast::error_code ec) {
        if (!ec) run();
      });
    };
    host_.on_empty = [this] {
      if (state_.draining) io_.stop();
    };
  }

  ~ServerImpl() override {
    host_.on_empty = nullptr;
    state_.mailbox.deliver_all();  // answers that came after the network thread had stopped
    wake_.release();               // the mailbox closes it
  }

  int port() const override { return port_; }
  std::string url() const override {
    const std::string& host = state_.options.host;
    const bool is_v6 = host.find(':') != std::string::npos;
    return fmt::format("http://{}{}{}:{}", is_v6 ? "[" : "", host, is_v6 ? "]" : "", port_);
  }

  void attach(Engine& engine) override {
    asio::post(io_, [this, &engine] { state_.engine = &engine; });
  }

  void stop() override {
    asio::post(io_, [this] { begin_drain(); });
  }

  void run() override {
    if (state_.options.handle_signals) {
      std::signal(SIGPIPE, SIG_IGN);
      signals_.add(SIGINT);
      signals_.add(SIGTERM);
      wait_signal();
    }
    accept();
    wait_mail();
    tick();
    io_.run();
    state_.engine = nullptr;
  }

 private:
  static constexpr std::chrono::milliseconds kTick{100};
  static constexpr int kTurnedAwayAtOnce = 32;

  void accept() {
    acceptor_.async_accept([this](beast::error_code ec, tcp::socket socket) {
      if (!acceptor_.is_open()) return;
      if (ec) {
        // Out of descriptors, most likely: let some close before the next try.
        state_.after(std::chrono::milliseconds(100), [this] {
          if (acceptor_.is_open()) accept();
        });
        return;
      }
      welcome(std::move(socket));
      accept();
    });
  }

  void welcome(tcp::socket socket) {
    const int over = static_cast<int>(host_.all.size()) - state_.options.max_connections;
    if (over >= kTurnedAwayAtOnce) {
      ++state_.metrics.connections_refused;
      return;
    }
    beast::error_code ignored;
    socket.set_option(tcp::no_delay(true), ignored);
    std::make_shared<HttpConnection>(host_, beast::tcp_stream(std::move(socket)), over >= 0)
        ->start();
  }

  void wait_mail() {
    wake_.async_wait(asio::posix::stream_descriptor::wait_read, [this](beast::error_code ec) {
      if (ec) return;
      state_.mailbox.deliver_all();
      wait_mail();
    });
  }

  void tick() {
    tick_.expires_after(kTick);
    tick_.async_wait([this](beast::error_code ec) {
      if (ec) return;
      const TimeNs now = RealClock::instance().now();
      for (const auto& connection : host_.snapshot()) connection->check(now);
      if (state_.engine != nullptr && !state_.draining) state_.engine->expire_idle_sessions();
      tick();
    });
  }

  void wait_signal() {
    signals_.async_wait([this](beast::error_code ec, int) {
      if (ec) return;
      if (state_.draining) return io_.stop();
      begin_drain();
      wait_signal();
    });
  }

  void begin_drain() {
    if (state_.draining) return;
    state_.draining = true;
    beast::error_code ignored;
    acceptor_.close(ignored);
    if (host_.all.empty()) return io_.stop();
    for (const auto& connection : host_.snapshot()) connection->drain();
    state_.after(milliseconds_of(state_.options.drain_s), [this] {
      log::warn(fmt::format("drain took too long: {} connections cut", host_.all.size()));
      for (const auto& connection : host_.snapshot()) connection->abort();
      // One that waits for an answer of the engine stays until it comes.
      state_.after(std::chrono::milliseconds(500), [this] { io_.stop(); });
    });
  }

  ServeState state_;
  Router router_;
  ConnectionHost host_;
  asio::io_context io_{1};  // goes before what the connections in its queue refer to
  tcp::acceptor acceptor_{io_};
  asio::posix::stream_descriptor wake_{io_};
  asio::steady_timer tick_{io_};
  asio::signal_set signals_{io_};
  int port_ = 0;
};

}  // namespace

Result<std::unique_ptr<Server>> Server::create(const ServerOptions& options) {
  const auto wrong = [](std::string message, std::string field) {
    return Error{ErrorCode::invalid_argument, std::move(message), std::move(field)};
  };
  if (!is_loopback(options.host) && options.api_key.empty())
    return wrong(fmt::format("{} is not a loopback address: give --api-key-file to serve on it",
                             options.host),
                 "host");
  if (options.port < 0 || options.port > 65535)
    return wrong(fmt::format("port = {} is out of range: 0 to 65535", options.port), "port");
  beast::error_code ec;
  const auto address =
      asio::ip::make_address(options.host == "localhost" ? "127.0.0.1" : options.host, ec);
  if (ec) return wrong(options.host + " is not an IP address or localhost", "host");
  try {
    return std::unique_ptr<Server>(std::make_unique<ServerImpl>(
        options, tcp::endpoint(address, static_cast<std::uint16_t>(options.port))));
  } catch (const boost::system::system_error& e) {
    return Error{
        ErrorCode::io_error,
        fmt::format("cannot listen on {}:{}: {}", options.host, options.port, e.code().message()),
        "port"};
  } catch (const Exception& e) {
    return e.error;
  }
}

}  // namespace cortex
