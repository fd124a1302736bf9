#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <csignal>

#include "core/log.h"
#include "core/thread.h"
#include "serve/beast_http.h"
#include "serve/listeners.h"
#include "serve/otlp_exporter.h"
#include "serve/server.h"
#include "serve/tls.h"
#include "serve/unix_path.h"

namespace cortex {

using tcp = asio::ip::tcp;
using local = asio::local::stream_protocol;

template <>
Peer Listener<tcp>::peer_of(Socket& socket) {
  beast::error_code ec;
  socket.set_option(tcp::no_delay(true), ec);
  const auto endpoint = socket.remote_endpoint(ec);
  return ec ? Peer{"gone"} : Peer{endpoint.address().to_string()};
}

template <>
Peer Listener<local>::peer_of(Socket& socket) {
  return Peer{unix_peer(socket.native_handle())};
}

namespace {

/// What has been checked before a server is made of it.
struct Prepared {
  tcp::endpoint endpoint;
  std::optional<KeyFile> keys;
  std::shared_ptr<TlsContext> tls;
  std::optional<OtlpEndpoint> otlp;
};

class ServerImpl final : public Server {
 public:
  ServerImpl(const ServerOptions& options, Prepared prepared)
      : state_(options), router_(state_), host_{state_, router_, {}, {}}, tls_(prepared.tls) {
    state_.keys = std::move(prepared.keys);
    tcp_.bind(prepared.endpoint);
    tcp_.listen();
    port_ = tcp_.local_endpoint().port();
    if (!options.unix_path.empty()) {
      unix_.bind(local::endpoint(options.unix_path));
      // Whoever may write to the socket may use it: its owner alone, before anyone can connect.
      ::chmod(options.unix_path.c_str(), S_IRUSR | S_IWUSR);
      unix_.listen();
    }
    wake_.assign(state_.mailbox.fd());
    if (prepared.otlp) {
      exporter_ = std::make_unique<OtlpExporter>(*prepared.otlp, state_.tracer.queue());
      state_.traces_lost = [this] { return exporter_->lost(); };
    }
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
    end_models();
    wake_.release();  // the mailbox closes it
    if (!state_.options.unix_path.empty()) ::unlink(state_.options.unix_path.c_str());
  }

  int port() const override { return port_; }
  std::string url() const override {
    const std::string& host = state_.options.host;
    const bool is_v6 = host.find(':') != std::string::npos;
    return fmt::format("{}://{}{}{}:{}", tls_ ? "https" : "http", is_v6 ? "[" : "", host,
                       is_v6 ? "]" : "", port_);
  }

  void attach(Engine& engine) override {
    asio::post(io_, [this, &engine] {
      const ModelInfo& model = engine.model();
      state_.models.attach(is_model_name(model.preset) ? model.preset : model.kind, engine);
    });
  }

  void stop() override {
    asio::post(io_, [this] { begin_drain(); });
  }

  void run() override {
    if (state_.options.handle_signals) {
      std::signal(SIGPIPE, SIG_IGN);
      for (const int signal : {SIGINT, SIGTERM, SIGHUP}) signals_.add(signal);
      wait_signal();
    }
    const auto welcome = [this](bool is_tcp) {
      return [this, is_tcp](PlainStream stream, Peer peer) {
        this->welcome(std::move(stream), std::move(peer), is_tcp && tls_);
      };
    };
    tcp_.run(welcome(true), state_.after);
    unix_.run(welcome(false), state_.after);
    wait_mail();
    tick();
    load_models();
    while (io_.run_one() > 0)  // sleeps where nothing is to do
      while (RealClock::instance().now() < state_.awake_until_ns && !io_.stopped()) io_.poll();
    end_models();
  }

 private:
  static constexpr std::chrono::milliseconds kTick{100};
  static constexpr TimeNs kLookAtKeysNs = 1'000'000'000;
  static constexpr int kTurnedAwayAtOnce = 32;

  void welcome(PlainStream stream, Peer peer, bool with_tls) {
    const int over = static_cast<int>(host_.all.size()) - state_.options.max_connections;
    if (over >= kTurnedAwayAtOnce) {
      ++state_.metrics.connections_refused;
      return;
    }
    if (with_tls)
      return start_tls_connection(host_, std::move(stream), tls_, std::move(peer), over >= 0);
    std::make_shared<HttpConnection<PlainStream>>(host_, std::move(stream), std::move(peer),
                                                  over >= 0)
        ->start();
  }

  void rehearse(const ServedModel& model) {
    if (const auto done = rehearse_decode(state_, model.engine->model()); !done)
      log::warn(fmt::format("no rehearsal of model {}: {}", model.name, done.error().message));
  }

  void load_models() {
    for (const NamedModel& source : state_.options.models) state_.models.declare(source);
    for (const NamedModel& source : state_.options.models)
      state_.models.load(source.name, [this, source](const Result<ModelRef>& loaded) {
        if (loaded) rehearse(**loaded);
        if (!state_.options.on_loaded) return;
        state_.options.on_loaded(
            source, loaded ? Result<Engine*>((*loaded)->engine) : Result<Engine*>(loaded.error()));
      });
  }

  void end_models() {
    state_.models.shut_down();
    state_.mailbox.deliver_all();  // answers that came after the network thread had stopped
    // While the exporter is there to take them.
    for (const ModelRef& model : state_.models.alive()) model->batches.flush(state_.tracer);
  }

  void wait_mail() {
    wake_.async_wait(asio::posix::stream_descriptor::wait_read, [this](beast::error_code ec) {
      if (ec) return;
      state_.awake_until_ns = 0;
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
      for (const ModelRef& model : state_.models.alive()) {
        model->batches.flush(state_.tracer);
        if (model->utilisation.is_due(now))
          model->utilisation.sample(now, model->engine->stats().busy_ns);
        if (!state_.draining) model->engine->expire_idle_sessions();
      }
      if (!state_.draining)
        state_.sequences.expire(now, static_cast<TimeNs>(state_.options.idle_timeout_s * 1e9));
      if (now >= look_at_keys_ns_) {
        look_at_keys_ns_ = now + kLookAtKeysNs;
        read_keys(false);
      }
      tick();
    });
  }

  void read_keys(bool always) {
    if (!state_.keys) return;
    const auto read = state_.keys->refresh(always);
    if (!read)
      log::error("the API keys stay as they were: " + read.error().message);
    else if (*read)
      log::write(log::Level::info, "API keys read",
                 {{"keys", static_cast<std::int64_t>(state_.keys->keys().size())}});
  }

  void read_certificate() {
    if (!tls_) return;
    auto read = load_tls(state_.options.tls_cert, state_.options.tls_key);
    if (!read) return log::error("the certificate stays as it was: " + read.error().message);
    tls_ = *std::move(read);
    log::info("certificate read");
  }

  void wait_signal() {
    signals_.async_wait([this](beast::error_code ec, int signal) {
      if (ec) return;
      if (signal == SIGHUP) {
        read_keys(true);
        read_certificate();
        return wait_signal();
      }
      if (state_.draining) return io_.stop();
      begin_drain();
      wait_signal();
    });
  }

  void begin_drain() {
    if (state_.draining) return;
    state_.draining = true;
    tcp_.close();
    unix_.close();
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
  std::shared_ptr<TlsContext> tls_;
  std::unique_ptr<OtlpExporter> exporter_;
  asio::io_context io_{1};  // goes before what the connections in its queue refer to
  Listener<tcp> tcp_{io_};
  Listener<local> unix_{io_};
  asio::posix::stream_descriptor wake_{io_};
  asio::steady_timer tick_{io_};
  asio::signal_set signals_{io_};
  TimeNs look_at_keys_ns_ = 0;
  int port_ = 0;
};

Error wrong(std::string message, std::string field) {
  return {ErrorCode::invalid_argument, std::move(message), std::move(field)};
}

Result<Prepared> prepare(const ServerOptions& options) {
  Prepared prepared;
  if (!is_loopback(options.host) && options.api_key_file.empty())
    return wrong(fmt::format("{} is not a loopback address: give --api-key-file to serve on it",
                             options.host),
                 "host");
  if (options.port < 0 || options.port > 65535)
    return wrong(fmt::format("port = {} is out of range: 0 to 65535", options.port), "port");
  beast::error_code ec;
  const auto address =
      asio::ip::make_address(options.host == "localhost" ? "127.0.0.1" : options.host, ec);
  if (ec) return wrong(options.host + " is not an IP address or localhost", "host");
  prepared.endpoint = tcp::endpoint(address, static_cast<std::uint16_t>(options.port));
  if (!options.api_key_file.empty()) {
    auto keys = KeyFile::open(options.api_key_file, options.max_tenants);
    if (!keys) return keys.error();
    prepared.keys = *std::move(keys);
  }
  if (options.tls_cert.empty() != options.tls_key.empty())
    return wrong("--tls-cert and --tls-key go together",
                 options.tls_cert.empty() ? "tls-cert" : "tls-key");
  if (!options.tls_cert.empty()) {
    auto tls = load_tls(options.tls_cert, options.tls_key);
    if (!tls) return tls.error();
    prepared.tls = *std::move(tls);
  }
  if (!options.otlp_url.empty()) {
    auto endpoint = parse_otlp_url(options.otlp_url);
    if (!endpoint) return endpoint.error();
    prepared.otlp = *std::move(endpoint);
  }
  if (!options.unix_path.empty())
    if (auto claimed = claim_unix_path(options.unix_path); !claimed) return claimed.error();
  for (const NamedModel& source : options.models)
    if (!is_model_name(source.name))
      return wrong(fmt::format("'{}' cannot be a model's name: letters, digits, '.', '_' and '-', "
                               "not beginning with a dot",
                               source.name),
                   "model");
  return prepared;
}

}  // namespace

Result<std::unique_ptr<Server>> Server::create(const ServerOptions& options) {
  auto prepared = prepare(options);
  if (!prepared) return prepared.error();
  try {
    return std::unique_ptr<Server>(std::make_unique<ServerImpl>(options, *std::move(prepared)));
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
