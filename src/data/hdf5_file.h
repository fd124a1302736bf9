#pragma once

#include <cortex/result.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/hdf5_handle.h"
#include "data/hdf5_heaps.h"

namespace cortex::hdf5 {

enum class Kind { integer, real, boolean, text, other };

/// Values of a dataset of rank 0 to 2, row-major.
template <class T>
struct Array {
  std::vector<std::int64_t> dims;
  std::vector<T> values;
};

/// An HDF5 file opened for reading, which nobody vouches for. Every dataset is checked before a
/// byte is allocated for it: type, rank, layout, filters, and that its size is one its storage can
/// hold. External links, external storage and virtual datasets are refused, so that reading one
/// file never opens another. Errors are corrupt_data or unsupported and name file and path.
class File {
 public:
  static Result<File> open(const std::string& path);
  /// The same for bytes in memory, which outlive the file; `name` stands for the path in messages.
  static Result<File> open_image(std::span<const std::byte> bytes, const std::string& name);

  const std::string& name() const { return name_; }

  bool exists(const std::string& path) const;
  bool is_group(const std::string& path) const;
  bool is_dataset(const std::string& path) const;
  /// Names of a group's links, sorted.
  Result<std::vector<std::string>> children(const std::string& path) const;

  /// Kind and dimensions without reading.
  struct Description {
    Kind kind = Kind::other;
    std::vector<std::int64_t> dims;
  };
  Result<Description> describe(const std::string& path) const;

  /// Integers and booleans are accepted for reals, booleans for integers.
  Result<Array<double>> reals(const std::string& path) const;
  Result<Array<std::int64_t>> integers(const std::string& path) const;
  Result<Array<std::string>> texts(const std::string& path) const;

  /// A scalar or one-element attribute; nothing where it is absent or of another type.
  std::optional<std::string> text_attribute(const std::string& path, const char* attribute) const;
  std::optional<double> real_attribute(const std::string& path, const char* attribute) const;

  Error corrupt(const std::string& path, const std::string& what) const;

 private:
  struct Dataset;

  File(FileHandle file, PropertyHandle access, std::string name, std::uint64_t bytes);
  static Result<File> adopt(FileHandle file, const std::string& name);
  ObjectHandle open_object(const std::string& path) const;
  /// Invalid where the object has none of that name, or attributes that overrun their messages.
  AttributeHandle open_attribute(const std::string& path, const char* attribute) const;
  Result<Dataset> open_dataset(const std::string& path) const;
  template <class T>
  Result<Array<T>> numbers(const std::string& path, hid_t memory_type, Kind widest) const;
  /// The elements as they are stored; of variable-length text, the references.
  Result<void> read(const Dataset& data, const std::string& path, std::span<std::byte> into) const;
  std::optional<std::string> text_of(hid_t attribute) const;

  std::unique_ptr<FileMapping> mapping_;  // what heaps_ looks at, for a file on disk
  std::unique_ptr<GlobalHeaps> heaps_;
  FileHandle file_;
  PropertyHandle access_;  // forbids external links
  std::string name_;
  std::uint64_t bytes_ = 0;
};

}  // namespace cortex::hdf5
