#include "data/hdf5_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace cortex::hdf5 {
namespace {

constexpr hsize_t kCompressFrom = 4096;  // values
constexpr hsize_t kChunkValues = 64 << 10;
constexpr unsigned kGzipLevel = 6;

}  // namespace

Writer::Writer(const std::string& path) : name_(path) {
  const LibraryLock lock;
  const PropertyHandle create(H5Pcreate(H5P_FILE_CREATE));
  if (!check(create && H5Pset_obj_track_times(create.get(), false) >= 0, "/")) return;
  file_ = FileHandle(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, create.get(), H5P_DEFAULT));
  text_ = TypeHandle(H5Tcopy(H5T_C_S1));
  check(file_ && H5Tset_size(text_.get(), H5T_VARIABLE) >= 0 &&
            H5Tset_cset(text_.get(), H5T_CSET_UTF8) >= 0,
        "/");
}

bool Writer::check(bool ok, const std::string& path) {
  if (!ok && failure_.empty()) failure_ = fmt::format("{}: {}: {}", name_, path, last_error());
  return ok;
}

Result<void> Writer::close() {
  const LibraryLock lock;
  text_.reset();
  check(file_.reset(), "/");
  if (!failure_.empty()) return Error{ErrorCode::io_error, failure_, "path"};
  return {};
}

void Writer::group(const std::string& path, const Texts& attributes) {
  const LibraryLock lock;
  for (std::size_t at = path.find('/', 1); failure_.empty(); at = path.find('/', at + 1)) {
    const std::string part = path.substr(0, at);
    if (H5Lexists(file_.get(), part.c_str(), H5P_DEFAULT) <= 0) {
      const PropertyHandle create(H5Pcreate(H5P_GROUP_CREATE));
      H5Pset_obj_track_times(create.get(), false);
      const GroupHandle made(
          H5Gcreate2(file_.get(), part.c_str(), H5P_DEFAULT, create.get(), H5P_DEFAULT));
      check(static_cast<bool>(made), part);
    }
    if (at == std::string::npos) break;
  }
  for (const auto& [name, value] : attributes) text_attribute(path, name, value);
}

void Writer::dataset(const std::string& path, hid_t file_type, hid_t memory_type,
                     std::span<const hsize_t> dims, const void* values, const Texts& attributes) {
  const LibraryLock lock;
  if (!failure_.empty()) return;
  const SpaceHandle space(
      dims.empty() ? H5Screate(H5S_SCALAR)
                   : H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr));
  const PropertyHandle create(H5Pcreate(H5P_DATASET_CREATE));
  bool ok = space && create && H5Pset_obj_track_times(create.get(), false) >= 0;
  const hsize_t columns = dims.size() > 1 ? dims[1] : 1;
  if (ok && !dims.empty() && dims[0] * columns >= kCompressFrom &&
      H5Tis_variable_str(file_type) <= 0) {
    const std::array<hsize_t, 2> chunk = {
        std::min(dims[0], std::max<hsize_t>(1, kChunkValues / columns)), columns};
    ok = H5Pset_chunk(create.get(), static_cast<int>(dims.size()), chunk.data()) >= 0 &&
         H5Pset_shuffle(create.get()) >= 0 && H5Pset_deflate(create.get(), kGzipLevel) >= 0;
  }
  if (!check(ok, path)) return;
  const DatasetHandle id(H5Dcreate2(file_.get(), path.c_str(), file_type, space.get(), H5P_DEFAULT,
                                    create.get(), H5P_DEFAULT));
  const bool empty = std::any_of(dims.begin(), dims.end(), [](hsize_t n) { return n == 0; });
  if (!check(id && (empty ||
                    H5Dwrite(id.get(), memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0),
             path))
    return;
  for (const auto& [name, value] : attributes) text_attribute(path, name, value);
}

void Writer::text(const std::string& path, const std::string& value) {
  const char* pointer = value.c_str();
  dataset(path, text_.get(), text_.get(), {}, &pointer, {});
}

void Writer::texts(const std::string& path, std::span<const std::string> values,
                   const Texts& attributes) {
  std::vector<const char*> pointers;
  for (const std::string& value : values) pointers.push_back(value.c_str());
  const std::array<hsize_t, 1> dims = {values.size()};
  dataset(path, text_.get(), text_.get(), dims, pointers.data(), attributes);
}

void Writer::reals(const std::string& path, std::span<const double> values, std::size_t columns,
                   const Texts& attributes) {
  const std::array<hsize_t, 2> dims = {values.size() / std::max<std::size_t>(columns, 1), columns};
  dataset(path, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE,
          std::span<const hsize_t>(dims).first(columns == 0 ? 1 : 2), values.data(), attributes);
}

void Writer::reals(const std::string& path, std::span<const float> values, std::size_t columns,
                   const Texts& attributes) {
  const std::array<hsize_t, 2> dims = {values.size() / std::max<std::size_t>(columns, 1), columns};
  dataset(path, H5T_IEEE_F32LE, H5T_NATIVE_FLOAT,
          std::span<const hsize_t>(dims).first(columns == 0 ? 1 : 2), values.data(), attributes);
}

void Writer::integers(const std::string& path, std::span<const std::int64_t> values,
                      const Texts& attributes) {
  const std::array<hsize_t, 1> dims = {values.size()};
  dataset(path, H5T_STD_I64LE, H5T_NATIVE_INT64, dims, values.data(), attributes);
}

void Writer::indices(const std::string& path, std::span<const std::uint32_t> values,
                     const Texts& attributes) {
  const std::array<hsize_t, 1> dims = {values.size()};
  dataset(path, H5T_STD_U32LE, H5T_NATIVE_UINT32, dims, values.data(), attributes);
}

void Writer::booleans(const std::string& path, std::span<const std::int8_t> values,
                      const Texts& attributes) {
  const LibraryLock lock;
  const TypeHandle type(H5Tenum_create(H5T_STD_I8LE));
  const std::int8_t no = 0, yes = 1;
  if (!check(type && H5Tenum_insert(type.get(), "FALSE", &no) >= 0 &&
                 H5Tenum_insert(type.get(), "TRUE", &yes) >= 0,
             path))
    return;
  const std::array<hsize_t, 1> dims = {values.size()};
  dataset(path, type.get(), type.get(), dims, values.data(), attributes);
}

void Writer::real_scalar(const std::string& path, double value) {
  dataset(path, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, {}, &value, {});
}

void Writer::references(const std::string& path, std::span<const std::string> targets,
                        const Texts& attributes) {
  const LibraryLock lock;
  if (!failure_.empty()) return;
  std::vector<hobj_ref_t> references(targets.size());
  for (std::size_t i = 0; i < targets.size(); ++i)
    if (!check(H5Rcreate(&references[i], file_.get(), targets[i].c_str(), H5R_OBJECT, -1) >= 0,
               path))
      return;
  const std::array<hsize_t, 1> dims = {targets.size()};
  dataset(path, H5T_STD_REF_OBJ, H5T_STD_REF_OBJ, dims, references.data(), attributes);
}

void Writer::soft_link(const std::string& path, const std::string& target) {
  const LibraryLock lock;
  if (!failure_.empty()) return;
  check(H5Lcreate_soft(target.c_str(), file_.get(), path.c_str(), H5P_DEFAULT, H5P_DEFAULT) >= 0,
        path);
}

void Writer::attribute(const std::string& path, const std::string& name, hid_t type, hid_t space,
                       const void* value) {
  if (!failure_.empty()) return;
  const ObjectHandle object(H5Oopen(file_.get(), path.c_str(), H5P_DEFAULT));
  if (!check(static_cast<bool>(object), path)) return;
  const AttributeHandle id(
      H5Acreate2(object.get(), name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT));
  check(id && H5Awrite(id.get(), type, value) >= 0, path + "@" + name);
}

void Writer::text_attribute(const std::string& path, const std::string& name,
                            const std::string& value) {
  const LibraryLock lock;
  const SpaceHandle space(H5Screate(H5S_SCALAR));
  const char* pointer = value.c_str();
  attribute(path, name, text_.get(), space.get(), &pointer);
}

void Writer::texts_attribute(const std::string& path, const std::string& name,
                             std::span<const std::string> values) {
  const LibraryLock lock;
  const std::array<hsize_t, 1> dims = {values.size()};
  const SpaceHandle space(H5Screate_simple(1, dims.data(), nullptr));
  std::vector<const char*> pointers;
  for (const std::string& value : values) pointers.push_back(value.c_str());
  attribute(path, name, text_.get(), space.get(), pointers.data());
}

void Writer::real_attribute(const std::string& path, const std::string& name, double value) {
  const LibraryLock lock;
  const SpaceHandle space(H5Screate(H5S_SCALAR));
  attribute(path, name, H5T_IEEE_F64LE, space.get(), &value);
}

void Writer::reference_attribute(const std::string& path, const std::string& name,
                                 const std::string& target) {
  const LibraryLock lock;
  if (!failure_.empty()) return;
  hobj_ref_t reference{};
  if (!check(H5Rcreate(&reference, file_.get(), target.c_str(), H5R_OBJECT, -1) >= 0, path)) return;
  const SpaceHandle space(H5Screate(H5S_SCALAR));
  attribute(path, name, H5T_STD_REF_OBJ, space.get(), &reference);
}

}  // namespace cortex::hdf5
