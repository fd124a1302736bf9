#pragma once

#include <cortex/result.h>

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "data/hdf5_handle.h"

namespace cortex::hdf5 {

/// Writes a new HDF5 file whose bytes depend on what is written alone (no times of day). The first
/// failure is kept and reported by `close`; later calls do nothing.
class Writer {
 public:
  using Texts = std::vector<std::pair<std::string, std::string>>;

  explicit Writer(const std::string& path);

  /// Creates missing parents as plain groups.
  void group(const std::string& path, const Texts& attributes = {});

  void text(const std::string& path, const std::string& value);
  void texts(const std::string& path, std::span<const std::string> values,
             const Texts& attributes = {});
  /// Arrays of more than a few thousand values are shuffled and gzipped in chunks of rows.
  void reals(const std::string& path, std::span<const double> values, std::size_t columns,
             const Texts& attributes = {});
  void reals(const std::string& path, std::span<const float> values, std::size_t columns,
             const Texts& attributes = {});
  void integers(const std::string& path, std::span<const std::int64_t> values,
                const Texts& attributes = {});
  void indices(const std::string& path, std::span<const std::uint32_t> values,
               const Texts& attributes = {});
  /// As h5py stores bool: an int8 enum of FALSE and TRUE.
  void booleans(const std::string& path, std::span<const std::int8_t> values,
                const Texts& attributes = {});
  void real_scalar(const std::string& path, double value);
  /// Object references to `targets`, which exist already.
  void references(const std::string& path, std::span<const std::string> targets,
                  const Texts& attributes = {});
  void soft_link(const std::string& path, const std::string& target);

  void text_attribute(const std::string& path, const std::string& name, const std::string& value);
  void texts_attribute(const std::string& path, const std::string& name,
                       std::span<const std::string> values);
  void real_attribute(const std::string& path, const std::string& name, double value);
  void reference_attribute(const std::string& path, const std::string& name,
                           const std::string& target);

  /// Flushes and closes; the first thing that went wrong, if anything did.
  Result<void> close();

 private:
  bool check(bool ok, const std::string& path);
  void attribute(const std::string& path, const std::string& name, hid_t type, hid_t space,
                 const void* value);
  void dataset(const std::string& path, hid_t file_type, hid_t memory_type,
               std::span<const hsize_t> dims, const void* values, const Texts& attributes);

  std::string name_;
  FileHandle file_;
  TypeHandle text_;
  std::string failure_;
};

}  // namespace cortex::hdf5
