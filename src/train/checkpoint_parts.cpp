#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "core/file.h"
#include "train/checkpoint.h"

namespace cortex::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLatest = "checkpoint.latest";
constexpr const char* kPrefix = "checkpoint-";

std::string part_path(const fs::path& folder, int rank, int ranks) {
  return (folder / fmt::format("{}-of-{}.safetensors", rank, ranks)).string();
}

std::int64_t part_of(std::int64_t length, int ranks) { return (length + ranks - 1) / ranks; }

/// Copies what part `rank` of `ranks` of a vector shares with part `to` of `tos`.
void copy_shared(const torch::Tensor& from, int rank, int ranks, torch::Tensor& into, int to,
                 int tos, const std::vector<std::int64_t>& stage_lengths) {
  std::int64_t from_offset = 0;
  std::int64_t into_offset = 0;
  for (const std::int64_t length : stage_lengths) {
    const std::int64_t from_part = part_of(length, ranks);
    const std::int64_t into_part = part_of(length, tos);
    const std::int64_t first = std::max(rank * from_part, to * into_part);
    const std::int64_t last = std::min({(rank + 1) * from_part, (to + 1) * into_part, length});
    if (first < last)
      into.narrow(0, into_offset + first - to * into_part, last - first)
          .copy_(from.narrow(0, from_offset + first - rank * from_part, last - first));
    from_offset += from_part;
    into_offset += into_part;
  }
}

}  // namespace

bool has_parts(const std::string& run_dir) { return fs::exists(fs::path(run_dir) / kLatest); }

Result<void> save_parts(const std::string& run_dir, const Checkpoint& part, ProcessGroup& group) {
  const std::string name = fmt::format("{}{}", kPrefix, part.iteration);
  const fs::path folder = fs::path(run_dir) / name;
  std::error_code ec;
  fs::create_directories(folder, ec);
  const auto written =
      ec ? Result<void>(Error{ErrorCode::io_error, folder.string() + ": " + ec.message(), "run"})
         : save_checkpoint(part_path(folder, group.rank(), group.ranks()), part);
  // All or none: a rank that could not write tells the others.
  const bool all = group.sum(written ? 0 : 1) == 0;
  if (!written) return written;
  if (!all)
    return Error{ErrorCode::io_error, folder.string() + ": another rank could not write", "run"};
  if (group.rank() != 0) return {};
  const std::string text = fmt::format("{} {}\n", name, group.ranks());
  if (const auto ok = write_file_atomic((fs::path(run_dir) / kLatest).string(),
                                        std::as_bytes(std::span(text.data(), text.size())));
      !ok)
    return ok;
  for (const auto& entry : fs::directory_iterator(run_dir, ec)) {
    const std::string other = entry.path().filename().string();
    if (entry.is_directory() && other.rfind(kPrefix, 0) == 0 && other != name)
      fs::remove_all(entry.path(), ec);
  }
  return {};
}

Result<Checkpoint> load_parts(const std::string& run_dir, const std::string& fingerprint,
                              const std::vector<std::int64_t>& stage_lengths,
                              const ProcessGroup& group) {
  std::ifstream latest(fs::path(run_dir) / kLatest);
  std::string name;
  int ranks = 0;
  if (!latest) return Error{ErrorCode::not_found, run_dir + ": no checkpoint of ranks", "run"};
  if (!(latest >> name >> ranks) || ranks < 1)
    return Error{ErrorCode::corrupt_data, run_dir + "/" + kLatest + ": not a checkpoint's name",
                 "run"};
  std::int64_t total = 0;
  for (const std::int64_t length : stage_lengths) total += part_of(length, group.ranks());
  Checkpoint out;
  for (int rank = 0; rank < ranks; ++rank) {
    const std::string path = part_path(fs::path(run_dir) / name, rank, ranks);
    auto part = load_checkpoint(path, fingerprint);
    if (!part) return part.error();
    std::int64_t expected = 0;
    for (const std::int64_t length : stage_lengths) expected += part_of(length, ranks);
    std::map<std::string, torch::Tensor> vectors = std::move(out.vectors);
    for (const auto& [key, from] : part->vectors) {
      if (from.dim() != 1 || from.size(0) != expected)
        return Error{ErrorCode::corrupt_data,
                     fmt::format("{}: '{}' is misshapen for this model", path, key), "run"};
      auto [at, fresh] = vectors.try_emplace(key);
      if (fresh) at->second = torch::zeros({total});
      copy_shared(from, rank, ranks, at->second, group.rank(), group.ranks(), stage_lengths);
    }
    out = *std::move(part);
    out.vectors = std::move(vectors);
  }
  return out;
}

}  // namespace cortex::train
