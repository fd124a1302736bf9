#include "tensor/safetensors.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>
#include <cstring>

#include "core/file.h"
#include "core/json_writer.h"

namespace cortex {
namespace {

// The format's own limit.
constexpr std::uint64_t kMaxHeader = 100'000'000;
constexpr std::size_t kMaxRank = 8;

struct Entry {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

Error corrupt(const std::string& file, const std::string& tensor, const std::string& what) {
  return {ErrorCode::corrupt_data,
          tensor.empty() ? fmt::format("{}: {}", file, what)
                         : fmt::format("{}: tensor '{}': {}", file, tensor, what),
          tensor};
}

Result<DType> parse_dtype(const std::string& file, const std::string& name, std::string_view text) {
  for (const DType d : {DType::f32, DType::bf16, DType::i8})
    if (text == to_string(d)) return d;
  return Error{
      ErrorCode::unsupported,
      fmt::format("{}: tensor '{}': dtype {} is not one of F32, BF16, I8", file, name, text), name};
}

Result<Entry> parse_entry(const std::string& file, std::string_view name,
                          simdjson::dom::element value, std::uint64_t data_bytes) {
  Entry e;
  e.name = std::string(name);
  std::string_view dtype;
  simdjson::dom::array shape;
  simdjson::dom::array offsets;
  if (value["dtype"].get(dtype)) return corrupt(file, e.name, "no dtype");
  if (value["shape"].get(shape)) return corrupt(file, e.name, "no shape");
  if (value["data_offsets"].get(offsets) || offsets.size() != 2)
    return corrupt(file, e.name, "no pair of data_offsets");
  auto parsed = parse_dtype(file, e.name, dtype);
  if (!parsed) return parsed.error();
  e.dtype = *parsed;

  if (shape.size() > kMaxRank) return corrupt(file, e.name, "more than 8 dimensions");
  std::uint64_t bytes = size_of(e.dtype);
  for (const auto d : shape) {
    std::uint64_t n = 0;
    if (d.get(n)) return corrupt(file, e.name, "a dimension is not a whole number");
    if (n != 0 && bytes > data_bytes / n)
      return corrupt(file, e.name, fmt::format("dimension {} is larger than the file", n));
    bytes *= n;
    e.shape.push_back(static_cast<std::int64_t>(n));
  }
  if (offsets.at(0).get(e.begin) || offsets.at(1).get(e.end))
    return corrupt(file, e.name, "data_offsets are not whole numbers");
  if (e.begin > e.end || e.end > data_bytes)
    return corrupt(file, e.name,
                   fmt::format("data_offsets [{}, {}] lie outside the {} bytes of data "
                               "(is the file truncated?)",
                               e.begin, e.end, data_bytes));
  if (e.end - e.begin != bytes)
    return corrupt(file, e.name,
                   fmt::format("shape {} of {} needs {} bytes, data_offsets hold {}",
                               to_string(e.shape), to_string(e.dtype), bytes, e.end - e.begin));
  return e;
}

}  // namespace

Result<SafetensorsFile> parse_safetensors(std::span<const std::byte> bytes,
                                          const std::string& name) {
  std::uint64_t header_size = 0;
  if (bytes.size() < sizeof header_size)
    return corrupt(name, "", "shorter than the 8 bytes of a safetensors file's length field");
  std::memcpy(&header_size, bytes.data(), sizeof header_size);
  const std::uint64_t rest = bytes.size() - sizeof header_size;
  if (header_size > kMaxHeader || header_size > rest)
    return corrupt(name, "",
                   fmt::format("header of {} bytes does not fit in the {} that follow (truncated, "
                               "or not a safetensors file)",
                               header_size, rest));
  const std::string header(reinterpret_cast<const char*>(bytes.data()) + sizeof header_size,
                           header_size);
  simdjson::dom::parser parser;
  simdjson::dom::object root;
  if (const auto e = parser.parse(header).get(root); e)
    return corrupt(name, "", fmt::format("header: {}", simdjson::error_message(e)));

  const auto data = bytes.subspan(sizeof header_size + header_size);
  SafetensorsFile file;
  std::vector<Entry> entries;
  for (const auto [key, value] : root) {
    if (key == "__metadata__") {
      simdjson::dom::object metadata;
      if (value.get(metadata)) return corrupt(name, "", "__metadata__ is not an object");
      for (const auto [k, v] : metadata) {
        std::string_view text;
        if (v.get(text))
          return corrupt(name, "", fmt::format("__metadata__['{}'] is not a string", k));
        file.metadata[std::string(k)] = std::string(text);
      }
      continue;
    }
    auto entry = parse_entry(name, key, value, data.size());
    if (!entry) return entry.error();
    entries.push_back(*std::move(entry));
  }
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.begin < b.begin; });
  std::uint64_t at = 0;
  for (const Entry& e : entries) {
    if (e.begin < at) return corrupt(name, e.name, "overlaps the tensor before it");
    at = std::max(at, e.end);
    Tensor tensor(e.shape, e.dtype);
    std::memcpy(tensor.data(), data.data() + e.begin, e.end - e.begin);
    if (!file.tensors.emplace(e.name, std::move(tensor)).second)
      return corrupt(name, e.name, "appears twice");
  }
  return file;
}

Result<SafetensorsFile> read_safetensors(const std::string& path) {
  auto bytes = read_file(path);
  if (!bytes) return bytes.error();
  return parse_safetensors(*bytes, path);
}

Result<void> write_safetensors(const std::string& path, const SafetensorsFile& file) {
  JsonWriter header;
  header.begin_object();
  if (!file.metadata.empty()) {
    header.key("__metadata__").begin_object();
    for (const auto& [k, v] : file.metadata) header.key(k).value(v);
    header.end_object();
  }
  std::uint64_t at = 0;
  for (const auto& [name, tensor] : file.tensors) {
    header.key(name).begin_object().key("dtype").value(to_string(tensor.dtype()));
    header.key("shape").begin_array();
    for (const std::int64_t d : tensor.shape()) header.value(d);
    header.end_array().key("data_offsets").begin_array().value(at);
    at += tensor.bytes();
    header.value(at).end_array().end_object();
  }
  header.end_object();
  std::string text = header.text();
  text.append((8 - text.size() % 8) % 8, ' ');

  std::vector<std::byte> bytes(sizeof(std::uint64_t) + text.size() + at);
  const std::uint64_t header_size = text.size();
  std::memcpy(bytes.data(), &header_size, sizeof header_size);
  std::memcpy(bytes.data() + sizeof header_size, text.data(), text.size());
  std::byte* out = bytes.data() + sizeof header_size + text.size();
  for (const auto& [name, tensor] : file.tensors) {
    std::memcpy(out, tensor.data(), tensor.bytes());
    out += tensor.bytes();
  }
  return write_file_atomic(path, bytes);
}

}  // namespace cortex
