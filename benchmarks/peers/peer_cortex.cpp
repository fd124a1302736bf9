// Ours as a peer of the others.
//
//   peer_cortex write PRESET EVENTS FOLDER            model.safetensors (float32) and events.bin
//   peer_cortex window FOLDER PRECISION THREADS    whole forwards
//   peer_cortex linears FOLDER PRECISION THREADS   the linears of its latents alone
#include <cortex/result.h>

#include <memory>
#include <string>
#include <vector>

#include "bench_decode.h"
#include "bench_model.h"
#include "bench_work.h"
#include "model/window_model.h"
#include "peer.h"

namespace cortex {
namespace {

constexpr std::uint64_t kSeed = 1;
constexpr float kLively = 3;

ModelFile load(const std::string& folder, const std::string& precision) {
  return with_precision(load_model(folder + "/model.safetensors").value_or_throw(),
                        precision_of(precision));
}

int write(const std::string& preset, std::int64_t count, const std::string& folder) {
  ModelFile model = random_preset(preset, DType::f32, 0, kSeed);
  // Attention over the small weights of a start of training is all but even, and a peer that had it
  // wrong would pass for the same model.
  for (auto& [name, tensor] : model.tensors)
    if (tensor.shape().size() > 1)
      for (float& w : tensor.f32()) w *= kLively;
  save_model(folder + "/model.safetensors", model.config, model.tensors).value_or_throw();
  std::uint64_t state = kSeed;
  std::vector<std::int32_t> parts[3];
  for (const Event& e :
       random_events(state, count, model.config.max_neurons, 0, model.config.max_bins)) {
    parts[0].push_back(e.unit);
    parts[1].push_back(static_cast<std::int32_t>(e.bin));
    parts[2].push_back(e.value);
  }
  std::ofstream file(folder + "/events.bin", std::ios::binary);
  for (const auto& part : parts)
    file.write(reinterpret_cast<const char*>(part.data()),
               static_cast<std::streamsize>(part.size() * sizeof(std::int32_t)));
  return file ? 0 : 1;
}

int serve_window(const std::string& folder, const std::string& precision, int threads) {
  const auto ops = make_bench_ops(threads);
  const peers::WindowEvents events = peers::read_events(folder + "/events.bin");
  WindowModel model(load(folder, precision), *ops, 1, static_cast<std::int64_t>(events.bin.size()));
  std::vector<Event> window;
  for (std::size_t i = 0; i < events.bin.size(); ++i)
    window.push_back({events.neuron[i], events.value[i], events.bin[i]});
  model.begin_batch(1, static_cast<std::int64_t>(window.size()))
      .add_window(window, model.config().max_bins);
  return peers::serve({std::string("cortex ") + ops->name(), [&] { model.forward(); },
                       [&] {
                         const auto y = model.forward();
                         return std::vector<float>(y.begin(), y.end());
                       }});
}

int serve_linears(const std::string& folder, const std::string& precision, int threads) {
  const auto ops = make_bench_ops(threads);
  const ModelFile file = load(folder, precision);
  struct Linear {
    std::unique_ptr<LinearWeight> weight;
    Buffer x;
    Buffer y;
    std::int64_t rows;
  };
  std::vector<Linear> linears;
  for (const LinearShape& shape : forward_linears(file.config, 1)) {
    const auto floats = [&](std::int64_t n) {
      return ops->allocate(sizeof(float) * static_cast<std::size_t>(n));
    };
    Linear linear{ops->pack_linear(file.linear(shape.name)), floats(shape.rows * shape.in),
                  floats(shape.rows * shape.out), shape.rows};
    const std::vector<float> ones(static_cast<std::size_t>(shape.rows * shape.in), 1.0f);
    ops->upload(linear.x, ones.data(), ones.size() * sizeof(float));
    linears.push_back(std::move(linear));
  }
  const auto run = [&] {
    const ForwardScope scope(*ops);
    for (const Linear& l : linears)
      ops->norm_linear({}, matrix(l.x.f32(), l.rows, l.weight->in()), *l.weight, nullptr,
                       Epilogue::store, matrix(l.y.f32(), l.rows, l.weight->out()));
  };
  return peers::serve(
      {std::string("cortex ") + ops->name(), run, [] { return std::vector<float>{}; }});
}

int run(const std::vector<std::string>& words) {
  if (words.size() == 4 && words[0] == "write")
    return write(words[1], std::stoll(words[2]), words[3]);
  if (words.size() == 4 && words[0] == "window")
    return serve_window(words[1], words[2], std::stoi(words[3]));
  if (words.size() == 4 && words[0] == "linears")
    return serve_linears(words[1], words[2], std::stoi(words[3]));
  std::cerr << "usage: peer_cortex write PRESET EVENTS FOLDER\n"
               "       peer_cortex window|linears FOLDER PRECISION THREADS\n";
  return 2;
}

}  // namespace
}  // namespace cortex

int main(int argc, char** argv) {
  try {
    return cortex::run({argv + 1, argv + argc});
  } catch (const cortex::Exception& failure) {
    std::cerr << "peer_cortex: " << failure.error.message << '\n';
  } catch (const std::exception& failure) {
    std::cerr << "peer_cortex: " << failure.what() << '\n';
  }
  return 1;
}
