// Decodes steps from a CSV of events, step,unit,value,bin, ascending (`cortex replay --events`
// writes one), and prints step and velocity: decode_cpp MODEL EVENTS STEPS
#include <cortex/engine.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>

int main(int argc, char** argv) {
  if (argc != 4) return std::fprintf(stderr, "usage: decode_cpp MODEL EVENTS STEPS\n"), 2;
  auto engine = cortex::Engine::create({.model_path = argv[1]});
  if (!engine) return std::fprintf(stderr, "decode_cpp: %s\n", engine.error().message.c_str()), 1;
  auto session = (*engine)->open_session({.best_effort = true});
  if (!session) return std::fprintf(stderr, "decode_cpp: %s\n", session.error().message.c_str()), 1;

  std::map<std::int64_t, std::vector<cortex::Event>> events;
  std::ifstream file(argv[2]);
  std::string line;
  std::getline(file, line);  // the header
  while (std::getline(file, line)) {
    long long step, bin;
    cortex::Event e;
    if (std::sscanf(line.c_str(), "%lld,%d,%d,%lld", &step, &e.unit, &e.value, &bin) != 4)
      return std::fprintf(stderr, "decode_cpp: %s: not an event: %s\n", argv[2], line.c_str()), 1;
    e.bin = bin;
    events[step].push_back(e);
  }
  for (std::int64_t step = 0; step < std::atoll(argv[3]); ++step) {
    const auto answer =
        (*engine)->step({.session = session->id, .sequence = step, .events = events[step]});
    if (!answer) return std::fprintf(stderr, "decode_cpp: %s\n", answer.error().message.c_str()), 1;
    std::printf("%lld", static_cast<long long>(step));
    for (const float v : answer->behavior) std::printf(",%.9g", static_cast<double>(v));
    std::printf("\n");
  }
}
