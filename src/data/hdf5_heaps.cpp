#include "data/hdf5_heaps.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <utility>

namespace cortex::hdf5 {
namespace {

constexpr char kMagic[] = {'G', 'C', 'O', 'L', 1, 0, 0, 0};
constexpr std::uint64_t kCollectionHeader = 16;
constexpr std::uint64_t kObjectHeader = 16;
constexpr std::uint64_t kReference = 16;        // length (4), heap address (8), object index (4)
constexpr std::uint64_t kLibraryBuffer = 4096;  // the library's buffer is a multiple of it

template <class T>
T load(std::span<const std::byte> file, std::uint64_t at) {
  T value;
  std::memcpy(&value, file.data() + at, sizeof value);
  return value;
}

bool leads_nowhere(std::span<const std::byte> reference) {
  const auto heap = load<std::uint64_t>(reference, 4);
  return heap == 0 || heap == UINT64_MAX;
}

/// Where the values of a text attribute lie.
struct Values {
  std::uint64_t at = 0;
  std::uint64_t count = 0;
};

/// Reads `at` as the dataspace of an attribute of rank 0 or 1, which its values follow.
std::optional<Values> after_dataspace(std::span<const std::byte> file, std::uint64_t at) {
  constexpr std::uint64_t kLongest = 24;
  if (file.size() < kLongest + kReference || at > file.size() - kLongest - kReference)
    return std::nullopt;
  const auto byte = [&](std::uint64_t i) { return std::to_integer<unsigned>(file[at + i]); };
  const unsigned version = byte(0), rank = byte(1), has_maximum = byte(2);
  if (rank > 1 || has_maximum > 1) return std::nullopt;
  std::uint64_t header = 0;
  if (version == 1 && load<std::uint32_t>(file, at + 4) == 0 && byte(3) == 0)
    header = 8;
  else if (version == 2 && byte(3) == rank)
    header = 4;
  else
    return std::nullopt;
  const std::uint64_t count = rank == 0 ? 1 : load<std::uint64_t>(file, at + header);
  return Values{at + header + rank * (1 + has_maximum) * 8, count};
}

}  // namespace

GlobalHeaps::GlobalHeaps(std::span<const std::byte> file) : file_(file) {
  find_heaps();
  if (!fault_) check_attributes();
}

std::optional<GlobalHeaps::Objects> GlobalHeaps::walk(std::uint64_t heap) const {
  if (file_.size() - heap < kCollectionHeader) return std::nullopt;
  const auto size = load<std::uint64_t>(file_, heap + 8);
  if (size < kCollectionHeader || size > file_.size() - heap) return std::nullopt;
  Objects objects;
  const std::uint64_t end = heap + size;
  for (std::uint64_t object = heap + kCollectionHeader; end - object >= kObjectHeader;) {
    const std::uint64_t room = end - object;
    const auto index = load<std::uint16_t>(file_, object);
    const auto bytes = load<std::uint64_t>(file_, object + 8);
    if (bytes > room) return std::nullopt;
    // Object 0 is the free space, and counts its own header.
    const std::uint64_t taken = index == 0 ? bytes : kObjectHeader + (bytes + 7) / 8 * 8;
    if (taken < kObjectHeader || taken > room) return std::nullopt;
    if (index != 0 && !objects.emplace(index, Object{object + kObjectHeader, bytes}).second)
      return std::nullopt;
    object += taken;
  }
  return objects;
}

void GlobalHeaps::find_heaps() {
  const char* const begin = reinterpret_cast<const char*>(file_.data());
  const char* const end = begin + file_.size();
  // The signature alone decides what the library takes for a heap.
  for (const char* at = begin;
       (at = static_cast<const char*>(
            memmem(at, static_cast<std::size_t>(end - at), kMagic, sizeof kMagic))) != nullptr;
       ++at) {
    const auto address = static_cast<std::uint64_t>(at - begin);
    auto objects = walk(address);
    if (!objects) {
      fault_ = "a damaged global heap at byte " + std::to_string(address);
      return;
    }
    heaps_.emplace(address, std::move(*objects));
  }
}

const GlobalHeaps::Object* GlobalHeaps::find(std::span<const std::byte> reference) const {
  const auto heap = heaps_.find(load<std::uint64_t>(reference, 4));
  if (heap == heaps_.end()) return nullptr;
  const auto object = heap->second.find(load<std::uint32_t>(reference, 12));
  return object == heap->second.end() ? nullptr : &object->second;
}

std::optional<std::string_view> GlobalHeaps::text(std::span<const std::byte> reference) const {
  const std::uint64_t length = load<std::uint32_t>(reference, 0);
  if (leads_nowhere(reference))
    return length == 0 ? std::optional(std::string_view()) : std::nullopt;
  const Object* const object = find(reference);
  if (object == nullptr || length > object->bytes) return std::nullopt;
  return std::string_view(reinterpret_cast<const char*>(file_.data()) + object->at, length);
}

bool GlobalHeaps::library_may_follow(std::span<const std::byte> reference) const {
  const std::uint64_t length = load<std::uint32_t>(reference, 0);
  if (leads_nowhere(reference)) return length == 0;
  const Object* const object = find(reference);
  return object != nullptr && length <= object->bytes &&
         object->bytes <= (length / kLibraryBuffer + 1) * kLibraryBuffer;
}

void GlobalHeaps::check_attributes() {
  // In whatever block of an object's header an attribute lies, it is a type, a dataspace and values
  // in a row. A text type takes 16 or 20 bytes by its base, and 24 where it is padded.
  const auto byte = [&](std::uint64_t i) { return std::to_integer<unsigned>(file_[i]); };
  for (std::uint64_t type = 0; type + 8 <= file_.size(); ++type) {
    if ((byte(type) & 0x0f) != 9 || (byte(type + 1) & 0x0f) != 1 ||
        load<std::uint32_t>(file_, type + 4) != kReference)
      continue;
    for (const std::uint64_t type_bytes : {16, 20, 24}) {
      const auto values = after_dataspace(file_, type + type_bytes);
      if (!values || values->count != 1) continue;
      if (values->at > file_.size() - kReference ||
          !library_may_follow(file_.subspan(values->at, kReference))) {
        fault_ = "a text attribute without its text at byte " + std::to_string(values->at);
        return;
      }
    }
  }
}

FileMapping::FileMapping(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  struct stat info {};
  if (::fstat(fd, &info) == 0 && info.st_size > 0) {
    const auto size = static_cast<std::size_t>(info.st_size);
    void* map = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map != MAP_FAILED) bytes_ = {static_cast<const std::byte*>(map), size};
  }
  ::close(fd);
}

FileMapping::~FileMapping() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

}  // namespace cortex::hdf5
