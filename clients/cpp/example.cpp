// Streams random spikes to `cortex serve` at the model's pace and prints what comes back, through
// the server's death: kill it and start it again while this runs.
//
//   cortex_client_example URL [STEPS]
#include <cortex/live_session.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>

int main(int argc, char** argv) {
  const char* url = argc > 1 ? argv[1] : "http://127.0.0.1:8080";
  const long steps = argc > 2 ? std::atol(argv[2]) : 500;
  const auto opened = cortex::LiveSession::open(url);
  if (!opened) return std::fprintf(stderr, "%s\n", opened.error().message.c_str()), 1;
  cortex::LiveSession& session = **opened;
  const cortex::StreamInfo& info = session.info();

  std::minstd_rand random(1);
  const auto start = std::chrono::steady_clock::now();
  for (long n = 0; n < steps; ++n) {
    // The rig's own clock: step n leaves when its last bin has ended.
    const std::chrono::duration<double, std::milli> end(info.step_ms * static_cast<double>(n + 1));
    std::this_thread::sleep_until(start + std::chrono::ceil<std::chrono::nanoseconds>(end));
    const auto unit = static_cast<int>(random() % static_cast<unsigned>(info.units));
    const cortex::Event spike = {.unit = unit, .value = 1, .bin = n * info.bins_per_step};
    const auto live = session.step(n, {&spike, 1});
    if (!live) return std::fprintf(stderr, "%s\n", live.error().message.c_str()), 1;
    if (live->is_lost())
      std::printf("%ld lost: %s\n", n, live->error->message.c_str());
    else if (!live->answer.behavior.empty())
      std::printf("%ld %g %s\n", n, live->answer.behavior[0], info.outputs[0].unit.c_str());
  }
  session.close();
  const cortex::LiveTotals t = session.totals();
  std::printf("%ld decoded, %ld lost, resumed %ld times\n", t.decoded, t.lost, t.resumed);
}
