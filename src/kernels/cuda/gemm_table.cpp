#include "kernels/cuda/gemm_table.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <tuple>

#include "core/file.h"
#include "core/json_writer.h"

namespace cortex::cuda {
namespace {

constexpr GemmTableEntry kShipped[] = {
#include "kernels/cuda/gemm_table.inc"
};

/// A value by the name in a file and by the name in gemm_table.inc.
template <class T>
struct Named {
  T value;
  const char* name;
  const char* source;
};
constexpr Named<GemmType> kTypes[] = {{GemmType::kBf16, "bf16", "GemmType::kBf16"},
                                      {GemmType::kE4m3, "e4m3", "GemmType::kE4m3"},
                                      {GemmType::kInt8, "int8", "GemmType::kInt8"}};
constexpr Named<GemmEpilogue> kEpilogues[] = {
    {GemmEpilogue::kStore, "store", "GemmEpilogue::kStore"},
    {GemmEpilogue::kGelu, "gelu", "GemmEpilogue::kGelu"},
    {GemmEpilogue::kAdd, "add", "GemmEpilogue::kAdd"},
    {GemmEpilogue::kAddNarrow, "add_narrow", "GemmEpilogue::kAddNarrow"},
    {GemmEpilogue::kGeluE4m3, "gelu_e4m3", "GemmEpilogue::kGeluE4m3"}};
// Without the streams' own, whose sums have another order.
constexpr Named<GemmSm90Config> kTilings[] = {
    {kPair128x128, "pair_128x128", "kPair128x128"},
    {kPair128x128Twin, "pair_128x128_twin", "kPair128x128Twin"},
    {kPair64x128, "pair_64x128", "kPair64x128"},
    {kPair64x128Twin, "pair_64x128_twin", "kPair64x128Twin"},
    {kSmall64x64, "small_64x64", "kSmall64x64"},
    {kSmall128x128, "small_128x128", "kSmall128x128"},
    {kWide128x256, "wide_128x256", "kWide128x256"},
    {kWide128x192, "wide_128x192", "kWide128x192"},
    {kWide192x192, "wide_192x192", "kWide192x192"},
    {kResident128x128, "resident_128x128", "kResident128x128"}};
constexpr int kSplits[] = {1, 2, 4, 8};
constexpr int kSliceBytes = 128;  // of a row that is multiplied at a time
constexpr std::int64_t kMostEntries = 100'000;
constexpr std::int64_t kLargest = 1 << 24;  // of m, n and k

template <class T>
const Named<T>* find_value(std::span<const Named<T>> all, T value) {
  for (const auto& one : all)
    if (one.value == value) return &one;
  return nullptr;
}
template <class T>
const char* name_in(std::span<const Named<T>> all, T value) {
  const Named<T>* const found = find_value(all, value);
  return found ? found->name : "?";
}

auto shape_of(const GemmTableEntry& e) { return std::tie(e.type, e.epilogue, e.n, e.k, e.m); }

Error corrupt(const std::string& place, const std::string& what, const char* field) {
  return {ErrorCode::corrupt_data, fmt::format("{}{}", place, what), field};
}

/// The fields of one entry; keeps the first error.
class EntryReader {
 public:
  EntryReader(simdjson::dom::object fields, std::string place)
      : fields_(fields), place_(std::move(place)) {}

  int number(const char* key, std::int64_t least) {
    std::int64_t value = 0;
    const auto status = fields_[key].get(value);
    if (status == simdjson::NO_SUCH_FIELD)
      fail(key, "is missing");
    else if (status != simdjson::SUCCESS)
      fail(key, "is not a whole number");
    else if (value < least || value > kLargest)
      fail(key, fmt::format("is {}, not in {} to {}", value, least, kLargest));
    return error_ ? 0 : static_cast<int>(value);
  }
  template <class T>
  T name(const char* key, std::span<const Named<T>> all) {
    std::string_view text;
    const auto status = fields_[key].get(text);
    if (status == simdjson::SUCCESS) {
      std::string names;
      for (const auto& one : all) {
        if (text == one.name) return one.value;
        names += fmt::format("{}{}", names.empty() ? "" : ", ", one.name);
      }
      fail(key, fmt::format("is '{}', not one of {}", text, names));
    } else {
      fail(key, status == simdjson::NO_SUCH_FIELD ? "is missing" : "is not a string");
    }
    return all.front().value;
  }
  void fail(const char* key, const std::string& what) {
    if (!error_) error_ = corrupt(place_, fmt::format(": '{}' {}", key, what), key);
  }
  const std::optional<Error>& error() const { return error_; }

 private:
  simdjson::dom::object fields_;
  std::string place_;
  std::optional<Error> error_;
};

Result<GemmTableEntry> read_entry(simdjson::dom::object fields, const std::string& place) {
  EntryReader reader(fields, place);
  GemmTableEntry e;
  e.type = reader.name<GemmType>("type", kTypes);
  e.epilogue = reader.name<GemmEpilogue>("epilogue", kEpilogues);
  e.m = reader.number("m", 1);
  e.n = reader.number("n", 64);
  e.k = reader.number("k", 64);
  e.config = reader.name<GemmSm90Config>("tiling", kTilings);
  e.split = reader.number("split", 1);
  if (e.n % 64 != 0) reader.fail("n", fmt::format("is {}, not a multiple of 64", e.n));
  if (e.k % 64 != 0) reader.fail("k", fmt::format("is {}, not a multiple of 64", e.k));
  if (e.epilogue == GemmEpilogue::kGeluE4m3 && e.type != GemmType::kE4m3)
    reader.fail("epilogue", "is 'gelu_e4m3', which is of type e4m3 alone");
  if (!reader.error() && !runs(e))
    reader.fail("tiling", fmt::format("is '{}' with 'split' {}, which does not run {} columns of "
                                      "{} inputs",
                                      name_of(e.config), e.split, e.n, e.k));
  if (reader.error()) return *reader.error();
  return e;
}

}  // namespace

const char* name_of(GemmType type) { return name_in<GemmType>(kTypes, type); }
const char* name_of(GemmEpilogue epilogue) { return name_in<GemmEpilogue>(kEpilogues, epilogue); }
const char* name_of(GemmSm90Config config) { return name_in<GemmSm90Config>(kTilings, config); }

bool runs(const GemmTableEntry& e) {
  if (!find_value<GemmSm90Config>(kTilings, e.config)) return false;
  if (e.config == kSmall128x128 && e.n % 128 != 0) return false;
  const bool small = e.config == kSmall64x64 || e.config == kSmall128x128;
  const int bytes = e.type == GemmType::kBf16 ? 2 : 1;
  const int slices = (e.k * bytes + kSliceBytes - 1) / kSliceBytes;
  const bool adds = e.epilogue == GemmEpilogue::kAdd || e.epilogue == GemmEpilogue::kAddNarrow;
  if (is_wide(e.config) && e.epilogue == GemmEpilogue::kAdd) return false;
  if (e.config == kResident128x128 && (adds || slices > kMostResidentSlices)) return false;
  return std::find(std::begin(kSplits), std::end(kSplits), e.split) != std::end(kSplits) &&
         (e.split == 1 || (small && e.split <= slices));
}

std::vector<GemmTableEntry> candidates(const GemmTableEntry& shape) {
  // The small tilings are for a few tiles; beyond, they only cost time to measure.
  constexpr int kMostRows = 2048;
  std::vector<GemmTableEntry> all;
  GemmTableEntry e = shape;
  for (const auto& tiling : kTilings) {
    for (const int split : kSplits) {
      e.config = tiling.value;
      e.split = split;
      const bool small = e.config == kSmall64x64 || e.config == kSmall128x128;
      if (runs(e) && (!small || e.m <= kMostRows)) all.push_back(e);
    }
  }
  return all;
}

GemmTable::GemmTable(std::vector<GemmTableEntry> entries) : entries_(std::move(entries)) {
  std::sort(entries_.begin(), entries_.end(),
            [](const auto& a, const auto& b) { return shape_of(a) < shape_of(b); });
}

const GemmTableEntry* GemmTable::find(GemmType type, GemmEpilogue epilogue, int m, int n,
                                      int k) const {
  const auto wanted = std::tie(type, epilogue, n, k, m);
  const auto found = std::lower_bound(entries_.begin(), entries_.end(), wanted,
                                      [](const auto& e, const auto& w) { return shape_of(e) < w; });
  if (found == entries_.end() || found->type != type || found->epilogue != epilogue ||
      found->n != n || found->k != k || found->m / 2 >= m) {
    return nullptr;
  }
  return &*found;
}

const GemmTable& shipped_gemm_table() {
  static const GemmTable table({std::begin(kShipped), std::end(kShipped)});
  return table;
}

namespace {

std::atomic<const GemmTable*> in_use{nullptr};

}  // namespace

const GemmTable& gemm_table() {
  const GemmTable* const set = in_use.load(std::memory_order_acquire);
  return set ? *set : shipped_gemm_table();
}

void use_gemm_table(GemmTable table) {
  // Another thread may still be reading the one before: none is freed.
  static std::mutex mutex;
  static std::vector<std::unique_ptr<const GemmTable>> all;
  const std::lock_guard lock(mutex);
  all.push_back(std::make_unique<const GemmTable>(std::move(table)));
  in_use.store(all.back().get(), std::memory_order_release);
}

Result<GemmTable> load_gemm_table(const std::string& path) {
  auto bytes = read_file(path);
  if (!bytes) return bytes.error();
  const simdjson::padded_string text(reinterpret_cast<const char*>(bytes->data()), bytes->size());
  simdjson::dom::parser parser;
  simdjson::dom::object root;
  if (const auto e = parser.parse(text).get(root); e)
    return corrupt(path, fmt::format(" is not a JSON object: {}", simdjson::error_message(e)),
                   "entries");
  simdjson::dom::array rows;
  if (root["entries"].get(rows)) return corrupt(path, ": 'entries' is not an array", "entries");
  if (static_cast<std::int64_t>(rows.size()) > kMostEntries)
    return corrupt(path, fmt::format(": more than {} entries", kMostEntries), "entries");
  std::vector<GemmTableEntry> entries;
  for (const auto row : rows) {
    const std::string place = fmt::format("{}: entries[{}]", path, entries.size());
    simdjson::dom::object fields;
    if (row.get(fields)) return corrupt(place, " is not an object", "entries");
    auto entry = read_entry(fields, place);
    if (!entry) return entry.error();
    entries.push_back(*entry);
  }
  GemmTable table(std::move(entries));
  const auto& sorted = table.entries();
  const auto twice =
      std::adjacent_find(sorted.begin(), sorted.end(),
                         [](const auto& a, const auto& b) { return shape_of(a) == shape_of(b); });
  if (twice != sorted.end())
    return corrupt(path,
                   fmt::format(": two entries of {} {} m {} n {} k {}", name_of(twice->type),
                               name_of(twice->epilogue), twice->m, twice->n, twice->k),
                   "entries");
  return table;
}

std::string gemm_table_json(const GemmTable& table, std::string_view device) {
  JsonWriter w;
  w.begin_object().key("device").value(device).key("entries").begin_array();
  for (const GemmTableEntry& e : table.entries()) {
    w.begin_object().key("type").value(name_of(e.type));
    w.key("epilogue").value(name_of(e.epilogue));
    w.key("m").value(e.m).key("n").value(e.n).key("k").value(e.k);
    w.key("tiling").value(name_of(e.config)).key("split").value(e.split).end_object();
  }
  w.end_array().end_object();
  return w.text() + "\n";
}

std::string gemm_table_source(const GemmTable& table, std::string_view device) {
  std::string text = fmt::format("// Written by `cortex tune --source FILE` on {}.\n", device);
  for (const GemmTableEntry& e : table.entries())
    text += fmt::format("{{{}, {}, {}, {}, {}, {}, {}}},\n",
                        find_value<GemmType>(kTypes, e.type)->source,
                        find_value<GemmEpilogue>(kEpilogues, e.epilogue)->source, e.m, e.n, e.k,
                        find_value<GemmSm90Config>(kTilings, e.config)->source, e.split);
  return text;
}

}  // namespace cortex::cuda
