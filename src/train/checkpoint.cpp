#include "train/checkpoint.h"

#include <fmt/format.h>

#include <cstdlib>

#include "tensor/safetensors.h"
#include "train/params.h"

namespace cortex::train {

Result<void> save_checkpoint(const std::string& path, const Checkpoint& c) {
  SafetensorsFile file;
  // Doubles as hexadecimal: they come back with the same bits.
  file.metadata = {{"cortex.checkpoint", "1"},
                   {"iteration", fmt::format("{}", c.iteration)},
                   {"elapsed_s", fmt::format("{:a}", c.elapsed_s)},
                   {"best_r2", fmt::format("{:a}", c.best_r2)},
                   {"best_iteration", fmt::format("{}", c.best_iteration)},
                   {"fingerprint", c.fingerprint},
                   {"run", c.record}};
  for (const auto& [name, vector] : c.vectors) file.tensors.emplace(name, from_torch(vector));
  return write_safetensors(path, file);
}

Result<Checkpoint> load_checkpoint(const std::string& path, const std::string& fingerprint) {
  auto file = read_safetensors(path);
  if (!file) return file.error();
  const auto text = [&](const char* key) {
    const auto found = file->metadata.find(key);
    return found == file->metadata.end() ? std::string() : found->second;
  };
  if (text("cortex.checkpoint") != "1")
    return Error{ErrorCode::corrupt_data, fmt::format("{}: not a training checkpoint", path),
                 "run"};
  if (text("fingerprint") != fingerprint)
    return Error{ErrorCode::invalid_argument,
                 fmt::format("{}: the checkpoint is of a run with other options or data.\n"
                             "  checkpoint: {}\n  this run:   {}",
                             path, text("fingerprint"), fingerprint),
                 "run"};
  Checkpoint c;
  c.iteration = std::strtoll(text("iteration").c_str(), nullptr, 10);
  c.elapsed_s = std::strtod(text("elapsed_s").c_str(), nullptr);
  c.best_r2 = std::strtod(text("best_r2").c_str(), nullptr);
  c.best_iteration = std::strtoll(text("best_iteration").c_str(), nullptr, 10);
  c.fingerprint = fingerprint;
  c.record = text("run");
  for (const auto& [name, tensor] : file->tensors) c.vectors.emplace(name, to_torch(tensor));
  return c;
}

}  // namespace cortex::train
