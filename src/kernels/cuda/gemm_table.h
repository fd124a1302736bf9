#pragma once

#include <cortex/result.h>

#include <string>
#include <string_view>
#include <vector>

/// Which tiling of the Hopper products (gemm_sm90.h) is fastest for a shape: measured by `cortex
/// tune`, shipped as gemm_table.inc, replaced at run time by a file of the same.
///
///     auto table = load_gemm_table("h200.json");
///     if (!table) return table.error();
///     use_gemm_table(std::move(*table));
namespace cortex::cuda {

enum class GemmEpilogue {
  kStore,      ///< out = bf16(x)
  kGelu,       ///< out = bf16(gelu(x)), the erf form, erf within 1e-5
  kAdd,        ///< z += x; narrow = bf16(z); square_out = sums of squares of the new z
  kAddNarrow,  ///< the same of a z that is bf16 itself: narrow += x
  kGeluE4m3,   ///< narrow8 = e4m3(narrow8_scale * gelu(x))
};

enum class GemmType { kBf16, kE4m3, kInt8 };

/// The tilings. Rows x columns of an output tile.
enum GemmSm90Config {
  kPair128x128 = 0,      ///< persistent, two warpgroups take turns: one multiplies, one stores
  kPair128x128Twin = 1,  ///< as above, clusters of two blocks fetch W once for both
  kPair64x128 = 2,
  kPair64x128Twin = 3,
  kSmall64x64 = 4,  ///< one tile a block; K split over the blocks of a cluster
  kSmall128x128 = 5,
  kPair64x128Chain = 6,
  kWide128x256 = 7,  ///< persistent, two warpgroups share a tile
  kWide128x192 = 8,
  kResident128x128 = 9,  ///< as kPair128x128, with a column's W in shared memory throughout
  kWide192x192 = 10,     ///< three warpgroups share a tile
  kGemmSm90Configs = 11,
};
constexpr bool is_wide(int config) {
  return config == kWide128x256 || config == kWide128x192 || config == kWide192x192;
}
/// Slices of K, 128 bytes of a row each, that kResident128x128 has room for.
constexpr int kMostResidentSlices = 8;

struct GemmTableEntry {
  GemmType type = GemmType::kBf16;
  GemmEpilogue epilogue = GemmEpilogue::kStore;
  int m = 0;  ///< was measured with so many rows, and serves more than m / 2 up to m
  int n = 0;
  int k = 0;
  GemmSm90Config config = kPair64x128;
  int split = 1;  ///< parts of K
};

/// Names as they stand in a table's file: "bf16", "add_narrow", "pair_64x128".
const char* name_of(GemmType type);
const char* name_of(GemmEpilogue epilogue);
const char* name_of(GemmSm90Config config);

/// A tiling, and parts of K, that the kernels have for every shape of `entry`.
bool runs(const GemmTableEntry& entry);
/// All tilings that run a shape, with every split worth a try. `config` and `split` of `shape` do
/// not count.
std::vector<GemmTableEntry> candidates(const GemmTableEntry& shape);

class GemmTable {
 public:
  explicit GemmTable(std::vector<GemmTableEntry> entries);
  /// The entry of the least m that is at least `m`, of exactly this n and k; null where that is
  /// twice as large or there is none.
  const GemmTableEntry* find(GemmType type, GemmEpilogue epilogue, int m, int n, int k) const;
  /// Ascending.
  const std::vector<GemmTableEntry>& entries() const { return entries_; }

 private:
  std::vector<GemmTableEntry> entries_;
};

const GemmTable& shipped_gemm_table();
/// The table that windows' products are chosen by: the shipped one, or the latest that was set.
/// Waits for nothing.
const GemmTable& gemm_table();
/// For all of this process's GPUs. Products that are recorded in a graph stay as they are.
void use_gemm_table(GemmTable table);

/// A file that `gemm_table_json` wrote. Errors name the file, the entry and the field.
Result<GemmTable> load_gemm_table(const std::string& path);
/// {"device": ..., "entries": [{"type", "epilogue", "m", "n", "k", "tiling", "split"}, ...]}
std::string gemm_table_json(const GemmTable& table, std::string_view device);
/// The text of gemm_table.inc.
std::string gemm_table_source(const GemmTable& table, std::string_view device);

}  // namespace cortex::cuda
