#include "dandi/target_path.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

namespace cortex::dandi {
namespace {

constexpr std::size_t kMaxPath = 2048;
constexpr std::size_t kMaxComponent = 240;  // of 255, so that suffixes fit

/// What is wrong with it, or nothing.
std::string fault_of(const std::string& path) {
  if (path.empty()) return "it is empty";
  if (path.front() == '/') return "it is absolute";
  if (path.size() > kMaxPath) return fmt::format("it has {} characters", path.size());
  for (std::size_t at = 0; at <= path.size();) {
    const std::size_t slash = std::min(path.find('/', at), path.size());
    const std::string part = path.substr(at, slash - at);
    if (part.empty() || part == "." || part == "..")
      return fmt::format("'{}' is no component of a file's path", part);
    if (part.size() > kMaxComponent)
      return fmt::format("a component has {} characters", part.size());
    at = slash + 1;
  }
  const auto foul = [](char c) {
    return c == '\\' || static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
  };
  if (std::any_of(path.begin(), path.end(), foul))
    return "it has a backslash or a control character";
  return "";
}

std::string printable(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20; }, '?');
  return text.substr(0, 200);
}

}  // namespace

Result<std::string> target_path(const std::string& out, const std::string& asset_path) {
  namespace fs = std::filesystem;
  const auto refused = [&](const std::string& why) {
    return Error{
        ErrorCode::invalid_argument,
        fmt::format("the archive names a file '{}': {}; refused", printable(asset_path), why),
        "path"};
  };
  if (const std::string fault = fault_of(asset_path); !fault.empty()) return refused(fault);
  const fs::path target = fs::path(out) / asset_path;
  std::error_code failure;
  const fs::path root = fs::weakly_canonical(out, failure);
  const fs::path folder =
      failure ? fs::path() : fs::weakly_canonical(target.parent_path(), failure);
  if (failure) return refused(failure.message());
  const auto [at_root, at_folder] =
      std::mismatch(root.begin(), root.end(), folder.begin(), folder.end());
  if (at_root != root.end()) return refused(fmt::format("it leads out of {}", root.string()));
  if (fs::is_symlink(fs::symlink_status(target, failure))) return refused("a link is in its place");
  return target.string();
}

}  // namespace cortex::dandi
