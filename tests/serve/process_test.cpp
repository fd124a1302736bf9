// The server as a process: signals, kill -9, a new one in its place.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <future>
#include <string>
#include <vector>

#include "serve/test_server.h"

namespace cortex::testing {
namespace {

class ServerProcess {
 public:
  explicit ServerProcess(std::vector<std::string> flags = {}) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) return;
    std::vector<char*> argv{const_cast<char*>(CORTEX_FAKE_SERVE)};
    for (std::string& flag : flags) argv.push_back(flag.data());
    argv.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::dup2(ends[1], 1);
      ::execv(argv[0], argv.data());
      ::_exit(127);
    }
    ::close(ends[1]);
    char c = 0;
    while (::read(ends[0], &c, 1) == 1 && c != '\n') line_ += c;
    ::close(ends[0]);
  }
  ~ServerProcess() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      wait();
    }
  }
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;

  void signal(int number) const { ::kill(pid_, number); }
  /// The exit status, or minus the signal that ended it.
  int wait() {
    int status = 0;
    ::waitpid(std::exchange(pid_, -1), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  const std::string& line() const { return line_; }
  std::string url() const { return line_.substr(line_.rfind(' ') + 1); }
  int port() const { return std::stoi(url().substr(url().rfind(':') + 1)); }

 private:
  pid_t pid_ = -1;
  std::string line_;
};

bool queued(const ServerProcess& server, int n) {
  return eventually([&] {
    const auto page = http_get(server.url(), "/metrics");
    return page && contains(page->body, "\ncortex_queue_depth{model=\"fake\",version=\"1\"} " +
                                            std::to_string(n) + "\n");
  });
}

TEST(Process, SaysWhereItServes) {
  const ServerProcess server;
  EXPECT_TRUE(
      server.line().starts_with("cortex: serving fake (fp32, 2 parameters) on http://127.0.0.1:"))
      << server.line();
  EXPECT_EQ(http_get(server.url(), "/ready")->status, 200);
}

TEST(Process, KilledInTheMiddleOfAStreamIsAClearErrorAndTheNextOneTakesOver) {
  int port = 0;
  {
    ServerProcess server;
    port = server.port();
    const auto client = StreamClient::connect(server.url()).value_or_throw();
    for (int i = 0; i < 7; ++i) ASSERT_TRUE(client->step({.sequence = i}));
    server.signal(SIGKILL);
    server.wait();
    const auto lost = client->step({.sequence = 7});
    ASSERT_FALSE(lost);
    EXPECT_EQ(lost.error().code, ErrorCode::unavailable);
    EXPECT_TRUE(contains(lost.error().message, "is lost")) << lost.error().message;
    EXPECT_TRUE(contains(lost.error().message, "step 7 had not been answered"))
        << lost.error().message;
    EXPECT_FALSE(StreamClient::connect(server.url()));
  }
  const ServerProcess next({"--port=" + std::to_string(port)});
  EXPECT_EQ(next.port(), port);
  const auto client = StreamClient::connect(next.url()).value_or_throw();
  ASSERT_TRUE(client->open({.session = {.first_step = 7}}));
  EXPECT_TRUE(client->step({.sequence = 7}));
}

TEST(Process, KilledWithStepsInFlightNamesTheFirst) {
  ServerProcess server({"--slow"});
  const auto client = StreamClient::connect(server.url()).value_or_throw();
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(client->send({.sequence = i}));
  server.signal(SIGKILL);
  server.wait();
  const auto lost = client->receive();
  ASSERT_FALSE(lost);
  EXPECT_EQ(lost.error().code, ErrorCode::unavailable);
  EXPECT_TRUE(contains(lost.error().message, "step 0 had not been answered"))
      << lost.error().message;
}

TEST(Process, SigtermAnswersWhatWasAcceptedAndExits0) {
  ServerProcess server({"--slow"});
  const auto client = StreamClient::connect(server.url()).value_or_throw();
  ASSERT_TRUE(client->send({.sequence = 0}));
  auto decoded = std::async(std::launch::async, [&] {
    return http_post(server.url(), "/decode", decode_body(event(1, 1, 7)));
  });
  ASSERT_TRUE(queued(server, 2));
  server.signal(SIGTERM);
  EXPECT_TRUE(eventually([&] { return !RawClient(server.port()).connected(); }));
  server.signal(SIGUSR1);
  EXPECT_TRUE(client->receive());
  const auto answer = decoded.get();
  ASSERT_TRUE(answer) << answer.error().message;
  EXPECT_TRUE(contains(answer->body, "\"behavior\":[7,1]"));
  const auto after = client->receive();
  ASSERT_FALSE(after);
  EXPECT_TRUE(contains(after.error().message, "1001")) << after.error().message;
  EXPECT_EQ(server.wait(), 0);
}

TEST(Process, SigintWhileIdleExits0) {
  ServerProcess server;
  const auto client = StreamClient::connect(server.url()).value_or_throw();
  server.signal(SIGINT);
  EXPECT_FALSE(client->receive());
  EXPECT_EQ(server.wait(), 0);
}

}  // namespace
}  // namespace cortex::testing
