#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>

namespace cortex::hdf5 {

/// The global heaps of an HDF5 file, where its variable-length text lives.
///
/// libhdf5 (1.10) believes what it finds there: an object of size zero makes it loop for ever, an
/// index that the heap lacks makes it read wild memory, an object larger than the reference to it
/// says is copied past the end of its buffer, and a reference of 4 GB is allocated before it is
/// looked up. So heaps are checked here, the references of attributes
/// before the library follows them, and those of datasets are followed here alone.
class GlobalHeaps {
 public:
  /// `file` outlives this.
  explicit GlobalHeaps(std::span<const std::byte> file);

  std::span<const std::byte> file() const { return file_; }

  /// What is wrong with a heap or with a text attribute's reference; nothing if all are sound.
  const std::optional<std::string>& fault() const { return fault_; }

  /// The text that a reference of 16 bytes leads to; nothing where it leads nowhere.
  std::optional<std::string_view> text(std::span<const std::byte> reference) const;

 private:
  struct Object {
    std::uint64_t at = 0;
    std::uint64_t bytes = 0;
  };
  using Objects = std::unordered_map<std::uint32_t, Object>;  // by index

  void find_heaps();
  void check_attributes();
  std::optional<Objects> walk(std::uint64_t heap) const;
  bool library_may_follow(std::span<const std::byte> reference) const;
  const Object* find(std::span<const std::byte> reference) const;

  std::span<const std::byte> file_;
  std::unordered_map<std::uint64_t, Objects> heaps_;  // by address
  std::optional<std::string> fault_;
};

/// A file mapped for reading; empty where it cannot be.
class FileMapping {
 public:
  explicit FileMapping(const std::string& path);
  ~FileMapping();
  FileMapping(const FileMapping&) = delete;
  FileMapping& operator=(const FileMapping&) = delete;
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace cortex::hdf5
