#include "bench_ceilings.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>

#include "bench_team.h"

namespace cortex {
namespace {

// A ceiling is the best of several short tries: everything that disturbs one only slows it.
constexpr int kTries = 6;
constexpr double kTrySeconds = 0.015;
constexpr double kMega = 1e6;
constexpr std::size_t kChunk = 4096;

/// Seconds of the fastest of some tries of work(i, repeats), a repeat.
template <class Work>
double best_time(BenchTeam& team, Work&& work) {
  std::int64_t repeats = 1;
  const auto once = [&] { return team.time([&](int i) { work(i, repeats); }); };
  double seconds = once();
  while (seconds < kTrySeconds) {
    const double grow = std::clamp(1.2 * kTrySeconds / std::max(seconds, 1e-7), 2.0, 1000.0);
    repeats = static_cast<std::int64_t>(static_cast<double>(repeats) * grow);
    seconds = once();
  }
  for (int i = 1; i < kTries; ++i) seconds = std::min(seconds, once());
  return seconds / static_cast<double>(repeats);
}

double peak(BenchTeam& team, const PeakKernel& kernel) {
  const double seconds = best_time(team, [&](int, std::int64_t n) { kernel.run(n); });
  return kernel.operations * team.size() / seconds * 1e-9;
}

/// Memory of one thread on pages as large as they come, so that walking tables is not measured.
class Pages {
 public:
  explicit Pages(std::size_t bytes) : bytes_(bytes) {
    constexpr std::size_t kHuge = std::size_t{2} << 20;
    data_.reset(::operator new (bytes, std::align_val_t{kHuge}));
    ::madvise(data_.get(), bytes, MADV_HUGEPAGE);
  }
  std::byte* data() const { return static_cast<std::byte*>(data_.get()); }
  std::size_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(void* p) const {
      ::operator delete (p, std::align_val_t{std::size_t{2} << 20});
    }
  };
  std::size_t bytes_;
  std::unique_ptr<void, Free> data_;
};

/// More than any cache holds, or what memory there is room for.
double dram_mb_per_thread(int threads) {
  const double l3 = std::max(0L, ::sysconf(_SC_LEVEL3_CACHE_SIZE)) / kMega;
  const double free = static_cast<double>(::sysconf(_SC_AVPHYS_PAGES)) *
                      static_cast<double>(::sysconf(_SC_PAGESIZE)) / kMega;
  return std::max(64.0, std::min(std::max(256.0, 2 * l3 / threads), free / 4 / threads));
}

std::vector<ReadCeiling> read_ceilings(BenchTeam& team, const CeilingKernels& kernels) {
  std::vector<ReadCeiling> reads = {{"l2", 1, 0},
                                    {"l3_6mb", 6, 0},
                                    {"l3_22mb", 22, 0},
                                    {"far_64mb", 64, 0},
                                    {"dram", dram_mb_per_thread(team.size()), 0}};
  const auto largest = static_cast<std::size_t>(reads.back().mb_per_thread * kMega);
  std::vector<std::unique_ptr<Pages>> memory(static_cast<std::size_t>(team.size()));
  team.run([&](int i) {
    auto& pages = memory[static_cast<std::size_t>(i)];
    pages = std::make_unique<Pages>(largest);
    std::memset(pages->data(), 1, pages->bytes());
  });
  for (ReadCeiling& read : reads) {
    const std::size_t bytes =
        static_cast<std::size_t>(read.mb_per_thread * kMega) / kChunk * kChunk;
    const double seconds = best_time(team, [&](int i, std::int64_t n) {
      const std::byte* data = memory[static_cast<std::size_t>(i)]->data();
      for (std::int64_t k = 0; k < n; ++k) kernels.read(data, bytes);
    });
    read.gb_s = static_cast<double>(bytes) * team.size() / seconds * 1e-9;
  }
  return reads;
}

}  // namespace

double Ceilings::gflops(DType dtype) const {
  switch (dtype) {
    case DType::f32:
      return fp32_gflops;
    case DType::bf16:
      // Where vdpbf16ps is the slower one, a kernel widens and multiplies in float32.
      return std::max(bf16_gflops, fp32_gflops);
    case DType::i8:
      return int8_gops;
  }
  return fp32_gflops;
}

ReadCeiling Ceilings::read_of(double bytes) const {
  const double share = bytes / kMega / threads;
  if (share <= reads.front().mb_per_thread) return reads.front();
  for (std::size_t i = 1; i < reads.size(); ++i) {
    const ReadCeiling& low = reads[i - 1];
    const ReadCeiling& high = reads[i];
    if (share > high.mb_per_thread) continue;
    const double part =
        std::log(share / low.mb_per_thread) / std::log(high.mb_per_thread / low.mb_per_thread);
    return {high.level, share, low.gb_s + part * (high.gb_s - low.gb_s)};
  }
  return reads.back();
}

void Ceilings::write(JsonWriter& w) const {
  w.begin_object().key("threads").value(threads).key("isa").value(isa);
  w.key("fp32_gflops").value(fp32_gflops).key("bf16_gflops").value(bf16_gflops);
  w.key("int8_gops").value(int8_gops).key("reads").begin_array();
  for (const ReadCeiling& read : reads) {
    w.begin_object().key("level").value(read.level);
    w.key("mb_per_thread").value(read.mb_per_thread).key("gb_s").value(read.gb_s).end_object();
  }
  w.end_array().end_object();
}

Ceilings measure_ceilings(const CeilingOptions& options) {
  const CeilingKernels kernels = ceiling_kernels(options.isa);
  BenchTeam team(options.threads);
  Ceilings ceilings;
  ceilings.threads = options.threads;
  ceilings.isa = kernels.isa;
  ceilings.fp32_gflops = peak(team, kernels.fp32);
  ceilings.bf16_gflops = peak(team, kernels.bf16);
  ceilings.int8_gops = peak(team, kernels.int8);
  ceilings.reads = read_ceilings(team, kernels);
  return ceilings;
}

}  // namespace cortex
