#pragma once

#include <chrono>
#include <cstdint>
#include <fstream>
#include <functional>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

/// What run_peers.py talks to: a program that holds one model and waits. It prints "ready NAME"
/// once, then answers lines: "run N" with N times in microseconds, "output" with the numbers of one
/// forward. So programs that must not share a process take turns on one machine.
namespace cortex::peers {

struct Peer {
  std::string name;
  std::function<void()> run;
  std::function<std::vector<float>()> output;
};

inline int serve(const Peer& peer) {
  using Clock = std::chrono::steady_clock;
  peer.run();
  std::cout << "ready " << peer.name << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    if (line == "output") {
      std::cout.precision(9);
      for (const float y : peer.output()) std::cout << y << ' ';
    } else if (line.rfind("run ", 0) == 0) {
      for (int n = std::stoi(line.substr(4)); n > 0; --n) {
        const auto start = Clock::now();
        peer.run();
        std::cout << std::chrono::duration<double, std::micro>(Clock::now() - start).count() << ' ';
      }
    } else {
      std::cerr << peer.name << ": unknown line '" << line << "'\n";
      return 1;
    }
    std::cout << std::endl;
  }
  return 0;
}

/// Neurons, bins and values of one window, three int32 arrays one behind the other.
struct WindowEvents {
  std::vector<std::int32_t> neuron, bin, value;
};
inline WindowEvents read_events(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) throw std::runtime_error(path + ": cannot open");
  const auto count = static_cast<std::size_t>(file.tellg()) / sizeof(std::int32_t) / 3;
  file.seekg(0);
  WindowEvents events;
  for (auto* part : {&events.neuron, &events.bin, &events.value}) {
    part->resize(count);
    file.read(reinterpret_cast<char*>(part->data()),
              static_cast<std::streamsize>(count * sizeof(std::int32_t)));
  }
  return events;
}

}  // namespace cortex::peers
