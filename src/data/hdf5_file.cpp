#include "data/hdf5_file.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string_view>

#include "data/hdf5_chunks.h"
#include "data/hdf5_headers.h"
#include "data/hdf5_heaps.h"

namespace cortex::hdf5 {
namespace {

// Deflate cannot expand more than 1032 to 1; a dataset beyond that cannot be what was stored.
constexpr std::uint64_t kMaxExpansion = 1100;
constexpr std::uint64_t kSlackBytes = 64 << 10;
constexpr std::uint64_t kMaxDatasetBytes = std::uint64_t{16} << 30;
constexpr std::uint64_t kMaxChunkBytes = std::uint64_t{1} << 30;
constexpr std::size_t kMaxTextBytes = 1 << 20;
constexpr std::size_t kMaxChildren = 1 << 16;

std::recursive_mutex& library_mutex() {
  static std::recursive_mutex mutex;
  return mutex;
}

herr_t keep_innermost(unsigned, const H5E_error2_t* error, void* out) {
  if (error->desc != nullptr) *static_cast<std::string*>(out) = error->desc;
  return 0;
}

herr_t refuse_external(const char*, const char*, const char*, const char*, unsigned*, hid_t,
                       void*) {
  return -1;
}

bool is_one_of(hid_t type, std::initializer_list<hid_t> allowed) {
  return std::any_of(allowed.begin(), allowed.end(),
                     [&](hid_t other) { return H5Tequal(type, other) > 0; });
}

// Only the plain IEEE and two's-complement layouts: conversions from exotic bit fields are the
// least trodden code of the library.
Kind kind_of(hid_t type) {
  switch (H5Tget_class(type)) {
    case H5T_FLOAT:
      return is_one_of(type, {H5T_IEEE_F64LE, H5T_IEEE_F32LE, H5T_IEEE_F64BE, H5T_IEEE_F32BE})
                 ? Kind::real
                 : Kind::other;
    case H5T_INTEGER:
      return is_one_of(type, {H5T_STD_I8LE, H5T_STD_U8LE, H5T_STD_I16LE, H5T_STD_U16LE,
                              H5T_STD_I32LE, H5T_STD_U32LE, H5T_STD_I64LE, H5T_STD_U64LE,
                              H5T_STD_I8BE, H5T_STD_U8BE, H5T_STD_I16BE, H5T_STD_U16BE,
                              H5T_STD_I32BE, H5T_STD_U32BE, H5T_STD_I64BE, H5T_STD_U64BE})
                 ? Kind::integer
                 : Kind::other;
    case H5T_ENUM: {
      const TypeHandle base(H5Tget_super(type));
      return base && is_one_of(base.get(), {H5T_STD_I8LE, H5T_STD_U8LE}) ? Kind::boolean
                                                                         : Kind::other;
    }
    case H5T_STRING: {
      if (H5Tis_variable_str(type) <= 0) return Kind::text;
      // The library sizes its buffers by this, whatever it says.
      const TypeHandle character(H5Tget_super(type));
      return character && H5Tget_size(character.get()) == 1 ? Kind::text : Kind::other;
    }
    default:
      return Kind::other;
  }
}

bool filters_allowed(hid_t create) {
  const int filters = H5Pget_nfilters(create);
  for (int i = 0; i < filters; ++i) {
    unsigned flags = 0, config = 0;
    std::size_t values = 0;
    const H5Z_filter_t filter = H5Pget_filter2(create, static_cast<unsigned>(i), &flags, &values,
                                               nullptr, 0, nullptr, &config);
    if (filter != H5Z_FILTER_DEFLATE && filter != H5Z_FILTER_SHUFFLE &&
        filter != H5Z_FILTER_FLETCHER32)
      return false;
  }
  return filters >= 0;
}

std::string until_nul(std::string_view text) {
  return std::string(text.substr(0, text.find('\0')));
}

std::string fixed_text(const char* text, std::size_t bytes, hid_t type) {
  std::string value = until_nul({text, bytes});
  if (H5Tget_strpad(type) == H5T_STR_SPACEPAD)
    while (!value.empty() && value.back() == ' ') value.pop_back();
  return value;
}

herr_t collect_name(hid_t, const char* name, const H5L_info_t*, void* out) {
  auto& names = *static_cast<std::vector<std::string>*>(out);
  if (names.size() > kMaxChildren) return 1;
  names.emplace_back(name);
  return 0;
}

}  // namespace

LibraryLock::LibraryLock() : lock_(library_mutex()) {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  H5Eclear2(H5E_DEFAULT);
}

std::string last_error() {
  std::string text;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_DOWNWARD, keep_innermost, &text);
  H5Eclear2(H5E_DEFAULT);
  return text.empty() ? "the HDF5 library gave no reason" : text;
}

struct File::Dataset {
  DatasetHandle id;
  TypeHandle type;
  SpaceHandle space;
  PropertyHandle create;
  std::vector<hsize_t> chunk;  // empty unless stored in chunks
  Kind kind = Kind::other;
  std::vector<std::int64_t> dims;
  std::size_t count = 0;
  std::size_t element_bytes = 0;
};

File::File(FileHandle file, PropertyHandle access, std::string name, std::uint64_t bytes)
    : file_(std::move(file)), access_(std::move(access)), name_(std::move(name)), bytes_(bytes) {}

Result<File> File::open(const std::string& path) {
  const LibraryLock lock;
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0)
    return Error{errno == ENOENT ? ErrorCode::not_found : ErrorCode::io_error,
                 fmt::format("{}: {}", path, std::strerror(errno)), "path"};
  if (!S_ISREG(info.st_mode))
    return Error{ErrorCode::invalid_argument, fmt::format("{}: not a regular file", path), "path"};
  if (H5Fis_hdf5(path.c_str()) <= 0)
    return Error{ErrorCode::corrupt_data, fmt::format("{}: not an HDF5 file", path), "path"};
  auto mapping = std::make_unique<FileMapping>(path);
  auto heaps = std::make_unique<GlobalHeaps>(mapping->bytes());
  if (mapping->bytes().empty())
    return Error{ErrorCode::io_error, fmt::format("{}: cannot map it", path), "path"};
  if (heaps->fault())
    return Error{ErrorCode::corrupt_data, fmt::format("{}: {}", path, *heaps->fault()), "path"};
  auto file = adopt(FileHandle(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT)), path);
  if (!file) return file;
  file->mapping_ = std::move(mapping);
  file->heaps_ = std::move(heaps);
  return file;
}

Result<File> File::open_image(std::span<const std::byte> bytes, const std::string& name) {
  const LibraryLock lock;
  auto heaps = std::make_unique<GlobalHeaps>(bytes);
  if (heaps->fault())
    return Error{ErrorCode::corrupt_data, fmt::format("{}: {}", name, *heaps->fault()), "path"};
  const PropertyHandle access(H5Pcreate(H5P_FILE_ACCESS));
  if (bytes.empty() || H5Pset_fapl_core(access.get(), 1 << 20, false) < 0 ||
      H5Pset_file_image(access.get(), const_cast<std::byte*>(bytes.data()), bytes.size()) < 0)
    return Error{ErrorCode::corrupt_data, fmt::format("{}: not an HDF5 image", name), "path"};
  auto file = adopt(FileHandle(H5Fopen(name.c_str(), H5F_ACC_RDONLY, access.get())), name);
  if (file) file->heaps_ = std::move(heaps);
  return file;
}

Result<File> File::adopt(FileHandle file, const std::string& name) {
  if (!file)
    return Error{ErrorCode::corrupt_data,
                 fmt::format("{}: HDF5 cannot open it: {}", name, last_error()), "path"};
  const PropertyHandle create(H5Fget_create_plist(file.get()));
  hsize_t user_block = 0;
  std::size_t address_bytes = 0, length_bytes = 0;
  // The check of the heaps counts on the layout that every 64-bit writer chooses.
  if (!create || H5Pget_userblock(create.get(), &user_block) < 0 || user_block != 0 ||
      H5Pget_sizes(create.get(), &address_bytes, &length_bytes) < 0 || address_bytes != 8 ||
      length_bytes != 8)
    return Error{ErrorCode::unsupported,
                 fmt::format("{}: has a user block or addresses of other than 8 bytes", name),
                 "path"};
  PropertyHandle access(H5Pcreate(H5P_LINK_ACCESS));
  hsize_t bytes = 0;
  if (!access || H5Pset_elink_cb(access.get(), refuse_external, nullptr) < 0 ||
      H5Fget_filesize(file.get(), &bytes) < 0)
    return Error{ErrorCode::internal, fmt::format("{}: {}", name, last_error()), "path"};
  return File(std::move(file), std::move(access), name, bytes);
}

Error File::corrupt(const std::string& path, const std::string& what) const {
  return {ErrorCode::corrupt_data, fmt::format("{}: {}: {}", name_, path, what), path};
}

bool File::exists(const std::string& path) const {
  const LibraryLock lock;
  for (std::size_t at = path.find('/', 1);; at = path.find('/', at + 1)) {
    if (H5Lexists(file_.get(), path.substr(0, at).c_str(), access_.get()) <= 0) return false;
    if (at == std::string::npos) return true;
  }
}

ObjectHandle File::open_object(const std::string& path) const {
  H5L_info_t link{};
  if (path != "/" && H5Lget_info(file_.get(), path.c_str(), &link, access_.get()) >= 0 &&
      link.type == H5L_TYPE_HARD && !sound_header(heaps_->file(), link.u.address))
    return {};
  return ObjectHandle(H5Oopen(file_.get(), path.c_str(), access_.get()));
}

bool File::is_group(const std::string& path) const {
  const LibraryLock lock;
  const ObjectHandle object = open_object(path);
  return object && H5Iget_type(object.get()) == H5I_GROUP;
}

bool File::is_dataset(const std::string& path) const {
  const LibraryLock lock;
  const ObjectHandle object = open_object(path);
  return object && H5Iget_type(object.get()) == H5I_DATASET;
}

Result<std::vector<std::string>> File::children(const std::string& path) const {
  const LibraryLock lock;
  const ObjectHandle group = open_object(path);
  if (!group || H5Iget_type(group.get()) != H5I_GROUP) return corrupt(path, "not a group");
  std::vector<std::string> names;
  if (H5Literate(group.get(), H5_INDEX_NAME, H5_ITER_INC, nullptr, collect_name, &names) < 0)
    return corrupt(path, "cannot list its members: " + last_error());
  if (names.size() > kMaxChildren) return corrupt(path, "implausibly many members");
  return names;
}

Result<File::Dataset> File::open_dataset(const std::string& path) const {
  if (!exists(path)) return corrupt(path, "missing");
  ObjectHandle object = open_object(path);
  if (!object) return corrupt(path, "cannot open: " + last_error());
  if (H5Iget_type(object.get()) != H5I_DATASET) return corrupt(path, "not a dataset");

  Dataset data;
  // A second reference, because datasets and objects close through different functions.
  H5Iinc_ref(object.get());
  data.id = DatasetHandle(object.get());
  data.type = TypeHandle(H5Dget_type(data.id.get()));
  data.space = SpaceHandle(H5Dget_space(data.id.get()));
  data.create = PropertyHandle(H5Dget_create_plist(data.id.get()));
  const hid_t create = data.create.get();
  if (!data.type || !data.space || !data.create)
    return corrupt(path, "bad header: " + last_error());
  data.kind = kind_of(data.type.get());
  data.element_bytes = H5Tget_size(data.type.get());
  if (data.kind == Kind::text && H5Tis_variable_str(data.type.get()) > 0) data.element_bytes = 16;
  if (data.element_bytes == 0) return corrupt(path, "elements of no size");
  if (data.element_bytes > kMaxTextBytes) return corrupt(path, "implausibly large elements");

  const H5S_class_t extent = H5Sget_simple_extent_type(data.space.get());
  const int rank = H5Sget_simple_extent_ndims(data.space.get());
  if (extent == H5S_NO_CLASS || extent == H5S_NULL || rank < 0 || rank > H5S_MAX_RANK)
    return corrupt(path, "bad dataspace");
  std::array<hsize_t, H5S_MAX_RANK> dims{};
  if (rank > 0 && H5Sget_simple_extent_dims(data.space.get(), dims.data(), nullptr) < 0)
    return corrupt(path, "bad dataspace: " + last_error());
  const std::uint64_t limit = kMaxDatasetBytes / data.element_bytes;
  std::uint64_t count = 1;
  for (int i = 0; i < rank; ++i) {
    if (dims[i] != 0 && count > limit / dims[i])
      return corrupt(path, fmt::format("claims {} x {} elements or more, over the limit of {}",
                                       count, dims[i], limit));
    count *= dims[i];
    data.dims.push_back(static_cast<std::int64_t>(dims[i]));
  }
  data.count = static_cast<std::size_t>(count);
  if (data.kind == Kind::other) return data;

  if (H5Pget_external_count(create) != 0)
    return Error{ErrorCode::unsupported, fmt::format("{}: {}: stored in another file", name_, path),
                 path};
  if (!filters_allowed(create))
    return Error{
        ErrorCode::unsupported,
        fmt::format("{}: {}: a filter other than gzip, shuffle and fletcher32", name_, path), path};
  const std::uint64_t stored = std::min<std::uint64_t>(H5Dget_storage_size(data.id.get()), bytes_);
  std::uint64_t most = 0;
  switch (H5Pget_layout(create)) {
    case H5D_COMPACT:
    case H5D_CONTIGUOUS:
      most = stored;
      break;
    case H5D_CHUNKED: {
      most = stored * kMaxExpansion + kSlackBytes;
      std::array<hsize_t, H5S_MAX_RANK> chunk{};
      const int chunk_rank = H5Pget_chunk(create, H5S_MAX_RANK, chunk.data());
      if (chunk_rank != rank || rank == 0)
        return corrupt(path, "chunks of another rank than the dataset");
      std::uint64_t chunk_bytes = data.element_bytes, chunks = 1;
      for (int i = 0; i < rank; ++i) {
        if (chunk[i] == 0 || chunk_bytes > kMaxChunkBytes / chunk[i])
          return corrupt(path, "implausible chunk size");
        chunk_bytes *= chunk[i];
        // Every chunk has an entry in the file, however small.
        chunks *= (dims[i] + chunk[i] - 1) / chunk[i];
      }
      if (chunks > bytes_) return corrupt(path, "more chunks than its file has room for");
      if (count > 0 && chunk_bytes > most) return corrupt(path, "chunks larger than its storage");
      data.chunk.assign(chunk.begin(), chunk.begin() + rank);
      break;
    }
    default:
      return Error{ErrorCode::unsupported, fmt::format("{}: {}: a virtual dataset", name_, path),
                   path};
  }
  if (count * data.element_bytes > most)
    return corrupt(path, fmt::format("claims {} elements of {} bytes, but stores {} bytes", count,
                                     data.element_bytes, stored));
  return data;
}

Result<File::Description> File::describe(const std::string& path) const {
  const LibraryLock lock;
  auto data = open_dataset(path);
  if (!data) return data.error();
  return Description{data->kind, data->dims};
}

Result<void> File::read(const Dataset& data, const std::string& path,
                        std::span<std::byte> into) const {
  if (data.count == 0) return {};
  if (data.dims.size() > 2)
    return corrupt(path, fmt::format("has rank {}, at most 2 expected", data.dims.size()));
  if (!data.chunk.empty()) {
    const ChunkedLayout layout{data.dims, data.chunk, data.element_bytes};
    const auto read = read_chunks(data.id.get(), data.create.get(), layout, into);
    if (!read) return corrupt(path, read.error().message);
    return {};
  }
  if (H5Tis_variable_str(data.type.get()) > 0) {
    // The library would follow the references; these are read as they stand.
    if (H5Pget_layout(data.create.get()) != H5D_CONTIGUOUS)
      return Error{ErrorCode::unsupported,
                   fmt::format("{}: {}: compact variable-length text", name_, path), path};
    const auto file = heaps_->file();
    const haddr_t at = H5Dget_offset(data.id.get());
    if (at > file.size() || into.size() > file.size() - at)
      return corrupt(path, "lies beyond the end of the file");
    std::memcpy(into.data(), file.data() + at, into.size());
    return {};
  }
  if (H5Dread(data.id.get(), data.type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, into.data()) < 0)
    return corrupt(path, "cannot read: " + last_error());
  return {};
}

template <class T>
Result<Array<T>> File::numbers(const std::string& path, hid_t memory_type, Kind widest) const {
  const LibraryLock lock;
  auto data = open_dataset(path);
  if (!data) return data.error();
  if (data->kind != Kind::boolean && data->kind != Kind::integer && data->kind != widest)
    return corrupt(path, fmt::format("not {}", widest == Kind::real ? "a number" : "an integer"));
  Array<T> out;
  out.dims = data->dims;
  out.values.resize(data->count);
  const auto bytes = std::as_writable_bytes(std::span(out.values));
  // No kind is wider than T: the values as stored fill the front, then widen in place.
  if (auto ok = read(*data, path, bytes.first(data->count * data->element_bytes)); !ok)
    return ok.error();
  const hid_t stored = data->kind == Kind::boolean ? H5T_NATIVE_INT8 : data->type.get();
  if (H5Tconvert(stored, memory_type, data->count, bytes.data(), nullptr, H5P_DEFAULT) < 0)
    return corrupt(path, "cannot convert: " + last_error());
  return out;
}

Result<Array<double>> File::reals(const std::string& path) const {
  return numbers<double>(path, H5T_NATIVE_DOUBLE, Kind::real);
}

Result<Array<std::int64_t>> File::integers(const std::string& path) const {
  return numbers<std::int64_t>(path, H5T_NATIVE_INT64, Kind::integer);
}

Result<Array<std::string>> File::texts(const std::string& path) const {
  const LibraryLock lock;
  auto data = open_dataset(path);
  if (!data) return data.error();
  if (data->kind != Kind::text) return corrupt(path, "not text");
  if (data->dims.size() > 1) return corrupt(path, "text of rank 2 or more");
  std::vector<std::byte> raw(data->count * data->element_bytes);
  if (auto ok = read(*data, path, raw); !ok) return ok.error();
  const bool variable = H5Tis_variable_str(data->type.get()) > 0;
  // Many references may lead to one long text.
  std::uint64_t budget = bytes_ * 16 + kSlackBytes;
  Array<std::string> out;
  out.dims = data->dims;
  out.values.reserve(data->count);
  for (std::size_t i = 0; i < data->count; ++i) {
    const auto* const at = raw.data() + i * data->element_bytes;
    if (!variable) {
      out.values.push_back(
          fixed_text(reinterpret_cast<const char*>(at), data->element_bytes, data->type.get()));
      continue;
    }
    const auto text = heaps_->text(std::span(at, data->element_bytes));
    if (!text) return corrupt(path, fmt::format("row {} refers to text that is not there", i));
    if (text->size() > budget) return corrupt(path, "implausibly much text");
    budget -= text->size();
    out.values.push_back(until_nul(*text));
  }
  return out;
}

std::optional<std::string> File::text_of(hid_t attribute) const {
  const TypeHandle type(H5Aget_type(attribute));
  const SpaceHandle space(H5Aget_space(attribute));
  if (!type || !space || kind_of(type.get()) != Kind::text ||
      H5Sget_simple_extent_npoints(space.get()) != 1)
    return std::nullopt;
  if (H5Tis_variable_str(type.get()) > 0) {
    char* text = nullptr;
    if (H5Aread(attribute, type.get(), &text) < 0) return std::nullopt;
    std::string value = text == nullptr ? "" : text;
    H5Dvlen_reclaim(type.get(), space.get(), H5P_DEFAULT, &text);
    return value;
  }
  const std::size_t bytes = H5Tget_size(type.get());
  if (bytes == 0 || bytes > kMaxTextBytes) return std::nullopt;
  std::vector<char> raw(bytes);
  if (H5Aread(attribute, type.get(), raw.data()) < 0) return std::nullopt;
  return fixed_text(raw.data(), bytes, type.get());
}

AttributeHandle File::open_attribute(const std::string& path, const char* attribute) const {
  const ObjectHandle object = open_object(path);
  H5O_info_t info{};
  if (!object || H5Oget_info2(object.get(), &info, H5O_INFO_BASIC) < 0 ||
      !sound_header(heaps_->file(), info.addr) || H5Aexists(object.get(), attribute) <= 0)
    return {};
  return AttributeHandle(H5Aopen(object.get(), attribute, H5P_DEFAULT));
}

std::optional<std::string> File::text_attribute(const std::string& path,
                                                const char* attribute) const {
  const LibraryLock lock;
  const AttributeHandle id = open_attribute(path, attribute);
  return id ? text_of(id.get()) : std::nullopt;
}

std::optional<double> File::real_attribute(const std::string& path, const char* attribute) const {
  const LibraryLock lock;
  const AttributeHandle id = open_attribute(path, attribute);
  if (!id) return std::nullopt;
  const TypeHandle type(H5Aget_type(id.get()));
  const SpaceHandle space(H5Aget_space(id.get()));
  if (!type || !space || H5Sget_simple_extent_npoints(space.get()) != 1) return std::nullopt;
  const Kind kind = kind_of(type.get());
  double value = 0;
  if ((kind != Kind::real && kind != Kind::integer) ||
      H5Aread(id.get(), H5T_NATIVE_DOUBLE, &value) < 0)
    return std::nullopt;
  return value;
}

}  // namespace cortex::hdf5
