// A server of the fake engine: `cortex_fake_serve [--window] [--slow]` prints the line that
// `cortex serve` prints and serves until it is told to stop. --slow: nothing is computed
// until SIGUSR1.
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <thread>

#include "serve/fake_engine.h"
#include "serve/server.h"

int main(int argc, char** argv) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);  // before the first thread, which inherits it
  cortex::testing::FakeOptions fake{.max_sessions = 64};
  cortex::ServerOptions options;
  options.port = 0;
  bool slow = false;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--window") == 0) fake.window = true;
    if (std::strcmp(argv[i], "--slow") == 0) slow = true;
    if (std::strncmp(argv[i], "--port=", 7) == 0) options.port = std::atoi(argv[i] + 7);
  }
  auto server = cortex::Server::create(options);
  if (!server) {
    std::cerr << server.error().message << '\n';
    return 1;
  }
  cortex::testing::FakeEngine engine(fake);
  if (slow) engine.hold();
  (*server)->attach(engine);
  std::cout << "cortex: serving fake (fp32, 2 parameters) on " << (*server)->url() << std::endl;
  std::thread later;
  if (slow) {
    later = std::thread([&engine, set] {
      int got = 0;
      sigwait(&set, &got);
      engine.release();
    });
  }
  (*server)->run();
  if (later.joinable()) {
    ::kill(::getpid(), SIGUSR1);
    later.join();
  }
  return 0;
}
